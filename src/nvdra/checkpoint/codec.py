"""The checkpoint file as text: read from any release of the Go driver, written as its v0.4.1 writes it.

Two additions to v0.4.1's format, readable by every release: completed entries keep the claim's name and namespace, and
started entries of claims being unprepared keep the devices still to roll back.
"""

from __future__ import annotations

from typing import Literal

from nvdra._core import (
    CoreError,
    Fragment,
    decode_checkpoint,
    encode_checkpoint,
    indent_json,
    remarshal_checkpoint,
)
from nvdra.checkpoint.content import Checkpoint, Entry, State
from nvdra.checkpoint.prepared import (
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
from nvdra.checkpoint.schema import GPU, Schema

_MOST_COMPARED = 1000  # lines of a file whose checksum is wrong
_CONTEXT = 3


class Unreadable(ValueError):
    """The file holds no usable checkpoint. The caller sets the file aside."""


class Truncated(Unreadable):
    """The file is not JSON, or ends before its JSON does."""


class Corrupt(Unreadable):
    """A stored checksum disagrees with the file.

    diff   unified, from the file to what the releases would write of it, each with two spaces of indent a level;
           empty if the difference is in the checksum alone
    """

    def __init__(self, text: str, diff: str) -> None:
        super().__init__(text)
        self.diff = diff


class Future(Unreadable):
    """The file is intact, but of a shape or version that this release does not know."""


class Encoder:
    """Encodes checkpoints of one driver; renders only the entries that changed since its last write."""

    __slots__ = ("_fragments", "_schema")

    def __init__(self, schema: Schema = GPU) -> None:
        self._schema = schema
        self._fragments: dict[str, tuple[Entry, Fragment]] = {}

    def encode(self, checkpoint: Checkpoint) -> bytes:
        """The file's content. An entry counts as unchanged if it is the same object as last time.

        Raises ValueError for an entry that the schema does not allow.
        """
        known = self._fragments
        fresh: dict[str, tuple[Entry, Fragment]] = {}
        for uid, entry in checkpoint.entries.items():
            kept = known.get(uid)
            if kept is None or kept[0] is not entry:
                kept = (entry, _fragment(uid, entry, self._schema))
            fresh[uid] = kept
        self._fragments = fresh
        return encode_checkpoint([fragment for _, fragment in fresh.values()], checkpoint.boot_id)


def encode(checkpoint: Checkpoint, schema: Schema = GPU) -> bytes:
    """The file's content, every entry rendered anew. Raises ValueError as `Encoder.encode` does."""
    return Encoder(schema).encode(checkpoint)


def refusal(uid: str, entry: Entry, schema: Schema = GPU) -> str:
    """Why a file with this entry could not be written, or not be read again; "" if it can."""
    try:
        decode(encode(Checkpoint("", {uid: entry}), schema), schema)
    except ValueError as error:
        return str(error)
    return ""


def _fragment(uid: str, entry: Entry, schema: Schema) -> Fragment:
    if entry.state == "PrepareAborted" and not schema.can_abort:
        raise ValueError(f"claim {uid} is PrepareAborted, which a checkpoint of {schema.driver} cannot hold")
    for group in () if isinstance(entry.prepared, Unsupported) else entry.prepared:
        for device in group.devices:
            if device.type not in schema.types:
                raise ValueError(
                    f"claim {uid} has a device of type {device.type}, which a checkpoint of {schema.driver} cannot hold"
                )
    return Fragment(
        uid,
        entry.state,
        entry.status,
        entry.prepared,
        entry.name,
        entry.namespace,
        entry.aborted_at,
        entry.unknown,
    )


def decode(content: bytes, schema: Schema = GPU) -> Checkpoint:
    """The checkpoint in a checkpoint file of the schema's driver, of any release.

    A file with a second section is read from that one, else from the first, whose entries are all completed.
    A checksum may match the file as it is, or as the Go releases would rewrite it.
    Raises Truncated, Corrupt or Future.
    """
    try:
        boot_id, entries, left_out = decode_checkpoint(content, schema.driver, list(schema.unsupported))
    except CoreError as error:
        raise _refusal(content, error, schema) from None
    return Checkpoint(boot_id, {read[0]: _entry(*read[1:]) for read in entries}, tuple(left_out))


_Info = (
    tuple[Literal["gpu", "unplaced"], str]
    | tuple[Literal["mig"], str, int, str, int, int, str]
    | tuple[Literal["vfio"], str, str]
    | tuple[Literal["channel", "daemon"], int]
)
_Device = tuple[_Info, list[str], str, str, list[str], str | None, bytes]
_Group = tuple[list[_Device], str, bool | None, bytes] | tuple[list[_Device], str, str, bytes]


def _info(read: _Info) -> Info:
    match read:
        case ("gpu", uuid):
            return PreparedGpu(uuid)
        case ("unplaced", uuid):
            return UnplacedMig(uuid)
        case ("mig", uuid, parent_minor, parent_uuid, gi_id, ci_id, parent_pci_bus_id):
            return PreparedMig(uuid, parent_minor, parent_uuid, gi_id, ci_id, parent_pci_bus_id)
        case ("vfio", uuid, pci_bus_id):
            return PreparedVfio(uuid, pci_bus_id)
        case ("channel", number):
            return PreparedChannel(number)
        case ("daemon", number):
            return PreparedDaemon(number)


def _device(read: _Device) -> PreparedDevice:
    info, requests, pool, device, cdi_ids, share_id, metadata = read
    return PreparedDevice(_info(info), tuple(requests), pool, device, tuple(cdi_ids), share_id, metadata)


def _group(read: _Group) -> Group:
    match read:
        case (devices, config_type, str() as domain, verbatim):
            return DomainGroup(tuple(map(_device, devices)), config_type, domain, verbatim)
        case (devices, mps_daemon_id, is_applied, verbatim):
            return PreparedGroup(tuple(map(_device, devices)), mps_daemon_id, is_applied, verbatim)


def _entry(
    state: State,
    status: bytes,
    prepared: list[_Group] | tuple[bytes, list[str], list[_Device]],
    name: str,
    namespace: str,
    aborted_at: int | None,
    unknown: bytes,
) -> Entry:
    held: tuple[Group, ...] | Unsupported
    if isinstance(prepared, tuple):
        text, kinds, read = prepared
        devices = tuple(map(_device, read))
        held = Unsupported(text, frozenset(kinds), tuple(device.device for device in devices), devices)
    else:
        held = tuple(map(_group, prepared))
    return Entry(state, status, held, name, namespace, unknown, aborted_at)


def _refusal(content: bytes, error: CoreError, schema: Schema) -> Unreadable:
    match error.kind:
        case "checksum":
            return Corrupt(str(error), _diff(content, schema))
        case "future":
            return Future(str(error))
        case _:
            return Truncated(f"checkpoint is not readable: {error}")


def _diff(content: bytes, schema: Schema) -> str:
    import difflib  # imported late to save memory: rarely needed

    try:
        rewritten = indent_json(remarshal_checkpoint(content, schema.driver))
    except CoreError as error:
        return f"no difference can be shown, the file cannot be read as a checkpoint: {error}\n"
    stored, written = (text.splitlines(keepends=True) for text in (indent_json(content) + "\n", rewritten + "\n"))
    note = ""
    if max(len(stored), len(written)) > _MOST_COMPARED:
        # The time of a comparison grows with the square of the lines: only the first differences of a large file.
        pairs = enumerate(zip(stored, written, strict=False))
        first = next((i for i, (one, other) in pairs if one != other), min(len(stored), len(written)))
        start = max(first - _CONTEXT, 0)
        note = f"(compared from line {start + 1} on, {_MOST_COMPARED} lines of {len(stored)})\n"
        stored, written = (lines[start : start + _MOST_COMPARED] for lines in (stored, written))
    lines = difflib.unified_diff(stored, written, fromfile="on-disk", tofile="re-marshaled", n=_CONTEXT)
    return "".join(lines) + note
