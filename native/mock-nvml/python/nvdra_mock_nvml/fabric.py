"""A Fabric Manager of a laid-out node: its library, its partitions, and what can go wrong with it."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from nvdra_mock_nvml.root import Root
from nvdra_mock_nvml.shipped import native

LIBRARY = "libnvfm.so"


@dataclass(frozen=True, slots=True)
class MockFabric:
    """`folder` has the socket, the state and the faults of the stand-in library; see `fabric/nvfm.c`."""

    folder: Path

    @property
    def socket(self) -> Path:
        return self.folder / "socket"

    def start(self) -> None:
        """Fabric Manager runs: another one than before, with no active partition."""
        self.stop()
        (self.folder / "partitions").write_text(
            "".join(f"{number} 0 {modules}\n" for number, modules in self._partitions())
        )
        # A new file beside the old one has another inode.
        (self.folder / "socket.new").touch()
        (self.folder / "socket.new").rename(self.socket)

    def stop(self) -> None:
        """Fabric Manager ends. The socket's file is kept aside, so that a later one has another inode."""
        if self.socket.exists():
            self.socket.replace(self.folder / "socket.old")

    def set_faults(self, *faults: tuple[str, int] | tuple[str, int, int]) -> None:
        """From now on these functions return a code, each after some milliseconds if they are given; 0 only waits."""
        (self.folder / "faults").write_text("".join(f"{' '.join(map(str, fault))}\n" for fault in faults))

    def active(self) -> set[int]:
        lines = (self.folder / "partitions").read_text().splitlines()
        return {int(line.split()[0]) for line in lines if line.split()[1] == "1"}

    def calls(self) -> Counter[str]:
        """The calls since `forget_calls`."""
        file = self.folder / "calls"
        return Counter(file.read_text().splitlines()) if file.exists() else Counter()

    def forget_calls(self) -> None:
        (self.folder / "calls").unlink(missing_ok=True)

    def _partitions(self) -> list[tuple[int, str]]:
        lines = (self.folder / "partitions").read_text().splitlines()
        return [(int(number), modules) for number, _, modules in (line.split() for line in lines)]


def halves(modules: list[int]) -> list[list[int]]:
    """All GPUs, both halves, their halves, down to single GPUs: the partitions of HGX boards with 8 and 16 GPUs."""
    found, level = [], [sorted(modules)]
    while level:
        found += level
        level = [half for one in level if len(one) > 1 for half in (one[: len(one) // 2], one[len(one) // 2 :])]
    return found


def lay_fabric(root: Root, *, is_running: bool = True) -> MockFabric:
    """Fabric Manager and NVSwitches for the node at `root`, with the partitions of a board of its GPUs."""
    shutil.copy2(native(LIBRARY), root.library.parent / f"{LIBRARY}.1")
    (root.library.parent / LIBRARY).symlink_to(f"{LIBRARY}.1")
    switch = root.procfs / "driver/nvidia-nvswitch/devices/0000:c0:00.0"
    switch.parent.mkdir(parents=True)
    switch.touch()
    folder = root.root / "run/nvidia-fabricmanager"
    folder.mkdir(parents=True)
    return lay_partitions(folder, [gpu.module_id for gpu in root.portrait.gpus if gpu.module_id], is_running=is_running)


def lay_partitions(folder: Path, modules: list[int], *, is_running: bool = True) -> MockFabric:
    """Fabric Manager alone, in this folder."""
    lines = (f"{number} 0 {','.join(map(str, one))}\n" for number, one in enumerate(halves(modules)))
    (folder / "partitions").write_text("".join(lines))
    fabric = MockFabric(folder)
    if is_running:
        fabric.start()
    return fabric
