"""The checkpoint format: codec, checksum, boot id rule, a schema for each driver. Bytes and values, no files."""

from nvdra.checkpoint.boot_id import Booted, boot
from nvdra.checkpoint.codec import Corrupt, Encoder, Future, Truncated, Unreadable, decode, encode, refusal
from nvdra.checkpoint.content import Checkpoint, Entry, State
from nvdra.checkpoint.prepared import (
    DeviceType,
    DomainGroup,
    Group,
    Info,
    PreparedChannel,
    PreparedDaemon,
    PreparedDevice,
    PreparedGpu,
    PreparedGroup,
    PreparedMig,
    PreparedVfio,
    UnplacedMig,
    Unsupported,
)
from nvdra.checkpoint.schema import DOMAIN, GPU, Schema

__all__ = [
    "DOMAIN",
    "GPU",
    "Booted",
    "Checkpoint",
    "Corrupt",
    "DeviceType",
    "DomainGroup",
    "Encoder",
    "Entry",
    "Future",
    "Group",
    "Info",
    "PreparedChannel",
    "PreparedDaemon",
    "PreparedDevice",
    "PreparedGpu",
    "PreparedGroup",
    "PreparedMig",
    "PreparedVfio",
    "Schema",
    "State",
    "Truncated",
    "UnplacedMig",
    "Unreadable",
    "Unsupported",
    "boot",
    "decode",
    "encode",
    "refusal",
]
