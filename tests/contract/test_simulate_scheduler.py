"""nvdra simulate beside kube-scheduler: a dump of its cluster, allocated anew, gives the same devices on each node."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from nvdra import cli
from nvdra.programs.people.simulate_claims import CLASSES, claim_spec
from tests.cluster.harness.api import Api, Refused, wait_until
from tests.contract.explain_scenarios import NAMESPACE, node, pod
from tests.contract.scheduled import missing, scheduled

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

Json = dict[str, Any]
NODES = ("mig-1", "mig-2", "whole-1")
KINDS = ("Node", "DeviceClass", "ResourceSlice", "ResourceClaim", "Pod")
PODS = 40
MIX = ("gpu", "gpu:2", "mig:1g.10gb", "mig:1g", "mig:3g|gpu", "mig:2g.20gb gpu")


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with scheduled(tmp_path_factory.mktemp("plane") / "plane") as (running, _):
        yield running


def slices(capsys: pytest.CaptureFixture[str], name: str) -> list[Json]:
    """What a node with eight H100 publishes; nodes called mig-… make partitions."""
    gate = f"--feature-gates=DynamicMIG={str(name.startswith('mig')).lower()}"
    assert cli.start("nvdra", ["forecast", "h100x8", gate, f"--node-name={name}", "--template=kwok", "-o=json"]) == 0
    items: list[Json] = json.loads(capsys.readouterr().out)["items"]
    return [each for each in items if each["kind"] == "ResourceSlice"]


def start(api: Api, name: str, kinds: list[str]) -> bool:
    """Whether the scheduler gave a new pod with claims of these kinds a node; one that it refuses is removed."""
    claims = [f"{name}-{at}" for at in range(len(kinds))]
    for claim, kind in zip(claims, kinds, strict=True):
        body = {"kind": "ResourceClaim", "metadata": {"name": claim, "namespace": NAMESPACE}, "spec": claim_spec(kind)}
        api.create(body)
    body = pod(name, tuple(claims))
    del body["spec"]["affinity"]
    api.create(body)

    def scheduled_condition() -> Json:
        conditions = api.get("Pod", name, NAMESPACE).get("status", {}).get("conditions") or []
        return next((each for each in conditions if each["type"] == "PodScheduled"), {})

    wait_until(f"the scheduler to look at pod {name}", lambda: bool(scheduled_condition()), 60)
    if scheduled_condition()["status"] == "True":
        return True
    api.delete("Pod", name, NAMESPACE, grace_s=0)
    wait_until(f"pod {name} to be gone", lambda: api.find("Pod", name, NAMESPACE) is None, 60)
    for claim in claims:
        api.delete("ResourceClaim", claim, NAMESPACE)
    return False


def test_a_dump_replayed_gives_the_devices_of_the_scheduler(
    api: Api, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with suppress(Refused):
        api.create({"kind": "Namespace", "metadata": {"name": NAMESPACE}})
    for body in CLASSES:
        api.create(dict(body))
    for name in NODES:
        for body in slices(capsys, name):
            api.create(body)
        api.create(node(name))
    dice = random.Random(4)
    placed = [start(api, f"pod-{number}", dice.choice(MIX).split()) for number in range(PODS)]
    assert sum(placed) > PODS / 2
    items = [{"apiVersion": "resource.k8s.io/v1", **each, "kind": kind} for kind in KINDS for each in listed(api, kind)]
    path = tmp_path / "cluster.json"
    path.write_text(json.dumps({"kind": "List", "items": items}), encoding="utf-8")
    status = cli.start("nvdra", ["simulate", f"--dump={path}", "--replay", "-o=json"])
    answer = json.loads(capsys.readouterr().out)
    assert answer["different"] == 0, [one for one in answer["replayed"] if not one["same"]]
    assert status == 0
    # One that the scheduler placed on second thoughts is in the dump, too.
    assert len(answer["replayed"]) >= sum(placed)
    assert {one["node"] for one in answer["replayed"]} == set(NODES)


def listed(api: Api, kind: str) -> list[Json]:
    return api.items(kind, NAMESPACE)
