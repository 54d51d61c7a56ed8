"""List and watch as a state machine, and the store it fills.

Three states: Listing, Watching, Pausing. The pure function `after` decides the next state; the Watcher carries it out.
In the store a delete always wins: a late answer cannot bring a deleted object back.

  Listing   ─ listed ─▶ Watching        Watching ─ 410, or its API version gone ─▶ Listing
  Watching  ─ ended ─▶ Watching         any ─ other failure ─▶ Pausing ─▶ the state before
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, assert_never

from nvdra import telemetry
from nvdra.kube.answers import document
from nvdra.ports import ApiError, Clock, Event, Kube, Page, Resource

T = TypeVar("T")

PAUSE_FIRST_S = 0.5
PAUSE_LIMIT_S = 30.0

# A watch that ends sooner than this counts as a failure, even if it had events: restarting it at once could loop. A
# longer watch shows that the server is back. Only one of PAUSE_LIMIT_S shows that the server keeps its history.
SHORT_S = 1.0

# A safety net: if the list is this old when a watch ends, the objects are listed again.
RELIST_S = 1800.0

_GONE = 410
_REMEMBERED = 1000


@dataclass(frozen=True, slots=True)
class Listing:
    """No resource version is known from which a watch could start."""


@dataclass(frozen=True, slots=True)
class Watching:
    resource_version: str


@dataclass(frozen=True, slots=True)
class Pausing:
    seconds: float
    then: Listing | Watching


State = Listing | Watching | Pausing


@dataclass(frozen=True, slots=True)
class Listed:
    resource_version: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The server closed a watch. `is_stale`: its list is older than RELIST_S."""

    resource_version: str
    is_stale: bool


@dataclass(frozen=True, slots=True)
class Failed:
    """A list or a watch failed; `resource_version` is how far a watch came, "" for a list.

    is_version_gone   the server no longer has the API version asked for
    """

    error: ApiError
    resource_version: str = ""
    is_version_gone: bool = False


Outcome = Listed | Ended | Failed


def after(outcome: Outcome, failures: int, jitter: float) -> State:
    """The next state.

    failures   failures of this sort in a row, this one included
    jitter     0 to 1: spreads the retries of clients that lost the server together
    """
    match outcome:
        case Listed(resource_version):
            return Watching(resource_version)
        case Ended(resource_version, is_stale):
            return Listing() if is_stale else Watching(resource_version)
        case Failed(error, resource_version, is_version_gone):
            is_lost = error.status == _GONE or is_version_gone or not resource_version
            then: Listing | Watching = Listing() if is_lost else Watching(resource_version)
            if failures <= 1 and (error.status == _GONE or is_version_gone):
                return then
            return Pausing(pause_s(failures, jitter, error.retry_after_s), then)
        case _:
            assert_never(outcome)


def pause_s(failures: int, jitter: float, retry_after_s: float | None = None) -> float:
    """The pause after `failures` failures in a row; the server's Retry-After takes precedence."""
    if retry_after_s is not None:
        return retry_after_s + jitter
    return float(min(PAUSE_LIMIT_S, PAUSE_FIRST_S * 2 ** min(max(failures, 1) - 1, 10))) * (0.5 + jitter / 2)


@dataclass(frozen=True, slots=True)
class Change(Generic[T]):
    """A change of an object in the store; "listed" (without object) after each complete list."""

    kind: Literal["put", "deleted", "listed"]
    uid: str = ""
    value: T | None = None


@dataclass(frozen=True, slots=True)
class _Kept(Generic[T]):
    revision: int
    value: T


class Store(Generic[T]):
    """The newest known state of each object, by uid.

    An object that cannot be read is logged and skipped; its last known state stays.
    shape   converts a decoded object to the value that is kept
    """

    def __init__(self, shape: Callable[[dict[str, Any]], T], on_change: Callable[[Change[T]], None]) -> None:
        self._shape = shape
        self._on_change = on_change
        self._objects: dict[str, _Kept[T]] = {}
        self._deleted: OrderedDict[str, None] = OrderedDict()
        self.is_filled = False

    def __len__(self) -> int:
        return len(self._objects)

    def values(self) -> list[T]:
        return [kept.value for kept in self._objects.values()]

    def put(self, raw: bytes) -> bool:
        """Whether this state is new: the answer to an own write and its watch event come in any order."""
        return self._put(raw)[1]

    def _put(self, raw: bytes) -> tuple[str, bool]:
        """The object's uid ("" if it has none), and whether the state is new."""
        uid = name = ""
        try:
            thing = document(raw)
            uid, name, revision = _identity(thing)
            kept = self._objects.get(uid)
            if uid in self._deleted or (kept is not None and 0 < revision <= kept.revision):
                return uid, False
            value = self._shape(thing)
        except Exception as error:  # of whatever kind, it is this object's
            telemetry.warning("Skipped an API object that cannot be read", name=name, uid=uid, cause=repr(error))
            return uid, False
        self._objects[uid] = _Kept(revision, value)
        self._on_change(Change("put", uid, value))
        return uid, True

    def drop(self, uid: str) -> bool:
        """Whether the object was in the store. It is never accepted again, because uids are not reused."""
        self._deleted[uid] = None
        while len(self._deleted) > _REMEMBERED:
            self._deleted.popitem(last=False)
        kept = self._objects.pop(uid, None)
        if kept is not None:
            self._on_change(Change("deleted", uid, kept.value))
        return kept is not None

    def replace(self, page: Page) -> None:
        """Take over a complete list: objects that it lacks are gone, unless they were written after the list was made.

        If an item has no uid, no object counts as gone: the item may be any of them.
        """
        seen = {self._put(raw)[0] for raw in page.items}
        made = _number(page.resource_version)
        for uid, kept in list(self._objects.items()):
            if "" not in seen and uid not in seen and (kept.revision <= made or not made):
                self.drop(uid)
        self.is_filled = True
        self._on_change(Change("listed"))


class Watcher(Generic[T]):
    """Keeps a store equal to the server's objects while `run` runs.

    resource     finds the kind; called before each list
    is_gone      whether a failure says that its API version is gone
    on_failure   called for each failure, with the pause that follows (seconds)
    """

    def __init__(
        self,
        kube: Kube,
        clock: Clock,
        resource: Callable[[], Awaitable[Resource]],
        shape: Callable[[dict[str, Any], Resource], T],
        *,
        namespace: str = "",
        field_selector: str = "",
        label_selector: str = "",
        on_change: Callable[[Change[T]], None] = lambda _: None,
        on_failure: Callable[[ApiError, float], None] = lambda _error, _pause_s: None,
        is_gone: Callable[[ApiError], bool] = lambda _: False,
        relist_s: float = RELIST_S,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._kube = kube
        self._clock = clock
        self._find = resource
        self._namespace = namespace
        self._selectors = {"field_selector": field_selector, "label_selector": label_selector}
        self._on_failure = on_failure
        self._is_gone = is_gone
        self._relist_s = relist_s * (0.75 + jitter() / 2)
        self._jitter = jitter
        self._resource = Resource("", "", "", namespaced=False)
        self._failures = 0
        self._losses = 0  # of the place to watch from
        self._listed_at = clock.now()
        self.state: State = Listing()
        self.store: Store[T] = Store(lambda thing: shape(thing, self._resource), on_change)

    async def run(self) -> None:
        """Never returns; cancel it."""
        while True:
            match self.state:
                case Pausing(seconds, then):
                    await self._clock.sleep(seconds)
                    self.state = then
                case Listing():
                    self._next(await self._list())
                case Watching(resource_version):
                    self._next(await self._watch(resource_version))
                case _:
                    assert_never(self.state)

    def _next(self, outcome: Outcome) -> None:
        failures = 0
        if isinstance(outcome, Failed) and (outcome.error.status == _GONE or outcome.is_version_gone):
            failures = self._losses = self._losses + 1
        elif isinstance(outcome, Failed):
            failures = self._failures = self._failures + 1
        self.state = after(outcome, failures, self._jitter())
        if isinstance(outcome, Failed):
            self._on_failure(outcome.error, self.state.seconds if isinstance(self.state, Pausing) else 0.0)

    async def _list(self) -> Outcome:
        try:
            self._resource = await self._find()
            page = await self._kube.list(self._resource, self._namespace, **self._selectors)
        except ApiError as error:
            return Failed(error, is_version_gone=self._is_gone(error))
        self._listed_at = self._clock.now()
        self.store.replace(page)
        return Listed(page.resource_version)

    async def _watch(self, resource_version: str) -> Outcome:
        began = self._clock.now()
        failure: Failed | None = None
        events = self._kube.watch(self._resource, self._namespace, resource_version=resource_version, **self._selectors)
        try:
            async with aclosing(events) as stream:  # type: ignore[type-var]
                async for event in stream:
                    resource_version = self._apply(event) or resource_version
        except _Unusable as error:
            failure = Failed(ApiError(0, "", str(error)))  # a list shows what the watch would have shown
        except ApiError as error:
            failure = Failed(error, resource_version, is_version_gone=self._is_gone(error))
        lasted_s = self._clock.now() - began
        if lasted_s >= SHORT_S:
            self._failures = 0
        elif failure is None:
            failure = Failed(ApiError(0, "", "the server ended a watch at once"), resource_version)
        if lasted_s >= PAUSE_LIMIT_S:
            self._losses = 0
        return failure or Ended(resource_version, is_stale=self._clock.now() - self._listed_at >= self._relist_s)

    def _apply(self, event: Event) -> str:
        """Put the event into the store; returns its resourceVersion, "" if it has none."""
        try:
            metadata = document(event.object).get("metadata")
        except ApiError:
            metadata = None
        metadata = metadata if isinstance(metadata, dict) else {}
        match event.type:
            case "ADDED" | "MODIFIED":
                self.store.put(event.object)
            case "DELETED":
                if not isinstance(uid := metadata.get("uid"), str):
                    raise _Unusable("an object was deleted, and the API server's event does not say which")
                self.store.drop(uid)
            case "BOOKMARK":
                pass
            case _:
                assert_never(event.type)
        version = metadata.get("resourceVersion")
        return version if isinstance(version, str) else ""


class _Unusable(Exception):
    """An event that does not identify its object."""


def _identity(thing: dict[str, Any]) -> tuple[str, str, int]:
    """UID, name and revision. Raises ValueError if there is no UID."""
    metadata = thing.get("metadata")
    uid = metadata.get("uid") if isinstance(metadata, dict) else None
    if not isinstance(uid, str) or not uid or not isinstance(metadata, dict):
        raise ValueError("metadata.uid is missing")
    return uid, str(metadata.get("name", "")), _number(str(metadata.get("resourceVersion", "")))


def _number(resource_version: str) -> int:
    """The resource version as a number, else 0. Since 1.35 Kubernetes promises that versions of one kind grow."""
    is_number = resource_version.isascii() and resource_version.isdigit() and len(resource_version) <= 20
    return int(resource_version) if is_number else 0
