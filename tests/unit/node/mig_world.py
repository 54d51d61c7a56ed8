"""The node of this folder's tests with GPUs that are partitioned on demand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nvdra.api import ClaimRef, decode_claim
from nvdra.gpu import GpuScan, MigScan, from_scan
from nvdra.node.gpu.mig_upkeep import MigUpkeep
from nvdra.node.locks import FOLDER
from tests.unit.gpu.scans import h200_profiles, h200_scan, node_scan
from tests.unit.node.gpus import Gpus
from tests.unit.node.world import CLAIMS, P, World
from tests.waiting import until as until

CAPABILITIES = "/proc/driver/nvidia/capabilities"
ZERO, ONE = h200_scan(0).uuid, h200_scan(1).uuid
AT_ZERO, AT_ONE = "0000:00:06.0", "0000:01:06.0"


def card(minor: int, *instances, **changes) -> GpuScan:  # type: ignore[no-untyped-def]
    """An H200 that tells which compute instances span its partitions."""
    return h200_scan(minor, *instances, mig=MigScan(h200_profiles(spanning=True), instances), **changes)


def small(start: int, minor: int = 0) -> str:
    """The name of a partition of one slice."""
    return f"gpu-{minor}-mig-1g18gb-19-{start}"


def half(start: int, minor: int = 0) -> str:
    return f"gpu-{minor}-mig-3g71gb-9-{start}"


class MigWorld(World):
    """Two H200 in one piece, unless told otherwise."""

    def __init__(self, folder: Path, *scans: GpuScan) -> None:
        super().__init__(folder)
        self.gates = "DynamicMIG=true"
        self.scans = scans or (card(0), card(1))
        self.gpus: Gpus = Gpus(*self.scans)
        self.look()
        self.host.write("/proc/devices", "Character devices:\n234 nvidia-caps\n\nBlock devices:\n259 blkext\n")
        for minor in range(len(self.scans)):
            for number, gi_id in enumerate(range(1, 9)):
                for path, at in ((f"gi{gi_id}", 0), (f"gi{gi_id}/ci0", 1)):
                    text = f"DeviceFileMinor: {3 + 100 * minor + 2 * number + at}\nDeviceFileMode: 292\n"
                    self.host.write(f"{CAPABILITIES}/gpu{minor}/mig/{path}/access", text)
        (folder / f"{P}/{FOLDER}".strip("/")).mkdir()

    def look(self) -> None:
        """The node is scanned as it is now."""
        now = []
        for scan in self.scans:
            seen = self.gpus.partitions(scan.uuid)
            mode = (int(seen.is_on), int(seen.is_on))
            now.append(replace(scan, mig_mode=mode, mig=replace(scan.mig, instances=seen.instances)))
        self.inventory = from_scan(node_scan(*now), {}, dynamic_mig=True)

    async def _rescan(self) -> None:
        self.look()
        await super()._rescan()

    def upkeep(self, *, destroy_unmanaged: bool = False) -> MigUpkeep:
        """Of the program that runs; not for holding NVML."""
        return MigUpkeep(
            None,  # type: ignore[arg-type]
            self.clock,
            self.context,
            self.mig,
            lambda: self.inventory,
            is_checkpoint_lost=lambda: self.file.is_quarantined,
            destroy_unmanaged=destroy_unmanaged,
        )

    async def status_of(self, ref: ClaimRef) -> bytes:
        """The claim's status as the checkpoint keeps it."""
        return decode_claim(await self.kube.get(CLAIMS, ref.name, ref.namespace)).status

    def is_rid_of(self, ref: ClaimRef) -> bool:
        """Whether checkpoint, CDI folder and lock files say nothing of the claim, nor of any other in work."""
        return not self.state(ref) and not self.has_file(ref) and self.lines(AT_ZERO) == self.lines(AT_ONE) == []

    def lines(self, address: str) -> list[str]:
        """What the GPU's lock file says."""
        path = self.lock_path(address)
        return path.read_text().splitlines() if path.exists() else []

    def lock_path(self, name: str) -> Path:
        return self.folder / f"{P}/{FOLDER}/{name}".strip("/")
