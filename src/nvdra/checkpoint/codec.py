"""The checkpoint file as text: read from any release of the Go driver, written as its v0.4.1 writes it.

Two additions to what v0.4.1 writes, which every release reads: completed entries keep the claim's name and namespace,
and started ones that are being let go of the devices there still are to undo.
"""

from __future__ import annotations

from nvdra._core import (
    CoreError,
    Fragment,
    decode_checkpoint,
    encode_checkpoint,
    indent_json,
    remarshal_checkpoint,
)
from nvdra.checkpoint.record import Entry, Foreign, PreparedDevice, PreparedGroup, PreparedMig, Record, State


class Unreadable(ValueError):
    """A checkpoint file that no record can be had from; quarantine it."""


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
    """Writes records, and renders again only the entries that changed since its last write."""

    __slots__ = ("_fragments",)

    def __init__(self) -> None:
        self._fragments: dict[str, tuple[Entry, Fragment]] = {}

    def encode(self, record: Record) -> bytes:
        """The file's content. An entry counts as unchanged if it is the same object as last time."""
        known = self._fragments
        fresh: dict[str, tuple[Entry, Fragment]] = {}
        for uid, entry in record.entries.items():
            kept = known.get(uid)
            if kept is None or kept[0] is not entry:
                kept = (entry, _fragment(uid, entry))
            fresh[uid] = kept
        self._fragments = fresh
        return encode_checkpoint([fragment for _, fragment in fresh.values()], record.boot_id)


def encode(record: Record) -> bytes:
    """The file's content, every entry rendered anew."""
    return Encoder().encode(record)


def _fragment(uid: str, entry: Entry) -> Fragment:
    return Fragment(
        uid,
        entry.state == "PrepareCompleted",
        entry.status,
        entry.prepared,
        entry.name,
        entry.namespace,
        entry.unknown,
    )


def decode(content: bytes) -> Record:
    """The record in a checkpoint file of any release.

    A file with a second section is read from that one, else from the first, whose entries are all completed.
    A checksum may match the file as it stands or as the releases would write what they read of it.
    Raises Truncated, Corrupt or Future.
    """
    try:
        boot_id, entries, left_out = decode_checkpoint(content)
    except CoreError as error:
        raise _refusal(content, error) from None
    return Record(boot_id, {read[0]: _entry(*read[1:]) for read in entries}, tuple(left_out))


_Mig = tuple[int, str, int, int, str]
_Device = tuple[str, list[str], str, str, list[str], str | None, _Mig | None]
_Group = tuple[list[_Device], str, bool | None, bytes]


def _device(read: _Device) -> PreparedDevice:
    uuid, requests, pool, device, cdi_ids, share_id, mig = read
    place = None if mig is None else PreparedMig(*mig)
    return PreparedDevice(uuid, tuple(requests), pool, device, tuple(cdi_ids), share_id, place)


def _entry(
    is_completed: bool,
    status: bytes,
    prepared: list[_Group] | tuple[bytes, list[str], list[_Device]],
    name: str,
    namespace: str,
    unknown: bytes,
) -> Entry:
    held: tuple[PreparedGroup, ...] | Foreign
    if isinstance(prepared, tuple):
        text, kinds, read = prepared
        devices = tuple(_device(device) for device in read)
        held = Foreign(text, frozenset(kinds), tuple(device.device for device in devices), devices)
    else:
        held = tuple(
            PreparedGroup(tuple(_device(device) for device in devices), mps_daemon_id, is_applied, verbatim)
            for devices, mps_daemon_id, is_applied, verbatim in prepared
        )
    state: State = "PrepareCompleted" if is_completed else "PrepareStarted"
    return Entry(state, status, held, name, namespace, unknown)


def _refusal(content: bytes, error: CoreError) -> Unreadable:
    match error.kind:
        case "checksum":
            return Corrupt(str(error), _diff(content))
        case "future":
            return Future(str(error))
        case _:
            return Truncated(f"checkpoint is not readable: {error}")


def _diff(content: bytes) -> str:
    import difflib  # needed once in a bad day; its regular expressions are not worth a start's memory

    try:
        rewritten = indent_json(remarshal_checkpoint(content))
    except CoreError as error:
        return f"no difference can be shown, the file cannot be read as a checkpoint: {error}\n"
    stored, written = (text.splitlines(keepends=True) for text in (indent_json(content) + "\n", rewritten + "\n"))
    return "".join(difflib.unified_diff(stored, written, fromfile="on-disk", tofile="re-marshaled", n=3))
