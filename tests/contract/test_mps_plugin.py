"""The plugin as a process of its own with MPS daemons: a real tmpfs, the mock's nvidia-smi, a daemon that answers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from nvdra import cdi
from nvdra.host import mounts
from nvdra.ports import Resource
from nvdra.testing.mps import FakeDaemonCluster
from tests.contract.plugin_node import PluginNode, plugin_node, until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")

GATES = {"feature_gates": "MPSSupport=true", "namespace": "nvidia"}
SHARED = {
    "feature_gates": "MPSSupport=true,ConsumableShares=true",
    "consumable_shares": "unlimited",
    "mps_under_shares": "true",
}
NVDRA = str(Path(sys.executable).with_name("nvdra"))


class Daemons(FakeDaemonCluster):
    """Each pod's daemon is really started, as its script does, with the folders of its volumes."""

    program = ""
    folder = ""

    async def create(self, resource: Resource, body: bytes, namespace: str = "") -> bytes:
        made = await super().create(resource, body, namespace)
        if resource.plural == "deployments":
            await asyncio.to_thread(self._run, json.loads(body))
        return made

    async def delete(self, resource: Resource, name: str, namespace: str = "", **how: Any) -> None:
        """The pod's end is the daemon's."""
        await asyncio.to_thread(self._kill, name.removeprefix("mps-control-daemon-"))
        await super().delete(resource, name, namespace, **how)

    def _kill(self, daemon: str) -> None:
        for pid in Path(self.folder).glob(f"mps/{daemon}/pipe/*.pid"):
            os.kill(int(pid.read_text()), signal.SIGKILL)
            pid.unlink()

    def _run(self, deployment: dict[str, Any]) -> None:
        spec = deployment["spec"]["template"]["spec"]
        paths = {volume["name"]: volume["hostPath"]["path"] for volume in spec["volumes"]}
        env = {
            "CUDA_MPS_PIPE_DIRECTORY": paths["mps-pipe-directory"],
            "CUDA_MPS_LOG_DIRECTORY": paths["mps-log-directory"],
        }
        subprocess.run([self.program, "-d"], env=env, check=True, timeout=20)
        for line in spec["containers"][0]["args"][0].splitlines():
            if line.startswith("echo set_") and line.endswith("| control"):
                command = line.removeprefix("echo ").removesuffix(" | control")
                subprocess.run([self.program], input=f"{command}\n".encode(), env=env, check=True, timeout=20)


@pytest.fixture
async def node() -> AsyncIterator[PluginNode]:
    kube = Daemons()
    async with plugin_node("h100x8", gpus=(0, 1), kube=kube) as made:
        kube.folder = str(made.plugin_dir)
        kube.program = str(made.root.root / "usr/bin/nvidia-cuda-mps-control")
        yield made
        await made.stop()
        await asyncio.to_thread(clear, made)


def clear(node: PluginNode) -> None:
    """What a test that failed left behind."""
    for pid in node.plugin_dir.glob("mps/*/pipe/*.pid"):
        os.kill(int(pid.read_text()), signal.SIGKILL)
    for folder in tmpfs(node):
        mounts.unmount(folder)


def mps(**settings: Any) -> dict[str, Any]:
    sharing = {"strategy": "MPS", "mpsConfig": settings}
    return {"apiVersion": "resource.nvidia.com/v1beta1", "kind": "GpuConfig", "sharing": sharing}


DEFAULT, EXCLUSIVE = 0, 3


def modes(node: PluginNode) -> list[int]:
    return [node.root.compute_mode(minor) for minor in (0, 1)]


def tmpfs(node: PluginNode) -> list[str]:
    """What is mounted below the plugin's folder."""
    lines = Path(mounts.TABLE).read_text().splitlines()
    return [line.split()[4] for line in lines if line.split()[4].startswith(str(node.plugin_dir))]


def is_clean(node: PluginNode) -> bool:
    left = (node.kube.objects("deployments"), tmpfs(node), list(node.plugin_dir.glob("mps/*")))
    return not any(left) and modes(node) == [DEFAULT, DEFAULT]


async def test_a_claim_has_a_daemon_that_answers_and_nothing_is_left_of_it(node: PluginNode) -> None:
    await node.start(**GATES)
    ref = await node.claim("gpu-0", "gpu-1", parameters=mps(defaultActiveThreadPercentage=50))
    assert await node.prepared(ref) == ["gpu-0", "gpu-1"]
    assert modes(node) == [EXCLUSIVE, EXCLUSIVE]
    (folder,) = node.plugin_dir.glob("mps/*")
    assert tmpfs(node) == [f"{folder}/shm"]
    assert "Cmd:get_default_active_thread_percentage" in (folder / "log/control.log").read_text()
    for device in cdi.parse(node.cdi_path(ref).read_bytes()).devices:
        assert {mount.host_path for mount in device.edits.mounts} == {f"{folder}/shm", f"{folder}/pipe"}
    await node.released(ref)
    assert is_clean(node)


async def test_nvdra_renders_the_document_that_the_plugin_wrote(node: PluginNode) -> None:
    await node.start(**GATES)
    ref = await node.claim("gpu-0", parameters=mps())
    await node.prepared(ref)
    command = [NVDRA, "cdi", "render", f"--claim-uid={ref.uid}", f"--container-driver-root={node.root.root}"]
    command += ["--nvidia-driver-root=/run/nvidia/driver", "--nvidia-cdi-hook-path=/usr/bin/nvidia-cdi-hook"]
    command += [f"--kubelet-plugins-directory-path={node.plugin_dir.parent}", f"--cdi-root={node.cdi}"]
    environ = os.environ | {"NVDRA_SYSFS": str(node.root.sysfs), "NVDRA_PROCFS": str(node.root.procfs)}
    rendered = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, timeout=60, env=environ, check=True
    )
    assert rendered.stdout == node.cdi_path(ref).read_bytes()
    await node.released(ref)


async def test_a_killed_plugin_finds_its_daemons_again(node: PluginNode) -> None:
    await node.start(**GATES)
    ref = await node.claim("gpu-0", parameters=mps())
    await node.prepared(ref)
    await node.stop(signal.SIGKILL)
    await node.start(**GATES)
    assert await node.prepared(ref) == ["gpu-0"]
    assert len(tmpfs(node)) == 1
    await node.released(ref)
    assert is_clean(node)


async def test_uninstalling_takes_back_what_live_daemons_have(node: PluginNode) -> None:
    await node.start(**GATES)
    await node.prepared(await node.claim("gpu-0", parameters=mps()))
    await node.stop()
    command = [NVDRA, "mps", "remove", "--yes", "--namespace=nvidia", f"--kubeconfig={node.folder / 'kubeconfig'}"]
    command += [
        f"--container-driver-root={node.root.root}",
        f"--kubelet-plugins-directory-path={node.plugin_dir.parent}",
    ]
    environ = os.environ | {"NVDRA_SYSFS": str(node.root.sysfs), "NVDRA_PROCFS": str(node.root.procfs)}

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environ, check=False)

    ended = await asyncio.to_thread(run)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.endswith(": ended\n")
    assert is_clean(node)
    assert "no MPS control daemon has a folder" in (await asyncio.to_thread(run)).stdout


async def test_modes_stay_where_they_are_to_stay(node: PluginNode) -> None:
    await node.start(**GATES, mps_compute_mode="unchanged")
    ref = await node.claim("gpu-0", parameters=mps())
    await node.prepared(ref)
    assert modes(node) == [DEFAULT, DEFAULT]
    await node.released(ref)
    assert is_clean(node)


async def test_shares_are_published_and_served_by_one_daemon(node: PluginNode) -> None:
    await node.start(**SHARED)
    (stored,) = node.kube.objects("resourceslices")
    for device in stored["spec"]["devices"]:
        assert device["allowMultipleAllocations"] is True
        assert device["capacity"]["memory"]["requestPolicy"]["validRange"]["step"] == "1Mi"
    shares = [
        {
            "device": "gpu-0",
            "shareID": f"00000000-0000-4000-8000-{number:012d}",
            "consumedCapacity": {"memory": f"{number}Gi"},
        }
        for number in (1, 2)
    ]
    one, two = [await node.claim(share, parameters=mps()) for share in shares]
    told = await node.prepare(one, two)
    assert [told[ref.uid].devices[0].share_id for ref in (one, two)] == [share["shareID"] for share in shares]
    assert len(node.kube.objects("deployments")) == 1
    limits = [cdi.parse(node.cdi_path(ref).read_bytes()).devices[0].edits.env[-1] for ref in (one, two)]
    assert limits == [f"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT=0={number * 1024}M" for number in (1, 2)]
    await node.released(one)
    assert modes(node)[0] == EXCLUSIVE
    await node.released(two)
    await until(lambda: is_clean(node), "nothing to be left")
