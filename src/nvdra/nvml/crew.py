"""Who talks to NVML: an owner thread, a worker per GPU, and the threads that never came back.

A call that hangs is charged to the GPU it is about: that GPU is left alone until the call returns, nothing else stops.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from nvdra import telemetry
from nvdra._nvml import TIMEOUT, Library, Sweep
from nvdra.devices.scan import GpuScan, LeftOut, NodeScan, NvLink
from nvdra.nvml.errors import NvmlHung
from nvdra.nvml.worker import Gate, Worker, outcome
from nvdra.ports import Clock


@dataclass(frozen=True, slots=True)
class Stuck:
    """A call that has not come back. `peer`: it is about a pair of GPUs."""

    function: str
    gpu: int
    peer: int | None
    minor: int | None
    uuid: str | None
    since_s: float


class Crew:
    """The threads, and the walk over a node that survives losing some of them."""

    def __init__(self, clock: Clock, when_back: Callable[[], None]) -> None:
        self._clock = clock
        self._when_back = when_back
        self._gate = Gate()
        self._owner = Worker("nvml-owner")
        self._workers: dict[int, Worker] = {}
        self._stuck: list[Stuck] = []
        self._hung: tuple[asyncio.Future[None], NvmlHung] | None = None

    async def look(self, work: Callable[[], None], timeout_s: float, function: str) -> None:
        """Carries out what concerns the session but changes nothing for the calls under way. Raises NvmlHung."""
        if self._hung is not None and not self._hung[0].done():
            raise self._hung[1]
        running = self._owner.call(work)
        try:
            await outcome(running, self._clock, timeout_s)
        except TimeoutError:
            raise self._lose_owner(running, function, timeout_s) from None

    async def change(self, work: Callable[[], None], timeout_s: float, function: str) -> None:
        """Carries out a change of the session: no other call is under way meanwhile. Raises NvmlHung."""
        for stuck in self._stuck:
            silence_s = self._clock.now() - stuck.since_s
            raise NvmlHung(stuck.function, silence_s, "NVML can be neither closed nor opened anew until it does")
        try:
            async with self._gate.alone(self._clock, timeout_s):
                await self.look(work, timeout_s, function)
        except TimeoutError:
            raise NvmlHung("a call into NVML", timeout_s, f"{function} waits for it") from None

    def _lose_owner(self, running: asyncio.Future[None], function: str, timeout_s: float) -> NvmlHung:
        hung = NvmlHung(function, timeout_s, "NVML cannot be used until it does")
        self._hung = running, hung
        running.add_done_callback(lambda _: self._when_back())
        return hung

    async def scan(self, library: Library, timeout_s: float) -> NodeScan:
        """The node in one sweep by the owner.

        When one call takes longer than `timeout_s`, its GPU is given up and the GPUs behind it are read by their own
        workers, side by side, with the same time for all: one hung GPU never hides the others.
        Raises NvmlError when the node refuses, NvmlHung when a call about no GPU hangs.
        """
        sweep = Sweep(library, self._silent(), self._without_pairs())
        running = await self._gate.call(self._owner, sweep.run)
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
        return self._told(sweep)

    async def _stops(self, running: asyncio.Future[None], sweep: Sweep, timeout_s: float) -> bool:
        """Whether the walk stands still in one call for `timeout_s`; False when it came to its end."""
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
            gpu: await self._gate.call(self._worker(gpu), partial(sweep.read_gpu, gpu)) for gpu in sweep.unread()
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
        running = await self._gate.call(self._owner, sweep.read_pairs)
        if await self._stops(running, sweep, timeout_s):
            gpu, peer, function, _ = sweep.place
            assert gpu is not None
            self._give_up_owner(running, sweep, gpu, peer, function)

    def _worker(self, gpu: int) -> Worker:
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
        """Leaves a thread in its call, and its GPU alone for as long."""
        minor, uuid = sweep.known(gpu)
        stuck = Stuck(function, gpu, peer, minor, uuid, self._clock.now())
        self._stuck.append(stuck)
        worker.retire()

        def back(_: asyncio.Future[None]) -> None:
            self._stuck.remove(stuck)
            telemetry.info(0, "An NVML call came back", function=function, index=gpu, uuid=uuid)
            self._when_back()

        running.add_done_callback(back)
        telemetry.warning("An NVML call does not return", function=function, index=gpu, uuid=uuid, peer=peer)

    def _silent(self) -> set[int]:
        return {stuck.gpu for stuck in self._stuck if stuck.peer is None}

    def _without_pairs(self) -> set[int]:
        """GPUs in a pair that hung: which of the two is to blame is not known, and topology is worth no thread more."""
        return {gpu for stuck in self._stuck if stuck.peer is not None for gpu in (stuck.gpu, stuck.peer)}

    def _told(self, sweep: Sweep) -> NodeScan:
        driver_version, cuda_driver_version, gpus, refused, ancestors, p2p = sweep.tell()
        left_out = [LeftOut(*refusal) for refusal in refused]
        left_out += [self._left_alone(stuck) for stuck in self._stuck if stuck.peer is None]
        # GPUs on one board have the same links to the same switches: each is made once.
        links = {link: NvLink(*link) for link in {link for gpu in gpus for link in gpu[13]}}
        return NodeScan(
            driver_version=driver_version,
            cuda_driver_version=cuda_driver_version,
            gpus=tuple(GpuScan(*gpu[:13], tuple(links[link] for link in gpu[13]), *gpu[14:]) for gpu in gpus),
            left_out=tuple(sorted(left_out, key=lambda left: left.index)),
            common_ancestor=ancestors,
            p2p=p2p,
        )

    def _left_alone(self, stuck: Stuck) -> LeftOut:
        silence_s = self._clock.now() - stuck.since_s
        text = f"given up {silence_s:.0f} s ago, as the call did not return; the GPU is left alone until it does"
        return LeftOut(stuck.gpu, stuck.minor, stuck.uuid, stuck.function, TIMEOUT, text)
