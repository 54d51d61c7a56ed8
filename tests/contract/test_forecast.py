"""nvdra forecast: what it says of a type of node is what the plugin publishes on such a node."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from nvdra.programs.people.forecast_slices import portraits
from tests.contract.plugin_node import POOL, PluginNode, plugin_node, until

PROGRAM = [sys.executable, "-c", "import sys; from nvdra import cli; sys.exit(cli.start('nvdra', sys.argv[1:]))"]
DYNAMIC = "DynamicMIG=true"

Json = dict[str, Any]


async def forecast(*argv: str, status: int = 0) -> tuple[str, str]:
    """Returns what the command prints, and its errors."""
    ran = await asyncio.to_thread(
        subprocess.run, [*PROGRAM, "forecast", *argv], capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == status, ran.stderr
    assert "Traceback" not in ran.stderr
    return ran.stdout, ran.stderr


def specs(slices: list[Json]) -> list[str]:
    """The slices' specs as text, in the order of their indices: equal only if every byte is."""

    def index(each: Json) -> str:
        metadata = each["metadata"]
        return str(metadata.get("generateName") or metadata["name"])

    return [json.dumps(each["spec"]) for each in sorted(slices, key=index)]


def items(text: str) -> list[Json]:
    document = json.loads(text)
    found: list[Json] = document.get("items", [document])
    return found


async def published(node: PluginNode, gates: str, **flags: str) -> list[Json]:
    """The slices that the plugin publishes on the node, once the pool is complete."""
    await node.start(feature_gates=gates, **flags)
    stored = lambda: node.kube.objects("resourceslices")  # noqa: E731
    await until(lambda: stored() and len(stored()) == stored()[0]["spec"]["pool"]["resourceSliceCount"], "the pool")
    return list(stored())


@pytest.mark.parametrize("gates", ["", DYNAMIC])
@pytest.mark.parametrize("portrait", portraits())
async def test_every_byte_is_what_the_plugin_publishes(portrait: str, gates: str) -> None:
    async with plugin_node(portrait) as node:
        live = await published(node, gates)
        said, _ = await forecast(portrait, f"--node-name={POOL}", f"--feature-gates={gates}", "--output=json")
        assert specs(items(said)) == specs(live)


@pytest.mark.parametrize("shares", ["unlimited", "memory", "4"])
async def test_shared_devices_are_what_the_plugin_publishes(shares: str) -> None:
    gates = "ConsumableShares=true"
    async with plugin_node("h200x1") as node:
        live = await published(node, gates, consumable_shares=shares)
        flags = (f"--node-name={POOL}", f"--feature-gates={gates}", f"--consumable-shares={shares}", "--output=json")
        said, _ = await forecast("h200x1", *flags)
        assert specs(items(said)) == specs(live)


async def test_topology_is_what_the_plugin_publishes() -> None:
    async with plugin_node("h200x2") as node:
        live = await published(node, "", topology_attributes="true")
        said, _ = await forecast("h200x2", f"--node-name={POOL}", "--topology-attributes=true", "--output=json")
        assert specs(items(said)) == specs(live)


async def test_a_live_node_is_compared_by_device(tmp_path: Path) -> None:
    said, _ = await forecast("h100x8", "--node-name=node-7", "--output=json")
    dump = tmp_path / "slices.json"
    dump.write_text(json.dumps({"kind": "List", "items": items(said)}))
    compare = ("h100x8", "--compare=node-7", f"--from={dump}")
    equal, _ = await forecast(*compare)
    assert equal == "node-7 publishes what h100x8 forecasts: 8 devices\n"

    (body,) = items(said)
    devices = body["spec"]["devices"]
    devices[0]["attributes"]["uuid"] = {"string": "GPU-other"}  # of this one GPU, no difference of the type
    devices[1]["attributes"]["driverVersion"] = {"version": "550.1.0"}
    devices[2]["capacity"]["memory"]["value"] = str(81559 * 1024**2)  # the same amount, written otherwise
    del devices[3]
    devices.append({**devices[3], "name": "gpu-9"})
    dump.write_text(json.dumps(body))
    different, _ = await forecast(*compare, "--output=json", status=1)
    assert json.loads(different)["differences"] == [
        {
            "device": "gpu-1",
            "field": "attribute driverVersion",
            "forecast": "580.159.4",
            "live": "550.1.0",
        },
        {"device": "gpu-3", "field": "device", "forecast": "published", "live": "-"},
        {"device": "gpu-9", "field": "device", "forecast": "-", "live": "published"},
    ]
    text, _ = await forecast(*compare, status=1)
    assert text.splitlines()[0] == "node-7 differs from h100x8 in 3 points"


async def test_kwok_gets_a_node_and_slices_with_names() -> None:
    said, _ = await forecast("h200x1", "--template=kwok", f"--feature-gates={DYNAMIC}", "--node-name=planned-1")
    node, *slices = yaml.safe_load_all(said)
    assert (node["kind"], node["metadata"]["name"]) == ("Node", "planned-1")
    assert [each["metadata"]["name"] for each in slices] == [f"0000{at}-gpu.nvidia.com-planned-1" for at in range(2)]
    assert all(each["spec"]["nodeName"] == "planned-1" for each in slices)


async def test_an_empty_machine_deployment_gets_its_annotations() -> None:
    said, _ = await forecast("gb200x4", "--template=cluster-api")
    prefix = "capacity.cluster-autoscaler.kubernetes.io"
    assert yaml.safe_load(said)["metadata"]["annotations"] == {
        f"{prefix}/dra-driver": "gpu.nvidia.com",
        f"{prefix}/gpu-count": "4",
    }


async def test_an_older_release_gets_the_older_layout() -> None:
    said, _ = await forecast("h200x1", f"--feature-gates={DYNAMIC}", "--kubernetes=1.34", "--output=json")
    (body,) = items(said)
    assert len(body["spec"]["devices"]) == 26
    assert len(body["spec"]["sharedCounters"]) == 1


@pytest.mark.parametrize(
    ("argv", "status", "text"),
    [
        ((), 2, "give one type of node"),
        (("h100x9",), 3, "no portrait 'h100x9': there are a100x8, b200x8"),
        (("h100x8", "--feature-gates=NoSuch=true"), 2, "NoSuch"),
        (("h100x8", "--kubernetes=1.31"), 2, "must be a Kubernetes release from 1.32 to 1.37"),
        (("h100x8", "--kubernetes=1.99"), 2, "must be a Kubernetes release from 1.32 to 1.37"),
        (("h100x8", "--consumable-shares=4"), 2, "requires feature gate ConsumableShares to be enabled"),
        (("h100x8", "--template=karpenter"), 2, "must be one of slices, kwok, cluster-api"),
        (("/nowhere/x.json",), 3, "/nowhere/x.json"),
        (("h100x8", "--compare=n", "--from=/nowhere/slices.json"), 3, "/nowhere/slices.json"),
    ],
)
async def test_bad_input_ends_with_one_clear_line(argv: tuple[str, ...], status: int, text: str) -> None:
    _, said = await forecast(*argv, status=status)
    assert text in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("content", ["", "[]", '{"items": 3}', '{"items": [{"kind": "ResourceSlice"}]}', "\x00"])
async def test_a_dump_that_is_none_is_named(tmp_path: Path, content: str) -> None:
    dump = tmp_path / "slices.json"
    dump.write_text(content)
    _, said = await forecast("h200x1", "--compare=n", f"--from={dump}", status=3)
    assert str(dump) in said


async def test_a_node_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    said, _ = await forecast("h200x1", "--node-name=node-1", "--output=json")
    dump = tmp_path / "slices.json"
    dump.write_text(said)
    _, error = await forecast("h200x1", "--compare=node-2", f"--from={dump}", status=3)
    assert "node node-2 has no slice of gpu.nvidia.com; nodes that have: node-1" in error


async def test_passthrough_forecasts_each_gpu_and_its_twin_with_one_counter() -> None:
    out, _ = await forecast("h100x8", "--feature-gates=PassthroughSupport=true")
    bodies = [body for body in yaml.safe_load_all(out) if body]
    devices = {each["name"]: each for body in bodies for each in body["spec"].get("devices", ())}
    assert set(devices) == {f"gpu-{n}" for n in range(8)} | {f"gpu-vfio-{n}" for n in range(8)}
    for number in range(8):
        twin = devices[f"gpu-vfio-{number}"]
        assert devices[f"gpu-{number}"]["consumesCounters"] == twin["consumesCounters"]
