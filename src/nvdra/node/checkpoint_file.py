"""The checkpoint's file: read once, trusted while it is the same file, written whole and durably.

A file that cannot be read is never an end: it is kept beside the checkpoint for people to look at, and a mark is set.
While the mark is there the claims that were lost are made up from the API server, and nothing of theirs is given to
others (node/sweep).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nvdra import telemetry
from nvdra.checkpoint import Checkpoint, Corrupt, Encoder, Entry, Schema, Unreadable, boot, refusal
from nvdra.checkpoint import decode as decode_checkpoint
from nvdra.ports import Held, Host, Put, Removal

NAME = "checkpoint.json"
UNREADABLE = "checkpoint.json.unreadable"
QUARANTINED = "checkpoint.json.quarantined"


class CheckpointFile:
    """`checkpoint.json` in the plugin's folder. Only to be used under the node's locks, but for `known`.

    has_claim_files   whether CDI files of claims lie on the node: without a checkpoint they tell that one was lost
    """

    def __init__(
        self,
        host: Host,
        plugin_dir: str,
        has_claim_files: Callable[[], bool],
        schema: Schema,
    ) -> None:
        self.path = f"{plugin_dir}/{NAME}"
        self.mark_path = f"{plugin_dir}/{QUARANTINED}"
        self._dir = plugin_dir
        self._host = host
        self._has_claim_files = has_claim_files
        self._boot_id = host.boot_id()
        self._schema = schema
        self._encoder = Encoder(schema)
        self._checkpoint: Checkpoint | None = None
        self._held: Held | None = None

    @property
    def last_seen(self) -> Checkpoint | None:
        """The checkpoint as it was last read or written here; what is on disk may be another one."""
        return self._checkpoint

    async def current(self) -> Checkpoint:
        """The checkpoint as it is on disk; from memory while the file is the one last read or written."""
        return self.peek() or await self._read()

    def peek(self) -> Checkpoint | None:
        """The checkpoint in memory if the file on disk is still the one it came from, else None. Costs one stat."""
        return self._checkpoint if self._held is not None and self._held.is_current() else None

    async def store(
        self, checkpoint: Checkpoint, *, first: Sequence[Put] = (), then: Sequence[Put | Removal] = ()
    ) -> None:
        """Replace the file, fsynced before it is renamed into place; `first` before it, `then` after it.

        Raises OSError that names the path: what comes after that one is not done, and the old file stands.
        """
        content = Put(self.path, self._encoder.encode(checkpoint), mode=0o600, durable=True)
        await self._host.carry_out([*first, content, *then])
        try:
            held = self._host.hold(self.path)
        except OSError:
            self.forget()  # it is written all the same: the next look reads it
        else:
            self._trust(checkpoint, held)

    def refusal(self, uid: str, entry: Entry) -> str:
        """Why the file could not be read again with this entry; "" if it can."""
        return refusal(uid, entry, self._schema)

    def forget(self) -> None:
        """Trust nothing in memory: the next look reads the file."""
        self._checkpoint = None

    def _trust(self, checkpoint: Checkpoint, held: Held) -> None:
        if self._held is not None:
            self._held.close()
        self._checkpoint, self._held = checkpoint, held

    @property
    def is_quarantined(self) -> bool:
        """A former checkpoint was lost and its claims are not settled yet: the mark is there."""
        return self._host.exists(self.mark_path)

    def leftovers(self) -> list[str]:
        """Files that a writer of the checkpoint left behind when it was killed."""
        return [
            f"{self._dir}/{name}" for name in self._host.list(self._dir) if name.startswith(".") and name[1:].isdigit()
        ]

    async def _read(self) -> Checkpoint:
        try:
            held = self._host.hold(self.path)
        except FileNotFoundError:
            return await self._first()
        try:
            content = held.read()
            checkpoint = decode_checkpoint(content, self._schema)
        except Unreadable as error:
            held.close()
            return await self._set_aside(content, error)
        except BaseException:
            held.close()
            raise
        if checkpoint.left_out:
            telemetry.warning(
                "The checkpoint says more than this release understands", path=self.path, keys=checkpoint.left_out
            )
        booted = boot(checkpoint, self._boot_id)
        if booted.what == "kept":
            self._trust(checkpoint, held)
            return checkpoint
        # After a reboot devices that were made, sockets and CDI files are gone or void; nothing is rebuilt from them.
        telemetry.info(0, str(booted))
        held.close()
        await self.store(booted.checkpoint)
        return booted.checkpoint

    async def _first(self) -> Checkpoint:
        if self._has_claim_files():
            telemetry.warning(
                f"The checkpoint {self.path} is lost but claims' CDI files are there; asking the API server"
            )
            await self._mark()
        return await self._fresh()

    async def _mark(self) -> None:
        # Before the checkpoint is replaced, so that whoever finds the new one knows what it is worth. No fsync: only a
        # reboot forgets files, and after one there is nothing to settle.
        await self._host.replace(self.mark_path, b"", mode=0o600, durable=False)

    async def _fresh(self) -> Checkpoint:
        checkpoint = Checkpoint(self._boot_id)
        await self.store(checkpoint)
        return checkpoint

    async def _set_aside(self, content: bytes, error: Unreadable) -> Checkpoint:
        if isinstance(error, Corrupt):
            telemetry.error(
                "checkpoint failed checksum verification; unified diff "
                f"(on-disk vs re-marshaled by current binary):\n{error.diff}"
            )
        telemetry.error(
            f"The checkpoint {self.path} cannot be used; it is kept as {UNREADABLE} beside it, "
            "and its claims are made up from the API server",
            error,
        )
        await self._host.replace(f"{self._dir}/{UNREADABLE}", content, mode=0o600, durable=False)
        await self._mark()
        return await self._fresh()
