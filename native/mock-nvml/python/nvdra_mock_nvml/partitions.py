"""What a root keeps beside its driver: partitions and settings, as the library changes them; programs; events."""

import json
import os
import struct
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nvdra_mock_nvml.portraits import Portrait, derived_uuid

HOME = "var/lib/nvdra-mock"
WHOLE_GPU = 0xFFFFFFFF
_KINDS = {"single-bit-ecc": 1, "double-bit-ecc": 2, "xid": 8}


class MigError(Exception):
    """The partitions cannot be changed so: the text is nvidia-smi's, `code` NVML's number where it gave one."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class MigDevice:
    """A MIG device: a compute instance and the GPU instance around it."""

    minor: int
    gi: int
    ci: int
    uuid: str
    profile: int  # of the GPU instance
    start: int
    size: int


def lay(root: Path, proc: Path | None) -> None:
    """The folder that makes the root one whose GPUs can be partitioned.

    proc   the stand-in for `/proc`; a link leads to it, relative where both lie in the root
    """
    home = root / HOME
    home.mkdir(parents=True)
    if proc is not None:
        (home / "proc").symlink_to(os.path.relpath(proc, home) if proc.is_relative_to(root) else proc)


def smi(program: Path, *arguments: str) -> str:
    """What the root's nvidia-smi prints. Raises MigError."""
    done = subprocess.run([str(program), *arguments], env={}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MigError(done.stdout.strip() or done.stderr.strip(), done.returncode)
    return done.stdout


def devices(root: Path, portrait: Portrait) -> list[MigDevice]:
    """The compute instances of all GPUs, by minor and ids."""
    found = []
    for minor, gpu in sorted((int(minor), gpu) for minor, gpu in _state(root).items()):
        for instance in gpu["instances"]:
            gi, profile = instance["id"], instance["profile"]
            start, size = instance["start"], instance["size"]
            for compute in instance["compute"]:
                uuid = mig_uuid(portrait, minor, gi, compute["id"])
                found.append(MigDevice(minor, gi, compute["id"], uuid, profile, start, size))
    return found


def gpu_instances(root: Path, minor: int) -> dict[int, tuple[int, int]]:
    """The GPU instances of a GPU, those without compute instance too: id, and start and size of the placement."""
    instances = _state(root).get(str(minor), {"instances": []})["instances"]
    return {instance["id"]: (instance["start"], instance["size"]) for instance in instances}


def mode(root: Path, minor: int) -> tuple[bool, bool]:
    """MIG mode of a GPU, current and pending."""
    gpu = _state(root).get(str(minor), {"mode": False, "pending": False})
    return gpu["mode"], gpu["pending"]


def settings(root: Path, minor: int) -> dict[str, int]:
    """Compute mode and time slice of a GPU."""
    every: dict[str, dict[str, int]] = _read(root / HOME / "settings.json", {})
    return every.get(str(minor), {"compute_mode": 0, "time_slice": 0})


def forget_settings(root: Path) -> None:
    """Every GPU has its defaults."""
    (root / HOME / "settings.json").unlink(missing_ok=True)


def mig_uuid(portrait: Portrait, minor: int, gi: int, ci: int) -> str:
    return "MIG-" + derived_uuid(f"{portrait.name}/{minor}/{gi}/{ci}")


def set_processes(root: Path, processes: Iterable[Mapping[str, Any]]) -> None:
    """These programs, and no others, use the GPUs."""
    file = root / HOME / "processes.json"
    new = file.with_name(file.name + ".new")
    new.write_text(json.dumps([dict(process) for process in processes], indent=1) + "\n")
    new.replace(file)


def processes(root: Path) -> list[dict[str, Any]]:
    """The programs that use the GPUs."""
    listed: list[dict[str, Any]] = _read(root / HOME / "processes.json", [])
    return listed


def fire(root: Path, minor: int, kind: str | int, data: int, gi: int | None, ci: int | None) -> None:
    """One more event; whoever waits for its kind on this GPU wakes up."""
    number = _KINDS[kind] if isinstance(kind, str) else kind
    ids = [WHOLE_GPU if value is None else value for value in (gi, ci)]
    with (root / HOME / "events").open("ab", buffering=0) as file:
        file.write(struct.pack("<IIQQII", minor, 0, number, data, *ids))


def set_recovery_action(root: Path, minor: int, action: int) -> None:
    """What a GPU needs in order to recover, by NVML's numbers."""
    file = root / HOME / "recovery.json"
    new = file.with_name(file.name + ".new")
    new.write_text(json.dumps({**_read(file, {}), str(minor): action}) + "\n")
    new.replace(file)


def realistic_delays() -> list[dict[str, Any]]:
    """Faults that make changes take about as long as on hardware (assumed; rounded up)."""
    took = {
        "nvmlDeviceCreateGpuInstance*": 300,
        "nvmlGpuInstanceCreateComputeInstance": 150,
        "nvmlComputeInstanceDestroy": 100,
        "nvmlGpuInstanceDestroy": 200,
        "nvmlDeviceSetMigMode": 1000,
    }
    return [{"function": function, "delay_ms": delay} for function, delay in took.items()]


def _state(root: Path) -> dict[str, Any]:
    gpus: dict[str, Any] = _read(root / HOME / "state.json", {"gpus": {}})["gpus"]
    return gpus


def _read(file: Path, default: Any) -> Any:
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        return default
