"""Letting go of claims, ours and what other releases prepared."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nvdra.checkpoint import Checkpoint, Entry
from nvdra.claims import Forget, NotPrepared, Refuse
from nvdra.claims.unprepare_plan import is_late
from tests.unit.claims import world
from tests.unit.claims.world import claim, prepared, release, sealed, started, unsupported
from tests.unit.gpu import scans


def test_an_unknown_claim_is_done_already():
    assert release(claim("c1", "gpu-0"), Checkpoint("boot")) == NotPrepared()


def test_a_completed_claim_just_leaves():
    one = claim("c1", "gpu-0", "gpu-1")
    assert release(one, prepared(one)) == Forget()


@pytest.mark.parametrize("config", [None, [world.gpu_config({"sharing": {"strategy": "MPS"}})]])
def test_a_claim_that_was_only_begun_just_leaves(config):
    # A begun claim may ask for MPS and never have got it: its gate was off.
    one = claim("c1", "gpu-0", config=config)
    assert release(one, Checkpoint("boot", {"c1": started(one)})) == Forget()


@pytest.mark.parametrize("applied", [None, False])
def test_without_a_time_slice_nothing_is_said(applied):
    one = claim("c1", "gpu-0")
    entry = sealed(one).entry
    entry = replace(entry, prepared=tuple(replace(group, time_slice_applied=applied) for group in entry.prepared))
    assert release(one, Checkpoint("boot", {"c1": entry})) == Forget()


def test_a_time_slice_stays_and_the_log_says_so():
    one = claim("c1", "gpu-0", "gpu-1")
    entry = sealed(one).entry
    entry = replace(entry, prepared=tuple(replace(group, time_slice_applied=True) for group in entry.prepared))
    assert release(one, Checkpoint("boot", {"c1": entry})) == Forget(
        (
            f"claim ns/claim-c1:c1 leaves a time slice set on {scans.uuid_of(0)}, {scans.uuid_of(1)}: "
            "gate TimeSlicingSettings is off, so it stays",
        )
    )


@pytest.mark.parametrize(
    ("kind", "device", "what"),
    [
        ("mig", "gpu-0-mig-1g5gb-19-0", "a MIG device"),
    ],
)
def test_what_another_release_prepared_is_kept_and_named(kind, device, what):
    one = claim("c1", device)
    assert release(one, Checkpoint("boot", {"c1": unsupported(one, kind)})) == Refuse(
        f"unprepare devices failed for claim ns/claim-c1:c1: it holds {what} ({device}) set up by another release of "
        "the driver, which this release does not undo: run the release that prepared it until the claim is gone"
    )


def test_a_gpu_that_may_be_bound_is_kept_while_the_gate_is_off():
    device = "gpu-vfio-0"
    one = claim("c1", "gpu-1", device)
    refuse = release(one, Checkpoint("boot", {"c1": started(one)}))
    assert isinstance(refuse, Refuse)
    assert refuse.reason == (
        f"unprepare failed for partially prepared claim ns/claim-c1:c1 failed: its GPUs ({device}) may be bound to "
        "vfio-pci, and gate PassthroughSupport is off, which gives none back: turn the gate on until the claim is "
        "gone, or run nvdra vfio give-back on the node"
    )


def test_a_group_with_an_mps_daemon_is_kept_while_the_gate_is_off():
    one = claim("c1", "gpu-0")
    entry = sealed(one).entry
    entry = replace(entry, prepared=tuple(replace(group, mps_daemon_id="c1-abcde") for group in entry.prepared))
    refuse = release(one, Checkpoint("boot", {"c1": entry}))
    assert isinstance(refuse, Refuse)
    assert refuse.reason == (
        "unprepare devices failed for claim ns/claim-c1:c1: an MPS control daemon serves its devices (gpu-0), and gate "
        "MPSSupport is off, which ends no daemon: turn the gate on until the claim is gone"
    )


def test_this_driver_forgets_abandoned_claims_as_its_checkpoint_cannot_hold_them() -> None:
    assert (world.DRIVER.on_abandoned, world.DRIVER.schema.can_abort) == ("forget", False)


@pytest.mark.parametrize(
    ("status", "late"),
    [(None, True), (b'{ "allocation": 1 }', True), (b'{"allocation":2}', False), (b'{"a":"\\ud800"}', False)],
)
def test_a_prepare_of_an_aborted_claim_is_late_if_its_status_is_the_same(status, late):
    one = replace(claim("c1", "gpu-0"), status=b'{"allocation":1}')
    aborted = Entry("PrepareAborted", one.status, aborted_at=100)
    assert is_late(aborted, one if status is None else replace(one, status=status), 101.0) == late
