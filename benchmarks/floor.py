"""The lower bound of a prepare's cost: one GET, a CDI file renamed into place, a durable checkpoint write; no gRPC.

A process of its own, as a plugin is one. `python -m benchmarks.floor KUBECONFIG FOLDER CDI_ROOT` reads lines of JSON,
each a list of [namespace, name] pairs, and answers each line with the seconds that each took.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import uvloop

from benchmarks.api import CLAIMS
from benchmarks.plugin import memory_folder
from nvdra.api import ClaimRef
from nvdra.kube import HttpKube, access

RECORDING = Path(__file__).parents[1] / "tests" / "golden" / "recordings" / "v0.4.1-plain"


class Floor:
    """The process, asked from outside."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def times_s(self, refs: Sequence[ClaimRef]) -> list[float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([(ref.namespace, ref.name) for ref in refs]).encode() + b"\n")
        answer: list[float] = json.loads(await self._process.stdout.readline())
        return answer


@asynccontextmanager
async def floor(kubeconfig: Path, folder: Path) -> AsyncIterator[Floor]:
    folder.mkdir()
    cdi_root = memory_folder(folder)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.floor", str(kubeconfig), str(folder), str(cdi_root)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Floor(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
        shutil.rmtree(cdi_root, ignore_errors=True)


def _replace(path: str, content: bytes, *, durable: bool) -> None:
    beside = f"{path}.new"
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    os.write(descriptor, content)
    if durable:
        os.fsync(descriptor)
    os.close(descriptor)
    os.rename(beside, path)


async def _serve(kubeconfig: str, folder: str, cdi_root: str) -> None:
    document = next((RECORDING / "cdi").glob("*.yaml")).read_bytes()
    checkpoint = (RECORDING / "checkpoint.json").read_bytes()
    loop = asyncio.get_running_loop()
    async with HttpKube(access(kubeconfig, {}), user_agent="floor") as kube:
        while line := await loop.run_in_executor(None, sys.stdin.buffer.readline):
            times = []
            for namespace, name in json.loads(line):
                began = time.perf_counter()
                await kube.get(CLAIMS, name, namespace)
                _replace(f"{cdi_root}/{name}.yaml", document, durable=False)
                _replace(f"{folder}/checkpoint", checkpoint, durable=True)
                times.append(time.perf_counter() - began)
                os.unlink(f"{cdi_root}/{name}.yaml")
            sys.stdout.write(json.dumps(times) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(_serve(*sys.argv[1:4]))
