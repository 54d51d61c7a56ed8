"""The locks of GPUs: who may change one, and what it says in its lock's file meanwhile.

Hardware belongs to the program that holds the flock on `.locks/<gpu uuid>` in the plugin's folder, from before a
claim's entry says "begun" until it says "completed" or is undone. The program holds it for all its claims there. The
file keeps a line for each claim in work, so that whoever takes the lock after a death knows what was really begun:

    <claim uid>                       in work, nothing made yet
    <claim uid> <profile id>@<start>  may have made, or be taking away, the partition there
    -<claim uid>                      done with

An entry that was begun and has no line at all is another program's (the Go driver writes none).
"""

from __future__ import annotations

import asyncio
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from nvdra import telemetry
from nvdra.ports import Host, Lock, LockError

Placement = tuple[int, int]  # profile id, first memory slice

FOLDER = ".locks"
PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class _Work:
    gpus: frozenset[str]
    is_over: asyncio.Event


@dataclass(slots=True)
class _Held:
    lock: Lock
    lines: dict[str, set[Placement]]
    claims: set[str] = field(default_factory=set)
    ahead: set[str] = field(default_factory=set)  # those of them whose work on the GPU is not over
    calls: int = 0  # into NVML, left under way
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(frozen=True, slots=True)
class Busy:
    """Another program works on one of these GPUs: wait for it, then decide again."""

    gpus: frozenset[str]


class GpuLocks:
    """The GPU locks of one program, taken for claims by UID. One event loop uses it."""

    def __init__(self, host: Host, plugin_dir: str) -> None:
        self._host = host
        self._folder = f"{plugin_dir}/{FOLDER}"
        self._held: dict[str, _Held] = {}
        self._work: dict[str, _Work] = {}

    @property
    def claims(self) -> frozenset[str]:
        """UIDs of the claims in work."""
        return frozenset(self._work)

    async def make_folder(self) -> None:
        await self._host.mkdir(self._folder, mode=0o750)

    def try_take(self, claim: str, gpus: Iterable[str]) -> bool:
        """Take these GPUs for the claim, all or none; False if another program has one. Raises LockError."""
        taken: list[str] = []
        for gpu in sorted(set(gpus)):
            try:
                held = self._held.get(gpu) or self._lock(gpu)
            except LockError:
                self._drop(claim, taken)
                raise
            if held is None:
                self._drop(claim, taken)
                return False
            held.claims.add(claim)
            held.ahead.add(claim)
            taken.append(gpu)
        self._work[claim] = _Work(frozenset(taken), asyncio.Event())
        return True

    def _lock(self, gpu: str) -> _Held | None:
        lock = self._host.try_lock(self._path(gpu))
        if lock is None:
            return None
        held = self._held[gpu] = _Held(lock, _read(lock.lines()))
        return held

    async def wait(self, gpus: Iterable[str]) -> None:
        """Until the other program is done with one of the GPUs. Raises LockError."""
        for gpu in sorted(set(gpus) - self._held.keys()):
            async with self._host.lock(self._path(gpu), timeout_s=PATIENCE_S):
                pass

    async def until_done(self, claim: str) -> None:
        """Until the claim is out of work; at once if it is."""
        if (work := self._work.get(claim)) is not None:
            await work.is_over.wait()

    def turn(self, gpu: str) -> asyncio.Lock:
        """Operations on one GPU go in the order in which they ask for this."""
        return self._held[gpu].turn

    def is_last(self, claim: str, gpu: str) -> bool:
        """Whether no other claim of this program still has work to do on the GPU."""
        return self._held[gpu].ahead <= {claim}

    def settled(self, claim: str, gpu: str) -> None:
        """The claim's work on the GPU is over, though it is not out of work yet."""
        self._held[gpu].ahead.discard(claim)

    def keep(self, gpu: str, call: asyncio.Future[Any]) -> None:
        """The GPU stays this program's until the call is done, whoever gives it back before."""
        self._held[gpu].calls += 1
        call.add_done_callback(partial(self._returned, gpu))

    def _returned(self, gpu: str, _call: asyncio.Future[Any]) -> None:
        self._held[gpu].calls -= 1
        self._let_go(gpu)

    def begin(self, claim: str, gpus: Iterable[str]) -> None:
        """The claim starts from nothing on these GPUs of its own, where it will have partitions. Raises LockError.

        What their files said of it before does not count any more.
        """
        for gpu in sorted(set(gpus)):
            held = self._held[gpu]
            if claim in held.lines:
                held.lock.add(f"-{claim}")
            held.lock.add(claim)
            held.lines[claim] = set()

    def touch(self, claim: str, gpu: str, placement: Placement) -> None:
        """From now on a death may leave the claim's partition there. Raises LockError."""
        held = self._held[gpu]
        held.lock.add(f"{claim} {placement[0]}@{placement[1]}")
        held.lines.setdefault(claim, set()).add(placement)

    def touched(self, claim: str, gpu: str, placement: Placement) -> bool:
        """Whether the claim may have left a partition there; of a claim without a line, the entry's word is all."""
        lines = self._held[gpu].lines.get(claim)
        return lines is None or placement in lines

    def forget_others(self, gpu: str, begun: Container[str]) -> None:
        """Drop what a dead program left of claims that are neither begun nor in work: it says nothing any more.

        begun   by the record as it is under the ledger's locks: another program may be about to write its entry
        """
        held = self._held[gpu]
        for claim in [claim for claim in held.lines if claim not in begun and claim not in held.claims]:
            _strike(claim, held)

    def give_back(self, claim: str, *, is_done: bool) -> None:
        """The claim is out of work. is_done: nothing of it is left half made; else its lines stay for who undoes it."""
        work = self._work.pop(claim, None)
        if work is None:
            return
        work.is_over.set()
        if is_done:
            for gpu in work.gpus:
                _strike(claim, self._held[gpu])
        self._drop(claim, work.gpus)

    def _drop(self, claim: str, gpus: Iterable[str]) -> None:
        for gpu in gpus:
            held = self._held[gpu]
            held.claims.discard(claim)
            held.ahead.discard(claim)
            self._let_go(gpu)

    def _let_go(self, gpu: str) -> None:
        held = self._held[gpu]
        if not held.claims and not held.calls:
            del self._held[gpu]
            held.lock.close()

    def _path(self, gpu: str) -> str:
        return f"{self._folder}/{gpu}"


def _strike(claim: str, held: _Held) -> None:
    if held.lines.pop(claim, None) is None:
        return
    try:
        if held.lines:
            held.lock.add(f"-{claim}")
        else:
            held.lock.clear()
    except LockError as error:
        # A line too many: it is done with when the claim begins anew, or dropped when the program starts.
        telemetry.warning("The file of a GPU's lock keeps a line that is done with", uid=claim, cause=str(error))


def _read(lines: Iterable[str]) -> dict[str, set[Placement]]:
    found: dict[str, set[Placement]] = {}
    for line in lines:
        claim, _, place = line.partition(" ")
        if claim.startswith("-"):
            found.pop(claim[1:], None)
            continue
        placements = found.setdefault(claim, set())
        profile_id, _, start = place.partition("@")
        if profile_id.isdecimal() and start.isdecimal():
            placements.add((int(profile_id), int(start)))
    return found
