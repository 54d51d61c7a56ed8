"""GPUs for virtual machines: bound with all functions of their slot, and given back as they were."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from typing import Any

import pytest

from nvdra import cdi
from nvdra.api import ClaimRef
from nvdra.checkpoint import PreparedVfio
from nvdra.gpu.vfio import vfio_uuid
from nvdra.nvml import NvmlInUse
from nvdra.ports import Finished
from tests.unit.node.vfio_world import HOST_ROOT, PERSISTENCED, VfioWorld, audio_address, gpu_address, look, vfio
from tests.unit.node.world import cdi_path

QEMU, TRAINING = "process 4711 (qemu-kvm) in container 0123456789ab", "process 99 (python3) of pod 1-2-3"


@pytest.fixture
async def world(tmp_path: Path) -> Any:
    made = VfioWorld(tmp_path)
    made.start()
    yield made
    await made.stop()


def edits(world: VfioWorld, ref: ClaimRef) -> list[tuple[list[str], tuple[str, ...], int]]:
    """Of each device of a claim's CDI file: device nodes, environment, how many mounts."""
    document = cdi.parse((world.folder / cdi_path(ref).strip("/")).read_bytes())
    return [
        ([node.path for node in each.edits.device_nodes], each.edits.env, len(each.edits.mounts))
        for each in document.devices
    ]


def reason(text: str) -> str:
    return text.partition("prepare devices failed: ")[2]


# ── binding ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_all_functions_of_the_slot_are_bound_and_given_back(world: VfioWorld) -> None:
    ref = await world.claim("vm", "gpu-vfio-1")
    assert await world.prepared(ref) == ["gpu-vfio-1"]
    assert world.kernel.driver(gpu_address(1)) == world.kernel.driver(audio_address(1)) == "vfio-pci"
    assert "gpu-1" not in world.inventory.devices
    assert edits(world, ref) == [(["/dev/vfio/11"], ("NVIDIA_VISIBLE_DEVICES=void",), 0)]
    (device,) = world.checkpoint().entries[ref.uid].prepared[0].devices  # type: ignore[union-attr]
    assert device.info == PreparedVfio(vfio_uuid(gpu_address(1)), gpu_address(1))
    assert await world.prepared(ref) == ["gpu-vfio-1"], "asked again"
    await world.released(ref)
    assert world.is_as_before()
    assert "gpu-1" in world.inventory.devices


async def test_functions_that_depend_on_the_gpu_are_unbound_before_it_and_bound_after_it(world: VfioWorld) -> None:
    await world.prepared(await world.claim("vm", "gpu-vfio-0"))
    gpu, audio = gpu_address(0), audio_address(0)
    assert world.kernel.writes == [
        (f"devices/{gpu}/driver_override", "vfio-pci"),
        (f"devices/{audio}/driver_override", "vfio-pci"),
        (f"devices/{audio}/driver/unbind", audio),
        (f"devices/{gpu}/driver/unbind", gpu),
        ("drivers/vfio-pci/bind", gpu),
        ("drivers/vfio-pci/bind", audio),
    ]


async def test_a_plain_gpu_beside_it_is_prepared_without_a_write(world: VfioWorld) -> None:
    await world.prepared(await world.claim("pod", "gpu-0"))
    assert world.kernel.writes == []


@pytest.mark.parametrize(
    ("policy", "has_iommufd", "nodes"),
    [
        ("LegacyOnly", True, ["/dev/vfio/vfio", "/dev/vfio/10"]),
        ("PreferIommuFD", False, ["/dev/vfio/vfio", "/dev/vfio/10"]),
        ("PreferIommuFD", True, ["/dev/iommu", "/dev/vfio/devices/vfio0"]),
    ],
)
async def test_the_devices_of_the_policy_are_given(
    world: VfioWorld, policy: str, has_iommufd: bool, nodes: list[str]
) -> None:
    if has_iommufd:
        world.host.put_device(f"{HOST_ROOT}/dev/iommu", 10, 127)
        look(world)
    ref = await world.claim("vm", "gpu-vfio-0", config=vfio(backendPolicy=policy, enableAPIDevice=True))
    await world.prepared(ref)
    assert [given for given, _, _ in edits(world, ref)] == [sorted(nodes, key=lambda path: (path.count("/"), path))]


async def test_a_gpu_without_its_iommufd_device_is_given_back(world: VfioWorld) -> None:
    world.host.put_device(f"{HOST_ROOT}/dev/iommu", 10, 127)
    look(world)
    (world.folder / f"{HOST_ROOT}/dev/iommu".strip("/")).unlink()  # the stand-in makes no such device then
    ref = await world.claim("vm", "gpu-vfio-0", config=vfio(backendPolicy="PreferIommuFD"))
    assert reason(await world.refused(ref)) == (
        'error applying config: error configuring vfio device "gpu-vfio-0": '
        f'missing iommufd cdev for GPU "{gpu_address(0)}"'
    )
    assert world.is_as_before()


async def test_a_pods_gpu_and_a_virtual_machines_gpu_of_one_claim_have_edits_of_their_own(world: VfioWorld) -> None:
    ref = await world.claim("both", "gpu-0", "gpu-vfio-1")
    await world.prepared(ref)
    (pod_nodes, _, pod_mounts), (vm_nodes, _, vm_mounts) = edits(world, ref)
    assert ("/dev/nvidia0" in pod_nodes, pod_mounts > 0) == (True, True)
    assert (vm_nodes, vm_mounts) == (["/dev/vfio/11"], 0)


async def test_two_configs_in_one_claim_are_refused_for_good(world: VfioWorld) -> None:
    parts = [vfio(backendPolicy=policy)[0] for policy in ("LegacyOnly", "PreferIommuFD")]
    config = [{**part, "requests": [f"r{index}"]} for index, part in enumerate(parts)]
    ref = await world.claim("vm", "gpu-vfio-0", "gpu-vfio-1", config=config)
    assert reason(await world.refused(ref)) == (
        f"claim {ref} contains 2 VFIO device groups, but at most one is supported per claim"
    )
    assert world.kernel.writes == []


# ── as it was before ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_persistence_mode_that_was_off_stays_off(world: VfioWorld) -> None:
    world.smi.persistence[gpu_address(0)] = False
    ref = await world.claim("vm", "gpu-vfio-0")
    await world.prepared(ref)
    await world.released(ref)
    assert world.smi.persistence[gpu_address(0)] is False
    assert not any("-pm" in run for run in world.smi.runs)


async def test_what_an_administrator_bound_stays_bound(world: VfioWorld) -> None:
    for address in (gpu_address(0), audio_address(0)):
        world.kernel.give(address, "vfio-pci")
    look(world)
    ref = await world.claim("vm", "gpu-vfio-0")
    await world.prepared(ref)
    await world.restart()
    await world.released(ref)
    assert world.kernel.writes == []
    assert world.kernel.driver(gpu_address(0)) == "vfio-pci"


async def test_drivers_from_before_are_known_after_a_restart(world: VfioWorld) -> None:
    world.kernel.set(audio_address(0), "driver_override", "snd_hda_intel\n")
    ref = await world.claim("vm", "gpu-vfio-0")
    await world.prepared(ref)
    await world.restart()
    await world.released(ref)
    assert world.kernel.overrides() == {audio_address(0): "snd_hda_intel"}
    assert world.kernel.driver(audio_address(0)) == "snd_hda_intel"


async def test_a_gpu_without_driver_is_bound_and_goes_to_the_nvidia_driver_then(world: VfioWorld) -> None:
    world.kernel.give(gpu_address(0), "")
    look(world)
    assert "gpu-vfio-0" in world.inventory.devices
    ref = await world.claim("vm", "gpu-vfio-0")
    await world.prepared(ref)
    await world.released(ref)
    assert world.kernel.driver(gpu_address(0)) == "nvidia"


async def test_a_gpu_without_driver_is_recovered_when_the_program_starts(world: VfioWorld) -> None:
    world.kernel.give(gpu_address(2), "")
    look(world)
    assert "gpu-2" not in world.inventory.devices
    upkeep = world.parts.upkeep(world.context, lambda: world.inventory, lambda: False)
    await world.timely(upkeep.clean_up())
    assert world.is_as_before()
    assert "gpu-2" in world.inventory.devices


async def test_a_gpu_that_an_administrator_bound_is_not_recovered(world: VfioWorld) -> None:
    address = gpu_address(2)
    world.kernel.give(address, "vfio-pci")
    look(world)
    await world.timely(world.parts.upkeep(world.context, lambda: world.inventory, lambda: False).clean_up())
    assert world.kernel.driver(address) == "vfio-pci"


async def test_a_gpu_that_is_gone_from_the_node_keeps_no_claim(world: VfioWorld) -> None:
    ref = await world.claim("vm", "gpu-vfio-3")
    await world.prepared(ref)
    for address in (gpu_address(3), audio_address(3)):
        world.kernel.lose(address)
    look(world)
    await world.released(ref)
    assert world.checkpoint().entries == {}


async def test_the_driver_that_is_not_loaded_any_more_takes_the_gpu_later(world: VfioWorld) -> None:
    ref = await world.claim("vm", "gpu-vfio-0")
    await world.prepared(ref)
    for name in ("bind", "unbind"):
        (world.folder / f"sys/bus/pci/drivers/nvidia/{name}").unlink()
    (world.folder / "sys/bus/pci/drivers/nvidia").rmdir()
    await world.released(ref)
    assert (world.kernel.driver(gpu_address(0)), world.kernel.overrides()) == ("", {})
    world.kernel.load("nvidia")
    assert world.kernel.driver(gpu_address(0)) == "nvidia"


# ── twins ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("first", "second"), [("gpu-0", "gpu-vfio-0"), ("gpu-vfio-0", "gpu-0")])
async def test_one_of_two_twins_keeps_the_other_away_after_a_restart_too(
    world: VfioWorld, first: str, second: str
) -> None:
    one = await world.claim("one", first)
    await world.prepared(one)
    await world.restart()
    refused = await world.refused(await world.claim("two", second))
    assert f"requested device {second} is already allocated to different claim {one.uid}" in refused


# ── what a virtual machine cannot get ──────────────────────────────────────────────────────────────────────────────


async def test_a_foreign_device_in_the_group_refuses_in_words_before_anything_is_unbound(world: VfioWorld) -> None:
    world.kernel.add("0000:09:00.0", kind=0x020000, vendor=0x15B3, device=0x1021, driver="mlx5_core", group=10)
    words = (
        f'IOMMU group 10 of GPU "{gpu_address(0)}" has other devices too: '
        "0000:09:00.0 (class 0x020000, bound to mlx5_core); a virtual machine gets a group as a whole, so turn on ACS "
        "in the firmware or move a card to another slot"
    )
    seen_late = await world.refused(await world.claim("late", "gpu-vfio-0"))
    assert words in seen_late
    look(world)
    assert "gpu-vfio-0" not in world.inventory.devices
    assert words in await world.refused(await world.claim("vm", "gpu-vfio-0"))
    assert world.kernel.writes == []
    await world.prepared(await world.claim("pod", "gpu-0"), await world.claim("other", "gpu-vfio-1"))


async def test_bridges_of_the_group_stay_as_they_are(world: VfioWorld) -> None:
    world.kernel.load("pcieport")
    world.kernel.add("0000:00:01.0", kind=0x060400, vendor=0x8086, device=0x1901, driver="pcieport", group=10)
    ref = await world.claim("vm", "gpu-vfio-0")
    await world.prepared(ref)
    assert world.kernel.driver("0000:00:01.0") == "pcieport"


async def test_another_gpu_in_the_slot_is_no_function_of_this_one(world: VfioWorld) -> None:
    world.kernel.add("0000:01:00.4", group=77, minor=9)
    assert "0000:01:00.4 (class 0x030200, bound to nvidia)" in await world.refused(
        await world.claim("vm", "gpu-vfio-0")
    )


async def test_virtual_functions_are_no_gpus_and_keep_theirs_from_virtual_machines(world: VfioWorld) -> None:
    world.kernel.add("0000:01:00.5", driver="", group=78)
    (world.folder / "sys/bus/pci/devices/0000:01:00.5/physfn").symlink_to("../0000:01:00.0")
    world.kernel.set(gpu_address(0), "sriov_numvfs", "1\n")
    look(world)
    assert [name for name in world.inventory.devices if "vfio" in name] == [f"gpu-vfio-{n}" for n in (1, 2, 3)]
    refused = await world.refused(await world.claim("vm", "gpu-vfio-0"))
    assert "error verifying disabled VFs: gpu has 1 VFs, cannot unbind" in refused


async def test_a_gpu_of_another_driver_is_not_offered(world: VfioWorld) -> None:
    address = gpu_address(0)
    world.kernel.load("nouveau")
    world.kernel.give(address, "nouveau")
    look(world)
    refused = await world.refused(await world.claim("vm", "gpu-vfio-0"))
    assert f'GPU "{address}" is bound to "nouveau" driver, expected "vfio-pci" or "nvidia"' in refused


async def test_a_node_without_iommu_serves_plain_gpus(tmp_path: Path) -> None:
    world = VfioWorld(tmp_path)
    groups = world.folder / "sys/kernel/iommu_groups"
    groups.rename(groups.with_name("away"))
    look(world)
    world.start()
    await world.prepared(await world.claim("pod", "gpu-0"))
    assert not any("vfio" in name for name in world.inventory.devices)
    refused = await world.refused(await world.claim("vm", "gpu-vfio-1"))
    assert refused.endswith('allocatable not found for device "gpu-vfio-1": IOMMU is not enabled in the kernel')
    await world.stop()


# ── who holds the GPU ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_free_gpu_is_looked_at_once_and_bound_at_once(world: VfioWorld) -> None:
    before = world.clock.now()
    await world.prepared(await world.claim("vm", "gpu-vfio-0"))
    assert world.clock.now() == before
    assert len(world.looks) == 2, "before anything is reserved, and at the moment of the unbind"


async def test_a_held_gpu_is_answered_at_the_deadline_with_its_holder_and_a_retry_joins(world: VfioWorld) -> None:
    ref = await world.claim("vm", "gpu-vfio-0")
    world.holding[195, 0] = [TRAINING]
    before = world.clock.now()
    refused = await world.refused(ref)
    assert world.clock.now() - before == pytest.approx(40.0)
    assert f'waiting for GPU "{gpu_address(0)}" to be free: {TRAINING}' in refused
    assert len(world.looks) == pytest.approx(160, abs=3), "at once, then every 250 ms"
    assert world.kernel.writes == []
    assert world.state(ref) == "PrepareStarted"
    del world.holding[195, 0]
    assert await world.prepared(ref) == ["gpu-vfio-0"]
    assert world.clock.now() - before < 41


async def test_claims_that_wait_share_one_look_at_all_processes(world: VfioWorld) -> None:
    refs = [await world.claim(f"vm-{minor}", f"gpu-vfio-{minor}") for minor in range(4)]
    for minor in range(4):
        world.holding[195, minor] = [TRAINING]
    await world.prepare(*refs)
    assert len(world.looks) < 200, "not one for each of four claims"
    assert max(map(len, world.looks)) == 4
    world.holding.clear()
    await world.prepared(*refs)


async def test_a_claim_that_waits_is_unprepared_at_once_and_leaves_everything_as_it_was(world: VfioWorld) -> None:
    ref = await world.claim("vm", "gpu-vfio-0")
    world.holding[195, 0] = [TRAINING]
    await world.refused(ref)
    await world.released(ref)
    assert world.is_as_before()
    assert world.checkpoint().entries == {}


async def test_the_persistence_daemon_is_no_holder_once_the_mode_is_off(world: VfioWorld) -> None:
    ref = await world.claim("vm", "gpu-vfio-0")
    world.smi.fail("persistence mode", exit_code=9, said="Insufficient Permissions")
    refused = await world.refused(ref)
    assert f'error disabling persistence mode for GPU "{gpu_address(0)}"' in refused
    assert "Insufficient Permissions" in refused
    assert PERSISTENCED not in refused
    assert world.kernel.writes == []
    world.smi.forgive()
    await world.prepared(ref)


async def test_a_virtual_machine_that_still_runs_is_waited_for_and_named(world: VfioWorld) -> None:
    ref = await world.claim("vm", "gpu-vfio-0")
    await world.prepared(ref)
    world.holding[240, 10] = [QEMU]
    failure = (await world.unprepare(ref))[ref.uid]
    assert failure is not None
    assert f'waiting for a virtual machine to close GPU "{gpu_address(0)}": {QEMU}' in failure.error
    world.holding.clear()
    await world.released(ref)
    assert world.is_as_before()


async def test_nvml_is_closed_while_the_gpu_is_unbound(world: VfioWorld) -> None:
    was_closed: list[bool] = []
    world.kernel.is_held = lambda _address: bool(was_closed.append(world.nvml.is_closed))
    world.nvml.refusals = [NvmlInUse(("a scan",))] * 3
    await world.prepared(await world.claim("vm", "gpu-vfio-0"))
    assert was_closed[-1] is True


# ── writes that fail or hang ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "path",
    [
        f"devices/{gpu_address(0)}/driver_override",
        f"devices/{audio_address(0)}/driver/unbind",
        f"devices/{gpu_address(0)}/driver/unbind",
        "drivers/vfio-pci/bind",
    ],
)
async def test_a_write_that_is_refused_is_named_and_everything_is_as_before(world: VfioWorld, path: str) -> None:
    world.kernel.refuse(path, errno.EBUSY)
    ref = await world.claim("vm", "gpu-vfio-0")
    refused = await world.refused(ref)
    assert f"/sys/bus/pci/{path}: Device or resource busy" in refused
    world.kernel.relent()
    await world.timely(world.sweep.half_prepared())
    await world.released(ref)
    assert world.is_as_before()
    assert await world.prepared(ref) == ["gpu-vfio-0"]


async def test_a_write_that_hangs_is_answered_at_the_deadline_and_waited_for(world: VfioWorld) -> None:
    path = f"devices/{gpu_address(0)}/driver/unbind"
    returns = world.kernel.hang(path)
    ref = await world.claim("vm", "gpu-vfio-0")
    refused = await world.refused(ref)
    assert f"the kernel has not finished a write to /sys/bus/pci/{path} within 10 s" in refused
    assert not world.nvml.is_closed, "plain GPUs are served meanwhile"
    await world.prepared(await world.claim("pod", "gpu-1"))
    returns.set()
    assert await world.prepared(ref) == ["gpu-vfio-0"]


async def test_a_write_that_hangs_while_the_claim_goes_is_waited_for_before_anything_else(world: VfioWorld) -> None:
    returns = world.kernel.hang(f"devices/{gpu_address(0)}/driver/unbind")
    ref = await world.claim("vm", "gpu-vfio-0")
    await world.refused(ref)
    gone = asyncio.ensure_future(world.unprepare(ref))
    await world.clock.settle()
    assert not gone.done()
    returns.set()
    assert await world.timely(gone) == {ref.uid: None}
    assert world.is_as_before()


# ── modules ────────────────────────────────────────────────────────────────────────────────────────────────────────


def unload_vfio(world: VfioWorld) -> None:
    for path in sorted((world.folder / "sys/bus/pci/drivers/vfio-pci").iterdir()):
        path.unlink()
    (world.folder / "sys/bus/pci/drivers/vfio-pci").rmdir()


async def test_the_module_is_loaded_where_it_is_not(world: VfioWorld) -> None:
    unload_vfio(world)
    asked = []

    def modprobe(argv: Any) -> Finished:
        asked.append(list(argv))
        world.kernel.load("vfio-pci")
        return Finished(0, b"", b"")

    world.host.programs["modprobe"] = modprobe
    await world.prepared(await world.claim("vm", "gpu-vfio-0"))
    assert asked == [["chroot", HOST_ROOT, "modprobe", "vfio_pci"]]


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (None, "No such file or directory"),
        (lambda _argv: Finished(1, b"", b"modprobe: FATAL: Module vfio_pci not found\n"), "FATAL: Module vfio_pci not"),
        (lambda _argv: Finished(0, b"", b""), "failed to find driver directory for vfio module"),
    ],
)
async def test_a_module_that_cannot_be_loaded_is_named_before_anything_is_touched(
    world: VfioWorld, program: Any, words: str
) -> None:
    unload_vfio(world)
    if program is not None:
        world.host.programs["modprobe"] = program
    assert words in await world.refused(await world.claim("vm", "gpu-vfio-0"))
    assert world.kernel.writes == []
    assert world.is_as_before()


# ── two programs, as during an update ──────────────────────────────────────────────────────────────────────────────


async def test_two_programs_of_an_update_bind_a_gpu_once(world: VfioWorld) -> None:
    other = world.beside()
    ref = await world.claim("vm", "gpu-vfio-0")
    world.holding[195, 0] = [TRAINING]
    await world.refused(ref)
    joining = asyncio.ensure_future(other.service.prepare([ref]))
    await world.clock.settle()
    world.holding.clear()
    assert await world.prepared(ref) == ["gpu-vfio-0"]
    answer = (await world.timely(joining))[ref.uid]
    assert [device.device for device in answer] == ["gpu-vfio-0"]  # type: ignore[union-attr]
    assert world.kernel.writes.count(("drivers/vfio-pci/bind", gpu_address(0))) == 1
    await other.released(ref)
    assert world.is_as_before()
    await other.stop()


# ── gate off ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_bound_gpu_is_kept_while_the_gate_is_off(world: VfioWorld) -> None:
    ref = await world.claim("vm", "gpu-vfio-0")
    await world.prepared(ref)
    world.gates = ""
    await world.restart()
    failure = (await world.unprepare(ref))[ref.uid]
    assert failure is not None
    assert "gate PassthroughSupport is off" in failure.error
    world.gates = "PassthroughSupport=true"
    await world.restart()
    await world.released(ref)
    assert world.is_as_before()
