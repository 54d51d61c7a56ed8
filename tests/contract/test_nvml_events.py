"""Events through the compiled binding and its session, on mock GPUs: what is received, what is held, what is let go."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from nvdra_mock_nvml import Root, lay_out

from nvdra.gpu.health import WATCHED_EVENTS, waits_for_reset
from nvdra.nvml import DriverAbsent, DriverChanged, EventsClosed, Nvml, NvmlError, NvmlEvents
from tests.contract.clocks import LoopClock
from tests.contract.nvml_node import open_device_nodes

ONE, TWO = "0000:1b:00.0", "0000:43:00.0"
XID_EVENT, NO_INSTANCE = 8, 0xFFFFFFFF


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return lay_out(tmp_path / "root", "h100x8", device_files="regular", gpus=(0, 1))


def session(root: Root) -> NvmlEvents:
    return NvmlEvents(lambda: str(root.library.resolve()), LoopClock(), waits_for_reset, wait_ms=2000)


async def test_events_come_with_gpu_number_and_instance(root: Root) -> None:
    events = session(root)
    found = await events.open((ONE, TWO), WATCHED_EVENTS)
    assert {address: (gpu.kinds, gpu.action, gpu.error) for address, gpu in found.items()} == dict.fromkeys(
        (ONE, TWO), (WATCHED_EVENTS, 0, "")
    )
    assert found[ONE].links == 18
    root.fire_event(1, "xid", 48, gi=3, ci=0)
    root.fire_event(0, "double-bit-ecc")
    received = await events.next()
    received += await events.next() if len(received) < 2 else []
    assert received == [(TWO, XID_EVENT, 48, 3, 0), (ONE, 2, 0, NO_INSTANCE, NO_INSTANCE)]
    await events.close()


async def test_a_burst_is_received_in_few_calls(root: Root) -> None:
    events = session(root)
    await events.open((ONE,), WATCHED_EVENTS)
    for number in range(2_000):
        root.fire_event(0, "xid", number)
    calls = [await events.next() for _ in range(8)]
    assert [xid for call in calls for _, _, xid, _, _ in call] == list(range(2_000))
    await events.close()


async def test_no_gpu_is_held_after_a_release_and_a_closed_session_says_so(root: Root) -> None:
    before = open_device_nodes()
    events = session(root)
    with pytest.raises(EventsClosed):
        await events.next()
    await events.open((ONE, TWO), WATCHED_EVENTS)
    assert open_device_nodes() != before
    async with events.released():
        assert open_device_nodes() == before
    with pytest.raises(EventsClosed):
        await events.look((ONE,))


async def test_a_gpu_that_waits_for_a_reset_is_looked_at_and_not_held(root: Root) -> None:
    root.set_recovery_action(1, 1)
    before = open_device_nodes()
    events = session(root)
    found = await events.open((ONE, TWO), WATCHED_EVENTS)
    assert (found[TWO].action, found[TWO].is_held, found[ONE].is_held) == (1, False, True)
    more = Counter(open_device_nodes()) - Counter(before)
    assert sorted(Path(path).name for path in more.elements()) == ["nvidia0", "nvidiactl"]
    await events.close()


async def test_lost_and_refusing_gpus_are_told_apart_and_the_others_are_watched(root: Root) -> None:
    root.set_faults([{"minor": 1, "lost": True}])
    events = session(root)
    found = await events.open((ONE, TWO, "0000:ff:00.0"), WATCHED_EVENTS)
    assert (found[TWO].is_lost, found[TWO].is_held) == (True, False)
    assert found["0000:ff:00.0"].error
    assert not found["0000:ff:00.0"].is_lost
    root.fire_event(0, "xid", 48)
    assert [event[0] for event in await events.next()] == [ONE]
    await events.close()


@pytest.mark.parametrize("how", ["old library", "refusal"])
async def test_a_recovery_action_that_cannot_be_read_is_unknown(tmp_path: Path, how: str) -> None:
    without = ["nvmlDeviceGetFieldValues"] if how == "old library" else []
    root = lay_out(tmp_path / "root", "h100x8", device_files="regular", gpus=(0,), without=without)
    if how == "refusal":
        root.set_faults([{"function": "nvmlDeviceGetFieldValues", "code": "UNKNOWN"}])
    events = session(root)
    found = await events.open((ONE,), WATCHED_EVENTS)
    assert (found[ONE].action, found[ONE].error, found[ONE].is_held) == (None, "", True)
    await events.close()


async def test_nvml_that_goes_away_while_waited_for_is_an_error(root: Root) -> None:
    events = session(root)
    await events.open((ONE,), WATCHED_EVENTS)
    root.set_faults([{"function": "nvmlEventSetWait_v2", "code": "DRIVER_NOT_LOADED"}])
    with pytest.raises(NvmlError, match="nvmlEventSetWait_v2"):
        await events.next()
    root.clear_faults()
    await events.close()
    (root.root / "dev/nvidiactl").unlink()
    with pytest.raises(DriverAbsent):
        await events.open((ONE,), WATCHED_EVENTS)


async def test_another_driver_needs_another_process(root: Root) -> None:
    events = session(root)
    await events.open((ONE,), WATCHED_EVENTS)
    laid = root.replace_driver("590.10.01")
    with pytest.raises(DriverChanged, match=r"590\.10\.01"):
        await events.open((ONE,), WATCHED_EVENTS)
    assert laid.driver_version == "590.10.01"


async def test_the_lease_opens_and_closes_beside_the_events(root: Root) -> None:
    events = session(root)
    await events.open((ONE, TWO), WATCHED_EVENTS)
    lease = Nvml(lambda: str(root.library.resolve()), LoopClock())
    assert len((await lease.scan()).gpus) == 2
    await lease.close()
    root.fire_event(0, "xid", 48)
    assert len(await events.next()) == 1
    assert len((await lease.scan()).gpus) == 2
    await lease.close()
    await events.close()


async def test_mig_mode_changes_only_while_the_events_let_go(root: Root) -> None:
    events = session(root)
    await events.open((ONE, TWO), WATCHED_EVENTS)
    library = lambda: str(root.library.resolve())  # noqa: E731
    uuid = root.gpu(0).uuid
    stubborn, lease = Nvml(library, LoopClock()), Nvml(library, LoopClock(), released=events.released)
    with pytest.raises(NvmlError, match="In use"):
        await stubborn.set_mig_mode(uuid, True)
    await lease.set_mig_mode(uuid, True)
    assert (await lease.mig(uuid))[0]
    await events.open((ONE, TWO), WATCHED_EVENTS)
    for session_ in (stubborn, lease):
        await session_.close()
    await events.close()
