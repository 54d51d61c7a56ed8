"""What a partition made per claim costs beside the NVML calls it needs, which take as long here as on hardware.

The GPUs are four H100 of the mock whose changes wait (`delay_realistically`): a change of
MIG mode a second, a GPU instance 300 ms to make and 200 to destroy, a compute instance 150 and 100.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from math import nan
from pathlib import Path

from nvdra_mock_nvml import lay_out

from benchmarks import plugin
from benchmarks.api import Api
from benchmarks.plugin import Subject
from benchmarks.row import Row, Target
from nvdra.testing.kubelet import DraClient

GPUS, SLICES = 4, 7
MODE_S, CREATE_S, DESTROY_S = 1.0, 0.3 + 0.15, 0.1 + 0.2
JOBS, JOB_S = 160, 2.0


def partition(gpu: int, start: int) -> str:
    """The smallest partition at one of a GPU's memory slices, by the name it is published under."""
    return f"gpu-{gpu}-mig-1g10gb-19-{start}"


PARTITIONS = [partition(gpu, start) for start in range(SLICES) for gpu in range(GPUS)]


async def rows(api: Api, folder: Path, *, with_churn: bool) -> list[Row]:
    folder.mkdir()
    program = plugin.ours("--feature-gates=DynamicMIG=true", gpus=GPUS)
    async with plugin.serving(program, api, folder / "node", "mig") as subject:
        assert subject.root is not None
        subject.root.delay_realistically()
        found = [*await _alone(subject, api, folder), await _together(subject, api)]
        if with_churn:
            found.append(await _churn(subject, api))
        if shutil.which("strace"):
            found.append(await _writes(subject, api, folder))
    return found


async def _alone(subject: Subject, api: Api, folder: Path) -> list[Row]:
    """Two partitions, one after the other, on each of the GPUs; each time the same calls alone are made elsewhere.

    The least of the four counts: other work on the machine can only make it more.
    """
    root = lay_out(folder / "bare", "h100x8", gpus=range(GPUS))
    root.delay_realistically()
    ours: list[list[float]] = []
    bare: list[list[float]] = []
    for gpu in range(GPUS):
        bare.append(json.loads(await asyncio.to_thread(_bare, root.library, gpu)))
        one, two = await api.claims(subject.pool, [partition(gpu, 0), partition(gpu, 1)])
        caller = subject.caller
        ours.append(
            [caller.prepare_s([one]), caller.prepare_s([two]), caller.unprepare_s([one]), caller.unprepare_s([two])]
        )
        await api.delete([one, two])
    names = ("prepare, mode changed", "prepare", "unprepare", "unprepare, mode changed back")
    found = []
    for name, took, least in zip(names, zip(*ours, strict=True), zip(*bare, strict=True), strict=True):
        ours_ms, bare_ms = min(took) * 1e3, min(least) * 1e3
        target = Target(most=round(bare_ms + 20, 1))
        found.append(Row(f"a partition per claim: {name}", ours_ms, bare_ms, "ms", "other: the calls it needs", target))
    return found


def _bare(library: Path, gpu: int) -> bytes:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(library.resolve().parent)}
    return subprocess.run([sys.executable, "-m", __name__, str(gpu)], env=environment, check=True, stdout=-1).stdout


async def _together(subject: Subject, api: Api) -> Row:
    refs = await api.claims(subject.pool, PARTITIONS)
    took_s = subject.caller.prepare_s(*([ref] for ref in refs))
    subject.caller.unprepare_s(*([ref] for ref in refs))
    await api.delete(refs)
    question = f"{len(refs)} partitions at once on {GPUS} GPUs, last answer"
    note = "other: one GPU's own calls"
    return Row(question, took_s, MODE_S + SLICES * CREATE_S, "s", note, Target(share=1.15))


async def _churn(subject: Subject, api: Api) -> Row:
    """All jobs are queued at once; whoever has a free place takes the next one."""
    client = DraClient(subject.socket)
    jobs = iter(range(JOBS))
    began = time.perf_counter()
    await asyncio.gather(*(_placement(client, api, subject.pool, device, jobs) for device in PARTITIONS))
    took_s = time.perf_counter() - began
    await client.close()
    question = f"{JOBS} jobs of {JOB_S:g} s on {GPUS} GPUs × {SLICES}, queued at once"
    return Row(question, took_s, greedy_s(), "s", "other: the same list, nothing but calls and jobs", Target(share=1.2))


async def _placement(client: DraClient, api: Api, pool: str, device: str, jobs: Iterator[int]) -> None:
    for _ in jobs:
        [ref] = await api.claims(pool, [device])
        error = (await client.prepare([ref]))[ref.uid].error
        if not error:
            await asyncio.sleep(JOB_S)
            error = (await client.unprepare([ref]))[ref.uid]
        if error:
            raise SystemExit(f"claim {ref} was refused: {error}")
        await api.delete([ref])


def greedy_s() -> float:
    """Seconds of the list where nothing else takes time: a GPU does one thing at a time, first come, first served."""
    left, free_at, alive, numbers = JOBS, [0.0] * GPUS, [0] * GPUS, itertools.count()
    asked = [(0.0, next(numbers), gpu, "create") for gpu in range(GPUS) for _ in range(SLICES)]
    while asked:
        at, _, gpu, what = heapq.heappop(asked)
        if what == "create":
            if not left:
                continue
            left -= 1
            took_s = CREATE_S + (0.0 if alive[gpu] else MODE_S)
            alive[gpu] += 1
        else:
            alive[gpu] -= 1
            took_s = DESTROY_S + (0.0 if alive[gpu] else MODE_S)
        free_at[gpu] = max(at, free_at[gpu]) + took_s
        then, after_s = ("destroy", JOB_S) if what == "create" else ("create", 0.0)
        heapq.heappush(asked, (free_at[gpu] + after_s, next(numbers), gpu, then))
    return max(free_at)


async def _writes(subject: Subject, api: Api, folder: Path) -> Row:
    refs = await api.claims(subject.pool, [partition(0, start) for start in range(SLICES)])
    trace = folder / "trace"
    async with _traced(subject.pid, trace):
        await asyncio.to_thread(subject.caller.prepare_s, refs)
    count = sum("sync(" in line for line in trace.read_text().splitlines())
    subject.caller.unprepare_s(refs)
    await api.delete(refs)
    note = "one for all that were started, then at most one a claim"
    return Row(
        f"checkpoint writes, {SLICES} partitions in one call", count, nan, "fsyncs", note, Target(most=1 + SLICES)
    )


@asynccontextmanager
async def _traced(pid: int, trace: Path) -> AsyncIterator[None]:
    command: Sequence[str] = ("strace", "-f", "-e", "trace=fsync,fdatasync", "-o", str(trace), "-p", str(pid))
    tracer = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    assert tracer.stderr is not None
    while b"attached" not in (line := await tracer.stderr.readline()):
        if not line:
            raise SystemExit(f"strace cannot attach to {pid}")
    try:
        yield
    finally:
        tracer.terminate()
        await tracer.wait()


def _calls_s(gpu: int) -> list[float]:
    """Seconds of the calls that two partitions need, by NVIDIA's own binding."""
    import pynvml

    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(gpu)
    profile = pynvml.nvmlDeviceGetGpuInstanceProfileInfo(handle, pynvml.NVML_GPU_INSTANCE_PROFILE_1_SLICE).id
    stamps = [time.perf_counter()]
    made = []
    pynvml.nvmlDeviceSetMigMode(handle, 1)
    for _ in range(2):
        instance = pynvml.nvmlDeviceCreateGpuInstance(handle, profile)
        made.append((instance, pynvml.nvmlGpuInstanceCreateComputeInstance(instance, 0)))
        stamps.append(time.perf_counter())
    for instance, compute in made:
        pynvml.nvmlComputeInstanceDestroy(compute)
        pynvml.nvmlGpuInstanceDestroy(instance)
        stamps.append(time.perf_counter())
    pynvml.nvmlDeviceSetMigMode(handle, 0)
    stamps[-1] = time.perf_counter()
    return [after - before for before, after in itertools.pairwise(stamps)]


if __name__ == "__main__":
    print(json.dumps(_calls_s(int(sys.argv[1]))))
