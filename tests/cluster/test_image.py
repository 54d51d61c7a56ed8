"""The driver's image: what is in it, and that it works with nothing to write on. Needs no cluster."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from nvdra_mock_nvml import lay_out

from tests.cluster.harness import driver_image

MIB = 1 << 20
SITE = "opt/nvdra/lib/python3.11/site-packages"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image's files. Nothing here writes on them: what runs there sees them read-only."""
    return driver_image.unpacked(tmp_path_factory.mktemp("image"))


def run(root: Path, *command: str, driver: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command in the image as a container would run it: read-only but for /tmp, with its own /proc and /dev."""
    driver_mount = f'mount --bind "{driver}" "$1/mnt"; ' if driver else ""
    script = (
        'mount --bind "$1" "$1"; mount -o remount,bind,ro "$1"; mount -t tmpfs none "$1/tmp"; '
        'mount -t proc none "$1/proc"; mount --rbind /dev "$1/dev"; '
        f'{driver_mount}root="$1"; shift; exec chroot "$root" "$@"'
    )
    arguments = [
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--propagation",
        "private",
        "sh",
        "-ec",
        script,
        "sh",
    ]
    environment = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "NVIDIA_DRIVER_ROOT": "/run/driver"}
    return subprocess.run(
        [*arguments, str(root), *command], env=environment, capture_output=True, text=True, check=False, timeout=60
    )


def files(root: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            if not path.is_symlink() and path.is_file():
                yield path


def test_programs_start(root: Path) -> None:
    assert run(root, "webhook", "--version").stdout.startswith("webhook version v")
    done = run(root, "gpu-kubelet-plugin", "--version")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("gpu-kubelet-plugin version v")
    done = run(root, "gpu-kubelet-plugin")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: Required flags")
    assert run(root, "nvdra", "--help").returncode == 0


def test_everything_that_a_program_imports_is_there(root: Path) -> None:
    """Native modules too; what the extras bring is not needed inside a cluster."""
    code = (
        "import importlib, pkgutil, nvdra, nvdra._core, nvdra._nvml\n"
        "for each in pkgutil.walk_packages(nvdra.__path__, 'nvdra.'):\n"
        "    try: importlib.import_module(each.name)\n"
        "    except ModuleNotFoundError as missing: print(missing.name)\n"
        "print(nvdra.__file__)"
    )
    done = run(root, "/opt/nvdra/bin/python3", "-c", code)
    assert done.returncode == 0, done.stderr
    *missing, where = done.stdout.splitlines()
    assert where == f"/{SITE}/nvdra/__init__.py"
    assert set(missing) <= {"aiohttp", "kubernetes", "nvdra_mock_nvml"}


def test_modules_are_compiled_for_good(root: Path) -> None:
    """The root may be read-only: what is not compiled here is compiled at every start."""
    sources = [path for path in files(root / SITE) if path.suffix == ".py"]
    assert len(sources) > 200
    for source in sources:
        compiled = source.parent / "__pycache__" / f"{source.stem}.cpython-311.pyc"
        # By hash and unchecked: no time stamp, so that no copy of the image can make it stale.
        assert compiled.read_bytes()[4:8] == b"\x01\0\0\0", source


def test_nothing_to_build_with(root: Path) -> None:
    names = {
        path.name for folder in ("usr/bin", "usr/local/bin", "opt/nvdra/bin") for path in (root / folder).glob("*")
    }
    assert not names & {"gcc", "cc", "ld", "as", "make", "rustc", "cargo", "go", "pip", "pip3", "git"}
    assert not [path for path in files(root) if path.name == "Python.h" or path.suffix == ".a"]
    assert not list((root / SITE).glob("*.pth"))
    assert not list((root / SITE).glob("nvdra/**/*.pyi"))
    assert not (root / "source").exists()


@pytest.mark.parametrize(
    "tool",
    [
        "bash",
        "sh",
        "sed",
        "cp",
        "mount",
        "find",
        "head",
        "ls",
        "basename",
        "date",
        "env",
        "ln",
        "sleep",
        "cat",
        "kill",
        "wget",
        "tail",
        "chroot",
        "rm",
    ],
)
def test_tools_that_the_chart_and_the_pods_need(root: Path, tool: str) -> None:
    done = run(root, "/bin/sh", "-c", f"command -v {tool}")
    assert done.returncode == 0
    # `kubectl exec POD -- kill …` has no shell that would know it.
    assert any((root / folder / tool).exists() for folder in ("usr/bin", "usr/sbin"))


def test_kill_and_wget_as_programs(root: Path) -> None:
    done = run(root, "/bin/sh", "-c", "sleep 60 & /usr/bin/kill -s USR2 $!; wait $!")
    assert done.returncode == 128 + 12
    serve = "python3 -m http.server -d /LICENSE_ --bind 127.0.0.1 18080"
    script = f"mkdir /tmp/w; echo served > /tmp/w/page; {serve.replace('/LICENSE_', '/tmp/w')} >/dev/null 2>&1 & "
    script += "until wget -qO- http://127.0.0.1:18080/page 2>/dev/null; do sleep 0.1; done"
    assert run(root, "/bin/sh", "-c", script).stdout == "served\n"


def test_the_hook_needs_nothing_of_the_host(root: Path, tmp_path: Path) -> None:
    hook = root / "usr/bin/nvidia-cdi-hook"
    (tmp_path / "hook").write_bytes(hook.read_bytes())
    (tmp_path / "hook").chmod(0o755)
    done = subprocess.run(["chroot", str(tmp_path), "/hook", "--version"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("NVIDIA CDI Hook version")


def test_the_hook_hides_from_a_container_that_device_nodes_may_be_made(root: Path, tmp_path: Path) -> None:
    """The one hook that no pod here can show: it acts where the kernel's module has parameters.

    The host here is a folder with the hook and no C library.
    """
    (tmp_path / "hook").write_bytes((root / "usr/bin/nvidia-cdi-hook").read_bytes())
    (tmp_path / "hook").chmod(0o755)
    shown = tmp_path / "bundle/rootfs/proc/driver/nvidia/params"
    shown.parent.mkdir(parents=True)
    shown.write_text("ModifyDeviceFiles: 1\n")
    (tmp_path / "bundle/config.json").write_text(json.dumps({"ociVersion": "1.2.0", "root": {"path": "rootfs"}}))
    (tmp_path / "proc").mkdir()
    script = (
        'cd "$1"; mount -t proc none proc; mount -t tmpfs none proc/driver; mkdir proc/driver/nvidia; '
        'printf "ResmanDebugLevel: 4\\nModifyDeviceFiles: 1\\n" > proc/driver/nvidia/params; '
        'printf \'{"bundle": "/bundle"}\' | chroot . /hook disable-device-node-modification; '
        "cat bundle/rootfs/proc/driver/nvidia/params"
    )
    command = ["unshare", "--mount", "--pid", "--fork", "--propagation", "private", "sh", "-ec", script, "sh"]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "ResmanDebugLevel: 4\nModifyDeviceFiles: 0\n"


def test_the_init_container_finds_a_driver(root: Path, tmp_path: Path) -> None:
    laid = lay_out(tmp_path / "driver", "h100x8")
    script = (
        # Where kubelet mounts the parent of the driver root.
        "mount -t tmpfs none /media; mkdir /media/driver; mount --bind /mnt /media/driver; "
        "sed s,/driver-root-parent,/media, /usr/bin/kubelet-plugin-prestart.sh > /tmp/prestart.sh; "
        "exec bash /tmp/prestart.sh"
    )
    done = run(root, "/bin/sh", "-ec", script, driver=Path(laid.root))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("nvidia-smi returned with code 0: success, leave\n")


def test_size_and_labels(root: Path) -> None:
    """Smaller than the Go driver's image, unpacked (250 MB) and packed (70 MB)."""
    _, archive = driver_image.built()
    unpacked = sum({(path.stat().st_dev, path.stat().st_ino): path.stat().st_size for path in files(root)}.values())
    print(f"{unpacked / MIB:.0f} MiB unpacked, {archive.stat().st_size / MIB:.0f} MiB packed")
    assert unpacked < 250 * MIB
    assert archive.stat().st_size < 70 * MIB
    with tarfile.open(archive) as tar:

        def blob(digest: str) -> bytes:
            file = tar.extractfile(f"blobs/{digest.replace(':', '/')}")
            assert file is not None
            content = file.read()
            assert f"sha256:{hashlib.sha256(content).hexdigest()}" == digest
            return content

        index_file = tar.extractfile("index.json")
        assert index_file is not None
        manifest = json.loads(blob(json.load(index_file)["manifests"][0]["digest"]))
        image = json.loads(blob(manifest["config"]["digest"]))
    assert len(manifest["layers"]) == 1
    environment = dict(each.split("=", 1) for each in image["config"]["Env"])
    assert (
        environment.items()
        >= {
            "NVIDIA_DISABLE_REQUIRE": "true",
            "NVIDIA_VISIBLE_DEVICES": "all",
            "NVIDIA_DRIVER_CAPABILITIES": "utility",
            "NVDRA_COMMIT": "test",
        }.items()
    )
    labels = image["config"]["Labels"]
    assert labels["com.nvidia.git-commit"] == "test"
    assert labels["version"] == "test"
    for label in ("name", "vendor", "release", "summary", "description", "io.k8s.display-name"):
        assert labels[label]
    assert labels["org.opencontainers.image.source"]
