"""Who is a member of a clique, with which index."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvdra.api.compute_domain import NOT_READY, READY, Member
from nvdra.domains.membership import CliqueFull, join, leave, settle, with_status
from nvdra.domains.pods import DaemonPod
from tests.unit.domains.pods import CLIQUE, pod

A, B, C = (Member(name, f"10.0.0.{at + 1}", CLIQUE, at, READY) for at, name in enumerate(("a", "b", "c")))


def test_pods_join_with_the_lowest_free_index_the_oldest_first() -> None:
    settled = settle([B], [pod("b", "10.0.0.2"), pod("x", "10.0.0.9", age=2), pod("y", "10.0.0.8", age=1)], CLIQUE, 18)
    assert [(each.node, each.index) for each in settled.members] == [("b", 1), ("y", 0), ("x", 2)]
    assert not settled.doubted


@pytest.mark.parametrize(
    ("about", "member"),
    [
        ({"ready": True}, A),
        ({"ready": False}, replace(A, status=NOT_READY)),
        ({"leaving": True, "ready": False}, replace(A, status=NOT_READY)),
        ({"clique": None, "ready": False}, replace(A, status=NOT_READY)),
        ({"clique": "another.1"}, None),
        ({"phase": "Failed"}, None),
    ],
)
def test_an_entry_follows_the_pod_with_its_address(about: dict[str, object], member: Member | None) -> None:
    settled = settle([A], [pod("a", "10.0.0.1", **about)], CLIQUE, 18)
    assert settled.members == (() if member is None else (member,))


def test_a_replaced_pod_keeps_the_index_and_is_never_ready_in_the_place_of_the_old_one() -> None:
    young = pod("a", "10.0.0.50", ready=False)
    settled = settle([A, B], [young, pod("b", "10.0.0.2")], CLIQUE, 18)
    assert settled.members == (replace(A, ip="10.0.0.50", status=NOT_READY), B)
    assert settled.doubted == {"a"}
    unlabelled = pod("a", "10.0.0.50", clique=None, ready=False)
    assert settle([A], [unlabelled], CLIQUE, 18).members == (replace(A, status=NOT_READY),)


def test_an_entry_without_pod_is_spared_not_ready_and_then_dropped() -> None:
    spared = settle([A, B], [pod("b", "10.0.0.2")], CLIQUE, 18, spared={"a"})
    assert spared.members == (replace(A, status=NOT_READY), B)
    assert (spared.missing, spared.doubted) == ({"a"}, frozenset())
    dropped = settle([A, B], [pod("b", "10.0.0.2")], CLIQUE, 18)
    assert (dropped.members, dropped.doubted) == ((B,), {"a"})


def test_a_pod_that_stays_owns_the_node_before_one_that_leaves() -> None:
    pods = [pod("a", "10.0.0.60", age=1), pod("a", "10.0.0.1", leaving=True, age=9)]
    assert settle([A], pods, CLIQUE, 18).members == (replace(A, ip="10.0.0.60"),)


def test_a_leaving_pod_is_not_inserted_again() -> None:
    assert settle([], [pod("a", "10.0.0.1", leaving=True)], CLIQUE, 18).members == ()


def test_of_two_entries_with_one_index_the_ready_one_keeps_it() -> None:
    twice = [replace(A, status=NOT_READY), replace(B, index=0)]
    pods = [pod("a", "10.0.0.1", ready=False), pod("b", "10.0.0.2")]
    assert [(each.node, each.index) for each in settle(twice, pods, CLIQUE, 18).members] == [("a", 1), ("b", 0)]


def test_nodes_without_a_free_index_are_named() -> None:
    settled = settle([A, B], [pod(name, f"10.0.0.{at}") for at, name in enumerate("abcd", 1)], CLIQUE, 3)
    assert [each.node for each in settled.members] == ["a", "b", "c"]
    assert settled.left_out == ("d",)


def test_members_of_a_deleted_clique_get_their_indices_again() -> None:
    pods = [pod("z", "10.0.0.30", age=0), pod("a", "10.0.0.1", age=1), pod("c", "10.0.0.3", age=2)]
    settled = settle([], pods, CLIQUE, 18, before=[A, B, C])
    assert {each.node: each.index for each in settled.members} == {"a": 0, "c": 2, "z": 1}


def test_a_daemon_inserts_itself_once_and_takes_its_nodes_entry() -> None:
    assert join([A, C], "b", "10.0.0.2", CLIQUE, 18)[-1] == replace(B, status=NOT_READY)
    assert join([A, B], "a", "10.0.0.1", CLIQUE, 18) == (A, B)
    assert join([A, B], "a", "10.0.0.9", CLIQUE, 18) == (replace(A, ip="10.0.0.9", status=NOT_READY), B)
    moved = join([replace(A, clique="other.1"), replace(B, index=0)], "a", "10.0.0.1", CLIQUE, 18)
    assert [(each.node, each.index, each.clique) for each in moved] == [("b", 0, CLIQUE), ("a", 1, CLIQUE)]
    with pytest.raises(CliqueFull, match=r"no available indices within maxNodesPerIMEXDomain \(1\)"):
        join([A], "b", "10.0.0.2", CLIQUE, 1)


def test_a_daemon_changes_its_own_entry_alone() -> None:
    assert leave([A, B], "a", "10.0.0.1") == (B,)
    assert leave([A, B], "a", "10.0.0.9") == (A, B)
    assert with_status([A, B], "a", "10.0.0.1", False) == (replace(A, status=NOT_READY), B)
    assert with_status([A, B], "a", "10.0.0.9", False) == (A, B)


NODES = st.sampled_from("abcde")
ADDRESSES = st.sampled_from([f"10.0.0.{at}" for at in range(8)])
PODS = st.builds(
    pod,
    NODES,
    ADDRESSES,
    clique=st.sampled_from([CLIQUE, None, "", "other.1"]),
    ready=st.booleans(),
    leaving=st.booleans(),
    age=st.integers(0, 5),
)
MEMBERS = st.lists(
    st.builds(Member, NODES, ADDRESSES, st.just(CLIQUE), st.integers(0, 6), st.sampled_from([READY, NOT_READY, ""])),
    max_size=6,
    unique_by=lambda member: member.node,
)


@given(MEMBERS, st.lists(PODS, max_size=7), st.integers(1, 7), st.sets(NODES))
def test_whatever_happens_the_rules_of_membership_hold(
    members: list[Member], pods: list[DaemonPod], limit: int, spared: set[str]
) -> None:
    settled = settle(members, pods, CLIQUE, limit, spared=spared)
    indices = [member.index for member in settled.members]
    assert len(set(indices)) == len(indices)
    assert len({member.node for member in settled.members}) == len(indices)
    unique = {member.index for member in members}
    for member in settled.members:
        old = next((each for each in members if each.node == member.node), None)
        if old is not None and len(unique) == len(members):
            assert member.index == old.index
        if member.status == READY:
            assert any((each.node, each.ip) == (member.node, member.ip) and each.is_ready for each in pods)
    again = settle(settled.members, pods, CLIQUE, limit, spared=spared)
    assert again.members == settled.members
