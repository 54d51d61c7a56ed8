"""Each two feature gates of the GPU plugin: they work together, or every program refuses them with the same text."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest
import yaml

from deploy.helm import describe
from docs.gates import GATES
from nvdra.api import gates
from nvdra.api.gates import CONSUMABLE_SHARES, DYNAMIC_MIG, NVML_DEVICE_HEALTH_CHECK
from tests.contract.plugin_node import plugin_node, until

PAIRS = gates.pairs(GATES)
REFUSED = {pair: text for pair, (_, text) in PAIRS.items() if text}


def is_built(gate: str) -> bool:
    try:
        gates.refuse_unbuilt(gates.parse(f"{gate}=true"), "gpu-kubelet-plugin")
    except gates.GateError:
        return False
    return True


def needed(pair: tuple[str, str]) -> list[str]:
    """The gates that one of the two requires."""
    return [other for name, relation, other in gates.special() if relation == "requires" and name in pair]


WORKING = [pair for pair in PAIRS if pair not in REFUSED and all(map(is_built, pair))]


@pytest.mark.parametrize("pair", WORKING, ids="+".join)
async def test_a_pair_that_works_publishes_watches_and_prepares(pair: tuple[str, str]) -> None:
    flags = {"feature_gates": ",".join(f"{gate}=true" for gate in (*pair, *needed(pair)))}
    if CONSUMABLE_SHARES in pair:
        flags["consumable_shares"] = "unlimited"
    async with plugin_node("h100x8", gpus=(0, 1)) as node:
        node.root.count_calls()
        await node.start(**flags)
        claims = [await node.claim("gpu-0-mig-1g10gb-19-0" if DYNAMIC_MIG in pair else "gpu-0")]
        assert await node.prepared(*claims)
        if NVML_DEVICE_HEALTH_CHECK in pair:
            waits = node.root.calls().get("nvmlEventSetWait_v2", 0)
            await until(lambda: node.root.calls().get("nvmlEventSetWait_v2", 0) > waits + 1, "a wait for events")
            node.root.fire_event(1, "xid", 79)
            await until(lambda: '"79"' in json.dumps(node.kube.objects("resourceslices")), "the taint")
        await node.released(*claims)


REQUIRED = {
    "gpu-kubelet-plugin": ("--node-name=n", "--image-name=i"),
    "webhook": ("--tls-cert-file=c", "--tls-private-key-file=k"),
}


@pytest.mark.parametrize("program", REQUIRED)
@pytest.mark.parametrize("pair", REFUSED, ids="+".join)
async def test_a_refused_pair_stops_every_program_with_its_text(pair: tuple[str, str], program: str) -> None:
    setting = ",".join(f"{gate}=true" for gate in (*pair, *needed(pair)))
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name(program)),
        f"--feature-gates={setting}",
        *REQUIRED[program],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, told = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 1
    assert told.decode().endswith(f"Error: feature gate validation failed: {REFUSED[pair]}\n")


def test_the_chart_has_the_same_pairs() -> None:
    rendered = (describe.CHART / "templates/_gates.tpl").read_text()
    assert rendered == describe.gate_table()
    table = yaml.safe_load("\n".join(line for line in rendered.splitlines() if not line.startswith("{{")))
    assert [tuple(check) for check in table["checks"]] == list(gates.special())
