"""The record on disk: codec, checksum, boot-id rule. This room knows bytes and values, no file."""

from nvdra.checkpoint.boot import Booted, boot
from nvdra.checkpoint.codec import Corrupt, Encoder, Future, Truncated, Unreadable, decode, encode
from nvdra.checkpoint.record import Entry, Foreign, PreparedDevice, PreparedGroup, PreparedMig, Record, State

__all__ = [
    "Booted",
    "Corrupt",
    "Encoder",
    "Entry",
    "Foreign",
    "Future",
    "PreparedDevice",
    "PreparedGroup",
    "PreparedMig",
    "Record",
    "State",
    "Truncated",
    "Unreadable",
    "boot",
    "decode",
    "encode",
]
