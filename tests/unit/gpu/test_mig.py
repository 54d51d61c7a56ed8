"""Partitions: what is announced of a GPU that can be partitioned, or is."""

from __future__ import annotations

from typing import Any

import pytest

from nvdra.api import gates, quantity
from nvdra.gpu import (
    ComputeInstanceScan,
    Gpu,
    GpuInstanceScan,
    Inventory,
    MigDevice,
    MigProfileScan,
    MigScan,
    MigSpec,
    NotPublished,
    Partitions,
    from_scan,
    overlapping,
    published,
)
from tests.unit.gpu import scans

OFF = gates.defaults()
H200, NODE, INSTANCE = scans.h200_scan, scans.node_scan, scans.instance

# name: profile, SM, CE, dec, enc, jpg, ofa, memory, first memory slice, memory slices
MEASURED = {
    **{f"gpu-0-mig-1g18gb-19-{at}": ("1g.18gb", 16, 1, 1, 0, 1, 0, "16Gi", at, 1) for at in range(7)},
    **{f"gpu-0-mig-1g18gb-me-20-{at}": ("1g.18gb+me", 16, 1, 1, 0, 1, 1, "16Gi", at, 1) for at in range(7)},
    **{f"gpu-0-mig-1g35gb-15-{at}": ("1g.35gb", 26, 1, 1, 0, 1, 0, "33280Mi", at, 2) for at in (0, 2, 4, 6)},
    **{f"gpu-0-mig-2g35gb-14-{at}": ("2g.35gb", 32, 2, 2, 0, 2, 0, "33280Mi", at, 2) for at in (0, 2, 4)},
    **{f"gpu-0-mig-3g71gb-9-{at}": ("3g.71gb", 60, 3, 3, 0, 3, 0, "71424Mi", at, 4) for at in (0, 4)},
    "gpu-0-mig-4g71gb-5-0": ("4g.71gb", 64, 4, 4, 0, 4, 0, "71424Mi", 0, 4),
    "gpu-0-mig-7g141gb-0-0": ("7g.141gb", 132, 8, 7, 0, 7, 1, "140Gi", 0, 8),
}
CAPACITIES = ("multiprocessors", "copyEngines", "decoders", "encoders", "jpegEngines", "ofaEngines", "memory")
COUNTERS = ("multiprocessors", "copy-engines", "decoders", "encoders", "jpeg-engines", "ofa-engines", "memory")

# What the Go driver's own tests look for, less what this made-up node does not know (pcieRoot).
OF_EVERY = {
    "architecture",
    "brand",
    "cudaComputeCapability",
    "cudaDriverVersion",
    "driverVersion",
    "productName",
    "resource.kubernetes.io/pciBusID",
    "type",
    "addressingMode",
}


def values(names: tuple[str, ...], amounts: tuple[Any, ...]) -> dict[str, dict[str, str]]:
    return {name: {"value": str(amount)} for name, amount in zip(names, amounts, strict=True)}


def slices(start: int, size: int) -> dict[str, dict[str, str]]:
    return {f"memory-slice-{i}": {"value": "1"} for i in range(start, start + size)}


def dynamic(*gpus: Any, **how: Any) -> Inventory:
    return from_scan(NODE(*gpus), {}, dynamic_mig=True, **how)


def kinds(found: Inventory) -> list[str]:
    return sorted({type(device).__name__ for device in found.devices.values()})


class TestPartitionedOnDemand:
    def test_a_measured_h200_announces_itself_and_the_25_partitions_it_can_have(self) -> None:
        found = dynamic(H200())
        assert found.devices.keys() == {"gpu-0", *MEASURED}
        assert len(found.devices) == 26
        for name, (profile, *amounts, start, size) in MEASURED.items():
            made = published(found.devices[name], OFF)
            assert made["attributes"].keys() == OF_EVERY | {"parentUUID", "profile"}
            assert made["attributes"]["type"] == {"string": "mig"}
            assert made["attributes"]["profile"] == {"string": profile}
            assert made["attributes"]["parentUUID"] == {"string": H200().uuid}
            assert made["capacity"] == values(CAPACITIES, tuple(amounts))
            assert made["consumesCounters"] == [
                {
                    "counterSet": "gpu-0-counter-set",
                    "counters": values(COUNTERS, tuple(amounts)) | slices(start, size),
                }
            ]

    def test_counters_are_the_maxima_of_the_profiles_and_the_full_gpu_uses_all(self) -> None:
        found = dynamic(H200())
        whole = (132, 8, 7, 0, 7, 1, "140Gi")
        counters = values(COUNTERS, whole) | slices(0, 8)
        assert found.counter_sets() == ({"name": "gpu-0-counter-set", "counters": counters},)
        made = published(found.devices["gpu-0"], OFF)
        assert made["attributes"].keys() == OF_EVERY | {"uuid"}
        assert made["capacity"] == values(CAPACITIES, whole)
        assert made["consumesCounters"] == [{"counterSet": "gpu-0-counter-set", "counters": counters}]

    def test_gpus_of_a_model_share_what_they_are_divided_by(self) -> None:
        gpus = dynamic(*(H200(minor) for minor in range(8))).gpus
        assert len({id(gpu.partitioning) for gpu in gpus.values()}) == 1
        assert len(dynamic(*(H200(minor) for minor in range(8))).devices) == 208

    @pytest.mark.parametrize(
        ("changes", "how", "offered"),
        [
            pytest.param({}, {}, ["Gpu", "MigSpec"], id="off, and can be turned on"),
            pytest.param({"mig_mode": (1, 1)}, {}, ["Gpu", "MigSpec"], id="on, and can be turned off"),
            pytest.param({"mig_mode": (1, 1)}, {"never_toggles": True}, ["MigSpec"], id="on for good"),
            pytest.param({"mig_mode": (1, 1), "architecture": 7}, {}, ["MigSpec"], id="an A100 with MIG on"),
            pytest.param({"architecture": 7}, {}, ["Gpu"], id="an A100 with MIG off"),
            pytest.param({"architecture": 0xFFFFFFFF}, {}, ["Gpu"], id="an architecture nobody knows"),
            pytest.param({"mig_mode": None}, {}, ["Gpu"], id="no MIG"),
            pytest.param({"virtualization_mode": 2}, {}, ["Gpu"], id="a virtual GPU"),
            pytest.param({"virtualization_mode": None}, {}, ["Gpu", "MigSpec"], id="untold virtualization"),
            pytest.param({"mig": MigScan()}, {}, ["Gpu"], id="no profile told"),
            pytest.param({"memory_bytes": None}, {}, ["Gpu"], id="memory unknown: profiles have no names"),
        ],
    )
    def test_what_a_gpu_is_offered_as(self, changes: Any, how: Any, offered: list[str]) -> None:
        found = dynamic(H200(0, **changes), **how)
        assert kinds(found) == offered
        assert bool(found.counter_sets()) is ("MigSpec" in offered)
        assert not found.not_published

    def test_a_virtual_gpu_offers_the_partitions_it_has(self) -> None:
        found = dynamic(H200(0, INSTANCE(19, 3, 1), virtualization_mode=2))
        assert list(found.devices) == ["gpu-0-mig-1g18gb-19-3"]
        assert found.counter_sets() == ()

    def test_live_partitions_change_nothing_of_what_is_announced(self) -> None:
        assert dynamic(H200(0, INSTANCE(19, 3, 1))).devices.keys() == dynamic(H200()).devices.keys()

    def test_of_two_compute_profiles_that_span_a_gpu_the_plain_one_is_made_first(self) -> None:
        found = dynamic(H200(0, INSTANCE(19, 3, 1)))
        preferred = {device.profile.text: device.profile.compute_profiles for device in specs(found)}
        assert preferred["7g.141gb"] == (4, 8)
        assert preferred["1g.18gb"] == (0,)
        assert preferred["3g.71gb"] == (2,)

    def test_without_the_gate_an_h200_is_a_gpu(self) -> None:
        found = from_scan(NODE(H200()), {})
        assert list(found.devices) == ["gpu-0"]
        assert published(found.devices["gpu-0"], OFF)["capacity"] == {"memory": {"value": "143771Mi"}}
        assert found.counter_sets() == ()


def specs(found: Inventory) -> list[MigSpec]:
    return [device for device in found.devices.values() if isinstance(device, MigSpec)]


class TestPartitionedBeforehand:
    def test_its_partitions_are_offered_in_its_place(self) -> None:
        found = from_scan(NODE(H200(0, INSTANCE(9, 0, 4, compute=2), INSTANCE(19, 4, 1)), H200(1)), {})
        assert list(found.devices) == ["gpu-0-mig-3g71gb-9-0", "gpu-0-mig-1g18gb-19-4", "gpu-1"]
        assert not found.not_published
        assert found.gpus.keys() == {"0000:00:06.0", "0000:01:06.0"}
        device = found.devices["gpu-0-mig-3g71gb-9-0"]
        assert isinstance(device, MigDevice)
        assert (device.gi_id, device.ci_id, device.uuid) == (1, 0, "MIG-9-0")
        made = published(device, OFF)
        assert made["attributes"].keys() == OF_EVERY | {"uuid", "parentUUID", "profile"}
        assert made["attributes"]["uuid"] == {"string": "MIG-9-0"}
        memory_slices = {f"memorySlice{i}": {"value": "1"} for i in range(4)}
        assert made["capacity"] == values(CAPACITIES, (60, 3, 3, 0, 3, 0, "71424Mi")) | memory_slices
        assert list(made["capacity"]) == sorted(made["capacity"])
        assert "consumesCounters" not in made

    def test_how_a_gpu_is_partitioned_is_known_whoever_did_it(self) -> None:
        half_made = INSTANCE(19, 4, 1, compute=None)
        found = from_scan(NODE(H200(0, half_made), H200(1), H200(2, mig_mode=None)), {})
        assert found.partitions == {
            "0000:00:06.0": Partitions(True, (half_made,)),
            "0000:01:06.0": Partitions(False, ()),
        }

    def test_a_gpu_instance_without_compute_instance_is_no_device(self) -> None:
        found = from_scan(NODE(H200(0, INSTANCE(19, 4, 1, compute=None), INSTANCE(19, 5, 1))), {})
        assert list(found.devices) == ["gpu-0-mig-1g18gb-19-5"]
        assert not found.not_published

    def test_one_slice_is_whole_whichever_compute_profile_it_has(self) -> None:
        found = from_scan(NODE(H200(0, INSTANCE(19, 4, 1, compute=7))), {})
        assert list(found.devices) == ["gpu-0-mig-1g18gb-19-4"]

    def test_how_many_memory_slices_a_gpu_has_is_told_by_its_profiles(self) -> None:
        found = from_scan(NODE(H200(0, INSTANCE(19, 4, 1)), H200(1, mig=MigScan())), {})
        assert found.memory_slices == {"0000:00:06.0": 8}

    def test_with_nothing_made_the_reason_says_what_to_do(self) -> None:
        found = from_scan(NODE(H200(0, INSTANCE(19, 4, 1, compute=None)), H200(1)), {})
        assert list(found.devices) == ["gpu-1"]
        assert found.not_published == (
            NotPublished(
                "gpu-0",
                "MIG mode is on and there is no MIG device: make some (nvidia-smi mig -cgi), "
                "or turn it off (nvidia-smi -mig 0)",
            ),
        )

    def test_without_spanning_profiles_told_a_lone_compute_instance_counts_as_one(self) -> None:
        seen = H200(
            0, INSTANCE(9, 4, 4, compute=2), mig=MigScan(scans.h200_profiles(), (INSTANCE(9, 4, 4, compute=2),))
        )
        assert list(from_scan(NODE(seen), {}).devices) == ["gpu-0-mig-3g71gb-9-4"]

    @pytest.mark.parametrize(
        ("odd", "reason"),
        [
            (INSTANCE(77, 0, 2), "the driver does not describe GPU instance profile 77"),
            (INSTANCE(78, 0, 2), "GPU instance profile 78 has no name: profile index 18 is not known here"),
            (
                INSTANCE(9, 0, 4, compute=0),
                "GPU instance 1: its compute instance spans only a part of it; only whole GPU instances are offered",
            ),
            (
                GpuInstanceScan(5, 14, 0, 2, (ComputeInstanceScan(0, 0, "MIG-a"), ComputeInstanceScan(1, 0, "MIG-b"))),
                "GPU instance 5: 2 compute instances divide it; only whole GPU instances are offered",
            ),
            (
                GpuInstanceScan(5, 14, 0, 2, (ComputeInstanceScan(0, 1, ""),)),
                "GPU instance 5: NVML tells no UUID of its MIG device",
            ),
        ],
    )
    @pytest.mark.parametrize("dynamic_mig", [False, True])
    def test_an_odd_partition_takes_no_other_down(self, odd: GpuInstanceScan, reason: str, dynamic_mig: bool) -> None:
        later = MigProfileScan(18, 78, 1, 4, 16, 1, 1, 0, 1, 0, 16384, ((0, 2),))
        seen = MigScan((*scans.h200_profiles(spanning=True), later), (odd, INSTANCE(19, 6, 1)))
        guest = H200(0, odd, mig=seen, virtualization_mode=2)
        found = from_scan(NODE(guest, H200(1)), {}, dynamic_mig=dynamic_mig)
        assert "gpu-0-mig-1g18gb-19-6" in found.devices
        assert "gpu-1" in found.devices
        (left,) = found.not_published
        assert left == NotPublished(f"gpu-0-mig-unknown-{odd.profile_id}-0", reason)
        # Whatever text a claim has for it: the id tells.
        assert found.why_absent(f"gpu-0-mig-1g5gb-{odd.profile_id}-0") == reason

    def test_without_the_memory_of_the_gpu_its_partitions_have_no_names(self) -> None:
        found = from_scan(NODE(H200(0, INSTANCE(19, 6, 1), memory_bytes=None)), {})
        assert not found.devices
        reason = "GPU instance profile 19 has no name: the GPU's memory is unknown"
        assert found.not_published == (NotPublished("gpu-0-mig-unknown-19-6", reason),)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gpu-0", "MIG mode is on: its MIG devices are offered in its place"),
        ("gpu-0-mig-1g18gb-19-5", "gpu-0 has no such MIG device now"),
        ("gpu-1-mig-1g18gb-19-4", "gpu-1 is not partitioned: MIG mode is off"),
        ("gpu-7-mig-1g18gb-19-4", ""),
    ],
)
def test_why_a_partition_is_not_there(name: str, reason: str) -> None:
    assert from_scan(NODE(H200(0, INSTANCE(19, 4, 1)), H200(1)), {}).why_absent(name) == reason


MIB = 1 << 20


@pytest.mark.parametrize(
    ("index", "slices", "memory_mib", "total_bytes", "text", "in_names"),
    [
        (0, 1, 4864, 40 * 2**30, "1g.5gb", "1g5gb"),  # A100 40 GB
        (7, 1, 4864, 40 * 2**30, "1g.5gb+me", "1g5gb-me"),
        (9, 1, 9856, 40 * 2**30, "1g.10gb", "1g10gb"),
        (2, 3, 19968, 40 * 2**30, "3g.20gb", "3g20gb"),
        (4, 7, 40192, 40 * 2**30, "7g.40gb", "7g40gb"),
        (0, 1, 9984, 81559 * MIB, "1g.10gb", "1g10gb"),  # H100 80 GB, measured
        (9, 1, 20096, 81559 * MIB, "1g.20gb", "1g20gb"),
        (2, 3, 40448, 81559 * MIB, "3g.40gb", "3g40gb"),
        (4, 7, 81152, 81559 * MIB, "7g.80gb", "7g80gb"),
        (0, 1, 5952, 24576 * MIB, "1g.6gb", "1g6gb"),  # A30
        (13, 1, 5952, 24576 * MIB, "1g.6gb-me", "1g6gb-me"),
        (15, 1, 5952, 24576 * MIB, "1g.6gb+me.all", "1g6gb-meall"),
        (12, 4, 24125, 24576 * MIB, "4g.24gb+gfx", "4g24gb-gfx"),
        (17, 3, 18176, 24576 * MIB, "3g.18gb+gfx", "3g18gb-gfx"),
    ],
)
def test_profiles_are_called_as_nvml_calls_them(
    index: int, slices: int, memory_mib: int, total_bytes: int, text: str, in_names: str
) -> None:
    seen = MigProfileScan(index, 40, slices, 1, 1, 1, 1, 0, 0, 0, memory_mib, ((3, 1),))
    (spec,) = specs(dynamic(H200(2, memory_bytes=total_bytes, mig=MigScan((seen,)))))
    assert (spec.profile.text, spec.name) == (text, f"gpu-2-mig-{in_names}-40-3")


def test_an_unknown_profile_is_not_announced_and_stops_nothing() -> None:
    later = MigProfileScan(18, 78, 1, 4, 999, 1, 1, 0, 1, 0, 16384, ((0, 2),))
    found = dynamic(H200(0, mig=MigScan((*scans.h200_profiles(), later))))
    assert found.devices.keys() == dynamic(H200()).devices.keys()
    assert found.counter_sets() == dynamic(H200()).counter_sets()


@pytest.mark.parametrize(
    ("start", "size", "free"),
    [
        (0, 8, set()),
        (6, 1, {"1g18gb-19-5", "1g18gb-me-20-0", "1g35gb-15-4", "2g35gb-14-4", "3g71gb-9-0", "4g71gb-5-0"}),
        (2, 2, {"1g18gb-19-1", "1g18gb-19-4", "1g35gb-15-0", "2g35gb-14-4", "3g71gb-9-4"}),
    ],
)
def test_what_shares_a_memory_slice_overlaps(start: int, size: int, free: set[str]) -> None:
    found = dynamic(H200(0), H200(1))
    touched = overlapping(found, "0000:00:06.0", start, size)
    assert "gpu-0" in touched
    assert {f"gpu-0-mig-{each}" for each in free}.isdisjoint(touched)
    for name, device in found.devices.items():
        if isinstance(device, Gpu) or device.parent.minor == 1:
            continue
        shares = set(range(start, start + size)) & set(range(device.start, device.start + device.size))
        assert (name in touched) is bool(shares)
    assert not {name for name in touched if name.startswith("gpu-1")}


def test_nothing_of_a_gpu_that_is_not_there_overlaps() -> None:
    assert overlapping(dynamic(H200(0)), "0000:01:06.0", 0, 8) == frozenset()


def fits(found: Inventory, *names: str) -> bool:
    """Whether a scheduler that keeps count may give all of these away at once."""
    (whole,) = found.counter_sets()
    left = {name: quantity.parse(counter["value"]).nanos for name, counter in whole["counters"].items()}
    for name in names:
        for used in published(found.devices[name], OFF)["consumesCounters"]:
            for counter, amount in used["counters"].items():
                left[counter] -= quantity.parse(amount["value"]).nanos
    return min(left.values()) >= 0


@pytest.mark.parametrize(
    "together",
    [
        ["gpu-0"],
        ["gpu-0-mig-7g141gb-0-0"],
        ["gpu-0-mig-4g71gb-5-0", "gpu-0-mig-3g71gb-9-4"],
        ["gpu-0-mig-3g71gb-9-0", "gpu-0-mig-3g71gb-9-4"],
        [f"gpu-0-mig-1g18gb-19-{at}" for at in range(7)],
        ["gpu-0-mig-1g18gb-me-20-0", *(f"gpu-0-mig-1g18gb-19-{at}" for at in range(1, 7))],
        [f"gpu-0-mig-1g35gb-15-{at}" for at in (0, 2, 4, 6)],
        [*(f"gpu-0-mig-2g35gb-14-{at}" for at in (0, 2, 4)), "gpu-0-mig-1g18gb-19-6"],
    ],
)
def test_what_an_h200_can_be_divided_into_a_scheduler_can_give_away(together: list[str]) -> None:
    found = dynamic(H200())
    assert fits(found, *together)
    # And nothing of it twice, nor beside the whole.
    assert not any(fits(found, *together, name) for name in {*together, "gpu-0"})


def test_no_two_devices_that_share_a_memory_slice_are_given_away_together() -> None:
    found = dynamic(H200())
    for name, device in found.devices.items():
        start, size = (0, 8) if isinstance(device, Gpu) else (device.start, device.size)
        for other in overlapping(found, "0000:00:06.0", start, size) - {name}:
            assert not fits(found, name, other), (name, other)
    # Nor what wants the one engine of a kind twice.
    assert not fits(found, "gpu-0-mig-1g18gb-me-20-0", "gpu-0-mig-1g18gb-me-20-6")
