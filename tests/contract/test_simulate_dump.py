"""nvdra simulate on a dump: the cluster's nodes with its claims, and its claims allocated anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nvdra import cli

Json = dict[str, Any]


def dump(capsys: pytest.CaptureFixture[str], *claims: Json) -> Json:
    """A cluster of two nodes with eight H100 each that create partitions."""
    items: list[Json] = [*claims]
    for at, node in enumerate(("node-a", "node-b")):
        argv = [
            "forecast",
            "h100x8",
            f"--node-name={node}",
            "--feature-gates=DynamicMIG=true",
            "--template=kwok",
            "-ojson",
        ]
        assert cli.start("nvdra", argv) == 0
        for each in json.loads(capsys.readouterr().out)["items"]:
            items.append(each)
            for device in each["spec"].get("devices", ()) if each["kind"] == "ResourceSlice" else ():
                for name in ("uuid", "parentUUID"):  # of the single GPU
                    if name in device["attributes"]:
                        device["attributes"][name]["string"] += str(at)
            if each["kind"] == "ResourceSlice":
                each["spec"]["pool"]["generation"] = 3 + at
    for name, kind in (("gpu.nvidia.com", "gpu"), ("mig.nvidia.com", "mig")):
        expression = f"device.driver == 'gpu.nvidia.com' && device.attributes['gpu.nvidia.com'].type == '{kind}'"
        spec = {"selectors": [{"cel": {"expression": expression}}]}
        items.append({"kind": "DeviceClass", "metadata": {"name": name}, "spec": spec})
    return {"kind": "List", "items": items}


def claim(name: str, at: int, node: str, devices: list[str], **exactly: Any) -> Json:
    """A claim that was allocated at a second of the day."""
    results = [{"request": "g", "driver": "gpu.nvidia.com", "pool": node, "device": each} for each in devices]
    field = {"key": "metadata.name", "operator": "In", "values": [node]}
    allocation = {
        "allocationTimestamp": f"2026-11-30T10:00:{at:02}Z",
        "devices": {"results": results},
        "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [field]}]},
    }
    request = {"name": "g", "exactly": {"deviceClassName": "gpu.nvidia.com", "count": len(devices), **exactly}}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": name, "namespace": "ml", "uid": name, "resourceVersion": str(at)},
        "spec": {"devices": {"requests": [request]}},
        "status": {"allocation": allocation},
    }


def written(folder: Path, document: Json) -> str:
    path = folder / "cluster.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return f"--dump={path}"


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    status = cli.start("nvdra", ["simulate", *argv])
    out, err = capsys.readouterr()
    return status, out, err


def test_claims_allocated_anew_have_the_devices_that_they_had(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    claims = [
        claim("one", 1, "node-a", ["gpu-0"]),
        claim("other", 2, "node-b", ["gpu-0"]),
        claim("two", 3, "node-a", ["gpu-1", "gpu-2"]),
    ]
    file = written(tmp_path, dump(capsys, *claims))
    assert run(capsys, file, "--replay")[:2] == (0, "3 pods replayed on 2 nodes: 3 alike\n")


def test_a_claim_with_other_devices_is_shown(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    claims = [claim("one", 1, "node-a", ["gpu-0"]), claim("odd", 2, "node-a", ["gpu-5"])]
    status, out, _ = run(capsys, written(tmp_path, dump(capsys, *claims)), "--replay")
    assert status == 1
    assert out.splitlines()[-1].split() == ["ml/odd", "node-a", "gpu-5", "gpu-1"]


def test_nodes_of_a_dump_keep_what_is_allocated(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    devices = [f"gpu-{number}" for number in range(8)]
    file = written(tmp_path, dump(capsys, claim("all", 1, "node-a", devices)))
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival,duration,claims,node\n0,9,gpu,node-a\n0,9,gpu,node-b\n")
    status, out, _ = run(capsys, file, f"--trace={trace}", "-o=json")
    assert status == 0
    (scenario,) = json.loads(out)["scenarios"]
    found = scenario["runs"][0]
    assert found["fleet"] == {"nodes": 2, "types": 1, "gpus": 16, "devices": 416, "memoryMiB": 16 * 81152}
    assert (found["pods"]["placed"], found["pods"]["waiting"]) == (1, 1)
    assert found["refused"] == {"device.in-use": 1}


def test_nodes_differ_where_a_selector_tells_them_apart(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    document = dump(capsys)
    file = written(tmp_path, document)
    wanted = next(
        device["attributes"]["uuid"]["string"]
        for each in document["items"]
        if each["kind"] == "ResourceSlice" and each["spec"]["nodeName"] == "node-b"
        for device in each["spec"].get("devices", ())
        if device["name"] == "gpu-3"
    )
    expression = f"device.attributes['gpu.nvidia.com'].uuid == '{wanted}'"
    exactly = {"deviceClassName": "gpu.nvidia.com", "selectors": [{"cel": {"expression": expression}}]}
    path = tmp_path / "trace.json"
    spec = {"devices": {"requests": [{"name": "g", "exactly": exactly}]}}
    pods = [{"arrival": 0, "claims": "mine"}, {"arrival": 0, "duration": 5, "claims": "mine", "node": "node-a"}]
    path.write_text(json.dumps({"claims": {"mine": spec}, "pods": pods}))
    status, out, _ = run(capsys, file, f"--trace={path}", "-o=json")
    found = json.loads(out)["scenarios"][0]["runs"][0]
    assert status == 0
    assert found["fleet"]["types"] == 2
    assert (found["pods"]["placed"], found["pods"]["never"]) == (1, 1)


@pytest.mark.parametrize("content", ["", "[]", '{"items": [3]}', '{"items": [{"kind": "ResourceSlice"}]}', "\x00"])
def test_a_dump_that_is_none_is_named(content: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "cluster.json"
    path.write_text(content)
    status, _, err = run(capsys, f"--dump={path}", "--mix=mixed")
    assert status == 3
    assert str(path) in err or "no ResourceSlice" in err
    assert err.count("\n") == 1
