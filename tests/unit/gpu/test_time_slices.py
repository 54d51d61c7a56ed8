"""Time slices: which steps a claim needs, what its entry says of them, and what resets them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from nvdra import claims
from nvdra.api import gates
from nvdra.api.claim import Claim, decode_status
from nvdra.checkpoint import Checkpoint, Entry
from nvdra.claims import (
    Facts,
    Forget,
    NeedsSteps,
    Ready,
    Refuse,
    RollBackFirst,
    Sealed,
    Steps,
    Teardown,
    TearDownFirst,
    WaitForClaim,
)
from nvdra.gpu import from_scan
from nvdra.gpu.driver import GpuDriver
from nvdra.gpu.steps import CreatePartition, LeaveMigMode, SetTimeSlice, time_slices
from tests.unit.claims import world
from tests.unit.claims.world import DYNAMIC, claim, gpu_config, h200s, partition, plan, release, started, unsupported
from tests.unit.gpu import scans
from tests.unit.gpu.scans import h200_scan, instance

OFF = gates.defaults()
ON = gates.parse("TimeSlicingSettings=true")
BOTH = gates.parse("TimeSlicingSettings=true,DynamicMIG=true")
NODE = scans.inventory()
GPUS = [NODE.devices[f"gpu-{minor}"] for minor in range(8)]


def asking(interval: str | None = "Long", **more: Any) -> dict[str, Any]:
    """A config that asks for a time slice."""
    slicing = {} if interval is None else {"timeSlicingConfig": {"interval": interval}}
    return gpu_config({"sharing": {"strategy": "TimeSlicing", **slicing}}, **more)


def admin(device: str) -> dict[str, Any]:
    return {"device": device, "adminAccess": True}


def sliced(uid: str, *devices: str | dict[str, Any], **more: Any) -> Claim:
    return claim(uid, *devices, config=[asking(**more)])


def steps(one: Claim, checkpoint: Checkpoint | None = None, **more: Any) -> Steps:
    """What the claim needs with the gate on, unless said otherwise."""
    match plan(one, checkpoint, **{"gates": ON, **more}):
        case NeedsSteps(steps=needed):
            return needed
        case Ready(facts=facts):
            return Steps(facts=facts)
        case other:
            raise AssertionError(other)


def intervals(found: Steps) -> list[tuple[str, int]]:
    assert all(isinstance(step, SetTimeSlice) for step in found.apply), found
    return [(step.gpu.name, step.interval) for step in found.apply]


def completed(one: Claim, on: gates.Gates = ON, facts: Facts | None = None, **more: Any) -> Sealed:
    """What the claim leaves behind once its steps are applied."""
    found = plan(one, **{"gates": on, **more})
    if isinstance(found, NeedsSteps):
        found = found.completed(facts or {})
    assert isinstance(found, Ready), found
    return claims.seal(GpuDriver(on), found)


def applied(entry: Entry) -> list[bool | None]:
    return [group.time_slice_applied for group in entry.prepared]


def of_the_go_driver(one: Claim, is_applied: bool | None) -> Entry:
    """The completed entry that the Go driver writes: v0.4.1 says True or nothing, v0.4.0 nothing.

    Both apply configs to results with admin access as to any other.
    """
    status = json.loads(one.status)
    for result in status["allocation"]["devices"]["results"]:
        result.pop("adminAccess", None)
    entry = replace(completed(replace(one, **_decoded(status))).entry, status=one.status)
    prepared = tuple(replace(group, time_slice_applied=is_applied) for group in entry.prepared)
    return replace(entry, prepared=prepared, name="", namespace="")


def _decoded(status: dict[str, Any]) -> dict[str, Any]:
    text = json.dumps(status).encode()
    results, configs = decode_status(text)
    return {"results": results, "configs": configs, "status": text}


def checkpoint(**entries: Entry) -> Checkpoint:
    return Checkpoint("boot", entries)


def slice_of(minor: int) -> SetTimeSlice:
    """What a teardown rolls back: an entry does not say which slice was set."""
    return SetTimeSlice(GPUS[minor], 0)


def torn_down(one: Claim, entries: Checkpoint, **more: Any) -> Teardown:
    """What gives everything of the claim back, with the gate on unless said otherwise."""
    match release(one, entries, **{"gates": ON, **more}):
        case TearDownFirst(teardown=teardown):
            return teardown
        case Forget(notes, blocks_others):
            return Teardown(notes=notes, blocks_others=blocks_others)
        case other:
            raise AssertionError(other)


# --- steps ---


@pytest.mark.parametrize(
    ("config", "interval"),
    [
        (asking("Default"), 0),
        (asking("Short"), 1),
        (asking("Medium"), 2),
        (asking("Long"), 3),
        (asking(None), 0),
        (gpu_config({"sharing": {"strategy": "TimeSlicing", "timeSlicingConfig": {}}}), 0),
        ({**asking("Short"), "source": "FromClass"}, 1),
        (asking("Short", requests=["r0"]), 1),
    ],
)
def test_a_gpu_gets_the_time_slice_that_its_config_asks_for(config, interval):
    wanted_by = "requests '[r0]' in claim 'c1'"
    found = steps(claim("c1", "gpu-3", config=[config]))
    assert found == Steps((SetTimeSlice(GPUS[3], interval, wanted_by),))
    assert found.resources == {"0000:04:00.0"}


@pytest.mark.parametrize(
    "config",
    [
        [],
        [gpu_config()],
        [asking("Long", requests=["another"])],
        # What users put last for the same device counts.
        [asking("Long"), gpu_config()],
        [{**asking("Long"), "source": "FromClass"}, gpu_config()],
    ],
)
def test_without_a_config_that_asks_for_one_no_time_slice_is_set(config):
    assert steps(claim("c1", "gpu-0", config=config)) == Steps()


def test_every_full_gpu_of_a_claim_gets_its_own_step():
    config = [asking("Long", requests=["r0", "r1"]), asking("Short", requests=["r3"])]
    found = steps(claim("c1", "gpu-5", "gpu-1", "gpu-2", "gpu-0", config=config))
    assert intervals(found) == [("gpu-0", 1), ("gpu-1", 3), ("gpu-5", 3)]
    assert [step.wanted_by for step in found.apply] == [
        "requests '[r3]' in claim 'c1'",
        "requests '[r0 r1]' in claim 'c1'",
        "requests '[r0 r1]' in claim 'c1'",
    ]
    assert found.resources == {GPUS[0].pci_bus_id, GPUS[1].pci_bus_id, GPUS[5].pci_bus_id}


def test_two_results_on_one_gpu_set_its_time_slice_once():
    assert intervals(steps(sliced("c1", "gpu-0", "gpu-0"))) == [("gpu-0", 3)]


def test_a_main_request_covers_its_subrequests():
    one = claim("c1", {"device": "gpu-0", "request": "r/sub"}, config=[asking("Short", requests=["r"])])
    assert intervals(steps(one)) == [("gpu-0", 1)]


def test_admin_access_sets_no_time_slice():
    assert isinstance(plan(sliced("c1", admin("gpu-0")), gates=ON), Refuse)
    assert steps(claim("c1", admin("gpu-0"))) == Steps()
    assert intervals(steps(sliced("c1", admin("gpu-0"), "gpu-1"))) == [("gpu-1", 3)]
    assert intervals(steps(sliced("c1", admin("gpu-0"), "gpu-0"))) == [("gpu-0", 3)]


MIG_SLICING = gpu_config({"kind": "MigDeviceConfig", "sharing": {"strategy": "TimeSlicing"}})


@pytest.mark.parametrize("config", [MIG_SLICING, asking("Long")])
def test_a_mig_device_has_no_time_slice(config):
    node = h200s(h200_scan(0, instance(19, 0, 1)), h200_scan(1), dynamic=False)
    device = partition("1g18gb", 19, 0)
    assert steps(claim("c1", device, config=[config]), inventory=node) == Steps()
    found = steps(claim("c1", device, "gpu-1", config=[MIG_SLICING, asking("Short")]), inventory=node)
    assert intervals(found) == [("gpu-1", 1)]


def test_with_both_gates_partitions_are_made_and_full_gpus_sliced():
    node = h200s(h200_scan(0), h200_scan(1, mig_mode=(1, 1)))
    device = partition("1g18gb", 19, 0)
    one = claim("c1", "gpu-1", device, config=[MIG_SLICING, asking("Long")])
    found = steps(one, inventory=node, gates=BOTH)
    whole, spec = node.devices["gpu-1"], node.devices[device]
    # A GPU is whole before its time slice is set.
    assert found.apply == (
        LeaveMigMode(whole),
        CreatePartition(spec.parent, device, 19, 0, spec),
        SetTimeSlice(whole, 3, "requests '[r0]' in claim 'c1'"),
    )


def test_with_the_gate_off_nobody_gets_a_step():
    on = plan(sliced("c1", "gpu-0"), gates=ON)
    assert isinstance(on, NeedsSteps)
    assert time_slices(on.claim.ref, on.groups, ON) == on.steps.apply
    assert time_slices(on.claim.ref, on.groups, OFF) == ()
    assert isinstance(plan(sliced("c1", "gpu-0"), gates=OFF), Refuse)


def test_a_config_of_two_strategies_is_refused_with_the_go_driver_s_words():
    sharing = {"strategy": "TimeSlicing", "mpsConfig": {"defaultActiveThreadPercentage": 10}}
    one = claim("c1", "gpu-0", "gpu-1", config=[gpu_config({"sharing": sharing})])
    assert plan(one, gates=ON) == Refuse(
        "prepare devices failed: error applying config: error getting timeslice config for requests '[r0 r1]' in claim "
        "'c1': cannot use MpsConfig with the 'TimeSlicing' strategy",
        permanent=True,
    )


def test_an_unknown_interval_is_refused():
    assert plan(sliced("c1", "gpu-0", interval="Half"), gates=ON) == Refuse(
        "prepare devices failed: error validating GPU config: unknown time-slice interval: Half, "
        "supported time-slice intervals: Default, Short, Medium, Long",
        permanent=True,
    )


def test_a_step_is_told_from_others_of_its_claim():
    step = slice_of(2)
    assert (step.kind, step.key, step.resources) == ("timeslice", "interval", {"0000:03:00.0"})
    made = CreatePartition(GPUS[2], partition("1g5gb", 19, 0, minor=2), 19, 0)
    assert len({(each.kind, each.key) for each in (step, made, LeaveMigMode(GPUS[2]))}) == 3


@pytest.mark.parametrize(
    ("on", "has_steps"), [(OFF, False), (ON, True), (DYNAMIC, True), (BOTH, True)], ids=["off", "on", "mig", "both"]
)
def test_claims_need_steps_only_where_a_gate_allows_some(on, has_steps):
    assert GpuDriver(on).has_steps is has_steps


# --- what the entry says ---


@pytest.mark.parametrize(
    ("one", "said"),
    [
        pytest.param(sliced("c1", "gpu-0"), [True], id="asked for"),
        pytest.param(sliced("c1", "gpu-0", interval="Default"), [True], id="the default slice"),
        pytest.param(claim("c1", "gpu-0"), [False], id="no config"),
        pytest.param(claim("c1", "gpu-0", config=[gpu_config()]), [False], id="not asked for"),
        pytest.param(claim("c1", admin("gpu-0")), [False], id="admin access alone"),
        pytest.param(sliced("c1", admin("gpu-0"), "gpu-1"), [False, True], id="admin access beside another"),
        pytest.param(
            claim("c1", "gpu-0", "gpu-1", config=[asking(requests=["r1"])]), [False, True], id="one of two groups"
        ),
    ],
)
def test_with_the_gate_on_an_entry_says_whether_a_slice_was_set(one, said):
    assert applied(completed(one).entry) == said


def test_with_the_gate_off_an_entry_says_nothing_that_v0_4_0_does_not_know():
    assert applied(completed(claim("c1", "gpu-0", "gpu-1", config=[gpu_config(requests=["r1"])]), OFF).entry) == [
        None,
        None,
    ]


def test_no_slice_is_said_to_be_set_on_mig_devices():
    node = h200s(h200_scan(0, instance(19, 0, 1)), dynamic=False)
    one = claim("c1", partition("1g18gb", 19, 0), config=[MIG_SLICING])
    assert applied(completed(one, inventory=node).entry) == [False]


def test_an_adopted_claim_says_nothing_so_that_its_config_tells():
    one = sliced("c1", "gpu-0")
    settled = claims.settle(GpuDriver(ON), {"c1": {"gpu-0"}}, {"c1": one}, NODE, world.POOL)
    assert applied(settled.adopted["c1"]) == [None]
    assert torn_down(one, Checkpoint("boot", dict(settled.adopted))).steps == (slice_of(0),)


def test_a_prepared_claim_is_answered_without_another_step():
    one = sliced("c1", "gpu-0")
    sealed = completed(one)
    assert plan(one, checkpoint(c1=sealed.entry), gates=ON) == claims.AlreadyPrepared(sealed.answers)
    lost = plan(one, checkpoint(c1=sealed.entry), gates=ON, has_file=False)
    assert lost == claims.Repair(sealed)


# --- teardown ---


@pytest.mark.parametrize(
    ("one", "is_applied", "gpus"),
    [
        pytest.param(sliced("c1", "gpu-2", "gpu-0"), True, [0, 2], id="set"),
        pytest.param(sliced("c1", "gpu-0"), False, [], id="not set, whatever the config asks for"),
        pytest.param(claim("c1", "gpu-0"), True, [0], id="set, whatever the config does not ask for"),
        pytest.param(claim("c1", "gpu-0"), None, [], id="untold and not asked for"),
        pytest.param(sliced("c1", "gpu-2", "gpu-0"), None, [0, 2], id="untold and asked for"),
        pytest.param(sliced("c1", "gpu-0", interval="Default"), None, [0], id="untold, the default slice"),
        pytest.param(
            claim("c1", "gpu-0", "gpu-1", config=[asking(requests=["r1"])]), None, [1], id="untold, for one request"
        ),
        pytest.param(
            claim("c1", {"device": "gpu-0", "request": "r/sub"}, config=[asking(requests=["r"])]),
            None,
            [0],
            id="untold, for the main request",
        ),
        pytest.param(
            claim("c1", {"device": "gpu-0", "request": "r/sub"}, config=[asking(requests=["r/sub"])]),
            None,
            [0],
            id="untold, for the subrequest",
        ),
        pytest.param(claim("c1", "gpu-0", config=[asking(requests=["another"])]), None, [], id="for another request"),
        pytest.param(sliced("c1", admin("gpu-0")), None, [], id="untold, admin access"),
        pytest.param(sliced("c1", admin("gpu-0"), "gpu-1"), True, [1], id="set beside admin access"),
        pytest.param(sliced("c1", admin("gpu-0")), True, [0], id="set by the Go driver for admin access"),
    ],
)
def test_a_time_slice_is_reset_with_its_claim(one, is_applied, gpus):
    entry = of_the_go_driver(one, is_applied)
    found = release(one, checkpoint(c1=entry), gates=ON)
    if not gpus:
        assert found == Forget()
        return
    begun = replace(entry, state="PrepareStarted", name="claim-c1", namespace="ns")
    assert found == TearDownFirst(Teardown(tuple(slice_of(minor) for minor in gpus)), begun)
    # The entry meanwhile says the same: a crash leaves it to be torn down again.
    assert release(one, checkpoint(c1=begun), gates=ON) == found


def test_what_a_claim_of_this_driver_set_is_reset():
    one = claim("c1", admin("gpu-0"), "gpu-1", "gpu-2", config=[asking(requests=["r1"])])
    entry = completed(one).entry
    assert applied(entry) == [False, True, False]
    assert torn_down(one, checkpoint(c1=entry)) == Teardown((slice_of(1),))


@pytest.mark.parametrize("parameters", [{}, {"kind": "GpuConfig"}, [], None, "TimeSlicing"])
def test_a_config_that_cannot_be_read_asks_for_nothing(parameters):
    one = sliced("c1", "gpu-0")
    status = json.loads(one.status)
    status["allocation"]["devices"]["config"][0]["opaque"]["parameters"] = parameters
    entry = replace(of_the_go_driver(one, None), status=json.dumps(status).encode())
    assert torn_down(one, checkpoint(c1=entry)) == Teardown()


def test_of_a_claim_that_was_begun_every_gpu_it_asks_a_slice_for_is_looked_at():
    one = claim("c1", "gpu-3", admin("gpu-1"), "gpu-0", "gpu-2", config=[asking(requests=["r0", "r1", "r2"])])
    found = release(one, checkpoint(c1=started(one)), gates=ON)
    assert found == TearDownFirst(Teardown((slice_of(0), slice_of(3))), started(one))


def test_a_gpu_that_is_gone_needs_no_reset():
    one = sliced("c1", "gpu-0", "gpu-1")
    left = from_scan(scans.node_scan(scans.gpu_scan(1)), {})
    entries = checkpoint(c1=completed(one).entry)
    assert torn_down(one, entries, inventory=left).steps == (SetTimeSlice(left.devices["gpu-1"], 0),)


def test_the_entry_says_which_gpu_whatever_its_number_is_now():
    one = sliced("c1", "gpu-0")
    swapped = scans.node_scan(scans.gpu_scan(0, uuid=scans.uuid_of(1)), scans.gpu_scan(1, uuid=scans.uuid_of(0)))
    entries = checkpoint(c1=completed(one).entry)
    (step,) = torn_down(one, entries, inventory=from_scan(swapped, {})).steps
    assert (step.gpu.uuid, step.gpu.name) == (scans.uuid_of(0), "gpu-1")


def test_partitions_and_time_slices_of_one_claim_go_together():
    node = h200s(h200_scan(0), h200_scan(1))
    device = partition("1g18gb", 19, 0)
    one = claim("c1", device, "gpu-1", config=[asking("Long")])
    begun = checkpoint(c1=started(one))
    made, whole = CreatePartition(node.gpus["0000:00:06.0"], device, 19, 0), SetTimeSlice(node.devices["gpu-1"], 0)
    assert torn_down(one, begun, inventory=node, gates=BOTH) == Teardown((made, whole), blocks_others=True)
    assert torn_down(one, begun, inventory=node, gates=DYNAMIC) == Teardown((made,), blocks_others=True)
    assert torn_down(one, begun, inventory=node, gates=ON) == Teardown(
        (whole,),
        notes=(f"claim ns/claim-c1:c1 was begun on {device}: gate DynamicMIG is off, so what stands there stays",),
        blocks_others=True,
    )


def test_with_the_gate_off_a_time_slice_stays_and_the_log_says_so():
    one = sliced("c1", "gpu-0", "gpu-1")
    assert release(one, checkpoint(c1=completed(one).entry), gates=OFF) == Forget(
        (
            f"claim ns/claim-c1:c1 leaves a time slice set on {scans.uuid_of(0)}, {scans.uuid_of(1)}: "
            "gate TimeSlicingSettings is off, so it stays",
        )
    )
    assert release(one, checkpoint(c1=of_the_go_driver(one, None)), gates=OFF) == Forget()
    assert release(one, checkpoint(c1=started(one)), gates=OFF) == Forget()


# --- shared ---


@pytest.mark.parametrize(
    ("other", "is_needed"),
    [
        pytest.param(of_the_go_driver(sliced("c2", "gpu-0"), True), True, id="set for both"),
        pytest.param(of_the_go_driver(sliced("c2", "gpu-0"), None), True, id="untold and asked for"),
        pytest.param(started(sliced("c2", "gpu-0")), True, id="begun"),
        pytest.param(
            replace(completed(sliced("c2", "gpu-0")).entry, state="PrepareStarted"), True, id="being torn down"
        ),
        pytest.param(completed(claim("c2", "gpu-0")).entry, False, id="the GPU without a slice"),
        pytest.param(of_the_go_driver(claim("c2", "gpu-0"), None), False, id="untold and not asked for"),
        pytest.param(completed(claim("c2", admin("gpu-0"))).entry, False, id="admin access"),
        pytest.param(completed(sliced("c2", admin("gpu-0"), "gpu-2")).entry, False, id="admin access beside another"),
        pytest.param(completed(sliced("c2", "gpu-1")).entry, False, id="another GPU"),
        pytest.param(started(sliced("c2", "gpu-1")), False, id="begun on another GPU"),
        pytest.param(started(claim("c2", "gpu-0")), False, id="begun without a slice"),
        pytest.param(unsupported(claim("c2", "gpu-0"), "mps"), False, id="another release's"),
    ],
)
def test_a_time_slice_stays_while_another_claim_needs_it(other, is_needed):
    one = sliced("c1", "gpu-0", "gpu-3")
    entries = checkpoint(c1=completed(one).entry, c2=other)
    assert GpuDriver(ON).needs(slice_of(0), other) is is_needed
    assert torn_down(one, entries) == (
        Teardown((slice_of(3),), (slice_of(0),)) if is_needed else Teardown((slice_of(0), slice_of(3)))
    )


def test_the_last_claim_of_a_time_slice_resets_it():
    one, other = sliced("c1", "gpu-0"), sliced("c2", "gpu-0")
    entries = checkpoint(c1=of_the_go_driver(one, True), c2=of_the_go_driver(other, True))
    assert release(one, entries, gates=ON) == release(other, entries, gates=ON) == Forget()
    assert torn_down(other, checkpoint(c2=entries.entries["c2"])).steps == (slice_of(0),)


def test_a_time_slice_keeps_no_partition_and_a_partition_no_time_slice():
    entry = completed(sliced("c1", "gpu-0")).entry
    driver = GpuDriver(BOTH)
    assert not driver.needs(CreatePartition(GPUS[0], partition("1g5gb", 19, 0), 19, 0), entry)
    assert not driver.needs(LeaveMigMode(GPUS[0]), entry)
    assert driver.needs(slice_of(0), entry)


# --- conflicts ---


def test_a_claim_in_work_on_the_gpu_is_waited_for():
    begun = checkpoint(c1=started(sliced("c1", "gpu-0")))
    assert plan(sliced("new", "gpu-0"), begun, gates=ON, in_work={"c1"}) == WaitForClaim("c1")
    assert isinstance(plan(sliced("new", "gpu-1"), begun, gates=ON, in_work={"c1"}), NeedsSteps)


@pytest.mark.parametrize("wanted", [claim("new", "gpu-0"), sliced("new", "gpu-0"), sliced("c1", "gpu-0")])
def test_a_begun_claim_that_nobody_works_on_is_rolled_back_first(wanted):
    one = sliced("c1", "gpu-0")
    begun = checkpoint(c1=started(one))
    assert plan(wanted, begun, gates=ON) == RollBackFirst(one.ref, begun.entries["c1"])


def test_a_claim_whose_config_changed_is_torn_down_before_it_is_prepared_anew():
    one = sliced("c1", "gpu-0", interval="Short")
    entries = checkpoint(c1=completed(one).entry)
    assert plan(sliced("c1", "gpu-0", interval="Long"), entries, gates=ON) == RollBackFirst(
        one.ref, entries.entries["c1"]
    )


def test_a_lost_file_is_written_again_whatever_became_of_gate_and_config() -> None:
    one = sliced("c1", "gpu-0", admin("gpu-1"))
    entry = completed(one).entry
    unread = replace(
        entry, status=entry.status.replace(b'"interval":"Long"', b'"interval":"Longer"').replace(b"timeSl", b"timeZl")
    )
    for known in (entry, unread):
        for on in (ON, OFF):
            found = claims.restored(GpuDriver(on), one.ref, known, NODE)
            assert isinstance(found, Sealed)
            assert list(found.cdi_devices) == ["c1-gpu-0", "c1-gpu-1"]
            assert found.entry is known


def test_an_entry_without_status_is_restored_from_its_answers() -> None:
    one = claim("c1", "gpu-3", "gpu-0")
    entry = replace(completed(one).entry, status=b"{}")
    found = claims.restored(GpuDriver(OFF), one.ref, entry, NODE)
    assert isinstance(found, Sealed)
    assert list(found.cdi_devices) == ["c1-gpu-0", "c1-gpu-3"]
