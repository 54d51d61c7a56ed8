"""GPUs that are partitioned by calls: the rules of MIG as NVML has them, and every call remembered."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Concatenate, ParamSpec, TypeVar

from nvdra.gpu import ComputeInstanceScan, GpuInstanceScan, GpuScan, Partitions
from nvdra.nvml import IN_USE, INSUFFICIENT_RESOURCES, NOT_FOUND, NOT_SUPPORTED, NvmlError, NvmlHung

TEXTS = {IN_USE: "In use by another client", INSUFFICIENT_RESOURCES: "Insufficient Resources"}

P = ParamSpec("P")
T = TypeVar("T")


def refusal(code: int, text: str = "") -> NvmlError:
    return NvmlError(code, "nvml", text or TEXTS.get(code, "Unknown Error"))


@dataclass
class _Gpu:
    is_on: bool
    instances: dict[int, GpuInstanceScan] = field(default_factory=dict)
    processes: dict[int, tuple[int, ...]] = field(default_factory=dict)
    is_busy: bool = False


def _may_hang(
    call: Callable[Concatenate[Gpus, str, P], Awaitable[T]],
) -> Callable[Concatenate[Gpus, str, P], Coroutine[Any, Any, T]]:
    """The call, unless it hangs, as `Nvml` does it: it goes on by itself and the GPU is left alone meanwhile."""

    @functools.wraps(call)
    async def made(self: Gpus, uuid: str, *args: P.args, **kwargs: P.kwargs) -> T:
        if uuid in self._silent:
            raise NvmlHung(self._silent[uuid], 30.0, f"{uuid} is left alone until it does")
        returns = self._hangs.pop((call.__name__, uuid), None)
        if returns is None:
            return await call(self, uuid, *args, **kwargs)

        async def ends() -> T:
            await returns.wait()
            del self._silent[uuid]
            return await call(self, uuid, *args, **kwargs)

        self._silent[uuid] = call.__name__
        raise NvmlHung(call.__name__, 30.0, f"{uuid} is left alone until it does", asyncio.ensure_future(ends()))

    return made


class Gpus:
    """What the MIG actor needs of NVML, with state.

    calls   (verb, minor) of every call that changes something, in the order they began
    met     verb to barrier: a call of it goes on only when all parties are in one
    held    verb, or verb and UUID, to event: a call of it goes on once it is set
    """

    def __init__(self, *seen: GpuScan) -> None:
        self._gpus = {
            scan.uuid: _Gpu(scan.mig_mode == (1, 1), {made.gi_id: made for made in scan.mig.instances}) for scan in seen
        }
        self._minors = {scan.uuid: scan.minor for scan in seen}
        self._refused: dict[tuple[str, str], list[Exception]] = {}
        self._hangs: dict[tuple[str, str], asyncio.Event] = {}
        self._silent: dict[str, str] = {}  # UUID to the verb that hangs
        self._pretended: set[tuple[str, str]] = set()
        self._made = 0
        self.calls: list[tuple[str, int]] = []
        self.met: dict[str, asyncio.Barrier] = {}
        self.held: dict[str | tuple[str, str], asyncio.Event] = {}

    # ── what tests say and ask ─────────────────────────────────────────────────────────────────────────────────

    def refuse(self, verb: str, uuid: str, error: Exception, *, after: int = 0, times: int = 1) -> None:
        """The calls of this verb that come after so many others fail so many times."""
        waiting: list[Exception] = [_Fine() for _ in range(after)]
        self._refused[verb, uuid] = [*waiting, *[error] * times]

    def hang(self, verb: str, uuid: str) -> asyncio.Event:
        """The next call of this verb hangs until the event is set; then it does its work."""
        returns = self._hangs[verb, uuid] = asyncio.Event()
        return returns

    def pretend(self, verb: str, uuid: str) -> None:
        """The next call of this verb reports success and changes nothing."""
        self._pretended.add((verb, uuid))

    def relent(self) -> None:
        """Refuse nothing any more."""
        self._refused.clear()

    def enter(self, uuid: str, gi_id: int, *pids: int) -> None:
        """Processes run in a GPU instance; none: they end."""
        self._gpus[uuid].processes[gi_id] = pids

    def put(self, uuid: str, *instances: GpuInstanceScan) -> None:
        """Somebody else partitions the GPU so."""
        gpu = self._gpus[uuid]
        gpu.instances = {made.gi_id: made for made in instances}
        gpu.is_on = gpu.is_on or bool(instances)

    def partitions(self, uuid: str) -> Partitions:
        gpu = self._gpus[uuid]
        ordered = sorted(gpu.instances.values(), key=lambda made: (made.start, made.gi_id))
        return Partitions(gpu.is_on, tuple(ordered) if gpu.is_on else ())

    def placements(self, uuid: str) -> list[tuple[int, int]]:
        """(profile id, start) of what stands on a GPU."""
        return [(made.profile_id, made.start) for made in self.partitions(uuid).instances]

    # ── the calls ──────────────────────────────────────────────────────────────────────────────────────────────

    @_may_hang
    async def mig(self, uuid: str) -> tuple[bool, tuple[GpuInstanceScan, ...]]:
        async with self._call("mig", uuid, changes=False):
            seen = self.partitions(uuid)
            return seen.is_on, seen.instances

    @_may_hang
    async def set_mig_mode(self, uuid: str, on: bool) -> None:
        async with self._call("set_mig_mode", uuid) as gpu:
            if gpu.instances:
                raise refusal(IN_USE)
            gpu.is_on = on

    @_may_hang
    async def create_gpu_instance(self, uuid: str, profile_id: int, start: int, size: int) -> int:
        async with self._call("create_gpu_instance", uuid) as gpu:
            if not gpu.is_on:
                raise refusal(NOT_SUPPORTED, "Not Supported")
            wanted = set(range(start, start + size))
            if any(wanted & set(range(made.start, made.start + made.size)) for made in gpu.instances.values()):
                raise refusal(INSUFFICIENT_RESOURCES)
            gi_id = min(set(range(1, 99)) - gpu.instances.keys())
            gpu.instances[gi_id] = GpuInstanceScan(gi_id, profile_id, start, size)
            return gi_id

    @_may_hang
    async def create_compute_instance(self, uuid: str, gi_id: int, profiles: Sequence[int]) -> ComputeInstanceScan:
        async with self._call("create_compute_instance", uuid) as gpu:
            self._made += 1
            made = ComputeInstanceScan(0, profiles[0], f"MIG-made-{self._made}")
            old = gpu.instances[gi_id]
            gpu.instances[gi_id] = GpuInstanceScan(gi_id, old.profile_id, old.start, old.size, (made,))
            return made

    @_may_hang
    async def destroy_compute_instance(self, uuid: str, gi_id: int, ci_id: int) -> None:
        async with self._call("destroy_compute_instance", uuid) as gpu:
            if gpu.processes.get(gi_id):
                raise refusal(IN_USE)
            old = gpu.instances[gi_id]
            gpu.instances[gi_id] = GpuInstanceScan(gi_id, old.profile_id, old.start, old.size)

    @_may_hang
    async def destroy_gpu_instance(self, uuid: str, gi_id: int) -> None:
        async with self._call("destroy_gpu_instance", uuid) as gpu:
            if gi_id not in gpu.instances:
                raise refusal(NOT_FOUND, "Not Found")
            if gpu.instances[gi_id].compute:
                raise refusal(IN_USE)
            del gpu.instances[gi_id]

    @_may_hang
    async def processes(self, uuid: str, gi_id: int) -> tuple[int, ...]:
        async with self._call("processes", uuid, changes=False) as gpu:
            return gpu.processes.get(gi_id, ())

    @asynccontextmanager
    async def _call(self, verb: str, uuid: str, *, changes: bool = True) -> AsyncIterator[_Gpu]:
        gpu = self._gpus[uuid]
        if changes:
            assert not gpu.is_busy, f"{verb} while another call changes the GPU"
            gpu.is_busy = True
            self.calls.append((verb, self._minors[uuid]))
        try:
            await asyncio.sleep(0)
            if (event := self.held.get(verb) or self.held.get((verb, uuid))) is not None:
                await event.wait()
            if (barrier := self.met.get(verb)) is not None:
                async with asyncio.timeout(30):
                    await barrier.wait()
            if refused := self._refused.get((verb, uuid)):
                error = refused.pop(0)
                if not isinstance(error, _Fine):
                    raise error
            before = dict(gpu.instances), gpu.is_on
            yield gpu
            if (verb, uuid) in self._pretended:
                self._pretended.remove((verb, uuid))
                gpu.instances, gpu.is_on = before
        finally:
            if changes:
                gpu.is_busy = False


class _Fine(Exception):
    """No refusal yet."""
