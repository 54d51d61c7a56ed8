"""nvdra simulate on a dump of the live cluster: its allocator chooses, on the same node, what the scheduler chose."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nvdra import cli
from tests.cluster.harness.api import Object, wait_until
from tests.cluster.harness.claims import claim, claim_of, remove, user, wait_running
from tests.cluster.harness.driver import DRIVER, Plugin

pytestmark = pytest.mark.cluster

KINDS = ("Node", "DeviceClass", "ResourceSlice", "ResourceClaim", "Pod")


def test_a_dump_replayed_gives_the_devices_of_the_scheduler(
    plugin: Plugin, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    api = plugin.cluster.api
    wait_until("no claim to be prepared", lambda: not plugin.checkpoint(), 60, plugin.tail)
    model = f"device.attributes['{DRIVER}'].productName.contains('H100')"
    wanted = {"replay-one": claim(api, "replay-one"), "replay-two": claim(api, "replay-two", 2)}
    wanted["replay-chosen"] = claim(api, "replay-chosen", 1, model)
    last = wanted["replay-near"] = claim(api, "replay-near", 2)
    last["spec"]["devices"]["constraints"] = [{"matchAttribute": "resource.kubernetes.io/numaNode"}]
    names = tuple(wanted)
    try:
        for name, body in wanted.items():
            api.create(body)
            api.create(user(name, name))
            wait_running(api, name)  # one after the other: the order of allocations is then known
        path = tmp_path / "cluster.json"
        items = [each for kind in KINDS for each in _listed(plugin, kind)]
        path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}), encoding="utf-8")
        assert cli.start("nvdra", ["simulate", f"--dump={path}", "--replay", "--output=json"]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert answer["different"] == 0
        replayed = {one["claims"]: one for one in answer["replayed"]}
        for name in names:
            results = claim_of(api, name)["status"]["allocation"]["devices"]["results"]
            assert replayed[f"default/{name}"]["simulated"] == sorted(each["device"] for each in results)
            assert replayed[f"default/{name}"]["node"] == results[0]["pool"]
    finally:
        remove(api, names, names)


def _listed(plugin: Plugin, kind: str) -> list[Object]:
    """Objects as a dump has them: items of a list have no kind of their own."""
    api = plugin.cluster.api
    return [{"apiVersion": "resource.k8s.io/v1", **each, "kind": kind} for each in api.items(kind)]
