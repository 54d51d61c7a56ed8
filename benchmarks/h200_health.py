"""A real XID on a real GPU: from the event to the taint on the API, and until the taint is gone.

    python -m benchmarks.h200_health DRIVER_ROOT [PLUGIN]      # "/", or where the driver lies

Starts the plugin with the gate NVMLDeviceHealthCheck against an API server stand-in on loopback, and runs a program
that writes to address 0x10 of its GPU: XID 31, an error of a program. A listener of its own tells when NVML sends the
event. No setting of the GPU is changed. nvcc compiles the program; without nvcc, libcuda compiles the same as PTX.
Prints JSON; `docs/measurements/` keeps what came out.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from benchmarks import api, plugin
from nvdra.gpu.health import WATCHED_EVENTS
from nvdra.host import Node, driver_root, find_library
from nvdra.node.clock import LoopClock
from nvdra.nvml import NvmlEvents

NODE = "real"
RUNS = 5
SOURCE = Path(__file__).with_name("bad_pointer.cu")
PTX = b"""
.version 7.0
.target sm_70
.address_size 64
.visible .entry write_there()
{
    .reg .b64 %a;
    .reg .b32 %v;
    mov.u64 %a, 16;
    mov.u32 %v, 1;
    st.global.u32 [%a], %v;
    ret;
}
"""


def bad_program(folder: Path) -> tuple[list[str], str]:
    """The command that writes to a bad pointer, and how it was made."""
    compiler = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    if compiler:
        made = folder / "bad_pointer"
        if subprocess.run([compiler, "-o", str(made), str(SOURCE)], check=False).returncode == 0:
            return [str(made)], "nvcc"
    return [sys.executable, "-m", __spec__.name, "bad-pointer"], "PTX through libcuda"


def bad_pointer() -> int:
    """The same without a compiler: the error that the process gets, as a number of CUDA's."""
    cuda = ctypes.CDLL("libcuda.so.1")
    device, context, module, kernel = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
    for step in (
        lambda: cuda.cuInit(0),
        lambda: cuda.cuDeviceGet(ctypes.byref(device), 0),
        lambda: cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device),
        lambda: cuda.cuCtxSetCurrent(context),
        lambda: cuda.cuModuleLoadData(ctypes.byref(module), PTX + b"\0"),
        lambda: cuda.cuModuleGetFunction(ctypes.byref(kernel), module, b"write_there"),
        lambda: cuda.cuLaunchKernel(kernel, 1, 1, 1, 1, 1, 1, 0, None, None, None),
    ):
        if code := step():
            print(f"CUDA refused before the kernel ran: error {code}")
            return 1
    print(f"CUDA error {cuda.cuCtxSynchronize()}")
    return 0


class Watch:
    """The taints of the pool, with the moment when the API server sent them."""

    def __init__(self) -> None:
        self.changes: list[tuple[float, list[dict[str, Any]]]] = []
        self.changed = asyncio.Event()

    async def run(self, server: api.Api) -> None:
        page = await server.kube.list(api.SLICES)
        selector = f"spec.nodeName={NODE}"
        events = server.kube.watch(api.SLICES, resource_version=page.resource_version, field_selector=selector)
        async for event in events:
            if event.type in ("ADDED", "MODIFIED"):
                devices = orjson.loads(event.object)["spec"].get("devices") or []
                taints = [{"device": d["name"], **taint} for d in devices for taint in d.get("taints") or []]
                self.changes.append((time.monotonic(), taints))
                self.changed.set()

    async def until(self, is_tainted: bool, timeout_s: float) -> tuple[float, list[dict[str, Any]]]:
        """The first change from now on after which there are taints, or none."""
        async with asyncio.timeout(timeout_s):
            while True:
                self.changed.clear()
                await self.changed.wait()
                if bool(self.changes[-1][1]) == is_tainted:
                    return self.changes[-1]


async def listen(events: NvmlEvents, addresses: list[str], heard: list[tuple[float, Any]]) -> None:
    """Note when NVML sends which event to a session of this process."""
    await events.open(addresses, WATCHED_EVENTS)
    while True:
        for event in await events.next():
            heard.append((time.monotonic(), event))


async def measure(root: str, program: Path, folder: Path, said: dict[str, Any]) -> None:
    command, said["program"] = bad_program(folder)
    with api.stand_in(folder / "api") as kubeconfig:
        async with api.reached(kubeconfig) as server:
            await server.node(NODE)
            for name in ("plugins", "registry"):
                (folder / name).mkdir()
            arguments = [str(program), f"--node-name={NODE}", "--image-name=none", "-v=4"]
            arguments += ["--feature-gates=NVMLDeviceHealthCheck=true"]
            arguments += [f"--kubeconfig={kubeconfig}", f"--cdi-root={folder / 'cdi'}"]
            arguments += [f"--nvidia-driver-root={root}", f"--container-driver-root={root}"]
            arguments += ["--nvidia-cdi-hook-path=/usr/bin/nvidia-cdi-hook"]
            arguments += [f"--kubelet-registrar-directory-path={folder / 'registry'}"]
            arguments += [f"--kubelet-plugins-directory-path={folder / 'plugins'}"]
            with (folder / "log").open("wb") as log:
                process = await asyncio.create_subprocess_exec(*arguments, stdout=log, stderr=log)
            try:
                await watched(root, server, command, folder, said)
                status = Path(f"/proc/{process.pid}/status").read_text()
                said["plugin RSS"] = status.partition("VmRSS:")[2].splitlines()[0].strip()
            finally:
                process.terminate()
                await process.wait()
                said["log"] = [
                    line
                    for line in (folder / "log").read_text().splitlines()
                    if "health" in line or "fault ended" in line
                ]


async def watched(root: str, server: api.Api, command: list[str], folder: Path, said: dict[str, Any]) -> None:
    await server.devices(NODE)
    page = await server.kube.list(api.SLICES)
    attributes = json.loads(page.items[0])["spec"]["devices"][0]["attributes"]
    address = attributes["resource.kubernetes.io/pciBusID"]["string"]
    said["GPU"] = [attributes["productName"]["string"], attributes["driverVersion"]["version"], address]
    host, heard, watch = Node(), [], Watch()
    events = NvmlEvents(lambda: find_library(host, driver_root(host, root)), LoopClock())
    tasks = [asyncio.create_task(watch.run(server)), asyncio.create_task(listen(events, [address], heard))]
    try:
        await asyncio.sleep(3)  # both have registered for events
        said["runs"] = []
        for _ in range(RUNS):
            said["runs"].append(await run(watch, command, heard))
            await asyncio.sleep(2)  # changes within a second are written together
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with suppress(Exception):
            await events.close()
        host.close()


async def run(watch: Watch, command: list[str], heard: list[tuple[float, Any]]) -> dict[str, Any]:
    """One bad pointer: what was said, and the times in ms."""
    before = len(heard)
    tainted = asyncio.create_task(watch.until(True, 60))
    await asyncio.sleep(0)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    at, taints = await tainted
    while len(heard) == before:
        await asyncio.sleep(0.01)
    sent, event = heard[before]
    gone_at, _ = await watch.until(False, 60)
    return {
        "program said": output.decode(errors="replace").strip(),
        "NVML event": event,
        "taints": taints,
        "event → taint ms": round((at - sent) * 1e3, 1),
        "taint → gone s": round(gone_at - at, 1),
    }


def main() -> int:
    if sys.argv[1:] == ["bad-pointer"]:
        return bad_pointer()
    root, program = sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else plugin.ours().path
    said: dict[str, Any] = {"machine": [os.uname().release, sys.version.split()[0], f"{os.cpu_count()} CPUs"]}
    with tempfile.TemporaryDirectory() as folder:
        try:
            asyncio.run(measure(root, program, Path(folder), said))
        finally:
            json.dump(said, sys.stdout, indent=1, default=str, ensure_ascii=False)
            print()
    times = [each["event → taint ms"] for each in said.get("runs", ())]
    has_effect = any(taint["effect"] != "None" for each in said.get("runs", ()) for taint in each["taints"])
    return 0 if times and max(times) <= 100 and not has_effect else 1


if __name__ == "__main__":
    sys.exit(main())
