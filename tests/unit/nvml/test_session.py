"""The lease: when NVML is open, for whom, and what is said when it cannot be."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest
from nvdra_mock_nvml import Root, lay_out

from nvdra import nvml
from nvdra.nvml import DriverAbsent, DriverChanged, Nvml, NvmlInUse
from tests.contract.clocks import LoopClock, StandingClock, until


@pytest.fixture
def root(tmp_path) -> Root:
    laid = lay_out(tmp_path / "root", "h200x1", device_files="regular")
    laid.count_calls()
    return laid


def session(root: Root, clock: StandingClock | LoopClock, **options: float) -> Nvml:
    return Nvml(lambda: str(root.library.resolve()), clock, **options)


async def settled(nvml_session: Nvml, *, is_open: bool) -> None:
    """Waits for the owner thread, which real time moves."""
    await until(lambda: nvml_session.is_open == is_open)


def times(root: Root, function: str) -> int:
    return root.calls().get(function, 0)


async def test_making_a_session_opens_nothing(root):
    before = nvml.calls()
    held = session(root, StandingClock())
    await held.close()
    assert not held.is_open
    assert nvml.calls() == before


async def test_the_lease_runs_out_after_five_idle_seconds(root):
    clock = StandingClock()
    held = session(root, clock)
    await held.scan()
    await clock.pass_by(4.9)
    assert held.is_open
    await clock.pass_by(0.2)
    await settled(held, is_open=False)
    assert (times(root, "nvmlInitWithFlags"), times(root, "nvmlShutdown")) == (1, 1)


async def test_use_starts_the_idle_time_again(root):
    clock = StandingClock()
    held = session(root, clock)
    for _ in range(3):
        await held.scan()
        await clock.pass_by(4)
        assert held.is_open
    assert times(root, "nvmlInitWithFlags") == 1
    await clock.pass_by(1.1)
    await settled(held, is_open=False)


async def test_a_holder_keeps_it_open_and_is_named(root):
    clock = StandingClock()
    held = session(root, clock)
    async with held.hold("MIG devices"):
        await clock.pass_by(3600)
        assert held.is_open
        with pytest.raises(NvmlInUse, match="MIG devices") as refused:
            await held.close()
        assert refused.value.reasons == ("MIG devices",)
        await held.scan()
        await clock.pass_by(3600)
        assert held.is_open
    await clock.pass_by(5.1)
    await settled(held, is_open=False)


async def test_close_is_at_once_and_the_next_scan_opens_again(root):
    held = session(root, StandingClock())
    await held.scan()
    await held.close()
    assert not held.is_open
    await held.scan()
    assert held.is_open
    assert times(root, "nvmlInitWithFlags") == 2


async def test_what_is_closed_is_not_even_loaded(root):
    def is_loaded() -> bool:
        return str(root.library.resolve()) in Path("/proc/self/maps").read_text()

    held = session(root, LoopClock(), idle_s=0.05)
    await held.scan()
    assert is_loaded()
    await until(lambda: not held.is_open)
    assert not is_loaded()


async def test_close_waits_for_the_scan_that_runs(root):
    root.set_faults([{"function": "nvmlDeviceGetName", "delay_ms": 50}])
    held = session(root, LoopClock())
    scan, _ = await asyncio.gather(held.scan(), held.close())
    assert len(scan.gpus) == 1
    assert not held.is_open


async def test_scans_at_once_are_one_after_the_other_in_one_session(root):
    held = session(root, LoopClock())
    first, second, third = await asyncio.gather(held.scan(), held.scan(), held.scan())
    assert first == second == third
    assert times(root, "nvmlInitWithFlags") == 1


async def test_a_cancelled_scan_leaves_the_session_usable(root):
    root.set_faults([{"function": "nvmlDeviceGetName", "delay_ms": 100, "times": 1}])
    held = session(root, LoopClock())
    running = asyncio.create_task(held.scan())
    await until(lambda: times(root, "nvmlDeviceGetName"))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert len((await held.scan()).gpus) == 1
    await held.close()
    assert not held.is_open


async def test_a_node_without_the_library_gets_it_later(root):
    present: list[str] = []

    def library_path() -> str:
        if not present:
            raise LookupError("it is not there")
        return present[0]

    held = Nvml(library_path, LoopClock())
    with pytest.raises(DriverAbsent, match="it is not there"):
        await held.scan()
    present.append(str(root.library.resolve()))
    assert len((await held.scan()).gpus) == 1


async def test_a_search_that_fails_is_no_driver(root):
    def library_path() -> str:
        raise PermissionError(13, "Permission denied", "/driver-root")

    with pytest.raises(DriverAbsent, match="Permission denied"):
        await Nvml(library_path, LoopClock()).scan()


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"no library at all", "too short|invalid ELF header"), (None, "too old: it lacks nvmlInitWithFlags")],
)
async def test_a_wrong_library_is_no_driver(tmp_path, content, reason):
    library = tmp_path / "libnvidia-ml.so.1"
    if content is None:
        old = lay_out(tmp_path / "root", "h200x1", device_files="regular", without=["nvmlInitWithFlags"])
        shutil.copy(old.library.resolve(), library)
    else:
        library.write_bytes(content)
    with pytest.raises(DriverAbsent, match=reason) as refused:
        await Nvml(lambda: str(library), LoopClock()).scan()
    assert refused.value.code == (12 if content else 13)
    assert str(library) in refused.value.reason


@pytest.mark.parametrize(
    ("code", "reason"), [(9, "kernel module is not loaded"), (18, "another version"), (999, "nvmlInitWithFlags: ")]
)
async def test_a_refusal_to_open_is_told_and_may_pass(root, code, reason):
    root.set_faults([{"function": "nvmlInitWithFlags", "code": code, "times": 2}])
    held = session(root, LoopClock())
    for _ in range(2):
        with pytest.raises(DriverAbsent, match=reason) as refused:
            await held.scan()
        assert refused.value.code == code
        assert not held.is_open
    assert len((await held.scan()).gpus) == 1


async def test_a_module_of_another_version_under_a_process_that_worked_is_a_change(root):
    held = session(root, LoopClock())
    await held.scan()
    await held.close()
    root.set_faults([{"function": "nvmlInitWithFlags", "code": "LIB_RM_VERSION_MISMATCH"}])
    with pytest.raises(DriverChanged, match="another version than the loaded kernel module"):
        await held.scan()


async def test_a_driver_replaced_before_it_ever_worked_is_just_taken(root):
    current = [root.library.resolve()]
    held = Nvml(lambda: str(current[0]), LoopClock())
    root.set_faults([{"function": "nvmlInitWithFlags", "code": "DRIVER_NOT_LOADED"}])
    with pytest.raises(DriverAbsent):
        await held.scan()
    root.clear_faults()
    current[0] = root.replace_driver("590.44.01").library.resolve()
    assert (await held.scan()).driver_version == "590.44.01"


@pytest.mark.parametrize("is_open", [True, False])
async def test_a_replaced_driver_is_a_change(root, is_open):
    current = [root.library.resolve()]
    held = Nvml(lambda: str(current[0]), LoopClock())
    await held.scan()
    if not is_open:
        await held.close()
    current[0] = root.replace_driver("590.44.01").library.resolve()
    with pytest.raises(DriverChanged, match=r"is now .*590\.44\.01; this process has loaded .*580"):
        await held.scan()


async def test_a_library_replaced_under_its_old_name_is_a_change(root):
    held = session(root, LoopClock())
    await held.scan()
    path = root.library.resolve()
    copy = path.with_name("copy")
    shutil.copy(path, copy)
    copy.replace(path)
    with pytest.raises(DriverChanged):
        await held.scan()


@pytest.mark.parametrize("is_open", [True, False])
async def test_a_library_that_is_touched_is_the_same_library(root, is_open):
    held = session(root, LoopClock())
    found = await held.scan()
    if not is_open:
        await held.close()
    os.utime(root.library.resolve())
    assert await held.scan() == found


async def test_an_open_session_that_went_stale_is_opened_anew(root):
    held = session(root, LoopClock())
    await held.scan()
    stale = {"function": "nvmlDeviceGetCount_v2", "code": "UNINITIALIZED"}
    root.set_faults([stale, {"function": "nvmlShutdown", "delay_ms": 300}])
    scanning = asyncio.create_task(held.scan())
    await until(lambda: times(root, "nvmlShutdown") == 1)
    root.set_faults([])
    assert len((await scanning).gpus) == 1
    assert times(root, "nvmlInitWithFlags") == 2


async def test_a_node_that_keeps_refusing_is_said_to(root):
    root.set_faults([{"function": "nvmlSystemGetDriverVersion", "code": "UNKNOWN"}])
    held = session(root, LoopClock())
    with pytest.raises(DriverAbsent, match="nvmlSystemGetDriverVersion"):
        await held.scan()
    async with held.hold("a holder"):
        with pytest.raises(DriverAbsent, match="nvmlSystemGetDriverVersion"):
            await held.scan()


async def test_a_shutdown_that_is_refused_is_the_end_all_the_same(root):
    root.set_faults([{"function": "nvmlShutdown", "code": "UNKNOWN", "times": 1}])
    held = session(root, LoopClock())
    await held.scan()
    await held.close()
    assert not held.is_open


def test_the_library_is_loaded_where_the_path_says(tmp_path):
    first = lay_out(tmp_path / "one", "h200x1", device_files="regular")
    second = lay_out(tmp_path / "two", "h100x8", device_files="regular")

    async def names(root: Root) -> set[str]:
        return {gpu.name for gpu in (await session(root, LoopClock()).scan()).gpus}

    assert asyncio.run(names(first)) == {"NVIDIA H200"}
    assert asyncio.run(names(second)) == {"NVIDIA H100 80GB HBM3"}


async def test_kept_closed_it_is_closed_and_who_wants_it_waits(root):
    clock = StandingClock()
    held = session(root, clock)
    await held.scan()
    async with held.kept_closed():
        assert not held.is_open
        async with held.kept_closed():  # of another GPU, at the same time
            scanning = asyncio.ensure_future(held.scan())
            await asyncio.sleep(0)
            assert not held.is_open
        assert not scanning.done()
    await asyncio.wait_for(scanning, 30)
    assert held.is_open
    await held.close()


async def test_while_it_is_held_it_cannot_be_kept_closed(root):
    held = session(root, StandingClock())
    async with held.hold("a test"):
        with pytest.raises(NvmlInUse, match="held open for a test"):
            async with held.kept_closed():
                pass
        assert held.is_open
    async with held.kept_closed():
        assert not held.is_open
