"""How devices are laid out in slices: goldens, and what servers of every known version take."""

from __future__ import annotations

import json
import random
from collections import Counter
from itertools import chain
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvdra.api import gates
from nvdra.gpu import Inventory, MigProfileScan, MigScan, PciFacts, from_scan, published
from nvdra.slices import SliceSpec, layout_for, minor_version, slice_problems, stored_order, uncounted, wanted
from tests.unit.gpu import scans
from tests.unit.slices import goldens

OFF = gates.defaults()


@pytest.mark.parametrize("name", goldens.ALL)
def test_slices_of_nodes_with_mig_are_as_reviewed(name: str) -> None:
    assert goldens.ALL[name]() == json.loads((goldens.FOLDER / f"{name}.json").read_text())


@pytest.mark.parametrize(
    ("git_version", "minor"),
    [
        ("v1.34.9", 34),
        ("v1.35.0", 35),
        ("v1.35.0-vendor", 35),
        ("v1.35.0-rc.1", 35),
        ("1.36.2+k3s1", 36),
        ("v1.102.0", 102),
        ("v2.0.0", 37),
        ("", 37),
    ],
)
def test_a_server_s_version_is_its_major_and_minor(git_version: str, minor: int) -> None:
    assert minor_version(git_version) == minor


@pytest.mark.parametrize(
    ("dynamic_mig", "sets", "minor", "layout"),
    [
        (False, (), 34, "single"),
        (False, (), 37, "single"),
        (True, (), 37, "combined"),
        (True, ({},), 34, "combined"),
        (True, ({},), 35, "split"),
    ],
)
def test_the_layout_follows_gate_counters_and_version(dynamic_mig: bool, sets: Any, minor: int, layout: str) -> None:
    assert layout_for(dynamic_mig=dynamic_mig, counter_sets=sets, minor=minor) == layout


def names(specs: tuple[SliceSpec, ...]) -> list[list[str]]:
    return [[str(device["name"]) for device in spec.devices] for spec in specs]


def node(count: int, **changes: Any) -> Inventory:
    return from_scan(scans.node_scan(*(scans.h200_scan(n, **changes) for n in range(count))), {}, dynamic_mig=True)


def devices(found: Inventory, set_gates: gates.Gates = OFF) -> list[dict[str, Any]]:
    return [published(device, set_gates) for device in found.devices.values()]


def test_any_number_of_gpus_has_as_many_counter_slices_as_it_needs() -> None:
    found = node(17)
    made = wanted(devices(found), "split", counter_sets=found.counter_sets())
    assert [len(spec.shared_counters) for spec in made] == [8, 8, 1, *([0] * 17)]
    assert [len(spec.devices) for spec in made] == [0, 0, 0, *([26] * 17)]


def test_gpus_are_sorted_by_pci_bus_id_and_their_devices_by_name() -> None:
    odd = {0: "00000000:C0:00.0", 1: "00000000:0A:00.0", 2: "00000000:9F:00.0"}
    seen = scans.node_scan(*(scans.h200_scan(minor, pci_bus_id=address) for minor, address in odd.items()))
    found = from_scan(seen, {}, dynamic_mig=True)
    shuffled = devices(found)
    random.Random(1).shuffle(shuffled)
    sets = found.counter_sets()
    assert [each["name"] for each in sets] == [f"gpu-{minor}-counter-set" for minor in (1, 2, 0)]
    for layout in ("combined", "split"):
        made = [each for each in names(wanted(shuffled, layout, counter_sets=sets)) if each]
        assert [each[0] for each in made] == ["gpu-1", "gpu-2", "gpu-0"]
        assert all(each == sorted(each) for each in made)
    (single,) = names(wanted([each for each in shuffled if each["attributes"]["type"] == {"string": "gpu"}]))
    assert single == ["gpu-1", "gpu-2", "gpu-0"]


def test_each_gpu_keeps_the_order_it_is_stored_in_until_a_device_is_new() -> None:
    found = node(2)
    sets = found.counter_sets()
    before = names(wanted(devices(found), "split", counter_sets=sets))
    turned = [name for each in before for name in reversed(each)]
    kept = names(wanted(devices(found), "split", frozenset(["gpu-1"]), turned, sets))
    assert kept == [[], before[1][::-1], before[2][:0:-1]]
    turned.remove("gpu-0")
    assert names(wanted(devices(found), "split", stored_order=turned, counter_sets=sets)) == [
        [],
        before[1],
        before[2][::-1],
    ]


def test_what_is_withdrawn_is_missing_and_its_counters_stay() -> None:
    found = node(2)
    gone = frozenset(name for name in found.devices if name.startswith("gpu-1"))
    combined = wanted(devices(found), "combined", gone, counter_sets=found.counter_sets())
    assert [(len(spec.devices), len(spec.shared_counters)) for spec in combined] == [(26, 1)]
    split = wanted(devices(found), "split", gone, counter_sets=found.counter_sets())
    assert [(len(spec.devices), len(spec.shared_counters)) for spec in split] == [(0, 2), (26, 0)]


@pytest.mark.parametrize("layout", ["single", "combined", "split"])
def test_no_device_is_an_empty_slice(layout: Any) -> None:
    assert wanted((), layout) == (SliceSpec(),)


def test_without_counters_only_full_gpus_are_left_and_nothing_else_changes() -> None:
    found = node(2)
    left = uncounted(devices(found))
    assert [each["name"] for each in left] == ["gpu-0", "gpu-1"]
    assert left[0] == {k: v for k, v in devices(found)[0].items() if k != "consumesCounters"}
    plain = devices(scans.inventory(3))
    assert list(uncounted(plain)) == plain


@st.composite
def nodes(draw: st.DrawFn) -> Inventory:
    """Up to twelve GPUs: whole, divided beforehand, divided on demand, of one model or another."""
    seen = []
    for minor in range(draw(st.integers(0, 12))):
        match draw(st.sampled_from(["whole", "divided", "on demand", "never toggles"])):
            case "whole":
                seen.append(scans.gpu_scan(minor))
            case "divided":
                made = scans.instance(9, 0, 4, compute=2), scans.instance(19, 4, 1)
                seen.append(scans.h200_scan(minor, *made, virtualization_mode=2))
            case "on demand":
                seen.append(scans.h200_scan(minor))
            case _:
                seen.append(scans.h200_scan(minor, scans.instance(19, 4, 1), architecture=7))
    facts = {f"0000:{minor:02x}:06.0": PciFacts(numa_node=minor % 2, pcie_root="pci0000:00") for minor in range(12)}
    return from_scan(scans.node_scan(*seen), facts, dynamic_mig=draw(st.booleans()))


@given(nodes(), st.integers(32, 37), st.booleans(), st.randoms(use_true_random=False))
def test_every_known_server_takes_what_is_wanted_and_nothing_is_lost(
    found: Inventory, minor: int, as_list: bool, chance: random.Random
) -> None:
    # A list is an attribute's value from 1.36 on.
    set_gates = gates.parse("DRAListTypeAttributes=true") if as_list and minor >= 36 else OFF
    here, sets = devices(found, set_gates), found.counter_sets()
    withdrawn = frozenset(chance.sample(sorted(found.devices), len(found.devices) // 10))
    for dynamic_mig in (True, False) if not sets else (True,):
        layout = layout_for(dynamic_mig=dynamic_mig, counter_sets=sets, minor=minor)
        made = wanted(here, layout, withdrawn, counter_sets=sets)
        bodies = [body(spec, len(made)) for spec in made]
        assert [slice_problems(each, minor) for each in bodies] == [()] * len(made)
        assert sorted(chain.from_iterable(names(made))) == sorted(found.devices.keys() - withdrawn)
        counted = Counter(each["name"] for spec in made for each in spec.shared_counters)
        used = {each["counterSet"] for spec in made for d in spec.devices for each in d.get("consumesCounters", ())}
        assert used <= counted.keys()
        assert max(counted.values(), default=1) == 1
        stored = [{"metadata": {"name": f"{i:05x}-"}, "spec": each} for i, each in enumerate(bodies)]
        chance.shuffle(here)
        assert wanted(here, layout, withdrawn, stored_order(stored), sets) == made


def body(spec: SliceSpec, count: int) -> dict[str, Any]:
    made: dict[str, Any] = {"driver": "gpu.nvidia.com", "nodeName": "node-a"}
    made["pool"] = {"name": "node-a", "generation": 1, "resourceSliceCount": count}
    if spec.devices:
        made["devices"] = list(spec.devices)
    if spec.shared_counters:
        made["sharedCounters"] = list(spec.shared_counters)
    return made


def test_a_gpu_with_very_many_places_has_several_slices_where_64_are_the_most() -> None:
    profiles = tuple(
        MigProfileScan(index, 40 + index, 1, 7, 16, 1, 1, 0, 1, 0, 16384, tuple((n, 1) for n in range(8)))
        for index in (0, 7, 9, 10, 13, 15, 1, 8, 11)
    )
    found = node(1, mig=MigScan(profiles))
    made = wanted(devices(found), "split", counter_sets=found.counter_sets())
    assert [len(spec.devices) for spec in made] == [0, 64, 9]
    assert len(wanted(devices(found), "combined", counter_sets=found.counter_sets())) == 1
