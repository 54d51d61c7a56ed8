"""A node with MPS daemons: GPUs with compute modes, Deployments with pods, a control program that answers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from nvdra.gpu.mps_deployment import MpsPods
from nvdra.gpu.sharing import Sharing
from nvdra.host import MpsControl, find_nvidia_smi
from nvdra.node.gpu.actors.mps import MpsActor, MpsPlace
from nvdra.node.gpu.mps_pods import Pods
from nvdra.node.locks import FOLDER
from nvdra.testing.mps import FakeDaemonCluster, FakeMpsControl
from nvdra.testing.nvidia_smi import FakeNvidiaSmi
from tests.unit.node.world import LIBRARIES, POOL, ROOT, VERSION, P, World

DAEMONS = f"{P}/mps"
NAMESPACE = "nvidia"


def mps(**settings: Any) -> list[dict[str, Any]]:
    """A config that asks for MPS."""
    sharing = {"strategy": "MPS", **({"mpsConfig": settings} if settings else {})}
    parameters = {"apiVersion": "resource.nvidia.com/v1beta1", "kind": "GpuConfig", "sharing": sharing}
    return [{"source": "FromClaim", "opaque": {"driver": "gpu.nvidia.com", "parameters": parameters}}]


def lay(world: Any) -> None:
    """What a node with MPS has."""
    world.gates = "MPSSupport=true"
    world.sharing = Sharing(mps_folder=DAEMONS)
    for program in ("nvidia-smi", "nvidia-cuda-mps-control"):
        world.host.write(f"/driver/usr/bin/{program}", b"")
    world.host.write("/proc/meminfo", b"MemTotal:       32853352 kB\n")
    world.host.programs["nvidia-smi"] = FakeNvidiaSmi([gpu.uuid for gpu in world.inventory.gpus.values()])
    world.host.programs["nvidia-cuda-mps-control"] = FakeMpsControl()
    link = world.folder / f"{LIBRARIES}/libnvidia-ml.so.1".strip("/")
    link.symlink_to(f"libnvidia-ml.so.{VERSION}")
    (world.folder / f"{P}/{FOLDER}".strip("/")).mkdir(exist_ok=True)


def actor(world: Any, kube: Any) -> MpsActor:
    """The actor of the program that starts now."""
    host = world.host
    known = MpsPods(POOL, NAMESPACE, "driver:1", DAEMONS, service_account="plugin")
    return MpsActor(
        host,
        world.clock,
        kube,
        lambda: find_nvidia_smi(host, ROOT),
        MpsControl(host, ROOT),
        MpsPlace(DAEMONS, ROOT.path),
        Pods(kube, known, world.pod_uid),
        lambda: world.inventory,
        sets_compute_mode=world.sets_compute_mode,
    )


class MpsWorld(World):
    """`pod_uid` is the plugin's own pod, if it is in one."""

    kube: FakeDaemonCluster
    pod_uid = ""
    sets_compute_mode = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        lay(self)

    def make_kube(self) -> FakeDaemonCluster:
        return FakeDaemonCluster(clock=self.clock)

    def make_mps(self) -> MpsActor:
        return actor(self, self.kube)

    def beside(self) -> MpsWorld:
        """Another program on the same node, as in an update."""
        other = copy.copy(self)
        other.host = self.host.revive()
        other.start()
        return other

    # ── what is there ──────────────────────────────────────────────────────────────────────────────────────────

    @property
    def smi(self) -> FakeNvidiaSmi:
        program = self.host.programs["nvidia-smi"]
        assert isinstance(program, FakeNvidiaSmi)
        return program

    @property
    def control(self) -> FakeMpsControl:
        program = self.host.programs["nvidia-cuda-mps-control"]
        assert isinstance(program, FakeMpsControl)
        return program

    def modes(self) -> list[str]:
        """Compute modes, in the order of the GPUs."""
        return list(self.smi.compute_modes.values())

    def daemons(self) -> dict[str, int]:
        """Folders of daemons, and how often a tmpfs is mounted in each."""
        folder = self.folder / DAEMONS.strip("/")
        names = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
        return {name: self.host.mount_count(f"{DAEMONS}/{name}/shm") for name in names}

    def deployments(self) -> list[dict[str, Any]]:
        return self.kube.objects("deployments")

    def is_clean(self) -> bool:
        """Whether nothing of any daemon is left."""
        left = (self.daemons(), self.deployments(), self.kube.objects("pods"))
        return not any(left) and set(self.modes()) == {"DEFAULT"}
