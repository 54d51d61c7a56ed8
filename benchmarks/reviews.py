"""The admission webhook: how long a review of a claim with 32 configs takes at 500 reviews a second, and its memory."""

from __future__ import annotations

import asyncio
import json
import os
import re
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any

from benchmarks.row import Row, Target

RATE, CONNECTIONS, CONFIGS = 500, 16, 32
PROGRAM = Path(sys.executable).parent / "webhook"


@dataclass(frozen=True, slots=True)
class Taken:
    """Times of answers from the moment each review was due, and what the server used for one."""

    seconds: tuple[float, ...]
    cpu_s: float
    rss_mib: float

    def percentile(self, share: float) -> float:
        return sorted(self.seconds)[min(int(len(self.seconds) * share), len(self.seconds) - 1)]


def review(number: int) -> bytes:
    """A claim with 32 configs of MPS, none of which another claim has."""

    def config(index: int) -> dict[str, Any]:
        mps = {
            "defaultActiveThreadPercentage": index,
            "defaultPinnedDeviceMemoryLimit": "10Gi",
            "defaultPerDevicePinnedMemoryLimit": {"0": f"{number + 1}Gi"},
        }
        parameters = {
            "apiVersion": "resource.nvidia.com/v1beta1",
            "kind": "GpuConfig",
            "sharing": {"strategy": "MPS", "mpsConfig": mps},
        }
        opaque = {"driver": "gpu.nvidia.com", "parameters": parameters}
        return {"requests": [f"r{index}"], "opaque": opaque}

    requests = [{"name": f"r{index}", "exactly": {"deviceClassName": "gpu.nvidia.com"}} for index in range(CONFIGS)]
    claim = {
        "kind": "ResourceClaim",
        "apiVersion": "resource.k8s.io/v1",
        "metadata": {"name": f"c{number}", "namespace": "default"},
        "spec": {"devices": {"requests": requests, "config": [config(index) for index in range(CONFIGS)]}},
    }
    request = {
        "uid": f"705ab4f5-6393-11e8-b7cc-{number:012}",
        "resource": {"group": "resource.k8s.io", "version": "v1", "resource": "resourceclaims"},
        "namespace": "default",
        "operation": "CREATE",
        "object": claim,
    }
    document = {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request}
    return json.dumps(document, separators=(",", ":")).encode()


def request(body: bytes) -> bytes:
    head = (
        "POST /validate-resource-claim-parameters?timeout=5s HTTP/1.1\r\nHost: w\r\nContent-Type: application/json\r\n"
    )
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


@asynccontextmanager
async def running(folder: Path, command: list[str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """The webhook with a certificate of its own; `command` takes certificate, key and port."""
    subject = ["-subj", "/CN=w", "-addext", "subjectAltName=IP:127.0.0.1"]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    files = ["-keyout", str(folder / "tls.key"), "-out", str(folder / "tls.crt")]
    subprocess.run(["openssl", "req", "-x509", *curve, *files, *subject], check=True, capture_output=True)
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        await process.wait()


async def measure(port: int, pid: int, folder: Path, *, seconds: float, rate: int = RATE) -> Taken:
    context = ssl.create_default_context(cafile=str(folder / "tls.crt"))
    streams: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    for _ in range(CONNECTIONS):
        streams.put_nowait(await asyncio.open_connection("127.0.0.1", port, ssl=context))
    messages = [request(review(number)) for number in range(500)]
    taken: list[float] = []

    async def ask(message: bytes, due: float) -> None:
        reader, writer = await streams.get()
        writer.write(message)
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        assert length is not None
        answer = await reader.readexactly(int(length[1]))
        taken.append(time.perf_counter() - due)
        assert b'"allowed":true' in answer, answer
        streams.put_nowait((reader, writer))

    before = _cpu_s(pid)
    began = time.perf_counter() + 0.1
    tasks = []
    for number in range(int(seconds * rate)):
        due = began + number / rate
        await asyncio.sleep(max(due - time.perf_counter(), 0))
        tasks.append(asyncio.create_task(ask(messages[number % len(messages)], due)))
    await asyncio.gather(*tasks)
    cpu_s = (_cpu_s(pid) - before) / len(taken)
    rss = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert rss is not None
    while not streams.empty():
        streams.get_nowait()[1].close()
    return Taken(tuple(taken), cpu_s, int(rss[1]) / 1024)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _port(log: Path) -> int:
    async with asyncio.timeout(30):
        while (found := re.search(r'"Serving admission reviews" port=(\d+)', log.read_text())) is None:
            await asyncio.sleep(0.02)
    return int(found[1])


async def rows(*, is_quick: bool) -> list[Row]:
    """The best of several runs: other work on the machine can only slow them down."""
    runs = []
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        command = [
            str(PROGRAM),
            f"--tls-cert-file={folder / 'tls.crt'}",
            f"--tls-private-key-file={folder / 'tls.key'}",
        ]
        command += ["--port=0", "-v=4", "--feature-gates=MPSSupport=true"]
        async with running(folder, command) as process:
            port = await _port(folder / "log")
            for _ in range(2 if is_quick else 5):
                runs.append(await measure(port, process.pid, folder, seconds=3 if is_quick else 10))
    p50, p99 = (min(each.percentile(share) for each in runs) * 1e3 for share in (0.5, 0.99))
    note = f"{RATE}/s over {CONNECTIONS} TLS connections, {CONFIGS} configs that no other claim has"
    return [
        Row("webhook: a review, p50", p50, nan, "ms", note),
        Row("webhook: a review, p99", p99, nan, "ms", note, Target(most=5)),
        Row("webhook: CPU per review", min(each.cpu_s for each in runs) * 1e3, nan, "ms", note),
        Row("webhook: memory", max(each.rss_mib for each in runs), nan, "MiB", "RSS after these", Target(most=60)),
    ]
