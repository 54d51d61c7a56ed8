"""Lines that a crash left in lock journals, removed when the program starts."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from nvdra import telemetry
from nvdra.checkpoint import Record
from nvdra.node.context import ClaimContext
from nvdra.node.ledger import Change, LedgerError
from nvdra.ports import LockError

# Stands for a claim where locks want one.
_SELF = "journals"


async def trim_journals(context: ClaimContext, resources: Iterable[str]) -> None:
    """Drop lines of claims that are neither half prepared nor being worked on; a busy resource is left alone."""
    for resource in resources:
        try:
            await context.ledger.submit(partial(_trim, context, resource))
        except (LedgerError, LockError) as error:
            telemetry.warning("A lock journal cannot be read now", resource=resource, cause=str(error))
        finally:
            context.locks.give_back(_SELF, is_done=True)


def _trim(context: ClaimContext, resource: str, record: Record) -> Change[None]:
    if context.locks.try_take(_SELF, (resource,)):
        begun, prepared = (
            {uid for uid, entry in record.entries.items() if entry.state == state}
            for state in ("PrepareStarted", "PrepareCompleted")
        )
        context.locks.forget_others(resource, begun, prepared)
    return Change(None)
