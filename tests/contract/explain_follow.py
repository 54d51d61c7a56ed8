"""Makes a scenario real, asks `nvdra claim explain`, and does what it says would help."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.cluster.harness.api import Api, Refused, wait_until
from tests.contract.explain_scenarios import NAMESPACE, Json, Scenario, node, pod

PROGRAM = [sys.executable, "-c", "import sys; from nvdra import cli; sys.exit(cli.start('nvdra', sys.argv[1:]))"]
WANT = "want"
_TIMEOUT_S = 60


class Follower:
    """One scenario on one API server."""

    def __init__(self, api: Api, kubeconfig: Path, scenario: Scenario) -> None:
        self.api = api
        self.kubeconfig = kubeconfig
        self.scenario = scenario

    def explained(self, name: str = f"{NAMESPACE}/{WANT}") -> Json:
        """The explanation as JSON."""
        command = [*PROGRAM, "claim", "explain", "--kubeconfig", str(self.kubeconfig), "--output", "json", name]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=120, env={**os.environ, "KUBECONFIG": ""}, check=False
        )
        assert not done.stderr, done.stderr
        assert done.returncode in (0, 1), done.stdout
        answer: Json = json.loads(done.stdout)
        return answer

    @contextmanager
    def made(self) -> Iterator[None]:
        """The scenario's objects are there, holders have their devices, and the scheduler has looked at the pod."""
        with suppress(Refused):
            self.api.create({"kind": "Namespace", "metadata": {"name": NAMESPACE}})
        kept: list[Json] = []
        try:
            for body in (*(node(name) for name in self.scenario.nodes), *self.scenario.objects):
                kept.append(self.api.create(copy.deepcopy(body)))
            for on, claim in self.scenario.holders:
                self.start([claim], on)
                self.wait_allocated(claim["metadata"]["name"])
            yield
        finally:
            for kind in ("Pod", "ResourceClaim"):
                for body in self.api.items(kind, NAMESPACE):
                    self.remove(kind, body["metadata"]["name"])
            for body in reversed(kept):
                self.api.delete(body["kind"], body["metadata"]["name"])

    def start(self, claims: list[Json], on: str | None = None) -> str:
        """The name of a new pod with new claims."""
        name = str(claims[0]["metadata"]["name"])
        for claim in claims:
            self.api.create({key: copy.deepcopy(claim[key]) for key in ("kind", "metadata", "spec")})
        self.api.create(pod(name, tuple(claim["metadata"]["name"] for claim in claims), on))
        return name

    def remove(self, kind: str, name: str) -> None:
        """The pod or claim is gone, also where no controller does it: finalizers and the allocation are removed."""
        self.api.delete(kind, name, NAMESPACE, grace_s=0)
        if kind == "ResourceClaim" and (body := self.api.find(kind, name, NAMESPACE)):
            body["status"] = {}
            with suppress(Refused):
                body = self.api.update(body, "status")
                body["metadata"]["finalizers"] = []
                self.api.update(body)
        wait_until(f"the end of {kind} {name}", lambda: self.api.find(kind, name, NAMESPACE) is None, _TIMEOUT_S)

    def end(self, claims: list[Json]) -> None:
        """The pod of the claims and the claims are gone."""
        self.remove("Pod", claims[0]["metadata"]["name"])
        for claim in claims:
            self.remove("ResourceClaim", claim["metadata"]["name"])

    def start_refused(self, claims: list[Json]) -> tuple[str, str]:
        """The name of a new pod with new claims that the scheduler refuses, and what it says.

        The scheduler may still see slices of an earlier scenario and bind the pod to them; then both are made anew.
        """
        for _ in range(5):
            name = self.start(claims)
            wait_until(
                f"the scheduler to look at pod {name}", lambda name=name: bool(self._scheduled(name)), _TIMEOUT_S
            )
            if self._scheduled(name)["status"] == "False":
                return name, self.refusal(name)
            self.end(claims)
        raise AssertionError(f"the scheduler binds pod {name} each time")

    def _scheduled(self, name: str) -> Json:
        """The condition PodScheduled; empty before the scheduler has looked."""
        conditions = self.api.get("Pod", name, NAMESPACE).get("status", {}).get("conditions") or []
        return next((each for each in conditions if each["type"] == "PodScheduled"), {})

    def refusal(self, name: str, says: str = "") -> str:
        """What the scheduler says about the pod, once it says that: it may look before it sees all objects."""
        said: list[str] = []

        def looked() -> bool:
            body = self.api.get("Pod", name, NAMESPACE)
            conditions = body.get("status", {}).get("conditions") or []
            refused = [c for c in conditions if (c["type"], c["status"]) == ("PodScheduled", "False")]
            said[:] = [c.get("message", "") for c in refused if says in c.get("message", "")]
            return bool(said)

        what = f"the scheduler to say {says!r} of pod {name}"
        wait_until(what, looked, _TIMEOUT_S, lambda: self.api.get("Pod", name, NAMESPACE).get("status"))
        return said[0]

    def wait_allocated(self, name: str) -> str:
        """The node that the pod of the claim was given, once its claim is allocated."""
        wait_until(
            f"claim {name} to be allocated",
            lambda: "allocation" in self.api.get("ResourceClaim", name, NAMESPACE).get("status", {}),
            _TIMEOUT_S,
            lambda: self.api.get("Pod", name, NAMESPACE).get("status"),
        )
        wait_until(
            f"pod {name} to be bound", lambda: "nodeName" in self.api.get("Pod", name, NAMESPACE)["spec"], _TIMEOUT_S
        )
        return str(self.api.get("Pod", name, NAMESPACE)["spec"]["nodeName"])


def relaxed(claims: tuple[Json, ...], change: Json) -> list[Json]:
    """The claims with the change made that an explanation names."""
    made = copy.deepcopy(list(claims))
    claim = next((c for c in made if f"{NAMESPACE}/{c['metadata']['name']}" == change.get("claim")), None)
    requests = [request for one in made for request in one["spec"]["devices"]["requests"]]
    specs = [spec for request in requests for spec in _specs(request)]
    if change["kind"] == "tolerate":
        for spec in specs:
            spec.setdefault("tolerations", []).append(change["toleration"])
        return made
    assert claim is not None, change
    if change["kind"] == "drop-constraint":
        del claim["spec"]["devices"]["constraints"][change["index"]]
        return made
    spec = _spec(claim, change["request"])
    if change["kind"] == "drop-selector":
        del spec["selectors"][change["index"]]
    elif change["kind"] == "count":
        spec |= {"allocationMode": "ExactCount", "count": change["count"]}
    elif change["kind"] == "drop-capacity":
        del spec["capacity"]["requests"][change["capacity"]]
    else:
        raise AssertionError(change)
    return made


def _specs(request: Json) -> list[Json]:
    return [request["exactly"]] if "exactly" in request else list(request["firstAvailable"])


def _spec(claim: Json, name: str) -> Json:
    parent, _, sub = name.partition("/")
    request: Json = next(r for r in claim["spec"]["devices"]["requests"] if r["name"] == parent)
    if not sub:
        exactly: Json = request["exactly"]
        return exactly
    alternative: Json = next(s for s in request["firstAvailable"] if s["name"] == sub)
    return alternative
