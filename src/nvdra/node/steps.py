"""The step runner: applies the steps of claims and rolls them back.

Steps that share no resource run side by side; steps on one resource run in the order in which claims came. The caller
holds the locks of all resources. The checkpoint's locks are free meanwhile. Actors read the hardware before they change
it and rely on no remembered state.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Protocol, TypeVar

from nvdra.claims import Facts, Step, resources
from nvdra.node.locks import Previous, ResourceLocks
from nvdra.ports import LockError

T = TypeVar("T")


class StepFailed(Exception):
    """A step that could not be applied or rolled back; the text names the device, the cause and the next step.

    is_rolled_back   nothing of the claim's steps is left on the hardware
    is_given_up      the claim is to be unprepared, which ended the step
    """

    def __init__(self, text: str, *, is_rolled_back: bool = False, is_given_up: bool = False) -> None:
        super().__init__(text)
        self.is_rolled_back = is_rolled_back
        self.is_given_up = is_given_up


class StepJournal:
    """The journal of one claim, for the actor that runs one of its steps.

    unwanted   set when the claim is to be unprepared: nothing waits for its steps any more
    """

    def __init__(
        self,
        locks: ResourceLocks,
        claim: str,
        step: Step,
        waiting: dict[str, str] | None = None,
        unwanted: asyncio.Event | None = None,
    ) -> None:
        self._locks = locks
        self._claim = claim
        self._step = step
        self._waiting = {} if waiting is None else waiting
        self._unwanted = asyncio.Event() if unwanted is None else unwanted

    def waits(self, reason: str) -> None:
        """Note why the step waits, for the answer at the call's deadline; "" when it goes on."""
        self._waiting[self._claim] = reason

    async def wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        """What comes of work that only waits. Raises StepFailed when the claim is to be unprepared meanwhile."""
        return await _unless(self._unwanted, work)

    def touch(self, previous: Previous | None = None) -> None:
        """Write the step's line before its first effect; it survives a crash of this program. Raises StepFailed."""
        try:
            self._locks.touch(self._claim, self._step, previous)
        except LockError as error:
            raise StepFailed(str(error)) from error

    @property
    def is_touched(self) -> bool:
        """Whether the step may have had effects."""
        return self._locks.touched(self._claim, self._step)

    @property
    def previous(self) -> Previous:
        """State from before the step; empty if none was written."""
        return self._locks.previous(self._claim, self._step)

    @property
    def first_previous(self) -> Previous:
        """State from before the first claim that applied the step and still needs it."""
        return self._locks.first_previous(self._step)

    def is_last(self, resource: str) -> bool:
        """Whether no other claim of this program still has steps to run on the resource."""
        return self._locks.is_last(self._claim, resource)

    def keep(self, resource: str, call: asyncio.Future[Any]) -> None:
        """Keep the resource's lock until an abandoned call, which may still change the resource, returns."""
        self._locks.keep(resource, call)


class Actor(Protocol):
    """Applies one kind of step and rolls it back. Both are idempotent and raise StepFailed."""

    async def apply(self, step: Any, journal: StepJournal) -> Facts:
        """The facts that the step produced, by names that the driver chooses."""
        ...

    async def roll_back(self, step: Any, journal: StepJournal) -> None: ...


class StepRunner:
    """Runs steps by the actors of their kinds.

    actors   by `Step.kind`
    """

    def __init__(self, locks: ResourceLocks, actors: Mapping[str, Actor]) -> None:
        self._locks = locks
        self._actors = actors
        self._waiting: dict[str, str] = {}
        self._unwanted: dict[str, asyncio.Event] = {}

    def give_up(self, claim: str) -> None:
        """The claim is to be unprepared: steps of its prepare that wait for something stop waiting, and fail."""
        if (unwanted := self._unwanted.get(claim)) is not None:
            unwanted.set()

    def waiting(self, claim: str) -> str:
        """Why the claim's steps wait; "" if they do not wait or are over."""
        return self._waiting.get(claim, "")

    async def wait_before(self, claim: str, reason: str, work: Coroutine[Any, Any, T]) -> T:
        """The result of work that the claim waits for before its steps run; `reason` is told meanwhile.

        Raises StepFailed when the claim is to be unprepared.
        """
        self._waiting[claim] = reason
        unwanted = self._unwanted[claim] = asyncio.Event()
        try:
            return await _unless(unwanted, work)
        finally:
            self._waiting.pop(claim, None)
            self._unwanted.pop(claim, None)

    async def apply(self, claim: str, steps: Sequence[Step], shared: Collection[Step] = ()) -> Facts:
        """The facts of all steps. Raises StepFailed, with every step of the claim rolled back if that succeeded.

        claim    the UID that the locks of the steps' resources were taken for
        shared   steps that other claims need too: these are not rolled back
        """
        facts: dict[str, Any] = {}
        self._unwanted[claim] = asyncio.Event()
        try:
            failures = await _side_by_side(self._apply_chain(claim, chain, facts) for chain in _chains(steps))
        finally:
            self._unwanted.pop(claim, None)
        if not failures:
            return facts
        text = str(failures[0])
        try:
            await self.roll_back(claim, [step for step in reversed(steps) if step not in shared])
        except StepFailed as left:
            raise StepFailed(f"{text}; and the rollback failed: {left}") from failures[0]
        is_given_up = any(failure.is_given_up for failure in failures)
        raise StepFailed(text, is_rolled_back=True, is_given_up=is_given_up) from failures[0]

    async def roll_back(self, claim: str, steps: Sequence[Step]) -> None:
        """Roll the steps back in this order. Raises StepFailed if effects remain; a later call tries again."""
        failures = await _side_by_side(self._roll_back_chain(claim, chain) for chain in _chains(steps))
        if failures:
            raise failures[0]

    async def _apply_chain(self, claim: str, chain: Sequence[Step], facts: dict[str, Any]) -> None:
        async with self.turns(resources(chain)):
            for step in chain:
                facts |= await self._actors[step.kind].apply(step, self._journal(claim, step))
            self._settle(claim, chain)

    async def _roll_back_chain(self, claim: str, chain: Sequence[Step]) -> None:
        async with self.turns(resources(chain)):
            try:
                for step in chain:
                    await self._actors[step.kind].roll_back(step, self._journal(claim, step))
            finally:
                self._settle(claim, chain)

    def _journal(self, claim: str, step: Step) -> StepJournal:
        return StepJournal(self._locks, claim, step, self._waiting, self._unwanted.get(claim))

    def _settle(self, claim: str, chain: Sequence[Step]) -> None:
        self._waiting.pop(claim, None)
        for resource in resources(chain):
            self._locks.settled(claim, resource)

    @asynccontextmanager
    async def turns(self, names: Iterable[str]) -> AsyncIterator[None]:
        """Hold these resources' turns: one chain at a time on each, first come, first served."""
        async with AsyncExitStack() as stack:
            for name in sorted(names):
                await stack.enter_async_context(self._locks.turn(name))
            yield


async def _unless(unwanted: asyncio.Event, work: Coroutine[Any, Any, T]) -> T:
    """The result of the work. Raises StepFailed if `unwanted` is set before."""
    waiting = asyncio.ensure_future(work)
    ending = asyncio.ensure_future(unwanted.wait())
    try:
        await asyncio.wait((waiting, ending), return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            return waiting.result()
        raise StepFailed("the claim is to be unprepared, so nothing is waited for any more", is_given_up=True)
    finally:
        for each in (waiting, ending):
            each.cancel()
        await asyncio.gather(waiting, ending, return_exceptions=True)


def _chains(steps: Iterable[Step]) -> list[list[Step]]:
    """The steps in chains that share no resource; each chain keeps the steps' order."""
    chains: list[tuple[set[str], list[Step]]] = []
    for step in steps:
        touching = [chain for chain in chains if chain[0] & step.resources]
        merged: tuple[set[str], list[Step]] = (set(step.resources), [])
        for chain in touching:
            merged[0].update(chain[0])
            merged[1].extend(chain[1])
            chains.remove(chain)
        merged[1].append(step)
        chains.append(merged)
    return [chain for _, chain in chains]


async def _side_by_side(work: Iterable[Coroutine[Any, Any, None]]) -> list[StepFailed]:
    """Run all coroutines to their end; return the StepFailed of those that failed, in order."""
    ended = await asyncio.gather(*work, return_exceptions=True)
    for end in ended:
        if isinstance(end, BaseException) and not isinstance(end, StepFailed):
            raise end
    return [end for end in ended if isinstance(end, StepFailed)]
