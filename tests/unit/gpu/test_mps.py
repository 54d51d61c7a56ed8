"""MPS daemons: which a claim needs, with which settings, what its entry and containers say, and what ends them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nvdra import claims
from nvdra.api import gates
from nvdra.api.claim import Claim, ClaimRef
from nvdra.api.quantity import parse
from nvdra.cdi import Mount
from nvdra.checkpoint import Checkpoint, Entry
from nvdra.checkpoint import decode as decode_checkpoint
from nvdra.claims import NeedsSteps, Refuse, Sealed, Teardown, TearDownFirst
from nvdra.gpu import Inventory, from_scan
from nvdra.gpu.driver import GpuDriver
from nvdra.gpu.mps import MpsSettings, StartMpsDaemon, daemon_fact, daemon_id, pinned_limits
from nvdra.gpu.shares import Shares
from nvdra.gpu.sharing import Sharing
from tests.unit.claims.world import OURS, POOL, claim, gpu_config, started
from tests.unit.gpu import scans
from tests.unit.gpu.scans import gpu_scan, h200_scan, instance, node_scan, uuid_of

ON = gates.parse("MPSSupport=true")
NODE = scans.inventory()
GOLDEN = Path(__file__).parents[2] / "golden" / "checkpoint"
U0, U1, U2 = (uuid_of(minor) for minor in range(3))


def mps(kind: str = "GpuConfig", more: dict[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
    """A config that asks for MPS with these settings."""
    sharing = {"strategy": "MPS", **({"mpsConfig": settings} if settings else {}), **(more or {})}
    return gpu_config({"kind": kind, "sharing": sharing})


def plan(
    one: Claim, checkpoint: Checkpoint | None = None, *, node: Inventory = NODE, driver: GpuDriver | None = None
) -> Any:
    driver = driver or GpuDriver(ON)
    return claims.plan(driver, one, node, checkpoint or Checkpoint("boot"), pool=POOL, has_file=True)


def daemons(one: Claim, **more: Any) -> list[StartMpsDaemon]:
    needed = plan(one, **more)
    assert isinstance(needed, NeedsSteps), needed
    assert all(isinstance(step, StartMpsDaemon) for step in needed.steps.apply)
    return list(needed.steps.apply)  # type: ignore[arg-type]


def settings(**given: Any) -> MpsSettings:
    (daemon,) = daemons(claim("c1", "gpu-1", "gpu-0", config=[mps(**given)]))
    assert daemon.settings is not None
    return daemon.settings


def refused(one: Claim, **more: Any) -> str:
    refuse = plan(one, **more)
    assert isinstance(refuse, Refuse), refuse
    assert refuse.permanent
    return refuse.reason


def completed(one: Claim, driver: GpuDriver | None = None, checkpoint: Checkpoint | None = None) -> Sealed:
    driver = driver or GpuDriver(ON)
    needed = plan(one, checkpoint, driver=driver)
    assert isinstance(needed, NeedsSteps)
    facts = {
        daemon_fact(uuid): step.id
        for step in needed.steps.apply
        if isinstance(step, StartMpsDaemon)
        for uuid in step.uuids
    }
    return claims.seal(driver, needed.completed(facts))


def teardown(one: Claim | ClaimRef, entries: dict[str, Entry], driver: GpuDriver | None = None) -> Teardown:
    ref = one.ref if isinstance(one, Claim) else one
    found = claims.unprepare(driver or GpuDriver(ON), ref, NODE, Checkpoint("boot", entries))
    assert isinstance(found, TearDownFirst), found
    return found.teardown


# ── which daemon ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_group_has_one_daemon_with_the_go_drivers_id() -> None:
    (daemon,) = daemons(claim("c1", "gpu-1", "gpu-0", config=[mps()]))
    assert daemon.uuids == (U0, U1)
    assert daemon.id == f"c1-{hashlib.sha256(f'{U0},{U1}'.encode()).hexdigest()[:5]}"
    assert daemon.resources == {"0000:01:00.0", "0000:02:00.0"}


@pytest.mark.parametrize("number", [1, 2])
def test_ids_are_those_of_the_go_drivers_entries(number: int) -> None:
    uid = f"00000000-0000-4000-8000-{number:012d}"
    (group,) = decode_checkpoint((GOLDEN / "gpu-mps.json").read_bytes()).entries[uid].prepared
    assert daemon_id(uid, [device.uuid for device in group.devices]) == group.mps_daemon_id


def test_two_configs_have_a_daemon_each() -> None:
    one, two = mps(defaultActiveThreadPercentage=10), mps(defaultActiveThreadPercentage=20)
    one["requests"], two["requests"] = ["r0"], ["r1"]
    found = daemons(claim("c1", "gpu-0", "gpu-1", config=[one, two]))
    assert {(each.uuids, each.settings.percentage) for each in found if each.settings} == {((U0,), 10), ((U1,), 20)}


def test_mig_devices_are_served_without_a_compute_mode() -> None:
    node = from_scan(node_scan(h200_scan(0, instance(19, 0, 1, gi_id=9), instance(19, 1, 1, gi_id=10))), {})
    names = [name for name in node.devices if "-mig-" in name]
    (daemon,) = daemons(claim("c1", *names, config=[mps("MigDeviceConfig")]), node=node)
    assert (daemon.gpus, len(daemon.uuids)) == ((), 2)
    assert daemon.resources == set(daemon.uuids)


def test_without_the_gate_the_strategy_is_refused() -> None:
    text = refused(claim("c1", "gpu-0", config=[mps()]), driver=GpuDriver(gates.defaults()))
    assert text.endswith(
        '"MPS" is selected as the GPU sharing strategy, but the "MPSSupport" feature gate is not enabled'
    )


def test_settings_of_time_slicing_are_refused_with_the_go_drivers_words() -> None:
    assert refused(claim("c1", "gpu-0", config=[mps(more={"timeSlicingConfig": {"interval": "Long"}})])) == (
        "prepare devices failed: error applying config: error getting MPS configuration: "
        "cannot use TimeSlicingConfig with the 'MPS' strategy"
    )


# ── settings ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_daemon_without_settings_has_its_own_defaults() -> None:
    assert settings() == MpsSettings()


def test_settings_are_those_of_the_config() -> None:
    assert settings(
        defaultActiveThreadPercentage=50,
        defaultPinnedDeviceMemoryLimit="1Gi",
        defaultPerDevicePinnedMemoryLimit={"0": "10Mi"},
        multiUser=True,
    ) == MpsSettings(50, ((U0, "10M"), (U1, "1024M")), True)


@pytest.mark.parametrize(
    ("quantity", "limit"),
    [("2Gi", "2048M"), ("1024Mi", "1024M"), ("10Mi", "10M"), ("10M", "9M"), ("1G", "953M"), ("1048576", "1M")],
)
def test_a_limit_is_in_whole_mebibytes(quantity: str, limit: str) -> None:
    assert pinned_limits([U0], parse(quantity), {}) == {U0: limit}


@pytest.mark.parametrize(
    ("uuids", "default", "per_device", "limits"),
    [
        ([], None, {}, {}),
        ([], "1Gi", {}, {}),
        ([U0, U1], None, {U1: "1Gi"}, {U1: "1024M"}),
        ([U0, U1], "1Gi", {"1": "2Gi"}, {U0: "1024M", U1: "2048M"}),
        ([U0, U1], None, {"0": "1Gi", U0: "2Gi"}, {U0: "2048M"}),
    ],
)
def test_limits_start_with_the_default(
    uuids: list[str], default: str | None, per_device: dict[str, str], limits: dict[str, str]
) -> None:
    given = {key: parse(text) for key, text in per_device.items()}
    assert pinned_limits(uuids, None if default is None else parse(default), given) == limits


@pytest.mark.parametrize(
    ("default", "per_device", "text"),
    [
        (None, {"x": "1Gi"}, "invalid device: unable to parse key as an integer: x"),
        (None, {"2": "1Gi"}, "invalid device: invalid device index: 2"),
        (None, {"-1": "1Gi"}, "invalid device: invalid device index: -1"),
        (None, {"0": "10"}, "invalid limit: value set too low: 0: 10"),
        ("1023Ki", {}, "invalid limit: default value set too low: 1023Ki"),
    ],
)
def test_limits_that_mean_nothing_are_refused(default: str | None, per_device: dict[str, str], text: str) -> None:
    given: dict[str, Any] = {"defaultPerDevicePinnedMemoryLimit": per_device} if per_device else {}
    if default is not None:
        given["defaultPinnedDeviceMemoryLimit"] = default
    assert refused(claim("c1", "gpu-0", "gpu-1", config=[mps(**given)])) == (
        "prepare devices failed: error applying config: error starting MPS control daemon: "
        f"error transforming DefaultPerDevicePinnedMemoryLimit into string: {text}"
    )


def test_several_users_need_gpus_that_can_serve_them() -> None:
    older = [gpu_scan(minor, cuda_compute_capability=(6, 2)) for minor in range(2)]
    text = refused(claim("c1", "gpu-0", "gpu-1", config=[mps(multiUser=True)]), node=from_scan(node_scan(*older), {}))
    lines = [f'{uuid} has insufficient cudaComputeCapability "6.2", wanted >= "7.0"' for uuid in (U1, U0)]
    assert text == (
        "prepare devices failed: error applying config: error starting MPS control daemon: "
        "multiuser mode was requested but is not supported: " + "\n".join(lines)
    )


# ── entry and containers ───────────────────────────────────────────────────────────────────────────────────────


def test_the_entry_names_the_daemon_and_containers_reach_it() -> None:
    driver = GpuDriver(ON, Sharing(mps_folder="/plugins/mps"))
    sealed = completed(claim("c1", "gpu-0", "gpu-2", config=[mps()]), driver)
    (group,) = sealed.entry.prepared  # type: ignore[misc]
    daemon = daemon_id("c1", [U0, U2])
    assert group.mps_daemon_id == daemon
    for device in sealed.cdi_devices.values():
        assert device.added.env == ("CUDA_MPS_PIPE_DIRECTORY=/tmp/nvidia-mps",)
        assert device.added.mounts == (
            Mount(f"/plugins/mps/{daemon}/shm", "/dev/shm", ("rw", "nosuid", "nodev", "bind")),
            Mount(f"/plugins/mps/{daemon}/pipe", "/tmp/nvidia-mps", ("rw", "nosuid", "nodev", "bind")),
        )


def test_a_lost_cdi_file_is_written_with_the_same_edits() -> None:
    one = claim("c1", "gpu-0", "gpu-2", config=[mps()])
    sealed = completed(one)
    assert claims.restored(GpuDriver(ON), one.ref, sealed.entry, NODE) == sealed


def test_a_lost_entry_names_the_same_daemon() -> None:
    one = claim("c1", "gpu-0", config=[mps()])
    adopted = claims.adopted(GpuDriver(ON), one, NODE, POOL)
    assert isinstance(adopted, Sealed)
    assert adopted.entry.prepared == completed(one).entry.prepared


def test_a_result_with_admin_access_has_no_daemon() -> None:
    admin = {"device": "gpu-1", "adminAccess": True}
    (daemon,) = daemons(claim("c1", "gpu-0", admin, config=[mps()]))
    assert daemon.uuids == (U0,)


# ── unprepare ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_unprepare_ends_the_daemon_of_the_entry() -> None:
    one = claim("c1", "gpu-0", config=[mps()])
    (step,) = teardown(one, {"c1": completed(one).entry}).steps
    assert isinstance(step, StartMpsDaemon)
    assert (step.id, [gpu.uuid for gpu in step.gpus]) == (daemon_id("c1", [U0]), [U0])


def test_unprepare_of_a_claim_that_was_begun_ends_what_its_config_asked_for() -> None:
    one = claim("c1", "gpu-0", config=[mps()])
    (step,) = teardown(one, {"c1": started(one)}).steps
    assert step.key == daemon_id("c1", [U0])


def test_an_entry_of_the_go_driver_is_given_back() -> None:
    uid = "00000000-0000-4000-8000-000000000001"
    entry = decode_checkpoint((GOLDEN / "gpu-mps.json").read_bytes()).entries[uid]
    (step,) = teardown(ClaimRef("ns", "n", uid), {uid: entry}).steps
    assert step.key == f"{uid}-3855f"


def test_a_gpu_that_cannot_be_read_keeps_a_claim_that_was_begun() -> None:
    one = claim("c1", "gpu-0", config=[mps()])
    found = claims.unprepare(
        GpuDriver(ON), one.ref, Inventory(unread="no driver"), Checkpoint("boot", {"c1": started(one)})
    )
    assert isinstance(found, Refuse)
    assert found.rescan
    assert "its MPS daemon cannot be found: no driver" in found.reason


# ── shares ─────────────────────────────────────────────────────────────────────────────────────────────────────

SHARED = gates.parse("MPSSupport=true,ConsumableShares=true")
UNDER_SHARES = GpuDriver(SHARED, Sharing(Shares("unlimited"), mps_under_shares=True, mps_folder="/m"))


def share(number: int, memory: str = "0", device: str = "gpu-0") -> dict[str, Any]:
    return {
        "device": device,
        "shareID": f"00000000-0000-4000-8000-{number:012d}",
        "consumedCapacity": {"memory": memory},
    }


def test_mps_and_shares_exclude_each_other_unless_asked() -> None:
    text = refused(claim("c1", share(1), config=[mps()]), driver=GpuDriver(SHARED, Sharing(Shares("unlimited"))))
    assert "MPS sharing is not supported when consumable shares is enabled" in text


def test_claims_that_share_a_gpu_share_its_daemon() -> None:
    one, two = (claim(f"c{n}", share(n), config=[mps()]) for n in (1, 2))
    first = completed(one, UNDER_SHARES)
    second = plan(two, Checkpoint("boot", {"c1": first.entry}), driver=UNDER_SHARES)
    assert isinstance(second, NeedsSteps)
    (step,) = second.steps.apply
    assert second.steps.shared == (step,)
    assert step.key == "4d4f434b-0000-0000-0000-000000000000-share"
    assert len(f"mps-control-daemon-{step.key}") <= 63
    entries = {"c1": first.entry, "c2": completed(two, UNDER_SHARES, Checkpoint("boot", {"c1": first.entry})).entry}
    found = claims.unprepare(UNDER_SHARES, one.ref, NODE, Checkpoint("boot", entries))
    assert isinstance(found, claims.Forget)
    del entries["c1"]
    assert [each.key for each in teardown(two, entries, UNDER_SHARES).steps] == [step.key]


def test_a_half_prepared_share_keeps_the_daemon() -> None:
    one, two = (claim(f"c{n}", share(n), config=[mps()]) for n in (1, 2))
    entries = {"c1": completed(one, UNDER_SHARES).entry, "c2": started(two)}
    assert isinstance(claims.unprepare(UNDER_SHARES, one.ref, NODE, Checkpoint("boot", entries)), claims.Forget)


@pytest.mark.parametrize(("memory", "limit"), [("10Gi", 10240), ("0", 0), ("512Ki", 0)])
def test_a_shares_memory_is_its_clients_limit(memory: str, limit: int) -> None:
    sealed = completed(claim("c1", share(1, memory), config=[mps()]), UNDER_SHARES)
    (device,) = sealed.cdi_devices.values()
    env = ["CUDA_MPS_PIPE_DIRECTORY=/tmp/nvidia-mps"]
    assert device.added.env == (*env, *([f"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT=0={limit}M"] if limit else []))


def test_two_shares_of_a_gpu_in_one_claim_have_limits_of_their_own() -> None:
    one = claim("c1", share(1, "1Gi"), share(2, "2Gi"), config=[mps()])
    sealed = completed(one, UNDER_SHARES)
    assert {name: device.added.env[-1] for name, device in sealed.cdi_devices.items()} == {
        "c1-gpu-0": "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT=0=1024M",
        "c1-gpu-0-00000000-0000-4000-8000-000000000002": "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT=0=2048M",
    }
    assert claims.restored(UNDER_SHARES, one.ref, sealed.entry, NODE) == sealed


def test_shares_of_two_gpus_with_one_config_are_refused() -> None:
    text = refused(claim("c1", share(1), share(2, device="gpu-1"), config=[mps()]), driver=UNDER_SHARES)
    assert "ask for shares of 2 devices with one MPS config" in text


def test_the_entry_of_another_claim_is_not_touched_by_json_order() -> None:
    """Ids are stable: the same devices in another order have the same daemon."""
    one = claim("c1", "gpu-0", "gpu-1", config=[mps()])
    other = replace(one, results=tuple(reversed(one.results)))
    assert daemons(one)[0].id == daemons(other)[0].id
    assert json.loads(one.status)["allocation"]["devices"]["results"][0]["driver"] == OURS
