"""The status of a ComputeDomain."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nvdra.api.compute_domain import NO_INDEX, NOT_READY, READY, Clique, Member
from nvdra.api.objects import Meta
from nvdra.domains.status import members_of_cliques, nodes, verdict
from tests.unit.domains.pods import CLIQUE, UID, pod

A = Member("a", "10.0.0.1", CLIQUE, 0, READY)
B = Member("b", "10.0.0.2", CLIQUE, 1, NOT_READY)


@pytest.mark.parametrize(
    ("num_nodes", "found", "status", "reason"),
    [
        (0, [], READY, "NoNodes"),
        (1, [], NOT_READY, "WaitingForNodes"),
        (0, [A], READY, "AllNodesReady"),
        (2, [A], NOT_READY, "WaitingForNodes"),
        (1, [A, B], NOT_READY, "NodesNotReady"),
        (1, [A, replace(B, status="")], READY, "AllNodesReady"),
    ],
)
def test_status_is_the_go_drivers_rule(num_nodes: int, found: list[Member], status: str, reason: str) -> None:
    told = verdict(num_nodes, found)
    assert (told.status, told.reason) == (status, reason)


def test_reasons_name_the_nodes_that_are_not_ready() -> None:
    many = [replace(B, node=f"n{at}") for at in range(7)]
    assert verdict(0, [A, B]).message == "1 of 2 nodes are Ready; not Ready: b"
    assert verdict(0, many).message == "0 of 7 nodes are Ready; not Ready: n0, n1, n2, n3, n4 and 2 more"


def test_host_managed_domains_are_ready() -> None:
    assert verdict(4, [], is_host_managed=True).status == READY


def test_nodes_without_fabric_follow_their_pods() -> None:
    pods = [pod("x", "10.0.0.7", clique=""), pod("y", "10.0.0.8", clique="", ready=False), pod("z", "", clique="")]
    assert nodes([B, A], pods) == (
        A,
        B,
        Member("x", "10.0.0.7", "", NO_INDEX, READY),
        Member("y", "10.0.0.8", "", NO_INDEX, NOT_READY),
    )


def test_a_node_in_two_cliques_is_listed_once_where_its_pod_is() -> None:
    other = replace(A, clique="other.1", index=4)
    cliques = [Clique(Meta(f"{UID}.{clique}"), (member,)) for clique, member in ((CLIQUE, A), ("other.1", other))]
    assert members_of_cliques(cliques, [pod("a", "10.0.0.1", clique="other.1")]) == (other,)
    assert members_of_cliques(cliques, [pod("a", "10.0.0.1")]) == (A,)
