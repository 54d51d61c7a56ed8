"""The plugin as a process of its own on a driver whose files, nodes and sockets come, go and change."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator

import pytest

from nvdra import cdi
from nvdra.api import ClaimRef
from tests.contract.plugin_node import PluginNode, plugin_node, until


@pytest.fixture
async def node() -> AsyncIterator[PluginNode]:
    async with plugin_node(gpus=(0, 1)) as made:
        await made.start()
        yield made


def mounts(node: PluginNode, ref: ClaimRef) -> list[str]:
    """Where the mounts of the claim's file lie below the driver root."""
    document = cdi.parse((node.cdi / cdi.GPU_CLAIMS.file_name(ref.uid)).read_bytes())
    return [mount.host_path.removeprefix("/run/nvidia/driver") for mount in document.edits.mounts]


def gone(node: PluginNode, ref: ClaimRef) -> list[str]:
    return [path for path in mounts(node, ref) if not os.path.lexists(f"{node.root.root}{path}")]


async def test_files_of_prepared_claims_are_there_again_after_a_start(node: PluginNode) -> None:
    ref = await node.claim("gpu-0")
    await node.prepared(ref)
    before = (node.cdi / cdi.GPU_CLAIMS.file_name(ref.uid)).read_bytes()
    await node.stop()
    shutil.rmtree(node.cdi)
    await node.start()
    await until(lambda: (node.cdi / cdi.GPU_CLAIMS.file_name(ref.uid)).exists())
    assert (node.cdi / cdi.GPU_CLAIMS.file_name(ref.uid)).read_bytes() == before


async def test_a_cdi_folder_that_was_removed_costs_no_claim(node: PluginNode) -> None:
    shutil.rmtree(node.cdi)
    ref = await node.claim("gpu-0")
    await node.prepared(ref)
    assert gone(node, ref) == []


async def test_a_driver_replaced_a_moment_ago_is_handed_out_whole_or_not_at_all(node: PluginNode) -> None:
    old = await node.claim("gpu-0")
    await node.prepared(old)
    node.root = node.root.replace_driver("590.10.01")
    new = await node.claim("gpu-1")
    for ref in (new, old):
        await node.prepared(ref)
        assert gone(node, ref) == []
        assert any(path.endswith("/libcuda.so.590.10.01") for path in mounts(node, ref))


async def test_a_socket_that_is_removed_is_in_no_claim_and_one_that_comes_is_in_all(node: PluginNode) -> None:
    socket = "/run/nvidia-fabricmanager/socket"
    place = node.root.root / socket.strip("/")
    old = await node.claim("gpu-0")
    await node.prepared(old)
    assert socket not in mounts(node, old)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.touch()
    new = await node.claim("gpu-1")
    await node.prepared(old, new)
    assert socket in mounts(node, old)
    assert socket in mounts(node, new)
    place.unlink()
    await node.prepared(old, new)
    assert socket not in mounts(node, old)
    assert socket not in mounts(node, new)


async def test_a_library_that_is_touched_restarts_nothing(node: PluginNode) -> None:
    os.utime(node.root.library.resolve())
    unknown = await node.claim("gpu-77")
    assert "allocatable not found" in await node.refused(unknown)  # and the GPUs were looked at again
    await node.prepared(await node.claim("gpu-0"))
    assert "starting anew" not in node.log
