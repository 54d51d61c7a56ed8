"""Which sockets are taken, by what the Node says of its kubelet."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nvdra.kubelet import SocketPaths
from nvdra.node.instance import instance_paths
from nvdra.ports import Resource
from nvdra.testing.kube import FakeKube
from tests.unit.node.world import DRIVER, POOL

UID = "3f1a7c52-8f0e-4b7e-9a57-0c2d6d1b9e44"
NODES = Resource("", "v1", "nodes", namespaced=False)
FIXED = SocketPaths(f"/reg/{DRIVER}-reg.sock", f"/plugins/{DRIVER}/dra.sock")
OWN = SocketPaths(f"/reg/{DRIVER}-{UID}-reg.sock", f"/plugins/{DRIVER}/dra-{UID}.sock")


async def paths(kube: FakeKube, pod_uid: str = UID, plugins_dir: str = "/plugins") -> SocketPaths:
    return await instance_paths(
        kube, driver=DRIVER, node_name=POOL, pod_uid=pod_uid, registrar_dir="/reg", plugins_dir=plugins_dir
    )


async def node(kube: FakeKube, status: dict[str, Any]) -> None:
    body = json.dumps({"apiVersion": "v1", "kind": "Node", "metadata": {"name": POOL}, "status": status}).encode()
    await kube.create(NODES, body)
    await kube.update(NODES, POOL, body, subresource="status")


def of(version: str) -> dict[str, Any]:
    return {"nodeInfo": {"kubeletVersion": version}}


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (of("v1.37.2"), OWN),
        (of("v1.33.0-gke.1"), OWN),
        (of("v1.32.9"), FIXED),
        ({}, FIXED),
        ({"nodeInfo": None}, FIXED),
    ],
)
async def test_names_by_instance_where_kubelet_keeps_two(status: dict[str, Any], expected: SocketPaths) -> None:
    kube = FakeKube()
    await node(kube, status)
    assert await paths(kube) == expected


async def test_without_a_uid_nobody_is_asked() -> None:
    kube = FakeKube()
    await node(kube, of("v1.37.2"))
    kube.calls.clear()
    assert await paths(kube, pod_uid="") == FIXED
    assert not kube.calls


async def test_without_an_answer_the_fixed_names_are_taken() -> None:
    assert await paths(FakeKube()) == FIXED


async def test_folders_too_long_for_a_uid_are_told(capfd: pytest.CaptureFixture[str]) -> None:
    kube = FakeKube()
    await node(kube, of("v1.37.2"))
    plugins = f"/{'p' * 60}"
    assert (await paths(kube, plugins_dir=plugins)).dra == f"{plugins}/{DRIVER}/dra.sock"
    assert "too long for socket names by instance" in capfd.readouterr().err
