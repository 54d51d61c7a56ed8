"""HTTP clients beside each other: memory of the import, and one GET over a kept TLS connection.

    python -m benchmarks.http_clients [ROUNDS]

A measurement for docs/decisions/0008, no part of `make bench`: the other clients are no dependencies, and those that
are not installed are left out. Each client has a process of its own that holds what a plugin holds anyway (uvloop,
ssl, orjson, grpc.aio), asks for the same claim of 4 kB, and takes turns with the others.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import ssl
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

TLS = Path(__file__).parents[1] / "tests" / "contract" / "tls"
CLIENTS = ("nvdra", "aiohttp", "httpx", "urllib3")
_BLOCK = 50
Get = Callable[[], Awaitable[int]]


def rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def _client(name: str, url: str) -> Get:
    """A GET of `url` whose connection is kept; its value is the number of bytes that came."""
    trust = ssl.create_default_context(cafile=str(TLS / "ca.crt"))
    path = url.split("/", 3)[3]
    match name:
        case "nvdra":
            from nvdra.kube import Access, HttpKube
            from nvdra.kube.tls import Tls
            from nvdra.ports import Resource

            tls = Tls(ssl.PROTOCOL_TLS_CLIENT)
            tls.load_verify_locations(cafile=str(TLS / "ca.crt"))
            kube = await HttpKube(Access(url.removesuffix(f"/{path}"), tls), qps=-1).__aenter__()
            claims = Resource("resource.k8s.io", "v1", "resourceclaims", namespaced=True)

            async def get() -> int:
                return len(await kube.get(claims, "claim", "default"))

        case "aiohttp":
            import aiohttp

            session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust))

            async def get() -> int:
                async with session.get(url) as answer:
                    return len(await answer.read())

        case "httpx":
            import httpx  # type: ignore[import-not-found, unused-ignore]

            client = httpx.AsyncClient(verify=trust)

            async def get() -> int:
                return len((await client.get(url)).content)

        case _:
            import urllib3

            pool = urllib3.PoolManager(ssl_context=trust)

            async def get() -> int:
                # It blocks: a plugin, whose loop serves kubelet, has to ask on a thread.
                return len((await asyncio.to_thread(pool.request, "GET", url)).data)

    return get


async def _ask(name: str, url: str) -> None:
    import grpc.aio
    import orjson

    assert grpc.aio is not None
    assert orjson is not None
    before = rss_mib()
    get = await _client(name, url)
    imported = rss_mib()
    for _ in range(_BLOCK):
        size = await get()
    used = rss_mib()
    print(json.dumps([before, imported, used, size]), flush=True)
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.buffer.readline):
        times, cpu = [], time.process_time()
        for _ in range(_BLOCK):
            began = time.perf_counter()
            await get()
            times.append(time.perf_counter() - began)
        print(json.dumps([statistics.median(times), (time.process_time() - cpu) / _BLOCK]), flush=True)
    os._exit(0)


async def _compare(rounds: int) -> None:
    from nvdra.testing.api_server import ApiServer
    from nvdra.testing.kube import FakeKube

    kube = FakeKube()
    resource: Any = __import__("nvdra.ports", fromlist=["Resource"]).Resource
    claims = resource("resource.k8s.io", "v1", "resourceclaims", namespaced=True)
    body = {"metadata": {"name": "claim", "annotations": {"filler": "x" * 3600}}, "spec": {"devices": {}}}
    await kube.create(claims, json.dumps(body).encode(), "default")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "server.crt", TLS / "server.key")
    present = [name for name in CLIENTS if importlib.util.find_spec(name)]
    async with ApiServer(kube).serving(tls=context) as url:
        url = f"{url}/apis/resource.k8s.io/v1/namespaces/default/resourceclaims/claim"
        asked = {name: await _started(name, url) for name in present}
        figures = {name: json.loads(await _line(process)) for name, process in asked.items()}
        times: dict[str, list[list[float]]] = {name: [] for name in present}
        for _ in range(rounds):
            for name, process in asked.items():
                assert process.stdin is not None
                process.stdin.write(b"go\n")
                times[name].append(json.loads(await _line(process)))
        for process in asked.values():
            assert process.stdin is not None
            process.stdin.close()
            await process.wait()
    print(f"{'client':10} {'import MiB':>10} {'in use MiB':>10} {'GET p50 ms':>10} {'CPU ms':>8}")
    for name, (before, imported, used, _) in figures.items():
        p50, cpu = (min(each) * 1000 for each in zip(*times[name], strict=True))
        print(f"{name:10} {imported - before:10.1f} {used - before:10.1f} {p50:10.3f} {cpu:8.3f}")


async def _started(name: str, url: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    command = (sys.executable, "-m", "benchmarks.http_clients", "--ask", name, url)
    return await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)


async def _line(process: asyncio.subprocess.Process) -> bytes:
    assert process.stdout is not None
    async with asyncio.timeout(120):
        return await process.stdout.readline()


if __name__ == "__main__":
    import uvloop

    arguments = sys.argv[1:]
    if arguments[:1] == ["--ask"]:
        uvloop.run(_ask(*arguments[1:]))
    else:
        uvloop.run(_compare(int(arguments[0]) if arguments else 20))
