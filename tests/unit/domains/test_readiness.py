"""When a node is ready in a domain, and what is told when it is not."""

from __future__ import annotations

import pytest

from nvdra.api.compute_domain import Clique, ComputeDomain, Member
from nvdra.api.objects import Meta
from nvdra.domains.pods import DaemonPod
from nvdra.domains.readiness import not_ready

ME = "node-a"


def member(status: str = "Ready", ip: str = "10.0.0.1", clique: str = "c", node: str = ME) -> Member:
    return Member(node, ip, clique, 0, status)


def domain(*nodes: Member) -> ComputeDomain:
    return ComputeDomain(Meta("dom", "ns"), nodes=nodes)


def clique(*daemons: Member) -> Clique:
    return Clique(Meta("u.c", "drv"), daemons)


def pod(ip: str) -> DaemonPod:
    return DaemonPod(Meta("p", "drv", "uid"), ME, ip)


@pytest.mark.parametrize(
    ("of_domain", "of_clique", "pods", "reason"),
    [
        (domain(), clique(member()), [], ""),
        (domain(), clique(member("NotReady")), [], "is not ready"),
        (domain(member()), clique(member("NotReady")), [], "is not ready"),
        (domain(), clique(member(node="b")), [pod("10.0.0.1")], "has not joined clique u.c yet (pod drv/p)"),
        (domain(), clique(member()), [pod("10.0.0.1")], ""),
        (domain(), clique(member()), [pod("10.0.0.2")], "has replaced another one"),
        (domain(member()), None, [], ""),
        (domain(member(clique="d")), None, [], "joined clique 'd'"),
        (domain(), None, [], "has not joined ns/dom yet"),
        (domain(member("")), None, [], "is not ready"),
    ],
)
def test_readiness(of_domain: ComputeDomain, of_clique: Clique | None, pods: list[DaemonPod], reason: str) -> None:
    found = not_ready(ME, of_domain, of_clique, pods, "c")
    assert (reason in found) if reason else found == ""
