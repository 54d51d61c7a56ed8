"""Which slices are wanted, and what has to be written: tables, the recorded slices, and convergence from anything."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvdra.slices import Changes, Pool, SliceSpec, changes, dropped, owned, spec_of, stored_order, wanted

RECORDINGS = sorted((Path(__file__).parents[2] / "golden" / "recordings").glob("*/slices.json"))
POOL = Pool("gpu.nvidia.com", "node-a")

Slice = dict[str, Any]


def device(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "attributes": {"uuid": {"string": name}}, "capacity": {"memory": {"value": "80Gi"}}, **more}


def devices(*names: str) -> list[dict[str, Any]]:
    return [device(name) for name in names]


def stored(
    index: int | str = 0, names: Sequence[str] = (), *, generation: int = 1, count: int = 1, age: int = 0, **spec: Any
) -> Slice:
    name = index if isinstance(index, str) else f"{index:05x}-gpu.nvidia.com-node-a-abcde"
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {
            "name": name,
            "uid": f"uid-{name}-{generation}-{age}",
            "resourceVersion": "7",
            "creationTimestamp": f"2026-01-01T00:00:{age:02}Z",
            "managedFields": [{"manager": "x"}],
        },
        "spec": {
            "driver": "gpu.nvidia.com",
            "nodeName": "node-a",
            "pool": {"name": "node-a", "generation": generation, "resourceSliceCount": count},
            "devices": devices(*names),
            **spec,
        },
    }


def specs(*names: Sequence[str]) -> tuple[SliceSpec, ...]:
    return tuple(SliceSpec(tuple(devices(*each))) for each in names)


def said(plan: Changes) -> dict[str, Any]:
    """A plan in short."""
    return {
        "generation": plan.generation,
        "update": [update.index for update in plan.updates],
        "create": [create.index for create in plan.creates],
        "surplus": [delete.name for delete in plan.surplus],
        "outdated": [delete.name for delete in plan.outdated],
    }


def plan(generation: int, **what: Any) -> dict[str, Any]:
    return {"generation": generation, "update": [], "create": [], "surplus": [], "outdated": [], **what}


NAME = "00000-gpu.nvidia.com-node-a-abcde"
NAME_1 = "00001-gpu.nvidia.com-node-a-abcde"


@pytest.mark.parametrize(
    ("want", "have", "does"),
    [
        pytest.param([["a"]], [], plan(1, create=[0]), id="first"),
        pytest.param([["a"], ["b"]], [], plan(1, create=[0, 1]), id="first, two slices"),
        pytest.param([["a"]], [stored(0, ["a"])], plan(1), id="equal"),
        pytest.param([["a"]], [stored(0, ["a"], generation=9)], plan(9), id="equal at a later generation"),
        pytest.param([["b"]], [stored(0, ["a"])], plan(1, update=[0]), id="one changed: same generation"),
        pytest.param([["b", "a"]], [stored(0, ["a", "b"])], plan(1, update=[0]), id="order counts"),
        pytest.param(
            [["a"], ["x"]],
            [stored(0, ["a"], count=2), stored(1, ["b"], count=2)],
            plan(1, update=[1]),
            id="one of two changed",
        ),
        pytest.param(
            [["x"], ["y"]],
            [stored(0, ["a"], count=2), stored(1, ["b"], count=2)],
            plan(2, update=[0, 1]),
            id="two changed: a generation",
        ),
        pytest.param([["a"], ["b"]], [stored(0, ["a"])], plan(2, update=[0], create=[1]), id="one more: all rewritten"),
        pytest.param(
            [["a"]],
            [stored(0, ["a"], count=2), stored(1, ["b"], count=2)],
            plan(1, update=[0], surplus=[NAME_1]),
            id="one less: surplus goes with the count",
        ),
        pytest.param(
            [["a"], ["b"]],
            [stored(0, ["a"], generation=3, count=2), stored(1, ["b"], generation=2, count=2)],
            plan(4, update=[0], create=[1], outdated=[NAME_1]),
            id="an older generation is outdated",
        ),
        pytest.param(
            [["a"]],
            [stored("someone-elses-name", ["b"], generation=4)],
            plan(5, create=[0], outdated=["someone-elses-name"]),
            id="a name without index, other content",
        ),
        pytest.param(
            [["a"]],
            [stored("node-a-gpu.nvidia.com-xyz12", ["a"], generation=4)],
            plan(4),
            id="an older driver's is kept",
        ),
        pytest.param(
            [["a"]],
            [stored("node-a-gpu.nvidia.com-xyz12", ["a"], count=2)],
            plan(2, create=[0], outdated=["node-a-gpu.nvidia.com-xyz12"]),
            id="an older driver's incomplete pool is not",
        ),
        pytest.param(
            [["a"]],
            [stored(NAME_1, ["a"], generation=4)],
            plan(5, create=[0], outdated=[NAME_1]),
            id="an index beyond the count",
        ),
        pytest.param(
            [["a"]],
            [stored("000000-gpu.nvidia.com-node-a-abcde", ["a"], generation=4)],
            plan(5, create=[0], outdated=["000000-gpu.nvidia.com-node-a-abcde"]),
            id="an index of another width",
        ),
        pytest.param(
            [["a"]],
            [stored(0, ["a"], age=5), stored("00000-gpu.nvidia.com-node-a-older", ["a"], age=1)],
            plan(1, surplus=[NAME]),
            id="an index taken twice: the older stays",
        ),
        pytest.param([["a"]], [stored(0, ["a"], count=3)], plan(1, update=[0]), id="a wrong count"),
        pytest.param([["a"]], [stored(0, ["a"], allNodes=True)], plan(1, update=[0]), id="a foreign target"),
        pytest.param([["a"]], [stored(0, ["a"], allNodes=False)], plan(1), id="no target is no target"),
        pytest.param(
            [["a"]],
            [stored(0, ["a"], sharedCounters=[{"name": "c", "counters": {"m": {"value": "1"}}}])],
            plan(1, update=[0]),
            id="foreign counters",
        ),
        pytest.param(
            [["a"]],
            [
                stored(0, ["a"]),
                stored(
                    "00000-gpu.nvidia.com-b-abcde",
                    ["b"],
                    pool={"name": "b", "generation": 8, "resourceSliceCount": 1},
                ),
            ],
            plan(1, outdated=["00000-gpu.nvidia.com-b-abcde"]),
            id="a pool nobody wants",
        ),
    ],
)
def test_what_is_written(want: list[list[str]], have: list[Slice], does: dict[str, Any]) -> None:
    made = changes(specs(*want), have, POOL)
    assert said(made) == does
    assert made.is_empty is (does == plan(does["generation"]))


def test_a_put_carries_the_whole_object_and_the_new_place() -> None:
    have = stored(0, ["a"], generation=3, unknown={"field": 1})
    have["metadata"]["labels"] = {"somebody": "else"}
    (update,) = changes(specs(["b"]), [have], POOL).updates
    assert update.name == NAME
    assert update.body["metadata"] == {k: v for k, v in have["metadata"].items() if k != "managedFields"}
    assert update.body["spec"] == {
        "driver": "gpu.nvidia.com",
        "nodeName": "node-a",
        "unknown": {"field": 1},
        "pool": {"name": "node-a", "generation": 3, "resourceSliceCount": 1},
        "devices": devices("b"),
    }


def test_a_post_names_owner_index_and_node() -> None:
    made = changes(specs(*([f"d{n}"] for n in range(17))), [], POOL)
    assert made.creates[16].body["metadata"] == {"generateName": "00010-gpu.nvidia.com-node-a-"}
    assert owned(made.creates[0], POOL, "node-uid") == {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {
            "generateName": "00000-gpu.nvidia.com-node-a-",
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Node", "name": "node-a", "uid": "node-uid", "controller": True}
            ],
        },
        "spec": {
            "driver": "gpu.nvidia.com",
            "nodeName": "node-a",
            "pool": {"name": "node-a", "generation": 1, "resourceSliceCount": 17},
            "devices": devices("d0"),
        },
    }


def test_a_delete_has_both_preconditions() -> None:
    (delete,) = changes(specs(["a"]), [stored(0, ["a"]), stored("x", ["b"])], POOL).surplus
    assert (delete.name, delete.uid, delete.resource_version) == ("x", "uid-x-1-0", "7")


TAINT = {"key": "gpu.nvidia.com/xid", "value": "48", "effect": "NoSchedule"}


@pytest.mark.parametrize(
    ("one", "other", "is_like"),
    [
        ({"capacity": {"memory": {"value": "1Gi"}}}, {"capacity": {"memory": {"value": "1024Mi"}}}, True),
        ({"capacity": {"memory": {"value": "1Gi"}}}, {"capacity": {"memory": {"value": "1G"}}}, False),
        ({"capacity": {}}, {}, True),
        ({"taints": None, "attributes": {}}, {"consumesCounters": []}, True),
        ({"attributes": {"a": {"string": "1Gi"}}}, {"attributes": {"a": {"string": "1024Mi"}}}, False),
        ({"attributes": {"a": {"bool": False}}}, {"attributes": {}}, False),
        ({"attributes": {"a": {"string": ""}}}, {"attributes": {}}, False),
        ({"attributes": {"a": {"int": 0}}}, {"attributes": {"a": {"int": 0}}}, True),
        (
            {"consumesCounters": [{"counterSet": "s", "counters": {"m": {"value": "2048"}}}]},
            {"consumesCounters": [{"counterSet": "s", "counters": {"m": {"value": "2Ki"}}}]},
            True,
        ),
        (
            {"capacity": {"m": {"value": "8", "requestPolicy": {"default": "1", "validValues": ["1", "2000m"]}}}},
            {"capacity": {"m": {"value": "8", "requestPolicy": {"default": "1", "validValues": ["1", "2"]}}}},
            True,
        ),
        ({"taints": [TAINT]}, {"taints": [{**TAINT, "timeAdded": "2026-01-01T00:00:00Z"}]}, True),
        (
            {"taints": [{**TAINT, "timeAdded": "2026-01-01T00:00:01Z"}]},
            {"taints": [{**TAINT, "timeAdded": "2026-01-01T00:00:00Z"}]},
            True,
        ),
        (
            {"taints": [{**TAINT, "timeAdded": "2026-01-01T00:00:05Z"}]},
            {"taints": [{**TAINT, "timeAdded": "2026-01-01T00:00:00Z"}]},
            False,
        ),
        ({"taints": [TAINT]}, {"taints": [{**TAINT, "effect": "NoExecute"}]}, False),
        ({"taints": [TAINT]}, {}, False),
    ],
)
def test_what_means_the_same(one: dict[str, Any], other: dict[str, Any], is_like: bool) -> None:
    ours, theirs = SliceSpec(({"name": "a", **one},)), SliceSpec(({"name": "a", **other},))
    assert ours.is_like(theirs) is is_like
    assert theirs.is_like(ours) is is_like


def test_a_taint_that_stays_keeps_its_moment() -> None:
    dated = {**TAINT, "timeAdded": "2026-01-01T00:00:00Z"}
    have = stored(0, devices=[device("a", taints=[dated])])
    more = {"key": "gpu.nvidia.com/gpu-lost", "effect": "NoSchedule"}
    (update,) = changes([SliceSpec((device("a", taints=[TAINT, more]),))], [have], POOL).updates
    assert update.body["spec"]["devices"][0]["taints"] == [dated, more]


def test_what_a_server_drops_is_not_asked_for_again_until_something_changes() -> None:
    want = SliceSpec((device("a", taints=[TAINT]),))
    answer = stored(0, ["a"])
    lost = dropped(want, answer)
    assert lost is not None
    assert lost.gates == ("DRADeviceTaints",)
    assert changes([want], [answer], POOL, {0: lost}).is_empty
    assert not changes([want], [answer], POOL).is_empty
    assert not changes([want], [stored(0, ["b"])], POOL, {0: lost}).is_empty
    assert not changes([SliceSpec((device("a", taints=[TAINT, TAINT]),))], [answer], POOL, {0: lost}).is_empty
    assert dropped(SliceSpec((device("a"),)), answer) is None


@pytest.mark.parametrize(
    ("sent", "kept", "gates"),
    [
        (device("a", consumesCounters=[{"counterSet": "s"}]), device("a"), ("DRAPartitionableDevices",)),
        (device("a", bindingConditions=["x"]), device("a"), ("DRADeviceBindingConditions",)),
        (device("a", allowMultipleAllocations=True), device("a"), ("DRAConsumableCapacity",)),
        (device("a", other=1), device("a"), ("unknown",)),
    ],
)
def test_the_gate_behind_a_loss_is_guessed(sent: Any, kept: Any, gates: tuple[str, ...]) -> None:
    lost = dropped(SliceSpec((sent,)), stored(0, devices=[kept]))
    assert lost is not None
    assert lost.gates == gates


def test_devices_keep_their_order_unless_their_set_changed() -> None:
    def names(made: tuple[SliceSpec, ...]) -> list[list[str]]:
        return [[str(each["name"]) for each in spec.devices] for spec in made]

    here = devices("a", "b", "c")
    assert names(wanted(here)) == [["a", "b", "c"]]
    assert names(wanted(here, stored_order=("c", "a", "b"))) == [["c", "a", "b"]]
    assert names(wanted(here, stored_order=("c", "a"))) == [["a", "b", "c"]]
    assert names(wanted(here, stored_order=("c", "a", "x"))) == [["a", "b", "c"]]
    assert names(wanted(here, withdrawn=frozenset(["b"]), stored_order=("c", "a"))) == [["c", "a"]]
    assert names(wanted([])) == [[]]


@pytest.mark.parametrize(("count", "sizes"), [(0, [0]), (128, [128]), (129, [128, 1]), (300, [128, 128, 44])])
def test_a_slice_holds_128_devices(count: int, sizes: list[int]) -> None:
    made = wanted(devices(*(f"gpu-{n}" for n in range(count))))
    assert [len(spec.devices) for spec in made] == sizes


def test_a_slice_holds_64_devices_once_one_is_tainted() -> None:
    here = [*devices(*(f"gpu-{n}" for n in range(99))), device("x", taints=[TAINT])]
    assert [len(spec.devices) for spec in wanted(here)] == [64, 36]


def test_the_stored_order_is_that_of_the_newest_generation_and_of_names() -> None:
    have = [stored(1, ["c"], generation=2), stored(0, ["b", "a"], generation=2), stored("x", ["z"], generation=1)]
    assert stored_order(have) == ("b", "a", "c")
    assert stored_order([]) == ()


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.parent.name)
def test_recorded_slices_are_what_we_want_and_nothing_is_written(path: Path) -> None:
    recorded = json.loads(path.read_text())
    (one,) = recorded
    here = sorted(one["spec"]["devices"], key=lambda each: str(each["name"]))
    made = wanted(here, stored_order=stored_order(recorded))
    assert [list(spec.devices) for spec in made] == [one["spec"]["devices"]]
    assert changes(made, recorded, POOL).is_empty
    (create,) = changes(made, [], POOL).creates
    owner = one["metadata"]["ownerReferences"]
    body = owned(create, POOL, owner[0]["uid"])
    assert body["spec"] == one["spec"]
    assert body["metadata"] == {"generateName": one["metadata"]["generateName"], "ownerReferences": owner}
    (update,) = changes(wanted(here[1:]), recorded, POOL).updates
    assert update.body["spec"]["pool"] == one["spec"]["pool"]


def carried_out(have: list[Slice], made: Changes) -> list[Slice]:
    """What the API server holds after these writes."""
    gone = {delete.uid for delete in (*made.surplus, *made.outdated)}
    puts = {update.body["metadata"]["uid"]: update.body for update in made.updates}
    after = [
        copy.deepcopy(dict(puts.get(each["metadata"]["uid"], each)))
        for each in have
        if each["metadata"]["uid"] not in gone
    ]
    for create in made.creates:
        body = copy.deepcopy(dict(create.body))
        prefix = body["metadata"].pop("generateName")
        body["metadata"] |= {"name": f"{prefix}new", "uid": f"new-{create.index}", "resourceVersion": "9"}
        after.append(body)
    return after


NAMES = st.lists(st.sampled_from("abcdef"), unique=True, max_size=4)
STORED = st.lists(
    st.builds(
        stored,
        st.sampled_from([0, 1, 2, "node-a-gpu.nvidia.com-xyz12", "00000-gpu.nvidia.com-node-a-twice"]),
        NAMES,
        generation=st.integers(0, 4),
        count=st.integers(1, 3),
        age=st.integers(0, 9),
    ),
    max_size=5,
    unique_by=lambda each: each["metadata"]["name"],
)


@given(st.lists(NAMES, min_size=1, max_size=3), STORED)
def test_from_anything_one_round_of_writes_leads_to_what_is_wanted(want: list[list[str]], have: list[Slice]) -> None:
    made = changes(specs(*want), have, POOL)
    after = carried_out(have, made)
    newest = max((each["spec"]["pool"]["generation"] for each in have), default=0)
    assert {each["spec"]["pool"]["generation"] for each in after} == {made.generation}
    assert made.generation >= newest
    assert {each["spec"]["pool"]["resourceSliceCount"] for each in after} == {len(want)} == {len(after)}
    assert sorted([spec_of(each) for each in after], key=str) == sorted(specs(*want), key=str)
    assert changes(specs(*want), after, POOL).is_empty


@given(st.lists(NAMES, min_size=1, max_size=3), st.lists(NAMES, min_size=1, max_size=3))
def test_a_generation_starts_only_where_one_put_is_not_enough(before: list[list[str]], want: list[list[str]]) -> None:
    have = carried_out([], changes(specs(*before), [], POOL))
    made = changes(specs(*want), have, POOL)
    if made.generation == 1:
        assert len(made.updates) <= 1
        assert not made.creates
    else:
        assert len(made.updates) + len(made.creates) == len(want)
    assert {delete.uid for delete in (*made.surplus, *made.outdated)} == {
        each["metadata"]["uid"] for each in have[len(want) :]
    }
