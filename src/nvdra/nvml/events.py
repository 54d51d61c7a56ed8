"""Events of GPUs, received in a session and a thread of their own: a wait never delays the lease.

The session holds the GPUs that it watches. It is closed while a GPU changes its MIG mode or its kernel driver
(`released`), and leaves out GPUs that wait for a reset.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from nvdra._nvml import GPU_IS_LOST, Events, Library, NvmlError
from nvdra.nvml.errors import DriverAbsent, DriverChanged, NvmlHung
from nvdra.nvml.worker import Worker, outcome
from nvdra.ports import Clock

# How long one call waits for events: a release waits for its end.
WAIT_MS = 200
TIMEOUT_S = 10.0

T = TypeVar("T")

# PCI address, NVML's bit, data, GPU instance, compute instance
Event = tuple[str, int, int, int, int]


@dataclass(frozen=True, slots=True)
class Watched:
    """One GPU at the opening of the session, or at a look.

    kinds      the events registered for, NVML's bits
    action     NVML's recovery action; None if NVML cannot tell
    links      NVLinks that are up
    error      NVML's refusal; "" if the GPU answers
    is_lost    NVML says that the GPU fell off the bus
    is_held    the session holds the GPU: False if it is lost or waits for a reset
    """

    kinds: int = 0
    action: int | None = None
    links: int = 0
    error: str = ""
    is_lost: bool = False
    is_held: bool = True


class EventsClosed(Exception):
    """No session is open: `open` one."""


class NvmlEvents:
    """The event session of a node. One task opens it and waits; any task may ask for its release.

    library_path   as for `Nvml`
    leaves_out     whether a GPU must not be held by the session, given its recovery action
    """

    def __init__(
        self,
        library_path: Callable[[], str],
        clock: Clock,
        leaves_out: Callable[[int | None], bool] = lambda _action: False,
        *,
        wait_ms: int = WAIT_MS,
    ) -> None:
        self._library_path = library_path
        self._clock = clock
        self._leaves_out = leaves_out
        self._wait_ms = wait_ms
        self._worker = Worker("nvml-events")
        self._turn = asyncio.Lock()
        self._releases = 0
        self._is_free = asyncio.Event()
        self._is_free.set()
        self._hung: tuple[asyncio.Future[Any], NvmlHung] | None = None
        # Written by the worker only.
        self._library: Library | None = None
        self._events: Events | None = None
        self._loaded: tuple[str, int, int, int] | None = None

    @property
    def is_open(self) -> bool:
        return self._events is not None

    async def open(self, addresses: Iterable[str], wanted: int) -> Mapping[str, Watched]:
        """Open the session anew and watch these GPUs; what was found, by PCI address.

        GPUs that are lost or wait for a reset are looked at, and not held afterwards.
        wanted   NVML's bits of the events
        Raises DriverAbsent, DriverChanged, NvmlHung.
        """
        return await self._call(partial(self._reopen, tuple(addresses), wanted))

    async def next(self) -> list[Event]:
        """Events since the last call; empty if none came within a moment. Raises EventsClosed, NvmlError, NvmlHung."""
        return await self._call(self._wait)

    async def look(self, addresses: Iterable[str]) -> Mapping[str, Watched]:
        """GPUs of the open session as they are now. Raises EventsClosed, NvmlHung."""
        return await self._call(partial(self._look, tuple(addresses)))

    async def close(self) -> None:
        """Close the session: no GPU is held by it any more. Raises NvmlHung."""
        async with self._turn:
            await self._run(self._close)

    @asynccontextmanager
    async def released(self) -> AsyncIterator[None]:
        """No GPU is held while the body runs; the session is opened again afterwards. Raises NvmlHung."""
        self._releases += 1
        self._is_free.clear()
        try:
            await self.close()
            yield
        finally:
            self._releases -= 1
            if not self._releases:
                self._is_free.set()

    async def _call(self, work: Callable[[], T]) -> T:
        while True:
            await self._is_free.wait()
            async with self._turn:
                if self._is_free.is_set():
                    return await self._run(work)

    async def _run(self, work: Callable[[], T]) -> T:
        if self._hung is not None:
            if not self._hung[0].done():
                raise self._hung[1]
            self._hung = None
        running = self._worker.call(work)
        try:
            return await outcome(running, self._clock, TIMEOUT_S)
        except TimeoutError:
            function = self._events.function if self._events is not None else "nvmlInitWithFlags"
            hung = NvmlHung(function, TIMEOUT_S, "GPUs are not monitored until it does", running)
            self._hung = running, hung
            raise hung from None

    # The methods below run in the worker.

    def _reopen(self, addresses: tuple[str, ...], wanted: int) -> Mapping[str, Watched]:
        self._begin()
        found = {address: self._watch(address, wanted) for address in addresses}
        left_out = {address: replace(gpu, is_held=False) for address, gpu in found.items() if self._is_left_out(gpu)}
        if left_out:
            self._begin()
            again = {address: self._watch(address, wanted) for address in addresses if address not in left_out}
            found = {**again, **left_out}
        return found

    def _is_left_out(self, gpu: Watched) -> bool:
        return gpu.is_lost or self._leaves_out(gpu.action)

    def _begin(self) -> None:
        self._close()
        try:
            path = self._library_path()
            about = os.stat(path)
        except (LookupError, OSError) as error:
            raise DriverAbsent(str(error)) from error
        file = (path, about.st_dev, about.st_ino, about.st_size)
        if self._loaded not in (None, file):
            raise DriverChanged(f"the NVML library is now {path}; this process has loaded {self._loaded[0]}")
        try:
            library = Library(path)
        except NvmlError as error:
            raise DriverAbsent(error.text, error.code) from error
        try:
            library.init()
        except NvmlError as error:
            library.unload()
            raise DriverAbsent(str(error), error.code) from error
        self._library, self._events, self._loaded = library, Events(library), file

    def _watch(self, address: str, wanted: int) -> Watched:
        assert self._events is not None
        try:
            kinds = self._events.watch(address, wanted)
        except NvmlError as error:
            return Watched(error=str(error), is_lost=error.code == GPU_IS_LOST)
        return self._look_at(address, kinds)

    def _look(self, addresses: tuple[str, ...]) -> Mapping[str, Watched]:
        if self._events is None:
            raise EventsClosed
        return {address: self._look_at(address, 0) for address in addresses}

    def _look_at(self, address: str, kinds: int) -> Watched:
        assert self._events is not None
        try:
            self._events.answers(address)
            links = self._events.active_links(address)
        except NvmlError as error:
            return Watched(kinds, error=str(error), is_lost=error.code == GPU_IS_LOST)
        try:
            return Watched(kinds, self._events.recovery_action(address), links)
        except NvmlError as error:
            # A look-up that fails says nothing about the GPU, unless it says that the GPU is gone.
            return Watched(kinds, links=links, is_lost=error.code == GPU_IS_LOST)

    def _wait(self) -> list[Event]:
        if self._events is None:
            raise EventsClosed
        return self._events.wait(self._wait_ms)

    def _close(self) -> None:
        events, library = self._events, self._library
        self._events = self._library = None
        if events is not None:
            with suppress(NvmlError):
                events.close()
        if library is not None:
            try:
                library.shutdown()
            except NvmlError:
                return  # a session that NVML does not close: its library stays loaded
            library.unload()
