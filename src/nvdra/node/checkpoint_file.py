"""The checkpoint's file: read once, trusted as long as it is the same file, written whole and durably.

A file that cannot be read is kept beside the checkpoint for people to look at, and a mark file is written. As long as
the mark exists, the sweep restores the lost claims from the API server, and their devices are refused to other claims
(node/sweep).
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
    """`checkpoint.json` in the plugin's folder. Only `last_seen` and `peek` may be used without the node's locks.

    has_claim_files   whether CDI files of claims exist: without a checkpoint they show that one was lost
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
        """The checkpoint as last read or written here; the file on disk may have changed since."""
        return self._checkpoint

    async def current(self) -> Checkpoint:
        """The checkpoint on disk; taken from memory if the file is still the one last read or written."""
        return self.peek() or await self._read()

    def peek(self) -> Checkpoint | None:
        """The checkpoint in memory if the file on disk is still the one it came from, else None. Costs one stat."""
        return self._checkpoint if self._held is not None and self._held.is_current() else None

    async def store(
        self, checkpoint: Checkpoint, *, first: Sequence[Put] = (), then: Sequence[Put | Removal] = ()
    ) -> None:
        """Replace the file, fsynced before it is renamed into place; carry out `first` before it and `then` after it.

        Raises OSError that names the path. The effects after that path are not carried out.
        """
        content = Put(self.path, self._encoder.encode(checkpoint), mode=0o600, durable=True)
        await self._host.carry_out([*first, content, *then])
        try:
            held = self._host.hold(self.path)
        except OSError:
            self.forget()  # the file was written; the next access reads it
        else:
            self._trust(checkpoint, held)

    def refusal(self, uid: str, entry: Entry) -> str:
        """Why a file with this entry could not be read back; "" if it could."""
        return refusal(uid, entry, self._schema)

    def forget(self) -> None:
        """Drop the checkpoint in memory; the next access reads the file."""
        self._checkpoint = None

    def _trust(self, checkpoint: Checkpoint, held: Held) -> None:
        if self._held is not None:
            self._held.close()
        self._checkpoint, self._held = checkpoint, held

    @property
    def is_quarantined(self) -> bool:
        """Whether the mark exists: a checkpoint was lost and its claims are not settled yet."""
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
                "The checkpoint has keys that this release does not know", path=self.path, keys=checkpoint.left_out
            )
        booted = boot(checkpoint, self._boot_id)
        if booted.what == "kept":
            self._trust(checkpoint, held)
            return checkpoint
        # After a reboot hardware state, sockets and CDI files are gone or invalid, so no entry can be restored.
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
        # The mark is written before the checkpoint is replaced: a crash between the two must not hide that claims were
        # lost. No fsync: only a reboot loses an unsynced file, and after a reboot there is nothing to settle.
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
            "and its claims are being restored from the API server",
            error,
        )
        await self._host.replace(f"{self._dir}/{UNREADABLE}", content, mode=0o600, durable=False)
        await self._mark()
        return await self._fresh()
