"""kubelet's PodResources API as a client sees it: answers, silence, nonsense."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nvdra.kubelet.pod_resources import LIST, ContainerDevice, PodResources, PodResourcesError
from nvdra.kubelet.transport import RpcError, Server
from nvdra.testing.pod_resources import PodResourcesServer


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[PodResourcesServer]:
    server = PodResourcesServer(str(tmp_path / "s"))
    await server.start()
    yield server
    await server.stop()


async def test_every_device_of_every_container_is_told(server: PodResourcesServer, tmp_path: Path) -> None:
    server.give("GPU-1", pod="a")
    server.give("MIG-2", pod="b", resource="nvidia.com/mig-1g.10gb")
    assert await PodResources(str(tmp_path / "s")).devices(timeout_s=30) == (
        ContainerDevice("ns", "a", "main", "nvidia.com/gpu", "GPU-1"),
        ContainerDevice("ns", "b", "main", "nvidia.com/mig-1g.10gb", "MIG-2"),
    )


async def test_an_answer_larger_than_grpcs_default_is_taken(server: PodResourcesServer, tmp_path: Path) -> None:
    for number in range(60_000):
        server.give(f"GPU-{number:064}", pod="pod")
    assert len(await PodResources(str(tmp_path / "s")).devices(timeout_s=60)) == 60_000


async def test_a_kubelet_that_starts_again_is_asked_on_its_new_socket(
    server: PodResourcesServer, tmp_path: Path
) -> None:
    client = PodResources(str(tmp_path / "s"))
    assert await client.devices(timeout_s=30) == ()
    await server.stop()
    (tmp_path / "s").unlink(missing_ok=True)
    with pytest.raises(PodResourcesError):
        await client.devices(timeout_s=30)
    again = PodResourcesServer(str(tmp_path / "s"))
    again.give("GPU-1")
    await again.start()
    try:
        assert len(await client.devices(timeout_s=30)) == 1
    finally:
        await again.stop()


async def test_silence_ends_at_the_deadline_and_names_the_socket(server: PodResourcesServer, tmp_path: Path) -> None:
    server.hangs = True
    with pytest.raises(PodResourcesError, match=rf"kubelet's PodResources API at {tmp_path}/s: DEADLINE_EXCEEDED"):
        await PodResources(str(tmp_path / "s")).devices(timeout_s=0.2)


async def test_a_missing_socket_and_a_file_in_its_place_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path / "file"):
        (tmp_path / "file").touch()
        with pytest.raises(PodResourcesError, match=str(path)):
            await PodResources(str(path)).devices(timeout_s=30)


@pytest.mark.parametrize("answer", [b"\xff\xff\xff", RpcError("RESOURCE_EXHAUSTED", "rejected by rate limit")])
async def test_nonsense_and_refusals_are_told_in_words(tmp_path: Path, answer: bytes | RpcError) -> None:
    async def tell(_request: bytes) -> bytes:
        await asyncio.sleep(0)
        if isinstance(answer, RpcError):
            raise answer
        return answer

    server = Server({LIST: tell})
    await server.start(f"unix:{tmp_path}/s")
    try:
        with pytest.raises(PodResourcesError, match="PodResources API"):
            await PodResources(str(tmp_path / "s")).devices(timeout_s=30)
    finally:
        await server.stop(0)
