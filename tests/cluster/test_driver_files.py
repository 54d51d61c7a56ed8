"""Our search for driver files beside the NVIDIA Container Toolkit's, on the same driver roots.

It needs no cluster: `python -m tests.cluster tests/cluster/test_driver_files.py` builds nvidia-ctk, of the version that
the driver's image takes nvidia-cdi-hook from, and runs it over the mock's NVML.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nvdra_mock_nvml import Root, lay_out

from tests.cluster.harness import programs

HOOK = "/usr/bin/nvidia-cdi-hook"
TIMEOUT_S = 60
Edit = tuple[str, ...]


@pytest.fixture(scope="session")
def nvidia_ctk() -> Path:
    return programs.built(programs.NVIDIA_CTK)[programs.NVIDIA_CTK] / "nvidia-ctk"


def _plain(folder: Path) -> Root:
    return lay_out(folder, "h100x8", gpus=[0, 5])


def _with_graphics(folder: Path) -> Root:
    return lay_out(folder, "h100x8", gpus=[1], drm=True)


def _with_lib64(folder: Path) -> Root:
    return lay_out(folder, "gb200x4", lib_dir="/usr/lib64")


def _without_sockets(folder: Path) -> Root:
    root = lay_out(folder, "h200x1")
    for place in (folder / "run").rglob("socket"):
        place.unlink()
    (folder / "tmp/nvidia-mps").mkdir(parents=True)
    return root


def _without_some(folder: Path) -> Root:
    root = lay_out(folder, "h100x8", gpus=[0])
    for name in ("dev/nvidia-modeset", "dev/nvidia-uvm-tools", "usr/bin/nvidia-imex"):
        (folder / name).unlink()
    for firmware in (folder / "lib/firmware/nvidia").rglob("gsp*.bin"):
        firmware.unlink()
    return root


ROOTS: tuple[Callable[[Path], Root], ...] = (_plain, _with_graphics, _with_lib64, _without_sockets, _without_some)


@pytest.fixture(params=ROOTS, ids=lambda make: make.__name__.strip("_").replace("_", " "))
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Root:
    make: Callable[[Path], Root] = request.param
    made = make(tmp_path / "root")
    assert made.device_files == "mknod", "nvidia-ctk takes character devices only: run this as root"
    return made


def test_the_toolkit_compared_with_is_the_one_in_the_image() -> None:
    image, compared = (
        re.search(r"nvidia-container-toolkit (v\S+)", (programs.SOURCES / part / "go.mod").read_text())
        for part in ("cdi-hook", "nvidia-ctk")
    )
    assert image is not None
    assert compared is not None
    assert image[1] == compared[1]


def test_containers_get_what_the_toolkit_gives_them(root: Root, nvidia_ctk: Path) -> None:
    ours, theirs = _ours(root), _toolkits(root, nvidia_ctk, "nvml")
    assert sorted(ours - theirs) == []
    assert sorted(theirs - ours) == []


# What mode management leaves out, by the last part of its name. It serves containers that manage GPUs, not ones that
# compute or draw; and it knows no GPU of its own, for its one device has them all.
_NOT_FOR_MANAGEMENT = {
    "hook": {"disable-device-node-modification", "enable-cuda-compat"},
    "mount": {
        "nvidia_icd.json",
        "nvidia_drv.so",
        "15_nvidia_gbm.json",
        "10_nvidia.json",
        "nvoptix.bin",
    },
}


def test_the_toolkits_mode_management_differs_by_these_names(nvidia_ctk: Path, tmp_path: Path) -> None:
    root = _plain(tmp_path / "root")
    ours, theirs = _ours(root), _toolkits(root, nvidia_ctk, "management")
    assert sorted(theirs - ours) == []
    missing = {
        kind: {edit[1].rpartition("/")[2] for edit in ours - theirs if edit[0] == kind} for kind in ("hook", "mount")
    }
    links = {"create-symlinks"}  # of the libraries for graphics
    assert missing == {**_NOT_FOR_MANAGEMENT, "hook": _NOT_FOR_MANAGEMENT["hook"] | links}
    assert not [edit for edit in ours - theirs if edit[0] not in missing]


def _ours(root: Root) -> set[Edit]:
    devices = [f"gpu-{gpu.minor}" for gpu in root.portrait.gpus if root.device_node(gpu.minor).exists()]
    command = [str(Path(sys.executable).parent / "nvdra"), "cdi", "render", *devices, "--output=json"]
    command += [f"--container-driver-root={root.root}", f"--nvidia-driver-root={root.root}"]
    return set(_edits(json.loads(_output([*command, f"--nvidia-cdi-hook-path={HOOK}"], {}))))


def _toolkits(root: Root, nvidia_ctk: Path, mode: str) -> set[Edit]:
    command = [str(nvidia_ctk), "--quiet", "cdi", "generate", f"--mode={mode}", "--format=json"]
    command += [f"--driver-root={root.root}", f"--dev-root={root.root}", f"--nvidia-cdi-hook-path={HOOK}"]
    environment = {"LD_LIBRARY_PATH": str(root.library.parent)}
    return set(_edits(json.loads(_output(command, environment))))


def _output(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _edits(document: dict[str, Any]) -> Iterator[Edit]:
    """Every edit of a CDI document as a text of its own: what it is, its name, the rest."""
    of_devices = [device["containerEdits"] for device in document["devices"]]
    for edits in (document.get("containerEdits") or {}, *of_devices):
        for node in edits.get("deviceNodes") or ():
            numbers = (node.get("major", 0), node.get("minor", 0), node.get("fileMode"), node.get("permissions"))
            yield "node", node["path"], node.get("hostPath", node["path"]), repr(numbers)
        for mount in edits.get("mounts") or ():
            yield "mount", mount["containerPath"], mount["hostPath"], *mount.get("options", ())
        for hook in edits.get("hooks") or ():
            name = hook["args"][1] if len(hook.get("args", ())) > 1 else ""
            yield "hook", name, hook["hookName"], hook["path"], *hook.get("args", ()), *hook.get("env", ())
        for variable in edits.get("env") or ():
            yield "env", variable
