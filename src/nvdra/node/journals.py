"""Removes lines that a crash left in lock journals, when the program starts."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from nvdra import telemetry
from nvdra.checkpoint import Checkpoint
from nvdra.node.checkpoint_writer import Change, CheckpointError
from nvdra.node.context import ClaimContext
from nvdra.ports import LockError

# Takes locks in place of a claim's UID.
_SELF = "journals"


async def trim_journals(context: ClaimContext, resources: Iterable[str]) -> None:
    """Drop lines of claims that are neither half prepared nor being worked on; busy resources are skipped."""
    for resource in resources:
        try:
            await context.checkpoint_writer.submit(partial(_trim, context, resource))
        except (CheckpointError, LockError) as error:
            telemetry.warning("A lock journal cannot be read now", resource=resource, cause=str(error))
        finally:
            context.locks.give_back(_SELF, is_done=True)


def _trim(context: ClaimContext, resource: str, checkpoint: Checkpoint) -> Change[None]:
    if context.locks.try_take(_SELF, (resource,)):
        begun, prepared = (
            {uid for uid, entry in checkpoint.entries.items() if entry.state == state}
            for state in ("PrepareStarted", "PrepareCompleted")
        )
        context.locks.forget_others(resource, begun, prepared)
    return Change(None)
