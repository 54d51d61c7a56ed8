"""nvdra devices, checkpoint show, cdi render and doctor: on a node where a plugin lives, and on broken ones."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from nvdra_mock_nvml import Root, lay_out

from nvdra import cdi
from nvdra.api import ClaimRef
from nvdra.checkpoint import Checkpoint, Entry, PreparedDevice, PreparedGroup, PreparedMig
from nvdra.checkpoint import decode as decode_checkpoint
from nvdra.checkpoint import encode as encode_checkpoint
from nvdra.kube import HttpKube, access
from nvdra.ports import Resource
from nvdra.programs.demo.scheduler import Wish, status
from nvdra.programs.demo.stage import NODE, Stage
from nvdra.testing.kubelet import Kubelet

PROGRAM = [sys.executable, "-c", "import sys; from nvdra import cli; sys.exit(cli.start('nvdra', sys.argv[1:]))"]
GOLDEN = Path(__file__).parent.parent / "golden/recordings"
DRIVER = "gpu.nvidia.com"
CLAIMS = Resource("resource.k8s.io", "v1", "resourceclaims", namespaced=True)


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Site:
    """A node's folders, as the plugin's variables name them."""

    root: Root
    folder: Path

    @property
    def cdi(self) -> Path:
        return self.folder / "cdi"

    @property
    def plugin_dir(self) -> Path:
        return self.folder / "kubelet/plugins" / DRIVER

    @property
    def checkpoint(self) -> Path:
        return self.plugin_dir / "checkpoint.json"

    @property
    def hook(self) -> Path:
        return self.plugin_dir / "nvidia-cdi-hook"

    def run(self, *argv: str, **environ: str) -> Ran:
        return self._ran([*PROGRAM, *argv], environ)

    def shell(self, line: str, **environ: str) -> Ran:
        """The same by a shell, which may close a stream."""
        return self._ran(["sh", "-c", line.replace("nvdra", shlex.join(PROGRAM), 1)], environ)

    def _ran(self, argv: list[str], environ: dict[str, str]) -> Ran:
        known = {
            "PATH": os.environ["PATH"],
            "DRIVER_ROOT_CTR_PATH": str(self.root.root),
            "NVIDIA_DRIVER_ROOT": str(self.root.root),
            "NVDRA_SYSFS": str(self.root.sysfs),
            "NVDRA_PROCFS": str(self.root.procfs),
            "CDI_ROOT": str(self.cdi),
            "KUBELET_PLUGINS_DIRECTORY_PATH": str(self.folder / "kubelet/plugins"),
            "KUBELET_REGISTRAR_DIRECTORY_PATH": str(self.folder / "kubelet/plugins_registry"),
            **environ,
        }
        done = subprocess.run(argv, env=known, capture_output=True, text=True, check=False, timeout=60)
        assert "Traceback" not in done.stderr
        return Ran(done.returncode, done.stdout, done.stderr)

    def findings(self, level: str, **environ: str) -> list[tuple[str, str]]:
        """What the doctor finds of one level: (check, text)."""
        found = self.run("doctor", "-o", "json", **environ).json["findings"]
        return [(one["check"], one["text"]) for one in found if one["level"] == level]

    def files(self) -> dict[str, tuple[int, int, int]]:
        """Every file of the node, with what a write to it would change; without those that vanish meanwhile."""
        found = {}
        for path in self.folder.rglob("*"):
            with contextlib.suppress(FileNotFoundError):
                seen = path.lstat()
                if path.name != "plugin.log":
                    found[str(path)] = seen.st_ino, seen.st_size, seen.st_mtime_ns
        return found


async def prepare(stage: Stage, wishes: dict[str, list[str]]) -> dict[str, ClaimRef]:
    """Start the plugin on the stage and prepare claims: name to devices."""
    await stage.start_api_server()
    stage.start_plugin()
    refs = {}
    async with HttpKube(access(str(stage.kubeconfig), {})) as kube, Kubelet(str(stage.registrar)) as kubelet:
        await kubelet.registered(DRIVER)
        for name, devices in wishes.items():
            body = json.dumps(Wish(name, len(devices)).claim("ns", DRIVER)).encode()
            claim = json.loads(await kube.create(CLAIMS, body, "ns"))
            claim["status"] = status(DRIVER, NODE, devices, "pod")
            await kube.update(CLAIMS, name, json.dumps(claim).encode(), "ns", subresource="status")
            refs[name] = ClaimRef("ns", name, claim["metadata"]["uid"])
            told = await kubelet.prepare(DRIVER, [refs[name]])
            assert not told[refs[name].uid].error
    return refs


@pytest.fixture(scope="module")
def living() -> Iterator[tuple[Site, dict[str, ClaimRef]]]:
    """A node with a plugin that serves two claims. Nothing here may change it."""
    with Stage("h100x8") as stage:
        refs = asyncio.run(prepare(stage, {"one": ["gpu-0"], "two": ["gpu-2", "gpu-1"]}))
        site = Site(stage.root, stage.folder)
        site.hook.write_text("#!/bin/true\n")
        site.hook.chmod(0o755)
        yield site, refs


@pytest.fixture
def left(living: tuple[Site, dict[str, ClaimRef]]) -> Iterator[Site]:
    """The same node after the plugin left it, to be broken."""
    folder = Path(tempfile.mkdtemp(prefix="p"))
    whole, _ = living
    site = Site(lay_out(folder / "driver", "h100x8", device_files="regular"), folder)
    shutil.copytree(whole.cdi, site.cdi)
    for path in site.cdi.iterdir():
        path.write_text(path.read_text().replace(str(whole.root.root), str(site.root.root)))
    site.plugin_dir.mkdir(parents=True)
    (folder / "kubelet/plugins_registry").mkdir()
    for name in ("checkpoint.json", "nvidia-cdi-hook", "pu.lock", "cp.lock"):
        shutil.copy(whole.plugin_dir / name, site.plugin_dir / name)
    yield site
    shutil.rmtree(folder)


def write_checkpoint(site: Site, change: Callable[[Checkpoint], Checkpoint]) -> None:
    site.checkpoint.write_bytes(encode_checkpoint(change(decode_checkpoint(site.checkpoint.read_bytes()))))


# ── a healthy node ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_nothing_is_written(living: tuple[Site, dict[str, ClaimRef]]) -> None:
    site, _ = living
    before = site.files()
    for words in (["devices"], ["checkpoint", "show"], ["cdi", "render", "gpu-0"], ["doctor"]):
        assert site.run(*words).status == 0, words
    assert site.files() == before


def test_devices(living: tuple[Site, dict[str, ClaimRef]]) -> None:
    site, _ = living
    ran = site.run("devices")
    assert (ran.status, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0] == "driver 580.159.04, CUDA 13.0"
    rows = {line.split()[0]: line for line in lines[3:]}
    assert list(rows) == [f"gpu-{minor}" for minor in range(8)]
    for gpu in site.root.portrait.gpus:
        assert gpu.uuid in rows[f"gpu-{gpu.minor}"]
        assert gpu.name in rows[f"gpu-{gpu.minor}"]
    assert rows["gpu-0"].endswith("  ns/one")
    assert rows["gpu-1"].endswith("  ns/two")
    assert rows["gpu-3"].endswith("  -")


def test_devices_as_published(living: tuple[Site, dict[str, ClaimRef]]) -> None:
    site, _ = living
    found = site.run("devices", "--output", "json").json
    assert [(one["name"], one["heldBy"]) for one in found["devices"]][:4] == [
        ("gpu-0", ["ns/one"]),
        ("gpu-1", ["ns/two"]),
        ("gpu-2", ["ns/two"]),
        ("gpu-3", []),
    ]
    assert found["devices"][4]["attributes"]["resource.kubernetes.io/numaNode"] == {"int": 1}
    assert found["devices"][4]["capacity"] == {"memory": {"value": "81559Mi"}}
    assert (found["notPublished"], found["error"], found["recordError"]) == ([], "", "")


def test_devices_follow_the_gates(living: tuple[Site, dict[str, ClaimRef]]) -> None:
    site, _ = living
    found = site.run("devices", "-o", "json", FEATURE_GATES="DRAListTypeAttributes=true,").json
    assert found["devices"][4]["attributes"]["resource.kubernetes.io/numaNode"] == {"ints": [1]}
    ran = site.run("devices", "--feature-gates", "Foo=true")
    assert (ran.status, ran.out) == (2, "")
    assert ran.err == 'Error: invalid value "Foo=true" for flag -feature-gates: unrecognized feature gate: Foo\n'


def test_devices_say_where_they_lie_if_the_plugin_does(living: tuple[Site, dict[str, ClaimRef]]) -> None:
    site, _ = living
    told = [
        each["attributes"] for each in site.run("devices", "-o", "json", TOPOLOGY_ATTRIBUTES="true").json["devices"]
    ]
    assert [each["nvlinkDomain"] for each in told] == [{"string": "0000:1b:00.0"}] * 8
    assert [each["cpuSocket"] for each in told] == [{"int": 0}] * 4 + [{"int": 1}] * 4
    for each in site.run("devices", "-o", "json").json["devices"]:
        assert not {"nvlinkDomain", "cpuSocket"} & each["attributes"].keys()


def test_checkpoint(living: tuple[Site, dict[str, ClaimRef]]) -> None:
    site, refs = living
    ran = site.run("checkpoint", "show")
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith(f"{site.checkpoint}: 2 claims\nwritten in this boot\n")
    rows = [line.split(maxsplit=3) for line in ran.out.splitlines()[4:]]
    assert sorted(rows) == [
        ["ns/one", refs["one"].uid, "prepared", "gpu-0"],
        ["ns/two", refs["two"].uid, "prepared", "gpu-2, gpu-1"],
    ]
    found = site.run("checkpoint", "show", "-o", "json").json
    assert found["boot"] == "kept"
    claims = {claim["uid"]: claim for claim in found["claims"]}
    assert claims[refs["one"].uid] == {
        "uid": refs["one"].uid,
        "namespace": "ns",
        "name": "one",
        "state": "PrepareCompleted",
        "kinds": [],
        "devices": [
            {
                "device": "gpu-0",
                "pool": NODE,
                "requests": ["gpu"],
                "uuid": site.root.gpu(0).uuid,
                "cdiDeviceIDs": [cdi.GPU_CLAIMS.device_id(refs["one"].uid, "gpu-0")],
            }
        ],
    }


def test_cdi_is_what_the_plugin_wrote(living: tuple[Site, dict[str, ClaimRef]]) -> None:
    site, refs = living
    for name, devices in (("one", ["gpu-0"]), ("two", ["gpu-1", "gpu-2"])):
        words = ["cdi", "render", *devices, "--claim-uid", refs[name].uid]
        ran = site.run(*words, NVIDIA_CDI_HOOK_PATH="/usr/bin/nvidia-cdi-hook")
        written = (site.cdi / cdi.GPU_CLAIMS.file_name(refs[name].uid)).read_text()
        assert (ran.status, ran.out, ran.err) == (0, written, "")
        told = site.run(*words, "--output=json", NVIDIA_CDI_HOOK_PATH="/usr/bin/nvidia-cdi-hook")
        assert cdi.parse(told.out.encode()) == cdi.parse(written.encode())
        ran = site.run(*words[:2], *words[-2:], NVIDIA_CDI_HOOK_PATH="/usr/bin/nvidia-cdi-hook")
        assert (ran.status, ran.out, ran.err) == (0, written, "")
    ran = site.run("cdi", "render", "--claim-uid", "none-of-ours")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err == (
        "Error: claim none-of-ours is not prepared here (nvdra checkpoint show lists the claims that are)\n"
    )


def test_the_doctor_is_content(living: tuple[Site, dict[str, ClaimRef]]) -> None:
    site, _ = living
    ran = site.run("doctor")
    assert (ran.status, ran.err) == (0, ""), ran.out
    assert ran.out.endswith("\nall is well\n")
    assert "\x1b" not in ran.out
    found = site.run("doctor", "-o", "json").json
    assert found["level"] == "ok"
    assert {one["level"] for one in found["findings"]} == {"ok"}
    assert [one["check"] for one in found["findings"]] == [
        "driver root",
        "NVML library",
        "kernel module",
        "NVML",
        "device nodes",
        "driver files",
        "GPUs",
        "kubelet folder",
        "kubelet folder",
        "plugin",
        "CDI hook",
        "checkpoint",
        "locks",
        "CDI folder",
        "GPU holders",
    ]


def test_the_doctor_names_who_has_a_gpu_open(left: Site, tmp_path: Path) -> None:
    container, pods = "ab" * 32, [f"0a1b2c3d-0000-4000-8000-00000000000{number}" for number in range(3)]

    def renamed(checkpoint: Checkpoint) -> Checkpoint:
        entries = checkpoint.entries.items()
        uid = pods[0].encode()
        return replace(
            checkpoint, entries={k: replace(e, status=e.status.replace(b"uid-of-pod", uid)) for k, e in entries}
        )

    write_checkpoint(left, renamed)
    (tmp_path / f"var/log/pods/ml_trainer-0_{pods[1]}").mkdir(parents=True)
    try:
        for minor in (0, 1):
            os.mknod(tmp_path / f"nvidia{minor}", 0o600 | 0o020000, os.makedev(195, minor))
    except PermissionError:
        pytest.skip("needs root to make device nodes")
    for pid, command, minor, cgroup in (
        (1, "init", 9, "0::/init.scope"),
        (40, "serve", 0, f"0::/kubepods.slice/kubepods-pod{pods[0].replace('-', '_')}.slice/crio-{container}.scope"),
        (41, "train", 0, f"0::/kubepods/pod{pods[1]}/{container}"),
        (42, "train", 0, f"5:devices:/kubepods/besteffort/pod{pods[2]}/{container}"),
        (43, "nvidia-persiste", 1, "0::/system.slice/nvidia-persistenced.service"),
    ):
        place = tmp_path / f"proc/{pid}"
        (place / "fd").mkdir(parents=True)
        (place / "fd/3").symlink_to(tmp_path / f"nvidia{minor}")
        (place / "comm").write_text(f"{command}\n")
        (place / "cgroup").write_text(f"{cgroup}\n")
    found = [text for check, text in left.findings("ok", HOST_ROOT=str(tmp_path)) if check == "GPU holders"]
    where = f"in container {container[:12]} of pod"
    unseen = f"; {tmp_path}/proc shows one PID namespace only: not those of the host and other pods, without hostPID"
    assert found == [
        f"gpu-0 is open in process 40 (serve) {where} ns/pod, process 41 (train) {where} ml/trainer-0, "
        f"process 42 (train) {where} {pods[2]}{unseen}",
        f"gpu-1 is open in process 43 (nvidia-persiste){unseen}",
    ]


# ── the driver is not well ─────────────────────────────────────────────────────────────────────────────────────────


def test_without_a_driver(left: Site) -> None:
    left.root.library.unlink()
    ran = left.run("devices")
    assert ran.status == 1
    assert "  gpu-1  held by ns/two\n" in ran.out
    missing = 'error locating "libnvidia-ml.so.1": '
    assert ran.err.startswith(f"Error: the GPUs cannot be read: {missing}")
    ran = left.run("cdi", "render", "gpu-0")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith("Error: the GPUs cannot be read: ")
    problems = left.findings("problem")
    (library,) = (text for check, text in problems if check == "NVML library")
    assert library.startswith(missing)
    assert "run ldconfig on the node" in library
    assert ("NVML", f"gives no answer: {library}") in problems


def test_a_driver_root_that_is_none(left: Site) -> None:
    problems = left.findings("problem", DRIVER_ROOT_CTR_PATH="/nowhere")
    assert problems[0] == ("driver root", "/nowhere is no folder")
    assert not any(check == "NVML library" for check, _ in problems)


def test_a_module_that_is_not_loaded(left: Site) -> None:
    (left.root.procfs / "driver/nvidia/version").unlink()
    (left.root.sysfs / "module/nvidia/version").unlink()
    assert ("kernel module", "nvidia is not loaded") in left.findings("problem")


def test_a_module_of_another_version(left: Site) -> None:
    version = left.root.procfs / "driver/nvidia/version"
    version.write_text(version.read_text().replace("580.159.04", "570.1.2"))
    text = "nvidia 570.1.2 is loaded, but the library is of 580.159.04: the driver was replaced while in use"
    assert ("kernel module", text) in left.findings("problem")


def test_device_nodes_that_are_missing(left: Site) -> None:
    (left.root.root / "dev/nvidia-uvm").unlink()
    text = f"missing below {left.root.root}: /dev/nvidia-uvm"
    assert ("device nodes", text) in left.findings("problem")
    ran = left.run("cdi", "render", "gpu-0")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err == (
        f"Error: the driver's /dev/nvidia-uvm is missing below {left.root.root}; nvdra doctor tells more\n"
    )
    assert not (left.root.root / "dev/nvidia-uvm").exists()


def test_a_driver_without_cuda(left: Site) -> None:
    for path in left.root.library.parent.glob("libcuda.so*"):
        path.unlink()
    assert ("driver files", "libcuda.so.580.159.04 is not in /usr/lib/x86_64-linux-gnu") in left.findings("problem")


def test_a_gpu_that_nvml_does_not_see(left: Site) -> None:
    left.root.hide_gpu(5)
    text = "0000:c3:00.0 is on the PCI bus, bound to nvidia, and not seen by NVML"
    assert ("GPUs", text) in left.findings("problem")
    assert left.run("devices", "-o", "json").json["notPublished"] == [
        {"device": "0000:c3:00.0", "reason": "on the PCI bus, bound to nvidia, and not seen by NVML"}
    ]


@pytest.mark.parametrize(
    ("driver", "level", "words"),
    [
        ("", "warning", "bound to no kernel driver"),
        ("vfio-pci", "warning", "bound to vfio-pci"),
        ("nouveau", "problem", "bound to nouveau"),
    ],
)
def test_a_gpu_that_another_driver_has(left: Site, driver: str, level: str, words: str) -> None:
    left.root.hide_gpu(5)
    link = left.root.sysfs / "bus/pci/devices/0000:c3:00.0/driver"
    link.unlink()
    if driver:
        link.symlink_to(f"../../../bus/pci/drivers/{driver}")
    assert ("GPUs", f"0000:c3:00.0 is on the PCI bus, {words}, and not seen by NVML") in left.findings(level)
    assert left.run("devices", "-o", "json").json["notPublished"] == [
        {"device": "0000:c3:00.0", "reason": f"on the PCI bus, {words}, and not seen by NVML"}
    ]


def test_a_gpu_that_refuses(left: Site) -> None:
    left.root.set_faults([{"minor": 5, "function": "nvmlDeviceGetUUID", "code": "GPU_IS_LOST"}])
    found = left.run("devices", "-o", "json").json
    assert [one["name"] for one in found["devices"]] == [f"gpu-{minor}" for minor in range(8) if minor != 5]
    (left_out,) = found["notPublished"]
    assert "nvmlDeviceGetUUID" in left_out["reason"]
    warnings = [text for check, text in left.findings("warning") if check == "GPUs"]
    assert warnings == [f"{left_out['device']} is not offered: {left_out['reason']}"]
    assert left_out["reason"] in left.run("devices").out


def test_a_held_gpu_that_is_gone(left: Site) -> None:
    left.root.remove_gpu(0)
    ran = left.run("devices")
    assert ran.status == 0
    assert "  gpu-0  held by ns/one, and not there now\n" in ran.out


def test_no_gpu_at_all(left: Site) -> None:
    for minor in range(8):
        left.root.remove_gpu(minor)
    assert ("GPUs", "no NVIDIA GPU is on the PCI bus") in left.findings("problem")
    ran = left.run("devices")
    assert (ran.status, ran.out.splitlines()[0]) == (0, "no device would be published")


def test_a_device_that_is_not_here(left: Site) -> None:
    ran = left.run("cdi", "render", "gpu-0", "gpu-9")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err == (
        "Error: this node has no device gpu-9; it has gpu-0, gpu-1, gpu-2, gpu-3, gpu-4, gpu-5, gpu-6, gpu-7\n"
    )


def test_a_partitions_document_has_its_capability_nodes(left: Site) -> None:
    left.root.set_mig_mode(2, True)
    made = left.root.create_mig(2, "1g.10gb", start=3)
    name = "gpu-2-mig-1g10gb-19-3"
    ran = left.run("cdi", "render", name, "gpu-0", "--claim-uid", "c")
    assert (ran.status, ran.err) == (0, "")
    whole, part = cdi.parse(ran.out.encode()).devices
    assert (whole.name, part.name) == ("c-gpu-0", f"c-{name}")
    assert [node.path for node in part.edits.device_nodes] == [
        "/dev/nvidia2",
        *(f"/dev/nvidia-caps/{left.root.capability_node(2, made.gi, ci).name}" for ci in (None, made.ci)),
    ]
    ran = left.run("cdi", "render", "gpu-2-mig-1g10gb-19-0")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err == "Error: this node has no device gpu-2-mig-1g10gb-19-0: gpu-2 has no such MIG device now\n"
    (left.root.procfs / f"driver/nvidia/capabilities/gpu2/mig/gi{made.gi}/access").unlink()
    ran = left.run("cdi", "render", name)
    assert ran.err.startswith(
        "Error: failed to construct MIG device DeviceNode edits: failed to parse GI capabilities file "
        f"{left.root.procfs}/"
    )


# ── kubelet's side is not well ─────────────────────────────────────────────────────────────────────────────────────


def test_a_plugin_that_does_not_run(left: Site) -> None:
    assert left.run("doctor").status == 2
    assert ("plugin", f"does not run: there is no {left.plugin_dir}/dra.sock") in left.findings("problem")


def test_a_plugin_that_died(left: Site, living: tuple[Site, dict[str, ClaimRef]]) -> None:
    import socket

    registration = left.folder / f"kubelet/plugins_registry/{DRIVER}-reg.sock"
    for path in (registration, left.plugin_dir / "dra.sock"):
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))
    (problem,) = [text for check, text in left.findings("problem") if check == "plugin"]
    assert problem.startswith(f"does not answer: registration socket {registration}: ")
    registration.unlink()
    assert ("plugin", f"is not known to kubelet: there is no {registration}") in left.findings("problem")


def test_kubelet_folders_elsewhere(left: Site) -> None:
    problems = left.findings("problem", KUBELET_REGISTRAR_DIRECTORY_PATH="/nowhere")
    assert ("kubelet folder", "/nowhere is no folder") in problems


def test_a_hook_that_cannot_run(left: Site) -> None:
    left.hook.chmod(0o644)
    assert ("CDI hook", f"{left.hook} cannot be executed") in left.findings("problem")
    left.hook.unlink()
    assert ("CDI hook", f"{left.hook} is not there: no container with a GPU can start") in left.findings("problem")


# ── claims are not well ────────────────────────────────────────────────────────────────────────────────────────────


def test_no_checkpoint_yet(left: Site) -> None:
    left.checkpoint.unlink()
    ran = left.run("checkpoint", "show")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith(f"Error: {left.checkpoint}: there is no such file: ")
    assert ("checkpoint", f"there is no {left.checkpoint}") in left.findings("warning")


def test_a_checkpoint_that_was_changed(left: Site) -> None:
    left.checkpoint.write_text(left.checkpoint.read_text().replace("gpu-0", "gpu-7"))
    ran = left.run("checkpoint", "show")
    assert ran.status == 1
    assert ran.err.startswith(f"Error: {left.checkpoint}: ")
    found = left.run("checkpoint", "show", "-o", "json")
    assert (found.status, found.json["path"]) == (1, str(left.checkpoint))
    assert found.json["error"] in ran.err
    problems = dict(left.findings("problem"))
    assert problems["checkpoint"].startswith(f"{left.checkpoint} cannot be read: ")
    assert left.run("devices").out.splitlines()[-1].startswith("who holds what is not known: ")


def test_a_checkpoint_with_a_unsupported_word_shows_the_difference(left: Site) -> None:
    left.checkpoint.write_text(left.checkpoint.read_text().replace('"name":"one"', '"nam":"one"'))
    ran = left.run("checkpoint", "show")
    assert ran.status == 1
    found = left.run("checkpoint", "show", "-o", "json").json
    assert found["diff"] in ran.out
    assert found["diff"] or "checksum" in found["error"]


def test_half_a_checkpoint(left: Site) -> None:
    left.checkpoint.write_bytes(left.checkpoint.read_bytes()[:-40])
    ran = left.run("checkpoint", "show")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith(f"Error: {left.checkpoint}: checkpoint is not readable: ")


def test_a_checkpoint_of_another_boot(left: Site) -> None:
    write_checkpoint(left, lambda checkpoint: replace(checkpoint, boot_id="another"))
    ran = left.run("checkpoint", "show")
    assert ran.status == 0
    assert "written in another boot (another, this one is " in ran.out
    assert left.run("checkpoint", "show", "-o", "json").json["boot"] == "invalidated"
    assert ("checkpoint", "2 claims of another boot (another): no plugin has started since") in left.findings("warning")


@pytest.mark.parametrize("recording", sorted(path.parent.name for path in GOLDEN.glob("*/checkpoint.json")))
def test_checkpoints_of_the_go_driver(left: Site, recording: str) -> None:
    path = GOLDEN / recording / "checkpoint.json"
    ran = left.run("checkpoint", "show", "--file", str(path))
    assert (ran.status, ran.err) == (0, "")
    found = left.run("checkpoint", "show", "--file", str(path), "-o", "json").json
    assert {claim["uid"] for claim in found["claims"]} == set(decode_checkpoint(path.read_bytes()).entries)
    for claim in found["claims"]:
        assert claim["uid"] in ran.out
        assert claim["devices"]


def test_a_claim_that_was_begun(left: Site) -> None:
    def begin(checkpoint: Checkpoint) -> Checkpoint:
        uid, entry = next(iter(checkpoint.entries.items()))
        begun = Entry("PrepareStarted", entry.status, (), entry.name, entry.namespace)
        return replace(checkpoint, entries={**checkpoint.entries, uid: begun})

    write_checkpoint(left, begin)
    (claim,) = [one for one in left.run("checkpoint", "show", "-o", "json").json["claims"] if "Started" in one["state"]]
    assert claim["devices"]
    assert "  begun " in left.run("checkpoint", "show").out
    assert ("checkpoint", f"claim {claim['uid']} was begun and not finished") in left.findings("warning")


def test_a_claim_with_a_partition(left: Site) -> None:
    place = PreparedMig("MIG-1", parent_minor=3, parent_uuid="GPU-3", gi_id=9, ci_id=0)
    device = PreparedDevice(place, ("r",), "node-a", "gpu-3-mig-1g10gb-19-2", ("id",))

    def part(checkpoint: Checkpoint) -> Checkpoint:
        (one, whole), (two, other) = checkpoint.entries.items()
        prepared = (PreparedGroup((device,)),)
        made = replace(whole, prepared=prepared)
        going = replace(other, state="PrepareStarted", prepared=prepared)
        return replace(checkpoint, entries={one: made, two: going})

    write_checkpoint(left, part)
    rows = [re.split(" {2,}", row) for row in left.run("checkpoint", "show").out.splitlines()[-2:]]
    assert [row[2:] for row in rows] == [["prepared", device.device], ["being let go", device.device]]
    for claim in left.run("checkpoint", "show", "-o", "json").json["claims"]:
        [told] = claim["devices"]
        assert told["uuid"] == "MIG-1"
        assert told["mig"] == {"parentMinor": 3, "parentUUID": "GPU-3", "giId": 9, "ciId": 0}


def test_a_lost_checkpoint(left: Site) -> None:
    (left.plugin_dir / "checkpoint.json.quarantined").touch()
    warnings = [text for check, text in left.findings("warning") if check == "checkpoint"]
    assert len(warnings) == 1
    assert "checkpoint.json.quarantined" in warnings[0]


def test_a_lock_that_is_held(left: Site) -> None:
    with (left.plugin_dir / "pu.lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        (warning,) = [text for check, text in left.findings("warning") if check == "locks"]
        assert warning.startswith(f"{left.plugin_dir}/pu.lock is held by process {os.getpid()} (")
    assert not [text for check, text in left.findings("warning") if check == "locks"]


def test_files_that_disagree_with_the_checkpoint_are_reported(left: Site) -> None:
    first, second = sorted(left.cdi.iterdir())
    orphan = left.cdi / cdi.GPU_CLAIMS.file_name("nobody")
    first.rename(orphan)
    uid = cdi.GPU_CLAIMS.claim_uid(first.name)
    assert ("CDI folder", f"{orphan} is of a claim that the checkpoint does not know") in left.findings("warning")
    lost = f"the file of claim {uid} is lost: containers that use it cannot start"
    assert ("CDI folder", lost) in left.findings("problem")
    second.write_text("devices: 5\n")
    problems = [text for check, text in left.findings("problem") if check == "CDI folder"]
    assert any(text.startswith(f"{second} cannot be read: ") for text in problems)


def test_what_a_killed_writer_left(left: Site) -> None:
    paths = [left.cdi / f"{cdi.GPU_CLAIMS.file_name('someone')}.123.tmp", left.plugin_dir / ".456"]
    for path in (*paths, left.cdi / "other-driver.yaml.123.tmp"):
        path.touch()
    text = f"left behind by a writer that was killed: {paths[0]}, {paths[1]}"
    assert ("CDI folder", text) in left.findings("warning")


def test_files_that_name_a_driver_that_is_gone(left: Site) -> None:
    site = replace(left, root=left.root.replace_driver("590.10.01"))
    warnings = [text for check, text in site.findings("warning") if check == "CDI folder"]
    assert len(warnings) == 2
    assert all("names driver files that are gone, or device nodes made anew: " in text for text in warnings)
    assert all("580.159.04" in text for text in warnings)


def test_which_claims_hold_a_socket_that_is_gone(left: Site) -> None:
    document = cdi.parse(next(iter(left.cdi.iterdir())).read_bytes())
    socket = next(mount.host_path for mount in document.edits.mounts if mount.host_path.endswith("/socket"))
    (left.root.root / socket[socket.index("run/nvidia-") :]).unlink()
    warnings = [text for check, text in left.findings("warning") if check == "CDI folder"]
    assert len(warnings) == 2
    assert all(text.startswith("claim ") and text.endswith(socket) for text in warnings)


# ── called wrongly ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ["frobnicate"],
            "nvdra has no command 'frobnicate'; there are demo, doctor, devices, checkpoint show, "
            "claim explain, claim lint, "
            "simulate, domains remove, domains, forecast, health show, health clear, "
            "health pause, health resume, mps remove, vfio give-back, cdi render, prestart",
        ),
        (["cdi"], "nvdra has no command 'cdi'; there are cdi render"),
        (["checkpoint", "edit"], "nvdra has no command 'checkpoint edit'; there are checkpoint show"),
        (["devices", "gpu-0"], "nvdra devices takes no arguments: gpu-0"),
        (["devices", "-o", "yaml"], 'invalid value "yaml" for flag -output: must be one of text, json'),
        (
            ["cdi", "render"],
            "nvdra cdi render needs the names of devices, for instance gpu-0 (nvdra devices lists them), or the "
            "--claim-uid of a prepared claim",
        ),
        (["doctor", "--repair"], "flag provided but not defined: -repair"),
    ],
)
def test_called_wrongly(left: Site, words: list[str], text: str) -> None:
    ran = left.run(*words)
    assert (ran.status, ran.out, ran.err) == (2, "", f"Error: {text}\n")


@pytest.mark.parametrize("words", [[], ["--help"], ["help"], ["-h"]])
def test_help_lists_the_commands(left: Site, words: list[str]) -> None:
    ran = left.run(*words)
    assert (ran.status, ran.err) == (0, "")
    for name in ("demo", "doctor", "devices", "checkpoint show", "forecast", "cdi render"):
        assert f"\n  nvdra {name} " in ran.out


@pytest.mark.parametrize("words", ["doctor", "devices", "checkpoint show", "health clear", "cdi render"])
def test_each_has_help(left: Site, words: str) -> None:
    ran = left.run(*words.split(), "--help")
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith(f"usage: nvdra {words} ")
    for flag in (
        "--output",
        "--container-driver-root",
        "--cdi-root",
        "--kubelet-plugins-directory-path",
        "DRIVER_ROOT_CTR_PATH",
    ):
        assert flag in ran.out


# ── at the edge ────────────────────────────────────────────────────────────────────────────────────────────────────

COMMANDS = (["devices"], ["doctor"], ["checkpoint", "show"], ["cdi", "render", "gpu-0"])


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    ("redirection", "environ"),
    [
        (">&-", {}),
        ("<&-", {}),
        ("2>&- >&- <&-", {}),
        (">/dev/full", {}),
        ("", {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}),
        ("", {"KUBELET_PLUGINS_DIRECTORY_PATH": "/etc/hostname"}),
    ],
    ids=["closed stdout", "closed stdin", "all closed", "full disk", "ascii", "a file for a folder"],
)
def test_whatever_fails_is_said_in_one_line(
    left: Site, words: list[str], redirection: str, environ: dict[str, str]
) -> None:
    done = left.shell(f"nvdra {' '.join(words)} {redirection}", **environ)
    assert "Traceback" not in done.err
    assert "Exception" not in done.err
    assert len(done.err.splitlines()) <= 1
    if redirection == ">/dev/full":
        assert (
            done.err == f"Error: nvdra {' '.join(words[:2])}: its answer cannot be written: No space left on device\n"
        )
        assert done.status == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_a_doctor_that_may_not_look_says_who_may(left: Site) -> None:
    left.folder.chmod(0o755)
    left.plugin_dir.chmod(0o700)
    done = left.shell("setpriv --reuid 65534 --clear-groups nvdra doctor")
    assert done.err == ""
    assert "Permission denied" in done.out
    assert "run it as root" in done.out
    assert done.status == 2


def test_the_hook_that_was_named_is_looked_for_on_the_host(left: Site, tmp_path: Path) -> None:
    """This machine may have a program of that name too: the image does."""
    inside, outside = Path("/usr/bin/true"), tmp_path / "hook"
    outside.touch(0o755)

    def hook(path: Path, root: str) -> tuple[str, str]:
        ran = left.run("doctor", "--output", "json", NVIDIA_CDI_HOOK_PATH=str(path), NVIDIA_DRIVER_ROOT=root)
        (found,) = (one for one in json.loads(ran.out)["findings"] if one["check"] == "CDI hook")
        return found["level"], found["text"]

    assert hook(outside, str(left.root.root)) == ("ok", str(outside))
    # In a container whose driver root is the host's /run/driver, or its /.
    assert hook(inside, "/run/driver") == ("ok", f"{inside} on the host, not to be seen from this container")
    assert hook(inside, "/") == ("problem", f"{inside} is not there: no container with a GPU can start")
    (left.root.root / "usr/bin/true").touch(0o755)
    assert hook(inside, "/") == ("ok", str(inside))


def test_a_gpu_that_does_not_change_its_mode_is_named(left: Site) -> None:
    address = left.root.gpu(2).pci_bus_id
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    kept = {"bootID": boot_id, "gpus": {address: {"on": True, "reason": "Not Supported"}}}
    (left.plugin_dir / "stuck-mig-modes.json").write_text(json.dumps(kept))
    text = "MIG mode cannot be turned on before the GPU or the node is reset: Not Supported"
    gate = ("--feature-gates", "DynamicMIG=true")
    assert re.search(rf"partitions of gpu-2 +{text}", left.run("devices", *gate).out)
    findings = json.loads(left.run("doctor", "--output", "json", *gate).out)["findings"]
    assert f"gpu-2 is offered only as it stands: {text}" in [one["text"] for one in findings]
    kept["bootID"] = "another"
    (left.plugin_dir / "stuck-mig-modes.json").write_text(json.dumps(kept))
    assert text not in left.run("devices", *gate).out


def test_what_virtual_machines_can_get_is_listed_with_the_gate(left: Site) -> None:
    gate = {"FEATURE_GATES": "PassthroughSupport=true"}
    assert ("GPUs", "no GPU is offered to virtual machines: IOMMU is not enabled in the kernel") in left.findings(
        "warning", **gate
    )
    assert left.run("devices", "-o", "json").out == left.run("devices", "-o", "json", **gate).out
    for number, gpu in enumerate(left.root.portrait.gpus):
        member = left.root.sysfs / f"kernel/iommu_groups/{number}/devices" / gpu.pci_bus_id
        member.mkdir(parents=True)
        device = (left.root.sysfs / "bus/pci/devices" / gpu.pci_bus_id).resolve()
        (device / "iommu_group").symlink_to(member.parents[1])
    try:
        twins = [each for each in left.run("devices", "-o", "json", **gate).json["devices"] if "vfio" in each["name"]]
        assert [each["name"] for each in twins] == [f"gpu-vfio-{n}" for n in range(len(left.root.portrait.gpus))]
        assert "gpu-vfio-0" in left.run("devices", **gate).out
        assert any("VFIO devices offered: gpu-vfio-0" in text for _, text in left.findings("ok", **gate))
    finally:
        for gpu in left.root.portrait.gpus:
            ((left.root.sysfs / "bus/pci/devices" / gpu.pci_bus_id).resolve() / "iommu_group").unlink()
        shutil.rmtree(left.root.sysfs / "kernel/iommu_groups")
