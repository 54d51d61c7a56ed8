"""One task per claim does its work, however many calls ask for the claim.

A call joins running work of the same operation. If another operation is running, the call waits for its end first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from nvdra.api import ClaimRef
from nvdra.ports import Clock
from nvdra.telemetry.metrics import Operation

Work = Callable[[list[ClaimRef]], Coroutine[Any, Any, None]]
"""Ends once `OwnedWork.answer` was called for each of these claims."""


@dataclass(frozen=True, slots=True)
class _Owned:
    """A claim that is being worked on; `answer` is done when the work ends."""

    operation: Operation
    answer: asyncio.Future[Any]


class OwnedWork:
    """The claims that are being worked on. Cancelling a caller does not stop the work."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._owned: dict[str, _Owned] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._hurried: asyncio.Event = asyncio.Event()

    def hurry(self) -> None:
        """End every wait with the answers that are there, now and from now on; the work goes on."""
        self._hurried.set()

    def __contains__(self, uid: str) -> bool:
        return uid in self._owned

    async def serve(
        self, operation: Operation, refs: Sequence[ClaimRef], work: Work, timeout_s: float | None = None
    ) -> dict[str, Any]:
        """The answers by UID. Claims that are unfinished after `timeout_s` are missing; their work goes on."""
        answers: dict[str, Any] = {}
        wanted = {ref.uid: ref for ref in refs}
        ends = None if timeout_s is None else self._clock.now() + timeout_s
        while wanted:
            if free := [ref for uid, ref in wanted.items() if uid not in self._owned]:
                self._own(operation, free, work)
            busy = {uid: self._owned[uid] for uid in wanted}
            is_late = not await self._wait([owned.answer for owned in busy.values()], ends)
            for uid, owned in busy.items():
                if owned.operation == operation and owned.answer.done():
                    answers[uid] = owned.answer.result()
                    del wanted[uid]
            if is_late:
                break
        return answers

    async def _wait(self, pending: list[asyncio.Future[Any]], ends: float | None) -> bool:
        """Whether all futures were done in time; cancelling the caller leaves the work running."""
        if ends is None:
            await asyncio.wait(pending)
            return True
        done = asyncio.ensure_future(asyncio.wait(pending))
        hurried = asyncio.ensure_future(self._hurried.wait())
        try:
            async with self._clock.deadline(max(ends - self._clock.now(), 0.0)):
                await asyncio.wait((done, hurried), return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            return False
        finally:
            hurried.cancel()
            if not done.done():
                done.cancel()
        return done.done() and not done.cancelled()

    def answer(self, uid: str, answer: Any) -> None:
        """Set the answer of the claim's work."""
        if not (future := self._owned[uid].answer).done():
            future.set_result(answer)

    async def finish(self, timeout_s: float) -> None:
        """Return once no claim is being worked on, or after `timeout_s`."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=timeout_s)

    def _own(self, operation: Operation, refs: list[ClaimRef], work: Work) -> None:
        for ref in refs:
            owned = self._owned[ref.uid] = _Owned(operation, asyncio.get_running_loop().create_future())
            owned.answer.add_done_callback(partial(self._disown, ref.uid))
        task = asyncio.create_task(work(refs), name=f"{operation} {', '.join(ref.uid for ref in refs)}")
        self._tasks.add(task)
        task.add_done_callback(partial(self._ended, tuple(ref.uid for ref in refs)))

    def _disown(self, uid: str, answer: asyncio.Future[Any]) -> None:
        if uid in self._owned and self._owned[uid].answer is answer:
            del self._owned[uid]

    def _ended(self, uids: Iterable[str], task: asyncio.Task[None]) -> None:
        """Answer every claim of a task that ended with its error, unless it has an answer already."""
        self._tasks.discard(task)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        for uid in uids:
            owned = self._owned.get(uid)
            if owned is not None and not owned.answer.done():
                owned.answer.set_exception(error or RuntimeError("the work on the claim ended without an answer"))
