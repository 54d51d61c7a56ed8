"""The record on disk: codec, checksum, boot-id rule, a schema for each driver. It knows bytes and values, no file."""

from nvdra.checkpoint.boot import Booted, boot
from nvdra.checkpoint.codec import Corrupt, Encoder, Future, Truncated, Unreadable, decode, encode, refusal
from nvdra.checkpoint.prepared import (
    DeviceType,
    DomainGroup,
    Foreign,
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
)
from nvdra.checkpoint.record import Entry, Record, State
from nvdra.checkpoint.schema import DOMAIN, GPU, Schema

__all__ = [
    "DOMAIN",
    "GPU",
    "Booted",
    "Corrupt",
    "DeviceType",
    "DomainGroup",
    "Encoder",
    "Entry",
    "Foreign",
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
    "Record",
    "Schema",
    "State",
    "Truncated",
    "UnplacedMig",
    "Unreadable",
    "boot",
    "decode",
    "encode",
    "refusal",
]
