"""The NVML lease: open while it is used and a few seconds longer.

An open session keeps /dev/nvidia* open. That pins the kernel module, and GPUs that should be bound to another driver.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from nvdra import telemetry
from nvdra._nvml import DRIVER_NOT_LOADED, LIB_RM_VERSION_MISMATCH, Library, Mig, NvmlError, NvmlMissing
from nvdra.gpu.scan import ComputeInstanceScan, GpuInstanceScan, NodeScan
from nvdra.nvml import partitions
from nvdra.nvml.errors import DriverAbsent, DriverChanged, NvmlHung, NvmlInUse
from nvdra.nvml.threads import NvmlThreads
from nvdra.ports import Clock

INIT = "nvmlInitWithFlags"
SHUTDOWN = "nvmlShutdown"
IDLE_S = 5.0
TIMEOUT_S = 10.0
CHANGE_TIMEOUT_S = 30.0

T = TypeVar("T")


class Nvml:
    """The node's NVML: opened on demand, closed after `idle_s` without use.

    library_path   the resolved path of libnvidia-ml.so.1 as it is now; runs in another thread. A LookupError says why
                   there is none
    timeout_s      in every method: time after which one call into NVML counts as hung

    Every method may raise DriverAbsent, DriverChanged and NvmlHung; methods about one GPU also NvmlError.
    One event loop uses it.
    """

    def __init__(self, library_path: Callable[[], str], clock: Clock, *, idle_s: float = IDLE_S) -> None:
        self._library_path = library_path
        self._clock = clock
        self._idle_s = idle_s
        self._threads = NvmlThreads(clock, when_back=self._rest)
        self._scanning = asyncio.Lock()
        self._changing = asyncio.Lock()
        self._keeping = asyncio.Lock()
        self._keepers = 0  # callers for whom NVML is kept closed
        self._users: list[str] = []
        self._timer: asyncio.Task[None] | None = None
        # Written by the owner thread only.
        self._library: Library | None = None
        self._loaded: tuple[str, tuple[int, ...]] | None = None
        self._is_open = False
        self._was_open = False

    @property
    def is_open(self) -> bool:
        """Whether a session is open now, and so /dev/nvidia* may be."""
        return self._is_open

    async def scan(self, *, profiles: bool = False, timeout_s: float = TIMEOUT_S) -> NodeScan:
        """The whole node in one sweep. A GPU that refuses or hangs is in `left_out` and does not affect the others.

        profiles   of every MIG-capable GPU; without it only of those whose MIG mode is on
        """
        async with self._scanning:
            was_open = self._is_open
            async with self._use("a scan", timeout_s, checked=True) as library:
                try:
                    return await self._threads.scan(library, timeout_s, profiles=profiles)
                except NvmlError as refusal:
                    if not was_open:
                        raise self._unusable(refusal) from refusal
                    telemetry.warning("NVML refuses, opening it anew", cause=str(refusal))
            async with self._use("a scan", timeout_s, anew=True) as library:
                try:
                    return await self._threads.scan(library, timeout_s, profiles=profiles)
                except NvmlError as refusal:
                    raise self._unusable(refusal) from refusal

    async def mig(self, uuid: str, *, timeout_s: float = TIMEOUT_S) -> tuple[bool, tuple[GpuInstanceScan, ...]]:
        """Whether MIG mode is on, and the GPU instances there are now, ascending by start."""
        return await self._on(uuid, partitions.read, timeout_s)

    async def set_mig_mode(self, uuid: str, on: bool, *, timeout_s: float = CHANGE_TIMEOUT_S) -> None:
        """Set MIG mode at once. A change that NVML accepts but does not activate is rolled back and raises."""
        await self._on(uuid, lambda gpu: partitions.set_mode(gpu, on), timeout_s)

    async def create_gpu_instance(
        self, uuid: str, profile_id: int, start: int, size: int, *, timeout_s: float = CHANGE_TIMEOUT_S
    ) -> int:
        """The id of a new GPU instance; `start` and `size` in memory slices. After an error one may exist."""
        return await self._on(uuid, lambda gpu: gpu.create_gpu_instance(profile_id, start, size), timeout_s)

    async def create_compute_instance(
        self, uuid: str, gi_id: int, profiles: Sequence[int], *, timeout_s: float = CHANGE_TIMEOUT_S
    ) -> ComputeInstanceScan:
        """A new compute instance with the first of these profiles (ids) that the GPU instance has."""
        return await self._on(uuid, lambda gpu: partitions.create_compute_instance(gpu, gi_id, profiles), timeout_s)

    async def destroy_compute_instance(
        self, uuid: str, gi_id: int, ci_id: int, *, timeout_s: float = CHANGE_TIMEOUT_S
    ) -> None:
        """Destroy the compute instance; no error if there is none. Raises NvmlError IN_USE while a program uses it."""
        await self._on(uuid, lambda gpu: partitions.destroy_compute_instance(gpu, gi_id, ci_id), timeout_s)

    async def destroy_gpu_instance(self, uuid: str, gi_id: int, *, timeout_s: float = CHANGE_TIMEOUT_S) -> None:
        """Destroy the GPU instance; no error if there is none. Raises NvmlError IN_USE while it is not empty."""
        await self._on(uuid, lambda gpu: partitions.destroy_gpu_instance(gpu, gi_id), timeout_s)

    async def processes(self, uuid: str, gi_id: int, *, timeout_s: float = TIMEOUT_S) -> tuple[int, ...]:
        """The pids in a GPU instance, ascending; empty if NVML does not report them."""
        return await self._on(uuid, lambda gpu: partitions.processes(gpu, gi_id), timeout_s)

    async def _on(self, uuid: str, work: Callable[[Mig], T], timeout_s: float) -> T:
        async with self._use(f"MIG of {uuid}", timeout_s):
            return await self._threads.call(self._opened, uuid, work, timeout_s)

    @asynccontextmanager
    async def hold(self, reason: str, *, timeout_s: float = TIMEOUT_S) -> AsyncIterator[None]:
        """Keeps NVML open while the body runs. `close` reports `reason` to its caller meanwhile."""
        async with self._use(reason, timeout_s):
            yield

    @asynccontextmanager
    async def kept_closed(self, *, timeout_s: float = TIMEOUT_S) -> AsyncIterator[None]:
        """Keep NVML closed while the body runs, for several callers at once; users wait. Raises NvmlInUse."""
        async with self._keeping:
            if not self._keepers:
                await self._shut(timeout_s)
            self._keepers += 1
        try:
            yield
        finally:
            self._keepers -= 1
            if not self._keepers:
                self._reopenable()

    async def _shut(self, timeout_s: float) -> None:
        """Close NVML and keep every caller out until `_reopenable`."""
        await self._scanning.acquire()
        try:
            self._stop_timer()
            await self._changing.acquire()
        except BaseException:
            self._scanning.release()
            raise
        try:
            if self._users:
                raise NvmlInUse(tuple(self._users))
            if self._is_open:
                await self._threads.change(self._finish, timeout_s, SHUTDOWN)
        except BaseException:
            self._reopenable()
            raise

    def _reopenable(self) -> None:
        self._changing.release()
        self._scanning.release()
        self._rest()

    async def close(self, *, timeout_s: float = TIMEOUT_S) -> None:
        """Closes NVML after the running scan; no device node stays open. Raises NvmlInUse."""
        async with self._scanning:
            self._stop_timer()
            try:
                await self._end(timeout_s)
            finally:
                self._rest()

    @asynccontextmanager
    async def _use(
        self, reason: str, timeout_s: float, *, anew: bool = False, checked: bool = False
    ) -> AsyncIterator[Library]:
        """The body runs in an open session.

        anew     in a new one
        checked  after checking that the library is still the node's, also while another caller uses it
        """
        self._stop_timer()
        self._users.append(reason)
        try:
            async with self._changing:
                if anew or not self._is_open:
                    await self._threads.change(self._renew if anew else self._begin, timeout_s, INIT)
                elif checked or len(self._users) == 1:
                    await self._threads.look(self._begin, timeout_s, INIT)
                # Otherwise do not wait for the owner: it may be in a long sweep.
            yield self._opened()
        finally:
            self._users.remove(reason)
            self._rest()

    def _rest(self) -> None:
        """Starts the idle time if NVML has no user and no call is under way, not even an abandoned one."""
        if not self._users and self._threads.is_quiet and self._is_open:
            self._stop_timer()
            self._timer = asyncio.get_running_loop().create_task(self._expire())

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _expire(self) -> None:
        await self._clock.sleep(self._idle_s)
        self._timer = None  # not cancellable from here on: a shutdown runs to its end
        try:
            await self._end(TIMEOUT_S)
        except NvmlInUse:
            pass  # a user arrived while a change was under way
        except NvmlHung as hung:
            # The hung call keeps the session open. When it returns, the idle time starts again.
            telemetry.warning("NVML stays open", cause=str(hung))

    async def _end(self, timeout_s: float) -> None:
        async with self._changing:
            if self._users:
                raise NvmlInUse(tuple(self._users))
            if self._is_open:
                await self._threads.change(self._finish, timeout_s, SHUTDOWN)

    def _opened(self) -> Library:
        assert self._library is not None
        return self._library

    # The methods below run in the owner thread.

    def _begin(self) -> None:
        """Loads the library if none is loaded, checks that it is still the node's, opens a session if none is open."""
        try:
            path = self._library_path()
            file = _identity(path)
        except LookupError as error:
            raise DriverAbsent(str(error)) from error
        except OSError as error:
            raise DriverAbsent(f"libnvidia-ml.so.1 cannot be looked for: {error}") from error
        if self._loaded is not None and self._loaded != (path, file) and self._was_open:
            # A session loads libraries of its own version, which stay loaded after it ends.
            raise DriverChanged(f"the NVML library is now {path}; this process has loaded {self._loaded[0]}")
        if self._library is None or self._loaded != (path, file):
            try:
                self._library = Library(path)
            except NvmlError as error:
                raise DriverAbsent(error.text, error.code) from error
            self._loaded = path, file
        if self._is_open:
            return
        try:
            self._library.init()
        except NvmlError as error:
            raise self._unusable(error) from error
        self._is_open = self._was_open = True

    def _finish(self) -> None:
        assert self._library is not None
        try:
            self._library.shutdown()
        except NvmlError as error:
            telemetry.warning("NVML refuses to close", cause=str(error))
        else:
            self._library.unload()
            self._library = None
        self._threads.forget()
        self._is_open = False

    def _renew(self) -> None:
        if self._is_open:
            self._finish()
        self._begin()

    def _unusable(self, error: NvmlError) -> DriverAbsent | DriverChanged:
        """The error that a refusal of the whole library stands for."""
        path = self._library.path if self._library is not None else "libnvidia-ml.so.1"
        if isinstance(error, NvmlMissing):
            return DriverAbsent(f"{path} is no NVML library, or one too old: it lacks {error.function}", error.code)
        if error.code == LIB_RM_VERSION_MISMATCH:
            text = f"{path} is of another version than the loaded kernel module"
            # In a process that never had a session, a restart would find the same error.
            return DriverChanged(text) if self._was_open else DriverAbsent(text, error.code)
        if error.code == DRIVER_NOT_LOADED:
            return DriverAbsent("the NVIDIA kernel module is not loaded", error.code)
        return DriverAbsent(str(error), error.code)


def _identity(path: str) -> tuple[int, ...]:
    about = os.stat(path)
    # Not its mtime: touching a library does not make it another one.
    return about.st_dev, about.st_ino, about.st_size
