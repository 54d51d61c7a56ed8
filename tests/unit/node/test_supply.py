"""The supply: driver files looked up once, never kept while something is missing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from nvdra.devices import Gpu
from nvdra.node.supply import SupplyError
from nvdra.ports import Finished
from tests.unit.node.world import LIBRARIES, VERSION, World, lay_driver


def gpu(world: World, minor: int = 0) -> Gpu:
    return world.inventory.devices[f"gpu-{minor}"]


def remove(world: World, path: str) -> None:
    (world.folder / path.strip("/")).unlink()


class Modprobe:
    """The driver root's nvidia-modprobe; makes nodes if it `works`."""

    def __init__(self, world: World, *, works: bool) -> None:
        self.calls: list[Sequence[str]] = []
        self._world = world
        self._works = works
        world.host.write("/driver/usr/bin/nvidia-modprobe", b"x", mode=0o755)
        world.host.programs["nvidia-modprobe"] = self._run

    def _run(self, argv: Sequence[str]) -> Finished:
        self.calls.append(argv)
        if not self._works:
            return Finished(1, b"", b"modprobe: FATAL: Module nvidia-uvm not found")
        self._world.host.put_device("/driver/dev/nvidia-uvm", 510, 0)
        self._world.host.put_device("/driver/dev/nvidia1", 195, 1)
        return Finished(0, b"", b"")


async def test_it_is_looked_up_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.supply.refresh([gpu(world)])
    common = world.supply.common
    monkeypatch.setattr(world.host, "list", None)  # any look into a folder fails from here on
    await world.supply.refresh([gpu(world)])
    assert world.supply.common is common
    assert world.supply.is_at_hand([gpu(world)])


async def test_what_was_forgotten_is_looked_up_again(world: World) -> None:
    await world.supply.refresh([gpu(world)])
    before = world.supply.common
    for name in ("libcuda.so", "libnvidia-ml.so"):
        (world.folder / LIBRARIES.strip("/") / f"{name}.{VERSION}").rename(
            world.folder / LIBRARIES.strip("/") / f"{name}.590.1"
        )
    world.supply.forget()
    assert not world.supply.is_at_hand([])
    await world.supply.refresh([gpu(world)])
    assert world.supply.common is not before


async def test_what_was_forgotten_during_a_look_up_is_not_kept(world: World) -> None:
    looking = asyncio.create_task(world.supply.refresh([]))
    for _ in range(2):  # until the look-up runs in its thread
        await asyncio.sleep(0)
    world.supply.forget()
    await looking
    assert not world.supply.is_at_hand([])
    await world.supply.refresh([])
    assert world.supply.is_at_hand([])


async def test_a_missing_node_is_made_by_the_drivers_own_tool(world: World) -> None:
    remove(world, "/driver/dev/nvidia-uvm")
    modprobe = Modprobe(world, works=True)
    await world.supply.refresh([gpu(world)])
    assert len(modprobe.calls) == 1
    assert world.supply.is_at_hand([gpu(world)])
    # One that vanishes later is noticed and made again.
    remove(world, "/driver/dev/nvidia-uvm")
    assert not world.supply.is_at_hand([gpu(world)])
    await world.supply.refresh([gpu(world)])
    assert len(modprobe.calls) == 2


async def test_a_missing_gpu_node_is_made_too(world: World) -> None:
    await world.supply.refresh([])
    remove(world, "/driver/dev/nvidia1")
    assert not world.supply.is_at_hand([gpu(world, 1)])
    modprobe = Modprobe(world, works=True)
    await world.supply.refresh([gpu(world, 1)])
    assert len(modprobe.calls) == 1


async def test_what_stays_missing_is_named_and_nothing_is_kept(world: World) -> None:
    ref = await world.claim("a", "gpu-0")
    remove(world, "/driver/dev/nvidia-uvm")
    modprobe = Modprobe(world, works=False)
    for times in (1, 2):
        text = await world.refused(ref)
        assert text.startswith(f"error preparing devices for claim {ref}: the driver's /dev/nvidia-uvm")
        assert "Module nvidia-uvm not found" in text
        assert "is missing below /driver" in text
        assert len(modprobe.calls) == times
    assert not world.supply.is_at_hand([])
    assert not world.record().entries
    world.host.put_device("/driver/dev/nvidia-uvm", 510, 0)
    assert await world.prepared(ref) == ["gpu-0"]


async def test_a_missing_gpu_node_fails_its_claim_alone(world: World) -> None:
    remove(world, "/driver/dev/nvidia1")
    good, bad = await world.claim("good", "gpu-0"), await world.claim("bad", "gpu-1")
    answers = await world.prepare(good, bad)
    assert isinstance(answers[good.uid], tuple)
    assert "/dev/nvidia1" in getattr(answers[bad.uid], "error", "")


async def test_who_comes_during_a_look_up_shares_it_and_its_failure(world: World) -> None:
    remove(world, "/driver/dev/nvidia-uvm")
    modprobe = Modprobe(world, works=False)
    done = await asyncio.gather(*(world.supply.refresh([]) for _ in range(8)), return_exceptions=True)
    assert {type(error) for error in done} == {SupplyError}
    assert len(modprobe.calls) == 1


async def test_a_caller_that_goes_away_does_not_take_the_look_up_with_it(world: World) -> None:
    first, second = (asyncio.create_task(world.supply.refresh([])) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert world.supply.is_at_hand([])


async def test_no_driver_at_all_is_told_as_such(world: World) -> None:
    for path in (world.folder / LIBRARIES.strip("/")).iterdir():
        path.unlink()
    with pytest.raises(SupplyError, match="failed to get common CDI spec edits: neither libcuda"):
        await world.supply.refresh([])
    # The driver comes.
    lay_driver(world.host)
    await world.supply.refresh([])
    assert world.supply.is_at_hand([])
