"""GPUs that say yes and do nothing, or refuse for good: no claim is prepared by it, and what they refused is known."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import nvdra_mock_nvml as mock
import pytest

from nvdra.gpu import Inventory, StuckMode, from_scan
from nvdra.node.gpu.stuck_modes import NAME, StuckModes, read_stuck_modes
from nvdra.node.steps import StepFailed
from nvdra.nvml import IN_USE, NOT_SUPPORTED, RESET_REQUIRED, Nvml, NvmlError
from nvdra.testing.host import FakeHost
from tests.contract.clocks import LoopClock
from tests.unit.gpu.scans import node_scan
from tests.unit.node.mig_world import AT_ONE, AT_ZERO, ZERO, card
from tests.unit.node.test_mig_actor import Bench

SMALL = 19


@pytest.fixture
def laid(tmp_path: Path) -> mock.Root:
    return mock.lay_out(tmp_path / "root", "h100x8", device_files="regular")


def session(laid: mock.Root) -> Nvml:
    return Nvml(lambda: str(laid.library.resolve()), LoopClock())


# ── NVML reports success, and nothing happened ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("on", [True, False])
async def test_a_mode_change_that_is_only_reported_is_an_error(laid: mock.Root, on: bool) -> None:
    laid.set_mig_mode(0, on=not on)
    held = session(laid)
    laid.set_faults([{"function": "nvmlDeviceSetMigMode", "code": "SUCCESS"}])
    with pytest.raises(NvmlError, match=rf"reported as done, but MIG mode is still {'off' if on else 'on'}") as refused:
        await held.set_mig_mode(laid.gpu(0).uuid, on)
    assert refused.value.code == NOT_SUPPORTED
    laid.clear_faults()
    await held.set_mig_mode(laid.gpu(0).uuid, on)
    assert (await held.mig(laid.gpu(0).uuid))[0] is on
    await held.close()


async def test_a_partition_that_is_only_reported_fails_its_step(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.gpus.pretend("create_compute_instance", ZERO)
    failed = await bench.fails(bench.make("c1", bench.spec(SMALL, 0)))
    assert "NVML reported 'gpu-0-mig-1g18gb-19-0' as created, and it is not on the GPU" in str(failed)


async def test_a_destruction_that_is_only_reported_fails_its_rollback(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    spec = bench.spec(SMALL, 0)
    await bench.make("c1", spec)
    bench.gpus.pretend("destroy_gpu_instance", ZERO)
    failed = await bench.fails(bench.roll_back("c1", bench.step(spec)))
    assert "NVML reported it as destroyed, and GPU instance 1 (profile 19 at memory slice 0) is still there" in str(
        failed
    )
    assert bench.gpus.placements(ZERO) == [(SMALL, 0)]
    await bench.roll_back("c1", bench.step(spec))
    assert bench.gpus.placements(ZERO) == []


# ── a GPU refuses a change of mode for good ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("code", "lasts"), [(NOT_SUPPORTED, True), (RESET_REQUIRED, True), (IN_USE, False)])
async def test_a_mode_that_cannot_be_set_is_told_and_a_busy_gpu_is_not(tmp_path: Path, code: int, lasts: bool) -> None:
    bench = Bench(tmp_path)
    bench.gpus.refuse("set_mig_mode", ZERO, NvmlError(code, "nvmlDeviceSetMigMode", "no"))
    with pytest.raises(StepFailed):
        await bench.make("c1", bench.spec(SMALL, 0))
    assert bench.stuck == ({AT_ZERO: StuckMode(True, "no")} if lasts else {})


def inventory(mode: tuple[int, int], stuck: dict[str, StuckMode]) -> Inventory:
    scans = node_scan(replace(card(0), mig_mode=mode), card(1))
    return from_scan(scans, {}, dynamic_mig=True, stuck=stuck)


def test_a_gpu_that_cannot_be_partitioned_is_offered_whole_alone() -> None:
    found = inventory((0, 0), {AT_ZERO: StuckMode(True, "Not Supported")})
    assert [name for name in found.devices if name.startswith("gpu-0")] == ["gpu-0"]
    assert len([name for name in found.devices if name.startswith("gpu-1")]) > 20
    why = found.why_absent("gpu-0-mig-1g18gb-19-0")
    assert why == "MIG mode cannot be turned on before the GPU or the node is reset: Not Supported"
    assert set(found.stuck) == {AT_ZERO}


def test_a_gpu_that_cannot_leave_mig_mode_is_offered_in_parts_alone() -> None:
    found = inventory((1, 1), {AT_ZERO: StuckMode(False, "reset")})
    assert "gpu-0" not in found.devices
    assert "gpu-0-mig-1g18gb-19-0" in found.devices
    assert "cannot be turned off" in found.why_absent("gpu-0")


def test_a_mode_that_somebody_set_by_a_reset_is_stuck_no_more() -> None:
    found = inventory((1, 1), {AT_ZERO: StuckMode(True, "Not Supported")})
    assert "gpu-0" in found.devices
    assert found.stuck == {}


# ── the memory of it ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_refusals_are_kept_for_one_boot(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    (tmp_path / "plugin").mkdir()
    modes = StuckModes(host, "/plugin")
    await modes.note(AT_ZERO, StuckMode(True, "one"))
    await modes.note(AT_ONE, StuckMode(False, "two"))
    kept = {AT_ZERO: StuckMode(True, "one"), AT_ONE: StuckMode(False, "two")}
    assert modes.known() == read_stuck_modes(host, "/plugin") == kept
    file = tmp_path / "plugin" / NAME
    file.write_text(file.read_text().replace(host.boot_id(), "another boot"))
    assert StuckModes(host, "/plugin").known() == {}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"bootID": 1, "gpus": []}', "\0"])
async def test_a_damaged_file_is_none(tmp_path: Path, content: str) -> None:
    host = FakeHost(tmp_path)
    (tmp_path / NAME).write_text(content)
    assert read_stuck_modes(host, "") == {}
    await asyncio.sleep(0)


async def test_a_folder_that_cannot_be_written_costs_only_the_memory(tmp_path: Path) -> None:
    modes = StuckModes(FakeHost(tmp_path), "/nowhere")
    await modes.note(AT_ZERO, StuckMode(True, "one"))
    assert set(modes.known()) == {AT_ZERO}
