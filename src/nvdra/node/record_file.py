"""The record's file: read once, trusted while it is the same file, written whole and durably.

A file that cannot be read is never an end: it is kept beside the record for people to look at, and a mark is set.
While the mark is there the claims that were lost are made up from the API server, and nothing of theirs is given to
others (node/sweep).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nvdra import checkpoint, telemetry
from nvdra.checkpoint import Record
from nvdra.ports import Held, Host, Put, Removal

NAME = "checkpoint.json"
UNREADABLE = "checkpoint.json.unreadable"
QUARANTINED = "checkpoint.json.quarantined"


class RecordFile:
    """`checkpoint.json` in the plugin's folder. Only to be used under the node's locks, but for `known`.

    has_claim_files   whether CDI files of claims lie on the node: without a record they tell that one was lost
    """

    def __init__(
        self,
        host: Host,
        plugin_dir: str,
        has_claim_files: Callable[[], bool],
        schema: checkpoint.Schema,
    ) -> None:
        self.path = f"{plugin_dir}/{NAME}"
        self.mark_path = f"{plugin_dir}/{QUARANTINED}"
        self._dir = plugin_dir
        self._host = host
        self._has_claim_files = has_claim_files
        self._boot_id = host.boot_id()
        self._schema = schema
        self._encoder = checkpoint.Encoder(schema)
        self._record: Record | None = None
        self._held: Held | None = None

    @property
    def remembered(self) -> Record | None:
        """The record as it was last read or written here; what is on disk may be another one."""
        return self._record

    async def current(self) -> Record:
        """The record as it is on disk; from memory while the file is the one last read or written."""
        return self.known() or await self._read()

    def known(self) -> Record | None:
        """The record, if it is in memory and still the one on disk: one look at a file that is only ever replaced."""
        return self._record if self._held is not None and self._held.is_current() else None

    async def store(self, record: Record, *, first: Sequence[Put] = (), then: Sequence[Put | Removal] = ()) -> None:
        """Replace the file, fsynced before it is renamed into place; `first` before it, `then` after it.

        Raises OSError that names the path: what comes after that one is not done, and the old file stands.
        """
        content = Put(self.path, self._encoder.encode(record), mode=0o600, durable=True)
        await self._host.carry_out([*first, content, *then])
        try:
            held = self._host.hold(self.path)
        except OSError:
            self.forget()  # it is written all the same: the next look reads it
        else:
            self._trust(record, held)

    def forget(self) -> None:
        """Trust nothing in memory: the next look reads the file."""
        self._record = None

    def _trust(self, record: Record, held: Held) -> None:
        if self._held is not None:
            self._held.close()
        self._record, self._held = record, held

    @property
    def is_quarantined(self) -> bool:
        """A former record was lost and its claims are not settled yet: the mark is there."""
        return self._host.exists(self.mark_path)

    def leftovers(self) -> list[str]:
        """Files that a writer of the record left behind when it was killed."""
        return [
            f"{self._dir}/{name}" for name in self._host.list(self._dir) if name.startswith(".") and name[1:].isdigit()
        ]

    async def _read(self) -> Record:
        try:
            held = self._host.hold(self.path)
        except FileNotFoundError:
            return await self._first()
        try:
            content = held.read()
            record = checkpoint.decode(content, self._schema)
        except checkpoint.Unreadable as error:
            held.close()
            return await self._set_aside(content, error)
        except BaseException:
            held.close()
            raise
        if record.left_out:
            telemetry.warning(
                "The record says more than this release understands", path=self.path, keys=record.left_out
            )
        booted = checkpoint.boot(record, self._boot_id)
        if booted.what == "kept":
            self._trust(record, held)
            return record
        # After a reboot devices that were made, sockets and CDI files are gone or void; nothing is rebuilt from them.
        telemetry.info(0, str(booted))
        held.close()
        await self.store(booted.record)
        return booted.record

    async def _first(self) -> Record:
        if self._has_claim_files():
            telemetry.warning(f"The record {self.path} is lost but claims' CDI files are there; asking the API server")
            await self._mark()
        return await self._fresh()

    async def _mark(self) -> None:
        # Before the record is replaced, so that whoever finds the new one knows what it is worth. No fsync: only a
        # reboot forgets files, and after one there is nothing to settle.
        await self._host.replace(self.mark_path, b"", mode=0o600, durable=False)

    async def _fresh(self) -> Record:
        record = Record(self._boot_id)
        await self.store(record)
        return record

    async def _set_aside(self, content: bytes, error: checkpoint.Unreadable) -> Record:
        if isinstance(error, checkpoint.Corrupt):
            telemetry.error(
                "checkpoint failed checksum verification; unified diff "
                f"(on-disk vs re-marshaled by current binary):\n{error.diff}"
            )
        telemetry.error(
            f"The record {self.path} cannot be used; it is kept as {UNREADABLE} beside it, and its claims are made up "
            "from the API server",
            error,
        )
        await self._host.replace(f"{self._dir}/{UNREADABLE}", content, mode=0o600, durable=False)
        await self._mark()
        return await self._fresh()
