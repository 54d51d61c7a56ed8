"""What must hold of an explanation and the scheduler."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.cluster.harness.api import Api, Refused, wait_until
from tests.contract.explain_follow import Follower, relaxed
from tests.contract.explain_scenarios import NODES, Json, Scenario, scenarios

REPOSITORY = Path(__file__).resolve().parents[2]


def check(api: Api, kubeconfig: Path, scenario: Scenario) -> None:
    """The scheduler leaves the pod pending for the cause that is named, and binds it after each change that helps."""
    follower = Follower(api, kubeconfig, scenario)
    with follower.made():
        name, refusal = follower.start_refused(list(scenario.claims))
        found = follower.explained()
        first = next(line for line in found["nodes"] if line["node"] == NODES[0])
        assert first["verdict"] == scenario.verdict, (first, refusal)
        codes = first.get("causes") or [error["code"] for error in found["errors"]]
        assert set(codes) == scenario.codes, (found, refusal)
        assert {change["kind"] for change in found["relaxations"]} == scenario.helps, found["relaxations"]
        if scenario.verdict == "error":
            follower.refusal(name, scenario.says or first["error"])
        for change in found["relaxations"]:
            _follow(follower, scenario, change)


def _follow(follower: Follower, scenario: Scenario, change: Json) -> None:
    follower.end(list(scenario.claims))
    if change["kind"] == "release":
        held = [claim for _, claim in scenario.holders if f"ml/{claim['metadata']['name']}" == change["claim"]]
        follower.end(held)
        claims = list(scenario.claims)
    else:
        claims = relaxed(scenario.claims, change)
    name = follower.start(claims)
    assert follower.wait_allocated(name) in change["exampleNodes"], change
    if change["kind"] == "release":
        follower.end(claims)
        for on, claim in scenario.holders:
            if claim in held:
                follower.start([claim], on)
                follower.wait_allocated(claim["metadata"]["name"])
        follower.start(list(scenario.claims))
        return
    follower.end(claims)
    follower.start(list(scenario.claims))


def check_rights(api: Api, role: Json, kubeconfig: Callable[[str], Path]) -> None:
    """A service account with the role alone gets a whole explanation."""
    name = role["metadata"]["name"]
    account = {"kind": "ServiceAccount", "metadata": {"name": name}}
    group = "rbac.authorization.k8s.io"
    binding = {
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": "default"}],
    }
    scenario = next(one for one in scenarios() if one.name == "a taint of a rule")
    try:
        for body in (account, role, binding):
            api.create(body)
        reader = Follower(api, kubeconfig(api.token(name, "default")), scenario)
        with reader.made():
            reader.start(list(scenario.claims))
            wait_until("the new rights", lambda: _may_read(reader), 30)
            assert "taint" in [cause["code"] for cause in reader.explained()["causes"]]
    finally:
        for body in (binding, role, account):
            with suppress(Refused):
                api.delete(body["kind"], name)


def _may_read(reader: Follower) -> bool:
    with suppress(AssertionError):
        return bool(reader.explained()["causes"])
    return False
