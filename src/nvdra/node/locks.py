"""Locks of resources, and the journal of steps that each lock file keeps.

A resource (named by the driver) belongs to the program that holds the flock on `.locks/<resource>` in the
plugin's folder. The program holds the lock from before a claim's entry says `PrepareStarted` until the entry says
`PrepareCompleted` or is removed, for all its claims on the resource. The journal in the file has a line for each claim
that is being worked on. After a crash it tells the next holder which steps may have had effects:

    <claim uid>                                       being worked on, no step touched yet
    <claim uid> <kind> <key> [<previous state JSON>]  the step may have had effects, or is being rolled back
    -<claim uid>                                      done

The Go driver writes no lines: for a half-prepared entry without any line, every step of the entry may have had effects.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson

from nvdra import telemetry
from nvdra.claims import Step
from nvdra.ports import Host, Lock, LockError

Previous = Mapping[str, Any]
"""State from before a step, as its actor wrote it."""

FOLDER = ".locks"
LOCK_TIMEOUT_S = 10.0

_Key = tuple[str, str]  # kind and key of a step


@dataclass(slots=True)
class _Held:
    locks: list[Lock]  # the first one's file keeps the journal; former names follow
    journal: dict[str, dict[_Key, Previous]]
    claims: set[str] = field(default_factory=set)
    unsettled: set[str] = field(default_factory=set)  # claims whose steps on the resource are not over
    calls: int = 0  # abandoned calls that have not returned
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(frozen=True, slots=True)
class Busy:
    """Another program holds one of these resources: wait for it, then decide again."""

    resources: frozenset[str]


class ResourceLocks:
    """The resource locks of one program, taken for claims by UID. One event loop uses it.

    former        names that a resource's lock had in earlier releases; their files, if they exist, are locked too, and
                  their lines count
    former_kind   kind of the steps in lines of earlier releases, which wrote only the key; "": there are no such lines
    """

    def __init__(
        self,
        host: Host,
        plugin_dir: str,
        former: Callable[[str], Iterable[str]] = lambda _resource: (),
        former_kind: str = "",
    ) -> None:
        self._host = host
        self._folder = f"{plugin_dir}/{FOLDER}"
        self._former = former
        self._former_kind = former_kind
        self._held: dict[str, _Held] = {}
        self._taken: dict[str, frozenset[str]] = {}  # by claim

    async def make_folder(self) -> None:
        await self._host.mkdir(self._folder, mode=0o750)

    # ── taking and giving back ─────────────────────────────────────────────────────────────────────────────────

    def try_take(self, claim: str, resources: Iterable[str]) -> bool:
        """Take these resources for the claim, all or none; False if another program has one. Raises LockError."""
        taken: list[str] = []
        for resource in sorted(set(resources)):
            try:
                held = self._held.get(resource) or self._lock(resource)
            except LockError:
                self._drop(claim, taken)
                raise
            if held is None:
                self._drop(claim, taken)
                return False
            held.claims.add(claim)
            held.unsettled.add(claim)
            taken.append(resource)
        self._taken[claim] = frozenset(taken)
        return True

    def _lock(self, resource: str) -> _Held | None:
        locks: list[Lock] = []
        journal: dict[str, dict[_Key, Previous]] = {}
        try:
            for path in self._paths(resource):
                lock = self._host.try_lock(path)
                if lock is None:
                    _close(locks)
                    return None
                locks.append(lock)
                for claim, touched in _read(lock.lines(), self._former_kind).items():
                    journal.setdefault(claim, {}).update(touched)
        except LockError:
            _close(locks)
            raise
        held = self._held[resource] = _Held(locks, journal)
        return held

    def _paths(self, resource: str) -> list[str]:
        former = (f"{self._folder}/{name}" for name in self._former(resource) if name)
        return [f"{self._folder}/{resource}", *(path for path in former if self._host.exists(path))]

    async def wait(self, resources: Iterable[str]) -> None:
        """Return once no other program holds any of the resources. Raises LockError."""
        for resource in sorted(set(resources) - self._held.keys()):
            for path in self._paths(resource):
                async with self._host.lock(path, timeout_s=LOCK_TIMEOUT_S):
                    pass

    def give_back(self, claim: str, *, is_done: bool, is_prepared: bool = False) -> None:
        """Release the claim's locks.

        is_done      no step of the claim is half done; else its lines stay for the rollback
        is_prepared  the claim is prepared: previous states stay for its teardown
        """
        taken = self._taken.pop(claim, frozenset())
        if is_done:
            for resource in taken:
                _end_claim(claim, self._held[resource], keeps_previous=is_prepared)
        self._drop(claim, taken)

    def _drop(self, claim: str, resources: Iterable[str]) -> None:
        for resource in resources:
            held = self._held[resource]
            held.claims.discard(claim)
            held.unsettled.discard(claim)
            self._close_unused(resource)

    def _close_unused(self, resource: str) -> None:
        held = self._held[resource]
        if not held.claims and not held.calls:
            del self._held[resource]
            _close(held.locks)

    # ── order of work inside this program ──────────────────────────────────────────────────────────────────────

    def turn(self, resource: str) -> asyncio.Lock:
        """The lock that orders steps on one resource inside this program: first come, first served."""
        return self._held[resource].turn

    def is_last(self, claim: str, resource: str) -> bool:
        """Whether no other claim of this program still has steps to run on the resource."""
        return self._held[resource].unsettled <= {claim}

    def settled(self, claim: str, resource: str) -> None:
        """Note that the claim's steps on the resource are over; the claim still holds the lock."""
        if resource in self._held:
            self._held[resource].unsettled.discard(claim)

    def keep(self, resource: str, call: asyncio.Future[Any]) -> None:
        """Hold the resource's lock at least until the call is done."""
        self._held[resource].calls += 1
        call.add_done_callback(partial(self._returned, resource))

    def _returned(self, resource: str, _call: asyncio.Future[Any]) -> None:
        self._held[resource].calls -= 1
        self._close_unused(resource)

    # ── the journal ────────────────────────────────────────────────────────────────────────────────────────────

    def begin(self, claim: str, resources: Iterable[str]) -> None:
        """Write that the claim begins work on these resources; its earlier lines are void. Raises LockError."""
        for resource in sorted(set(resources)):
            held = self._held[resource]
            if claim in held.journal:
                for lock in held.locks:
                    lock.add(f"-{claim}")
            held.locks[0].add(claim)
            held.journal[claim] = {}

    def touch(self, claim: str, step: Step, previous: Previous | None = None) -> None:
        """Write that the step may have had effects from now on. Raises LockError.

        previous   state that the rollback restores; an earlier line of the same step keeps its own
        """
        for resource in sorted(step.resources):
            held = self._held[resource]
            lines = held.journal.setdefault(claim, {})
            known = lines.get((step.kind, step.key))
            if known or (known is not None and not previous):
                continue
            held.locks[0].add(_line(claim, step.kind, step.key, previous))
            lines[step.kind, step.key] = dict(previous or {})

    def touched(self, claim: str, step: Step) -> bool:
        """Whether the step may have had effects; always True for a claim without any line."""
        journals = [self._held[resource].journal.get(claim) for resource in sorted(step.resources)]
        return any(lines is None or (step.kind, step.key) in lines for lines in journals)

    def previous(self, claim: str, step: Step) -> Previous:
        """State from before the step; empty if the journal has none."""
        for resource in sorted(step.resources):
            if found := self._held[resource].journal.get(claim, {}).get((step.kind, step.key)):
                return found
        return {}

    def first_previous(self, step: Step) -> Previous:
        """State from before the first claim that applied the step and still needs it; empty if none was written."""
        for resource in sorted(step.resources):
            for lines in self._held[resource].journal.values():
                if found := lines.get((step.kind, step.key)):
                    return found
        return {}

    def left_by_others(self, step: Step, known: Container[str]) -> Previous | None:
        """State from before the step of a claim that is gone, and so has not been rolled back; None if there is none.

        known   UIDs of claims that are not gone
        """
        for resource in sorted(step.resources):
            held = self._held[resource]
            for claim, lines in held.journal.items():
                if claim not in known and claim not in held.claims and (step.kind, step.key) in lines:
                    return lines[step.kind, step.key]
        return None

    def forget_others(self, resource: str, begun: Container[str], prepared: Container[str]) -> None:
        """Drop lines of claims that are neither half prepared nor being worked on; a crash left them.

        begun     UIDs of half-prepared entries, read under the checkpoint's locks: another program may just be writing
        prepared  UIDs of completed entries, read likewise: previous states stay for their teardown
        """
        held = self._held[resource]
        for claim in [claim for claim in held.journal if claim not in begun and claim not in held.claims]:
            _end_claim(claim, held, keeps_previous=claim in prepared)


def _close(locks: Iterable[Lock]) -> None:
    for lock in locks:
        lock.close()


def _end_claim(claim: str, held: _Held, *, keeps_previous: bool) -> None:
    """Remove the claim's lines; with `keeps_previous` those that name a previous state stay."""
    if (lines := held.journal.get(claim)) is None:
        return
    kept = {key: previous for key, previous in lines.items() if previous} if keeps_previous else {}
    if kept == lines and kept:
        return
    if kept:
        held.journal[claim] = kept
    else:
        del held.journal[claim]
    try:
        for lock in held.locks:
            if not held.journal:
                lock.clear()
            elif lock is held.locks[0] or claim in _read(lock.lines()):
                lock.add(f"-{claim}")
        for (kind, key), previous in kept.items():
            held.locks[0].add(_line(claim, kind, key, previous))
    except LockError as error:
        # The line is harmless: it is dropped when the claim begins again or when the program starts.
        telemetry.warning("Could not remove a finished claim from the lock journal", uid=claim, cause=str(error))


def _line(claim: str, kind: str, key: str, previous: Previous | None) -> str:
    return f"{claim} {kind} {key}" + (f" {orjson.dumps(dict(previous)).decode()}" if previous else "")


def _read(lines: Iterable[str], former_kind: str = "") -> dict[str, dict[_Key, Previous]]:
    found: dict[str, dict[_Key, Previous]] = {}
    for line in lines:
        claim, _, rest = line.partition(" ")
        if claim.startswith("-"):
            found.pop(claim[1:], None)
            continue
        touched = found.setdefault(claim, {})
        kind, _, rest = rest.partition(" ")
        key, _, previous = rest.partition(" ")
        if kind and not key:
            kind, key = former_kind, kind
        if kind and key:
            touched[kind, key] = _previous(previous)
    return found


def _previous(text: str) -> Previous:
    try:
        found = orjson.loads(text) if text else {}
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}
