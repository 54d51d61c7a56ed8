"""CDI files say what is there now: before one is written or answered again, and for claims nobody asks about."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from nvdra_mock_nvml.elf import shared_object

from nvdra import cdi
from nvdra.api import ClaimRef
from nvdra.gpu import Inventory
from tests.unit.node.world import BUNDLED, LIBRARIES, VERSION, World, cdi_path

DEV = "/driver/dev"


@pytest.fixture
async def ref(world: World) -> ClaimRef:
    """A prepared claim, and a program that has looked everything up."""
    made = await world.claim("a", "gpu-0")
    await world.prepared(made)
    return made


def document(world: World, ref: ClaimRef) -> cdi.Document:
    return cdi.parse(world.host.read(cdi_path(ref)))


def nodes(world: World, ref: ClaimRef) -> dict[str, tuple[int, int]]:
    found = document(world, ref)
    edits = [*found.edits.device_nodes, *(node for device in found.devices for node in device.edits.device_nodes)]
    return {node.path: (node.major, node.minor) for node in edits}


def mounts(world: World, ref: ClaimRef) -> set[str]:
    return {mount.container_path for mount in document(world, ref).edits.mounts}


async def asked(world: World, ref: ClaimRef, how: str) -> ClaimRef:
    """A claim whose file must be right now: the prepared one asked again, or a new one."""
    if how == "new":
        ref = await world.claim("new", "gpu-1")
    await world.prepared(ref)
    return ref


BOTH = pytest.mark.parametrize("how", ["again", "new"])


@BOTH
async def test_a_device_node_that_comes_later_is_handed_out(world: World, ref: ClaimRef, how: str) -> None:
    assert "/dev/nvidia-uvm-tools" not in nodes(world, ref)
    world.host.put_device(f"{DEV}/nvidia-uvm-tools", 510, 1)
    world.host.put_device(f"{DEV}/nvidia-modeset", 195, 254)
    found = nodes(world, await asked(world, ref, how))
    assert found["/dev/nvidia-uvm-tools"] == (510, 1)
    assert found["/dev/nvidia-modeset"] == (195, 254)


@BOTH
async def test_a_device_node_with_another_number_is_handed_out_with_that(world: World, ref: ClaimRef, how: str) -> None:
    (world.folder / f"{DEV}/nvidia-uvm".strip("/")).unlink()
    world.host.put_device(f"{DEV}/nvidia-uvm", 511, 0)
    assert nodes(world, await asked(world, ref, how))["/dev/nvidia-uvm"] == (511, 0)


@BOTH
async def test_sockets_come_and_go(world: World, ref: ClaimRef, how: str) -> None:
    socket = "/run/nvidia-persistenced/socket"
    world.host.write(f"/driver{socket}")
    assert socket in mounts(world, await asked(world, ref, how))
    (world.folder / f"driver{socket}").unlink()
    again = await world.claim("third", "gpu-2") if how == "new" else ref
    await world.prepared(again)
    assert socket not in mounts(world, again)


@BOTH
async def test_a_driver_that_is_replaced_is_refused_until_it_is_whole_and_then_mounted(
    world: World, ref: ClaimRef, how: str
) -> None:
    asking = await world.claim("new", "gpu-1") if how == "new" else ref
    world.host.write("/proc/driver/nvidia/version", f"NVRM version: NVIDIA UNIX Kernel Module  {VERSION}  x\n")
    folder = world.folder / LIBRARIES.strip("/")
    for path in sorted(folder.iterdir()):
        path.rename(folder / path.name.replace(VERSION, "590.1.1"))
    assert f"of version {VERSION} is below the driver root" in await world.refused(asking)
    world.host.write("/proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX Kernel Module  590.1.1  x\n")
    await world.prepared(asking)
    assert f"{LIBRARIES.removeprefix('/driver')}/libcuda.so.590.1.1" in mounts(world, asking)
    assert not [path for path in mounts(world, asking) if path.endswith(VERSION)]


@BOTH
@pytest.mark.parametrize("before", [VERSION, None])
async def test_of_two_drivers_side_by_side_the_loaded_one_is_mounted(
    world: World, how: str, before: str | None
) -> None:
    if before:
        world.host.write("/proc/driver/nvidia/version", f"NVRM version: NVIDIA UNIX Kernel Module  {before}  x\n")
    for name in ("libcuda.so", "libnvidia-ml.so"):
        world.host.write(f"{LIBRARIES}/{name}.590.1.1", shared_object(f"{name}.1"))
    ref = await world.claim("a", "gpu-0")
    await world.prepared(ref)
    assert f"/usr/lib64/libcuda.so.{VERSION}" in mounts(world, ref)
    world.host.write("/proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX Kernel Module  590.1.1  x\n")
    asking = await asked(world, ref, how)
    assert "/usr/lib64/libcuda.so.590.1.1" in mounts(world, asking)
    assert f"/usr/lib64/libcuda.so.{VERSION}" not in mounts(world, asking)


@BOTH
async def test_the_hook_that_was_removed_is_there_again(world: World, how: str) -> None:
    world.host.write(BUNDLED, b"a program")
    await world.restart()
    ref = await world.claim("a", "gpu-0")
    await world.prepared(ref)
    found = document(world, ref)
    (hook,) = {hook.path for hook in found.edits.hooks}
    assert world.host.read(hook) == b"a program"
    (world.folder / hook.strip("/")).unlink()
    asking = await asked(world, ref, how)
    assert world.host.read(hook) == b"a program"
    (world.folder / hook.strip("/")).unlink()
    await world.timely(world.sweep.files())
    assert world.host.read(hook) == b"a program"
    (world.folder / hook.strip("/")).unlink()
    (world.folder / BUNDLED.strip("/")).unlink()
    assert "cannot copy the CDI hook" in await world.refused(asking)


@BOTH
async def test_a_library_that_comes_later_is_mounted(world: World, ref: ClaimRef, how: str) -> None:
    world.host.write(
        f"{LIBRARIES}/libnvidia-ptxjitcompiler.so.{VERSION}", shared_object("libnvidia-ptxjitcompiler.so.1")
    )
    assert f"/usr/lib64/libnvidia-ptxjitcompiler.so.{VERSION}" in mounts(world, await asked(world, ref, how))


async def test_a_file_that_is_right_is_not_written_again(world: World, ref: ClaimRef) -> None:
    world.since_now()
    library = world.folder / f"{LIBRARIES}/libcuda.so.{VERSION}".strip("/")
    os.utime(library)
    await world.prepared(ref)
    assert world.effects("rename") == []


async def test_a_fresh_program_checks_files_of_its_predecessor(world: World, ref: ClaimRef) -> None:
    await world.restart()
    world.host.put_device(f"{DEV}/nvidia-uvm-tools", 510, 1)
    await world.prepared(ref)
    assert "/dev/nvidia-uvm-tools" in nodes(world, ref)


async def test_a_file_that_is_lost_or_out_of_date_is_put_right_unasked(world: World, ref: ClaimRef) -> None:
    other = await world.claim("b", "gpu-1")
    await world.prepared(other)
    before = world.host.read(cdi_path(ref))
    (world.folder / cdi_path(ref).strip("/")).unlink()
    await world.restart()
    await world.warm()
    await world.timely(world.sweep.files())
    assert world.host.read(cdi_path(ref)) == before
    world.host.put_device(f"{DEV}/nvidia-uvm-tools", 510, 1)
    await world.timely(world.sweep.files())
    assert "/dev/nvidia-uvm-tools" in nodes(world, ref)
    assert "/dev/nvidia-uvm-tools" in nodes(world, other)


async def test_what_cannot_be_put_right_now_is_tried_again_soon_and_spoils_nothing(world: World, ref: ClaimRef) -> None:
    before = world.host.read(cdi_path(ref))
    (world.folder / f"{DEV}/nvidia0".strip("/")).unlink()
    assert await world.timely(world.sweep.files()) < 60
    assert world.host.read(cdi_path(ref)) == before
    world.host.put_device(f"{DEV}/nvidia0", 195, 0)
    assert await world.timely(world.sweep.files()) >= 60


@BOTH
async def test_a_cdi_folder_that_was_removed_is_made_again(world: World, ref: ClaimRef, how: str) -> None:
    shutil.rmtree(world.folder / str(Path(cdi_path(ref)).parent).strip("/"))
    assert world.has_file(await asked(world, ref, how))
    await world.timely(world.sweep.files())
    assert world.has_file(ref)


async def test_the_folder_is_made_again_for_claims_that_nobody_asks_about(world: World, ref: ClaimRef) -> None:
    shutil.rmtree(world.folder / str(Path(cdi_path(ref)).parent).strip("/"))
    await world.timely(world.sweep.files())
    assert world.has_file(ref)


async def test_without_its_device_a_file_is_answered_only_while_what_it_names_is_there(
    world: World, ref: ClaimRef
) -> None:
    """The GPU cannot be read, as after a start with a driver that hangs."""
    world.inventory = Inventory(unread="the driver hangs")
    await world.prepared(ref)
    (world.folder / f"{LIBRARIES}/libcuda.so.{VERSION}".strip("/")).unlink()
    assert "names files that are gone" in await world.refused(ref)
