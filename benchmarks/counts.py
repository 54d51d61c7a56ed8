"""The numbers of API calls and NVML calls of a prepare and an unprepare, counted by the stand-ins."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from math import nan
from pathlib import Path

from benchmarks import api, plugin
from benchmarks.row import Row, Target

CLAIMS = 50


async def rows(folder: Path) -> list[Row]:
    folder.mkdir()
    with api.stand_in(folder / "api") as kubeconfig:
        await api.ready(kubeconfig)
        async with (
            api.reached(kubeconfig) as server,
            plugin.serving(plugin.ours(), server, folder / "node", "n") as ours,
        ):
            assert ours.root is not None
            refs = await server.claims(ours.pool, [ours.devices[0]] * CLAIMS)
            ours.caller.prepare_s(refs[:1])
            ours.caller.unprepare_s(refs[:1])
            ours.root.count_calls()
            counted = {"prepare": [0.0, 0.0], "unprepare": [0.0, 0.0]}
            for ref in refs:
                for name, work in (("prepare", ours.caller.prepare_s), ("unprepare", ours.caller.unprepare_s)):
                    before = await _asked(kubeconfig), sum(ours.root.calls().values())
                    work([ref])
                    counted[name][0] += await _asked(kubeconfig) - before[0]
                    counted[name][1] += sum(ours.root.calls().values()) - before[1]
    note = f"mean of {CLAIMS}, whatever the plugin does meanwhile included"
    found = []
    for name, limit in (("prepare", 1.0), ("unprepare", 0.0)):
        calls, nvml = (each / CLAIMS for each in counted[name])
        found.append(Row(f"API calls per {name}", calls, nan, "calls", note, Target(most=limit)))
        found.append(Row(f"NVML calls per {name}", nvml, nan, "calls", note, Target(most=0.0)))
    return found


async def _asked(kubeconfig: Path) -> int:
    url = json.loads(kubeconfig.read_bytes())["clusters"][0]["cluster"]["server"]

    def ask() -> int:
        with urllib.request.urlopen(f"{url}/testing/calls") as answer:
            return sum(json.load(answer).values())

    return await asyncio.to_thread(ask)
