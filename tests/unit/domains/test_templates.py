"""The objects of a domain, against those that the Go driver's controller made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nvdra.api import gates
from nvdra.api.compute_domain import (
    ASSIGNED_ANNOTATION,
    Clique,
    Member,
    clique,
    clique_wire,
    compute_domain,
    daemon_wire,
    node_wire,
)
from nvdra.domains.status import nodes, verdict
from nvdra.domains.templates import (
    DaemonSettings,
    daemon_claim_template,
    daemon_environment,
    daemon_set,
    gates_text,
    workload_claim_template,
)
from tests.unit.domains.pods import pod

GOLDEN = Path(__file__).parents[2] / "golden/compute_domain"
SETTINGS = DaemonSettings(
    "nvidia-dra",
    "registry.example/driver:v0.4.1",
    gates.defaults().values,
    log_verbosity=4,
    pull_secrets=("secret-a", "secret-b"),
)


def golden(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text())
    return found


def differences(made: Any, there: Any, path: str = "") -> list[str]:
    """Where what was sent is not what the API server has; fields that it added are no difference."""
    if isinstance(made, dict) and isinstance(there, dict):
        return [each for key in made for each in differences(made[key], there.get(key), f"{path}.{key}")]
    if isinstance(made, list) and isinstance(there, list) and len(made) == len(there):
        pairs = enumerate(zip(made, there, strict=True))
        return [each for at, (a, b) in pairs for each in differences(a, b, f"{path}[{at}]")]
    return [] if made == there else [f"{path}: {made!r}, there {there!r}"]


def test_the_daemon_set_is_the_go_drivers_but_for_one_annotation_and_newer_gates() -> None:
    there = golden("daemon-set")
    made = daemon_set(compute_domain(golden("domain")).meta.uid, SETTINGS)
    annotations = made["spec"]["template"]["metadata"].pop("annotations")
    assert list(annotations) == [ASSIGNED_ANNOTATION]
    ours, theirs = daemon_environment(made), daemon_environment(there)
    assert set(theirs["FEATURE_GATES"].split(",")) < set(ours["FEATURE_GATES"].split(","))
    made["spec"]["template"]["spec"]["containers"][0]["env"][-1]["value"] = theirs["FEATURE_GATES"]
    assert differences(made, there) == []
    assert {key: value for key, value in ours.items() if key != "FEATURE_GATES"} == {
        key: value for key, value in theirs.items() if key != "FEATURE_GATES"
    }


def test_claim_templates_are_the_go_drivers() -> None:
    domain = compute_domain(golden("domain"))
    daemon = daemon_claim_template(domain.meta.uid, "nvidia-dra")
    assert differences(daemon, golden("daemon-template")) == []
    assert differences(workload_claim_template(domain), golden("workload-template")) == []
    parameters = workload_claim_template(domain, is_host_managed=True)["spec"]["spec"]["devices"]["config"][0]
    assert parameters["opaque"]["parameters"]["allocationMode"] == "Single"


def test_objects_of_the_go_driver_are_read_and_written_as_they_are() -> None:
    domain, there = compute_domain(golden("domain-with-nodes")), golden("clique")
    assert [node_wire(each) for each in domain.nodes] == golden("domain-with-nodes")["status"]["nodes"]
    read = clique(there)
    assert [daemon_wire(each) for each in read.daemons] == there["daemons"]
    assert (read.domain, read.id) == (domain.meta.uid, domain.nodes[0].clique)
    made = clique_wire(read.domain, read.id, read.daemons, read.owners)
    assert differences(made, there) == []


def test_the_status_of_the_go_drivers_domain_is_ours() -> None:
    domain, members = compute_domain(golden("domain-with-nodes")), clique(golden("clique")).daemons
    found = nodes(members, [pod("node-c", "10.1.0.3", clique="")])
    assert found == domain.nodes
    assert verdict(domain.num_nodes, found).status == domain.status == "NotReady"


def test_gates_have_the_go_drivers_order_and_its_trailing_comma() -> None:
    assert gates_text({"B": True, "A": False}) == "A=false,B=true,"


@pytest.mark.parametrize("body", [{}, {"metadata": None, "spec": 1, "status": []}, {"status": {"nodes": [None, {}]}}])
def test_odd_objects_are_read_without_an_error(body: dict[str, Any]) -> None:
    assert not compute_domain(body).has_spec
    assert clique(body) == Clique(clique(body).meta)


def test_an_entry_of_an_old_writer_keeps_no_status() -> None:
    assert "status" not in daemon_wire(Member("a", "10.0.0.1", "c.1", 0, ""))
