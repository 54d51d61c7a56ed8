"""Planning and sealing claims for full GPUs."""

from __future__ import annotations

import json

import pytest

from nvdra import claims
from nvdra.api import gates
from nvdra.cdi import Edits
from nvdra.checkpoint import Checkpoint
from nvdra.claims import AlreadyPrepared, NeedsSteps, Ready, Refuse, Repair, RollBackFirst
from nvdra.gpu import Inventory, from_scan
from tests.unit.claims import world
from tests.unit.claims.world import DRIVER, claim, gpu_config, plan, prepared, sealed
from tests.unit.gpu import scans

FOLDERS = ["v0.4.0-plain", "v0.4.1-plain", "main-plain"]


def reason(outcome) -> str:
    assert isinstance(outcome, Refuse), outcome
    return outcome.reason


@pytest.mark.parametrize("folder", FOLDERS)
def test_recorded_claims_get_the_recorded_answers(folder):
    wanted = scans.recording(folder, "answer.json")["claims"]
    for document in scans.recording(folder, "claims.json").values():
        one = world.claim_of(document)
        assert [
            {
                "cdiDeviceIds": list(answer.cdi_ids),
                "deviceName": answer.device,
                "poolName": answer.pool,
                "requestNames": list(answer.requests),
            }
            for answer in sealed(one).answers
        ] == wanted[one.ref.uid]["devices"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_recorded_claims_leave_the_recorded_status_and_devices(folder):
    entries = scans.recording(folder, "checkpoint.json")["v2"]["preparedClaims"]
    for document in scans.recording(folder, "claims.json").values():
        one = world.claim_of(document)
        entry, recorded = sealed(one).entry, entries[one.ref.uid]
        assert entry.state == recorded["checkpointState"]
        assert json.loads(entry.status) == recorded["status"]
        assert [
            (device.uuid, device.device, list(device.requests), device.pool, list(device.cdi_ids))
            for group in entry.prepared
            for device in group.devices
        ] == [
            (
                gpu["info"]["uuid"],
                *(gpu["device"][key] for key in ("DeviceName", "Requests", "PoolName", "CDIDeviceIDs")),
            )
            for group in recorded["preparedDevices"]
            for gpu in (device["gpu"] for device in group["devices"])
        ]


def test_a_completed_entry_says_its_claim_s_name():
    entry = sealed(claim("c1", "gpu-0", name="train")).entry
    assert (entry.namespace, entry.name) == ("ns", "train")


def test_the_cdi_file_holds_each_gpu_once_sorted_by_name():
    devices = sealed(claim("c1", "gpu-2", "gpu-0", "gpu-2")).cdi_devices
    assert [(name, held.device.name, held.added) for name, held in devices.items()] == [
        ("c1-gpu-0", "gpu-0", Edits()),
        ("c1-gpu-2", "gpu-2", Edits()),
    ]


def test_several_results_on_one_device_give_one_cdi_device_and_an_answer_each():
    one = claim("c1", {"device": "gpu-0", "request": "a"}, {"device": "gpu-0", "request": "b/sub"})
    found = sealed(one)
    assert list(found.cdi_devices) == ["c1-gpu-0"]
    assert [(answer.requests, answer.cdi_ids) for answer in found.answers] == [
        (("a",), ("k8s.gpu.nvidia.com/claim=c1-gpu-0",)),
        (("b/sub",), ("k8s.gpu.nvidia.com/claim=c1-gpu-0",)),
    ]


def test_a_share_id_is_passed_through():
    share = "11111111-2222-3333-4444-555555555555"
    one = claim("c1", {"device": "gpu-0", "shareID": share}, "gpu-1")
    assert [answer.share_id for answer in sealed(one).answers] == [share, None]


def test_devices_that_share_a_config_form_a_group_in_the_allocation_s_order():
    one = claim(
        "c1",
        {"device": "gpu-3", "request": "b"},
        {"device": "gpu-1", "request": "a"},
        {"device": "gpu-0", "request": "b"},
        config=[gpu_config(requests=["b"])],
    )
    groups = sealed(one).entry.prepared
    assert [[device.device for device in group.devices] for group in groups] == [["gpu-3", "gpu-0"], ["gpu-1"]]
    assert [answer.device for answer in sealed(one).answers] == ["gpu-3", "gpu-0", "gpu-1"]


def test_results_of_other_drivers_are_ignored():
    nic = {"device": "nic-0", "driver": "nic.example.com", "pool": "elsewhere"}
    assert [answer.device for answer in sealed(claim("c1", nic, "gpu-0")).answers] == ["gpu-0"]


def test_a_claim_that_names_no_device_of_ours_is_refused():
    one = claim("c1", {"device": "gpu-0", "driver": "nic.example.com"})
    assert plan(one) == Refuse(
        "claim ns/claim-c1:c1 is allocated no device of gpu.nvidia.com: its allocation changed since kubelet read it"
    )


def test_a_device_of_another_node_s_pool_is_refused():
    assert reason(plan(claim("c1", {"device": "gpu-0", "pool": "node-b"}))) == (
        'unable to prepare claim c1: requested device gpu-0 is in pool "node-b", not in this node\'s pool "node-a"'
    )


def test_an_unknown_device_asks_for_another_look_at_the_hardware():
    assert plan(claim("c1", "gpu-0", "gpu-9")) == Refuse(
        'prepare devices failed: allocatable not found for device "gpu-9"', rescan=True
    )


def test_a_device_that_was_left_out_is_refused_with_the_reason():
    scan = scans.node_scan(scans.gpu_scan(0), scans.gpu_scan(1, mig_mode=(1, 1)))
    text = reason(plan(claim("c1", "gpu-1"), inventory=from_scan(scan, {})))
    assert text.startswith('prepare devices failed: allocatable not found for device "gpu-1": MIG mode is on')
    text = reason(plan(claim("c1", "gpu-1"), inventory=Inventory(unread="no driver is loaded")))
    assert text == 'prepare devices failed: allocatable not found for device "gpu-1": no driver is loaded'


# --- asked again ---


def test_asked_again_it_answers_the_same():
    one = claim("c1", "gpu-1", "gpu-0")
    assert plan(one, prepared(one)) == AlreadyPrepared(sealed(one).answers)


def test_a_lost_file_is_written_again_and_the_checkpoint_stays():
    one = claim("c1", {"device": "gpu-1", "request": "a"}, {"device": "gpu-1", "request": "b"}, "gpu-0")
    assert plan(one, prepared(one), has_file=False) == Repair(sealed(one))


def test_who_uses_the_claim_and_what_others_got_does_not_count():
    before = claim("c1", "gpu-0", reservedFor=[{"resource": "pods", "name": "p", "uid": "u"}])
    after = claim("c1", "gpu-0", {"device": "nic", "driver": "nic.example.com"})
    assert plan(after, prepared(before)) == AlreadyPrepared(sealed(before).answers)


@pytest.mark.parametrize(
    "after",
    [
        claim("c1", "gpu-1"),
        claim("c1", "gpu-0", "gpu-1"),
        claim("c1", {"device": "gpu-0", "request": "other"}),
        claim("c1", {"device": "gpu-0", "adminAccess": True}),
        claim("c1", {"device": "gpu-0", "shareID": "11111111-2222-3333-4444-555555555555"}),
        claim("c1", {"device": "gpu-0", "consumedCapacity": {"memory": "10Gi"}}),
        claim("c1", "gpu-0", config=[gpu_config()]),
    ],
)
def test_allocated_anew_under_the_same_uid_it_is_prepared_anew(after):
    before = claim("c1", "gpu-0")
    checkpoint = prepared(before)
    # The former entry leaves first, then its file is replaced. With one write for both, a crash between file and
    # checkpoint would leave the former entry with the new file.
    assert plan(after, checkpoint) == RollBackFirst(after.ref, checkpoint.entries["c1"])


def test_a_claim_that_was_begun_and_not_completed_is_prepared_anew():
    one = claim("c1", "gpu-0")
    found = plan(one, Checkpoint("boot", {"c1": world.started(one)}))
    assert found == plan(one)
    assert isinstance(found, Ready)


def test_what_another_release_prepared_is_answered_as_it_was_recorded():
    one = claim("c1", "gpu-0-mig-1g5gb-19-0")
    entry = world.unsupported(one, "mig")
    found = plan(one, Checkpoint("boot", {"c1": entry}))
    assert found == AlreadyPrepared(entry.prepared.devices)
    assert reason(plan(one, Checkpoint("boot", {"c1": entry}), has_file=False)).startswith(
        "unable to prepare claim c1: its CDI file is lost or names files that are gone, and device "
        "gpu-0-mig-1g5gb-19-0 is not known here"
    )


def test_a_prepared_claim_is_answered_while_nothing_can_be_read():
    one = claim("c1", "gpu-0")
    unread = Inventory(unread="no driver is loaded")
    assert plan(one, prepared(one), inventory=unread) == AlreadyPrepared(sealed(one).answers)
    assert plan(one, prepared(one), inventory=unread, has_file=False) == Refuse(
        "unable to prepare claim c1: its CDI file is lost or names files that are gone, and device gpu-0 is not known "
        "here, so it cannot be written again (no driver is loaded)",
        rescan=True,
    )


def test_a_device_that_became_another_gpu_is_refused_until_unprepared():
    one = claim("c1", "gpu-0")
    swapped = from_scan(scans.node_scan(scans.gpu_scan(0, uuid="GPU-new"), scans.gpu_scan(1)), {})
    assert reason(plan(one, prepared(one), inventory=swapped)) == (
        f"unable to prepare claim c1: device gpu-0 was prepared as {scans.uuid_of(0)} and is GPU-new now: "
        "delete the pods that use this claim, then it can be prepared anew"
    )
    assert isinstance(plan(one, inventory=swapped), Ready)


# --- from the checkpoint alone ---


def from_checkpoint(one, node, checkpoint, *, has_file=True):
    return claims.answer_from_checkpoint(DRIVER, one.ref, node, checkpoint, has_file=has_file)


def test_the_checkpoint_alone_answers_for_what_is_completed():
    one = claim("c1", "gpu-0")
    checkpoint, node = prepared(one), scans.inventory()
    assert from_checkpoint(one, node, checkpoint) == AlreadyPrepared(sealed(one).answers)
    assert from_checkpoint(one, node, checkpoint, has_file=False) == Repair(sealed(one))
    swapped = from_scan(scans.node_scan(scans.gpu_scan(0, uuid="GPU-new")), {})
    assert isinstance(from_checkpoint(one, swapped, checkpoint), Refuse)


def test_the_checkpoint_alone_says_nothing_of_what_is_not_completed():
    one = claim("c1", "gpu-0")
    assert from_checkpoint(one, scans.inventory(), Checkpoint("boot")) is None
    begun = Checkpoint("boot", {"c1": world.started(one)})
    assert from_checkpoint(one, scans.inventory(), begun) is None


# --- configs ---

OPAQUE = "prepare devices failed: error getting opaque device configs: "


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"source": "FromNowhere"}, OPAQUE + "invalid config source: FromNowhere"),
        ({"opaque": None}, OPAQUE + "only opaque parameters are supported by this driver"),
        (
            gpu_config({"unexpectedField": 1}),
            OPAQUE + 'error decoding config parameters: strict decoding error: unknown field "unexpectedField"',
        ),
        (
            gpu_config({"kind": "MigDeviceConfig"}, requests=["r0"]),
            'prepare devices failed: cannot apply MigDeviceConfig to device "gpu-0" of type "gpu" (request: r0)',
        ),
        (
            gpu_config({"kind": "ComputeDomainDaemonConfig", "domainID": "d"}, requests=["r0"]),
            "prepare devices failed: runtime object is not a recognized configuration",
        ),
        (
            gpu_config({"sharing": {"strategy": "TimeSlicing", "timeSlicingConfig": {}}}),
            'prepare devices failed: error validating GPU config: "TimeSlicing" is selected as the GPU sharing '
            'strategy, but the "TimeSlicingSettings" feature gate is not enabled',
        ),
        (
            gpu_config({"sharing": {"strategy": "Half"}}),
            "prepare devices failed: error validating GPU config: unknown GPU sharing strategy: Half, "
            "supported GPU sharing strategies: TimeSlicing, MPS",
        ),
    ],
)
def test_a_config_that_cannot_be_taken_is_refused_for_good(config, text):
    assert plan(claim("c1", "gpu-0", config=[{**gpu_config(), **config}])) == Refuse(text, permanent=True)


@pytest.mark.parametrize(
    "config",
    [
        gpu_config(),
        gpu_config(requests=["r0"]),
        gpu_config(requests=["another"]),
        # Decoded, but applied to nothing: it need not be valid.
        gpu_config({"sharing": {"strategy": "Half"}}, requests=["another"]),
        gpu_config({"kind": "MigDeviceConfig", "sharing": {"strategy": "MPS"}}),
        gpu_config({"kind": "ComputeDomainDaemonConfig"}),
        {"source": "FromClass", "opaque": {"driver": "nic.example.com", "parameters": {"kind": "Nonsense"}}},
    ],
)
def test_configs_that_change_nothing_for_a_plain_gpu(config):
    assert isinstance(plan(claim("c1", "gpu-0", config=[config])), Ready)


def test_configs_of_the_claim_beat_those_of_the_class_wherever_they_stand():
    bad = gpu_config({"sharing": {"strategy": "Half"}})
    of_class, of_claim = {**bad, "source": "FromClass"}, gpu_config()
    assert isinstance(plan(claim("c1", "gpu-0", config=[of_claim, of_class])), Ready)
    assert isinstance(plan(claim("c1", "gpu-0", config=[{**of_claim, "source": "FromClass"}, bad])), Refuse)


def test_an_entry_without_opaque_is_refused_even_among_others():
    config = [gpu_config(), {"source": "FromClass"}]
    assert reason(plan(claim("c1", "gpu-0", config=config))) == (
        OPAQUE + "only opaque parameters are supported by this driver"
    )


def test_a_config_is_valid_where_its_gate_is_on():
    one = claim("c1", "gpu-0", config=[gpu_config({"sharing": {"strategy": "TimeSlicing", "timeSlicingConfig": {}}})])
    found = plan(one, gates=gates.parse("TimeSlicingSettings=true"))
    assert isinstance(found, NeedsSteps)
    assert found.groups[0].config.sharing.time_slicing.interval == "Default"
