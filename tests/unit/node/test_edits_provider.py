"""The supply: driver files looked up once, never kept while something is missing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from nvdra import cdi
from nvdra.gpu import Gpu, MigDevice, MigProfile, MigSpec
from nvdra.node.edits import EditsMissing
from nvdra.ports import Finished
from tests.unit.node.world import LIBRARIES, VERSION, World, lay_driver

GOLDEN = Path(__file__).parents[2] / "golden" / "cdi"
PROFILE = MigProfile("1g.5gb", 19, 1, 14, 1, 0, 0, 0, 0, 4864 << 20)
CAPABILITIES = "/proc/driver/nvidia/capabilities"


def gpu(world: World, minor: int = 0) -> Gpu:
    device = world.inventory.devices[f"gpu-{minor}"]
    assert isinstance(device, Gpu)
    return device


def spec(world: World, minor: int = 0) -> MigSpec:
    return MigSpec(gpu(world, minor), PROFILE, start=0, size=1)


def partition(world: World, gi_id: int, ci_id: int = 0) -> MigDevice:
    """A live partition of the first GPU, its capability files with it."""
    lay_capabilities(world, gi_id, ci_id)
    return MigDevice(gpu(world), PROFILE, start=gi_id, size=1, gi_id=gi_id, ci_id=ci_id, uuid=f"MIG-{gi_id}")


def lay_capabilities(world: World, gi_id: int, ci_id: int, first: int = 3) -> None:
    world.host.write("/proc/devices", "Character devices:\n234 nvidia-caps\n\nBlock devices:\n259 blkext\n")
    minor = first + 9 * gi_id
    for path, number in ((f"gi{gi_id}", minor), (f"gi{gi_id}/ci{ci_id}", minor + 1 + ci_id)):
        text = f"DeviceFileMinor: {number}\nDeviceFileMode: 292\nDeviceFileModify: 1\n"
        world.host.write(f"{CAPABILITIES}/gpu0/mig/{path}/access", text)


def paths(edits: cdi.Edits) -> list[str]:
    return [node.path for node in edits.device_nodes]


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
    await world.edits_provider.refresh([gpu(world)])
    common = world.edits_provider.common
    monkeypatch.setattr(world.host, "list", None)  # any look into a folder fails from here on
    await world.edits_provider.refresh([gpu(world)])
    assert world.edits_provider.common is common
    assert world.edits_provider.is_available([gpu(world)])


async def test_what_was_forgotten_is_looked_up_again(world: World) -> None:
    await world.edits_provider.refresh([gpu(world)])
    before = world.edits_provider.common
    for name in ("libcuda.so", "libnvidia-ml.so"):
        (world.folder / LIBRARIES.strip("/") / f"{name}.{VERSION}").rename(
            world.folder / LIBRARIES.strip("/") / f"{name}.590.1"
        )
    world.edits_provider.forget()
    assert not world.edits_provider.is_available([])
    await world.edits_provider.refresh([gpu(world)])
    assert world.edits_provider.common is not before


async def test_what_was_forgotten_during_a_look_up_is_not_kept(world: World) -> None:
    looking = asyncio.create_task(world.edits_provider.refresh([]))
    for _ in range(2):  # until the look-up runs in its thread
        await asyncio.sleep(0)
    world.edits_provider.forget()
    await looking
    assert not world.edits_provider.is_available([])
    await world.edits_provider.refresh([])
    assert world.edits_provider.is_available([])


async def test_a_missing_node_is_made_by_the_drivers_own_tool(world: World) -> None:
    remove(world, "/driver/dev/nvidia-uvm")
    modprobe = Modprobe(world, works=True)
    await world.edits_provider.refresh([gpu(world)])
    assert len(modprobe.calls) == 1
    assert world.edits_provider.is_available([gpu(world)])
    # One that vanishes later is noticed and made again.
    remove(world, "/driver/dev/nvidia-uvm")
    await asyncio.sleep(0)  # files are looked at once in a turn of the loop
    assert not world.edits_provider.is_available([gpu(world)])
    await world.edits_provider.refresh([gpu(world)])
    assert len(modprobe.calls) == 2


async def test_a_missing_gpu_node_is_made_too(world: World) -> None:
    await world.edits_provider.refresh([])
    remove(world, "/driver/dev/nvidia1")
    assert not world.edits_provider.is_available([gpu(world, 1)])
    modprobe = Modprobe(world, works=True)
    await world.edits_provider.refresh([gpu(world, 1)])
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
    assert not world.edits_provider.is_available([])
    assert not world.checkpoint().entries
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
    done = await asyncio.gather(*(world.edits_provider.refresh([]) for _ in range(8)), return_exceptions=True)
    assert {type(error) for error in done} == {EditsMissing}
    assert len(modprobe.calls) == 1


async def test_a_caller_that_goes_away_does_not_take_the_look_up_with_it(world: World) -> None:
    first, second = (asyncio.create_task(world.edits_provider.refresh([])) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert world.edits_provider.is_available([])


async def test_no_driver_at_all_is_told_as_such(world: World) -> None:
    for path in (world.folder / LIBRARIES.strip("/")).iterdir():
        path.unlink()
    with pytest.raises(EditsMissing, match="failed to get common CDI spec edits: neither libcuda"):
        await world.edits_provider.refresh([])
    # The driver comes.
    lay_driver(world.host)
    await world.edits_provider.refresh([])
    assert world.edits_provider.is_available([])


# ── partitions ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_claim_of_two_partitions_and_another_gpu(world: World) -> None:
    """The file as a whole: reviewed as a difference in tests/golden."""
    devices = [partition(world, 1), partition(world, 2, 1), gpu(world, 1)]
    assert not world.edits_provider.is_available(devices)
    await world.edits_provider.refresh(devices)
    assert world.edits_provider.is_available(devices)
    edits = [(cdi.GPU_CLAIMS.device_name("c1", device.name), world.edits_provider.edits(device)) for device in devices]
    content = cdi.render_claim(cdi.GPU_CLAIMS, world.edits_provider.common, edits)
    assert content == (GOLDEN / "partitions.yaml").read_bytes()
    document = cdi.claim_document(
        cdi.GPU_CLAIMS, "c1", [(d.name, world.edits_provider.edits(d)) for d in devices], cdi.Edits(env=("A=1",))
    )
    told = cdi.transform_root(cdi.simplify(document), "/driver", "/run/driver")
    assert told.devices == cdi.parse(content).devices


async def test_the_gpu_instances_node_comes_before_its_compute_instances(world: World) -> None:
    device = partition(world, 9, 3)
    await world.edits_provider.refresh([device])
    assert paths(world.edits_provider.edits(device)) == [
        "/dev/nvidia0",
        "/dev/nvidia-caps/nvidia-cap84",
        "/dev/nvidia-caps/nvidia-cap88",
    ]


async def test_a_partitions_nodes_are_read_anew_each_time_and_its_gpus_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = partition(world, 1)
    await world.edits_provider.refresh([device])
    monkeypatch.setattr(world.host, "list", None)  # any look into a folder fails from here on
    lay_capabilities(world, 1, 0, first=100)
    await world.edits_provider.refresh([device])
    assert paths(world.edits_provider.edits(device)) == [
        "/dev/nvidia0",
        "/dev/nvidia-caps/nvidia-cap109",
        "/dev/nvidia-caps/nvidia-cap110",
    ]


async def test_a_partition_that_is_gone_is_named_and_others_stay_at_hand(world: World) -> None:
    there, gone = partition(world, 1), partition(world, 2)
    await world.edits_provider.refresh([there, gone])
    path = f"{CAPABILITIES}/gpu0/mig/gi2/ci0/access"
    remove(world, path)
    assert not world.edits_provider.is_available([there, gone])
    with pytest.raises(EditsMissing) as looking:
        await world.edits_provider.refresh([there, gone])
    with pytest.raises(EditsMissing) as rendering:
        world.edits_provider.edits(gone)
    assert str(looking.value) == str(rendering.value)
    assert str(looking.value).startswith(
        "failed to construct MIG device DeviceNode edits: "
        f"failed to parse CI capabilities file {path}: open {path}: no such file or directory "
        f"(did another program destroy {gone.name}, {gone.uuid}? "
    )
    assert world.edits_provider.is_available([there])
    assert len(paths(world.edits_provider.edits(there))) == 3


async def test_a_partitions_gpu_must_have_its_node(world: World) -> None:
    device = partition(world, 1)
    await world.edits_provider.refresh([device])
    remove(world, "/driver/dev/nvidia0")
    assert not world.edits_provider.is_available([device])
    with pytest.raises(EditsMissing, match="/dev/nvidia0"):
        await world.edits_provider.refresh([device])


async def test_of_a_partition_that_is_not_made_its_gpus_files_count(world: World) -> None:
    announced = spec(world)
    await world.edits_provider.refresh([announced])
    assert world.edits_provider.is_available([announced, gpu(world)])
    remove(world, "/driver/dev/nvidia0")
    assert not world.edits_provider.is_available([announced])
    assert world.edits_provider.is_available([])
