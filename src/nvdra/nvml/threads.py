"""The threads that call NVML: an owner, a worker per GPU, and threads in hung calls.

The owner scans. The worker of a GPU carries out reads and changes of that GPU, one after the other. While a call about
a GPU hangs, that GPU is not called again; all other GPUs go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from nvdra import telemetry
from nvdra._nvml import TIMEOUT, Library, Mig, Sweep
from nvdra.gpu.scan import GpuScan, LeftOut, MigScan, NodeScan, NvLink
from nvdra.nvml import partitions
from nvdra.nvml.errors import NvmlHung
from nvdra.nvml.worker import SessionBarrier, Worker, outcome
from nvdra.ports import Clock

if TYPE_CHECKING:
    from nvdra._nvml import _Gpu

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class HungCall:
    """A call into NVML that has not returned.

    gpu   NVML's index; None if the call should have returned it
    peer  the other GPU, if it is about a pair
    """

    function: str
    gpu: int | None
    peer: int | None
    minor: int | None
    uuid: str | None
    since_s: float


class NvmlThreads:
    """The threads, and a scan that survives hung calls.

    when_back   called when the last call has returned
    """

    def __init__(self, clock: Clock, when_back: Callable[[], None]) -> None:
        self._clock = clock
        self._when_back = when_back
        self._barrier = SessionBarrier(when_back)
        self._owner = Worker("nvml-owner")
        self._workers: dict[int | str, Worker] = {}  # by index in a scan, by UUID for one GPU
        self._turns: dict[str, asyncio.Lock] = {}
        self._gpus: dict[str, Mig] = {}  # by UUID, of this session
        self._minors: dict[str, int] = {}  # by UUID
        self._hung_calls: list[HungCall] = []
        self._hung: tuple[asyncio.Future[None], NvmlHung] | None = None

    @property
    def is_quiet(self) -> bool:
        """Whether no call is under way, not even an abandoned one."""
        return self._barrier.is_quiet

    async def look(self, work: Callable[[], None], timeout_s: float, function: str) -> None:
        """Runs session work that does not affect running calls. Raises NvmlHung."""
        if self._hung is not None and not self._hung[0].done():
            raise self._hung[1]
        running = self._owner.call(work)
        try:
            await outcome(running, self._clock, timeout_s)
        except TimeoutError:
            raise self._lose_owner(running, function, timeout_s) from None

    async def change(self, work: Callable[[], None], timeout_s: float, function: str) -> None:
        """Changes the session while no other call runs. Raises NvmlHung."""
        for hung in self._hung_calls:
            silence_s = self._clock.now() - hung.since_s
            raise NvmlHung(hung.function, silence_s, "NVML can be neither closed nor opened anew until it does")
        try:
            async with self._barrier.alone(self._clock, timeout_s):
                await self.look(work, timeout_s, function)
        except TimeoutError:
            raise NvmlHung("a call into NVML", timeout_s, f"{function} waits for it") from None

    def _lose_owner(self, running: asyncio.Future[None], function: str, timeout_s: float) -> NvmlHung:
        hung = NvmlHung(function, timeout_s, "NVML cannot be used until it does")
        self._hung = running, hung
        running.add_done_callback(lambda _: self._when_back())
        return hung

    def forget(self) -> None:
        """Drops all GPU handles, which are invalid after the end of the session."""
        self._gpus.clear()

    async def call(self, library: Callable[[], Library], uuid: str, work: Callable[[Mig], T], timeout_s: float) -> T:
        """The result of `work` on one GPU, run in its worker after earlier work on that GPU.

        If cancelled before its turn, it does not run. If cancelled later, it runs to its end, and the next work waits.
        library  the current session's; called in the worker, because a session may have been reopened meanwhile
        Raises NvmlError; NvmlHung when it takes longer than `timeout_s`, counted from its turn on, or when an earlier
        call about this GPU hangs.
        """
        turn = self._turns.setdefault(uuid, asyncio.Lock())
        await turn.acquire()
        try:
            self._refuse_if_hung(uuid)
            running = await self._barrier.call(self._worker(uuid), lambda: work(self._gpu(library(), uuid)))
        except BaseException:
            turn.release()
            raise
        return await asyncio.shield(asyncio.create_task(self._watch(running, turn, uuid, timeout_s)))

    async def _watch(self, running: asyncio.Future[T], turn: asyncio.Lock, uuid: str, timeout_s: float) -> T:
        try:
            return await outcome(running, self._clock, timeout_s)
        except TimeoutError:
            gpu = self._gpus.get(uuid)
            function = "" if gpu is None else gpu.function
            index = None if gpu is None or gpu.index < 0 else gpu.index
            hung = HungCall(function, index, None, self._minors.get(uuid), uuid, self._clock.now())
            self._leave(running, self._workers.pop(uuid), hung)
            raise NvmlHung(function, timeout_s, f"{uuid} is left alone until it does", running) from None
        finally:
            turn.release()

    def _gpu(self, library: Library, uuid: str) -> Mig:
        gpu = self._gpus.get(uuid)
        if gpu is None:
            gpu = self._gpus[uuid] = Mig(library, uuid)
        return gpu

    def _refuse_if_hung(self, uuid: str) -> None:
        for hung in self._hung_calls:
            if hung.uuid == uuid and hung.peer is None:
                silence_s = self._clock.now() - hung.since_s
                raise NvmlHung(hung.function, silence_s, f"{uuid} is left alone until it does")

    async def scan(self, library: Library, timeout_s: float, *, profiles: bool) -> NodeScan:
        """The node, scanned by the owner in one sweep.

        If one call takes longer than `timeout_s`, its GPU is left out. The workers of the remaining GPUs then read them
        side by side, with the same deadline for all: one hung GPU never hides the others.
        Raises NvmlError when the node refuses, NvmlHung when a call about no GPU hangs.
        """
        sweep = Sweep(library, self._silent(), self._without_pairs(), profiles)
        running = await self._barrier.call(self._owner, sweep.run)
        if await self._stops(running, sweep, timeout_s):
            gpu, peer, function, _ = sweep.place
            if gpu is None:
                raise self._lose_owner(running, function, timeout_s)
            self._give_up_owner(running, sweep, gpu, peer, function)
            if peer is None:
                await self._read_rest(sweep, timeout_s)
                await self._read_pairs(sweep, timeout_s)
        else:
            running.result()
        return self._node_scan(sweep)

    async def _stops(self, running: asyncio.Future[None], sweep: Sweep, timeout_s: float) -> bool:
        """Whether one call of the sweep took longer than `timeout_s`; False after the end of the sweep."""
        place = None
        while True:
            try:
                async with self._clock.deadline(timeout_s):
                    await asyncio.wait((running,))
            except TimeoutError:
                if place == (place := sweep.place):
                    return True
            else:
                return False

    async def _read_rest(self, sweep: Sweep, timeout_s: float) -> None:
        reading = {
            gpu: await self._barrier.call(self._worker(gpu), partial(sweep.read_gpu, gpu)) for gpu in sweep.unread()
        }
        if not reading:
            return
        try:
            async with self._clock.deadline(timeout_s):
                await asyncio.wait(reading.values())
        except TimeoutError:
            for gpu, running in reading.items():
                if not running.done():
                    self._give_up(running, self._workers.pop(gpu), sweep, gpu, None, sweep.function_at(gpu))

    async def _read_pairs(self, sweep: Sweep, timeout_s: float) -> None:
        running = await self._barrier.call(self._owner, sweep.read_pairs)
        if await self._stops(running, sweep, timeout_s):
            gpu, peer, function, _ = sweep.place
            assert gpu is not None
            self._give_up_owner(running, sweep, gpu, peer, function)

    def _worker(self, gpu: int | str) -> Worker:
        return self._workers.setdefault(gpu, Worker(f"nvml-gpu-{gpu}"))

    def _give_up_owner(
        self, running: asyncio.Future[None], sweep: Sweep, gpu: int, peer: int | None, function: str
    ) -> None:
        sweep.abandon()
        owner, self._owner = self._owner, Worker("nvml-owner")
        self._give_up(running, owner, sweep, gpu, peer, function)

    def _give_up(
        self, running: asyncio.Future[None], worker: Worker, sweep: Sweep, gpu: int, peer: int | None, function: str
    ) -> None:
        minor, uuid = sweep.known(gpu)
        self._leave(running, worker, HungCall(function, gpu, peer, minor, uuid, self._clock.now()))

    def _leave(self, running: asyncio.Future[T], worker: Worker, hung: HungCall) -> None:
        """Abandons a thread in its hung call; its GPU is not called until the call returns."""
        self._hung_calls.append(hung)
        worker.retire()

        def back(_: asyncio.Future[T]) -> None:
            self._hung_calls.remove(hung)
            telemetry.info(0, "An NVML call came back", function=hung.function, index=hung.gpu, uuid=hung.uuid)

        running.add_done_callback(back)
        telemetry.warning(
            "An NVML call does not return", function=hung.function, index=hung.gpu, uuid=hung.uuid, peer=hung.peer
        )

    def _silent(self) -> set[int]:
        return {hung.gpu for hung in self._hung_calls if hung.gpu is not None and hung.peer is None}

    def _without_pairs(self) -> set[int]:
        """GPUs of hung pair calls. NVML does not tell which of the two is at fault, so neither is asked for pairs."""
        pairs = [(hung.gpu, hung.peer) for hung in self._hung_calls if hung.peer is not None]
        return {gpu for pair in pairs for gpu in pair if gpu is not None}

    def _node_scan(self, sweep: Sweep) -> NodeScan:
        driver_version, cuda_driver_version, gpus, refused, ancestors, p2p = sweep.tell()
        left_out = [LeftOut(*refusal) for refusal in refused]
        # Two calls about one GPU may hang; it is left out once.
        alone = {hung.gpu: hung for hung in self._hung_calls if hung.gpu is not None and hung.peer is None}
        left_out += [self._left_alone(index, hung) for index, hung in alone.items()]
        # GPUs on one board have the same links to the same switches; equal links share one object.
        links = {link: NvLink(*link) for link in {link for gpu in gpus for link in gpu[13]}}
        tables, partitioned = sweep.tell_mig()
        profiles = [partitions.profiles(table) for table in tables]
        found = {
            index: MigScan(profiles[table], partitions.instances(seen)) for index, (table, seen) in partitioned.items()
        }
        self._keep_found(sweep, gpus)
        return NodeScan(
            driver_version=driver_version,
            cuda_driver_version=cuda_driver_version,
            gpus=tuple(
                GpuScan(*gpu[:13], tuple(links[link] for link in gpu[13]), *gpu[14:], mig=found.get(gpu[0], MigScan()))
                for gpu in gpus
            ),
            left_out=tuple(sorted(left_out, key=lambda left: left.index)),
            common_ancestor=ancestors,
            p2p=p2p,
        )

    def _keep_found(self, sweep: Sweep, gpus: list[_Gpu]) -> None:
        """Keeps minors and handles that this sweep found, so that later calls need no look-up."""
        self._minors |= {gpu[2]: gpu[1] for gpu in gpus}
        for gpu in gpus:
            if gpu[2] not in self._gpus:
                self._gpus[gpu[2]] = sweep.mig(gpu[0])

    def _left_alone(self, index: int, hung: HungCall) -> LeftOut:
        silence_s = self._clock.now() - hung.since_s
        text = f"given up {silence_s:.0f} s ago, as the call did not return; the GPU is left alone until it does"
        return LeftOut(index, hung.minor, hung.uuid, hung.function, TIMEOUT, text)
