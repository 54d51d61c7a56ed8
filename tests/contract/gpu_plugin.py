"""The plugin itself on a real GPU: time to the first slice, memory, what it holds open, claims prepared.

    python -m tests.contract.gpu_plugin DRIVER_ROOT [PLUGIN]      # "/", or where the driver lies

An API server stand-in runs on loopback; the plugin is its own process through its own command line. Prints JSON.
The client is built with Go; a machine without it takes along `benchmarks/kubelet/caller`.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks import api, memory, plugin
from tests.folders import contents

NODE = "real"
CYCLES = 400


def held_open(pid: int) -> list[str]:
    """What a process holds of /dev/nvidia*, by descriptor or by mapping; and whether it has NVML loaded."""
    held = [line.split(maxsplit=5)[5] for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if "/" in line]
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        try:
            held.append(os.readlink(f"/proc/{pid}/fd/{descriptor}"))
        except FileNotFoundError:
            continue
    return sorted({path for path in held if "/dev/nvidia" in path or "libnvidia-ml" in path})


async def measure(root: str, program: Path, folder: Path, said: dict[str, Any]) -> None:
    with api.stand_in(folder / "api") as kubeconfig:
        async with api.reached(kubeconfig) as server:
            await server.node(NODE)
            for name in ("plugins", "registry"):
                (folder / name).mkdir()
            command = [str(program), f"--node-name={NODE}", "--image-name=none", "-v=4"]
            command += [f"--kubeconfig={kubeconfig}", f"--cdi-root={folder / 'cdi'}"]
            command += [f"--nvidia-driver-root={root}", f"--container-driver-root={root}"]
            command += ["--nvidia-cdi-hook-path=/usr/bin/nvidia-cdi-hook"]
            command += [f"--kubelet-registrar-directory-path={folder / 'registry'}"]
            command += [f"--kubelet-plugins-directory-path={folder / 'plugins'}"]
            with (folder / "log").open("wb") as log:
                began = time.perf_counter()
                process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
            try:
                await watched(process.pid, server, folder, began, said)
            finally:
                process.terminate()
                await process.wait()


async def watched(pid: int, server: api.Api, folder: Path, began: float, said: dict[str, Any]) -> None:
    devices = await server.devices(NODE)
    said["first slice ms"] = (time.perf_counter() - began) * 1e3
    page = await server.kube.list(api.SLICES)
    said["devices"] = json.loads(page.items[0])["spec"]["devices"]
    socket = str(folder / "plugins" / api.DRIVER / "dra.sock")
    subject = plugin.Subject("ours", pid, socket, NODE, devices)

    def holds(moment: str) -> None:
        said[moment] = {"memory MiB": subject.rss_mib(), "open": held_open(pid)}

    holds("while the lease lasts")
    await asyncio.sleep(8)
    holds("after it ran out")
    (ref,) = await server.claims(NODE, devices[:1])
    caller = subject.caller
    caller.prepare_s([ref])
    said["CDI"] = [yaml.safe_load(content) for content in contents(folder / "cdi").values()]
    holds("with a claim prepared")
    caller.unprepare_s([ref])
    taken = []
    for ref in await server.claims(NODE, devices[:1] * 100):
        taken.append(caller.prepare_s([ref]))
        caller.unprepare_s([ref])
    said["prepare p50 ms"] = statistics.median(taken) * 1e3
    await memory.cycles(subject, server, CYCLES)
    holds(f"after {CYCLES} cycles more")


def main() -> None:
    root, program = sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else plugin.ours().path
    said: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            asyncio.run(measure(root, program, Path(folder), said))
        finally:
            json.dump(said, sys.stdout, indent=1)
            print(f"\n{(Path(folder) / 'log').read_text()}", file=sys.stderr)


if __name__ == "__main__":
    main()
