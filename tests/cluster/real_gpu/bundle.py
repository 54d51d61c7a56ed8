"""Two archives for a machine with GPUs and no network: a system with the driver's image, and the cluster's programs.

    python -m tests.cluster.real_gpu.bundle FOLDER      # `make gpu-bundle`

Two, because one transfer may be limited to 64 MiB. `enter.sh`, which lies beside them, puts them together there.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.cluster.harness import driver_image, packages, programs

REPOSITORY = Path(__file__).resolve().parents[3]
# What the harness calls and the driver's image lacks.
TOOLS = ("busybox-static", "iptables", "iproute2", "procps")
SOURCES = ("tests/cluster", "deploy/helm", "native/mock-nvml/python", "native/mock-nvml/portraits")
SYSTEM = (programs.HELM,)
CLUSTER = (programs.KUBERNETES, programs.CONTAINERD, programs.RUNC, programs.CDI_HOOK)


def main(target: Path) -> None:
    """Both archives and `enter.sh` are in `target`."""
    packages.install_missing()
    built = programs.built(*SYSTEM, *CLUSTER)
    _, archive = driver_image.built()
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gpu-bundle-") as scratch:
        system = Path(scratch, "system")
        system.mkdir()
        print("==> the driver's image, with what the harness needs beside it", flush=True)
        # Compressed once, as a whole: layers that are compressed already would stay as large as they are.
        decompress(archive, system / "image.tar")
        _fetch_tools(system / "packages", _package_status(system / "image.tar", Path(scratch)))
        for source in SOURCES:
            _copy(REPOSITORY / source, system / "source" / source)
        for part in SYSTEM:
            _copy(built[part], system / "programs" / programs.label(part))
        cluster = Path(scratch, "cluster")
        for part in CLUSTER:
            _copy(built[part], cluster / "programs" / programs.label(part))
        for folder in (system, cluster):
            print(f"==> compressing {folder.name} (minutes)", flush=True)
            _run(["tar", "-C", str(folder), "-cJf", str(target / f"{folder.name}.tar.xz"), "."])
    shutil.copy(Path(__file__).with_name("enter.sh"), target)
    for each in sorted(target.iterdir()):
        print(f"{each.stat().st_size / 2**20:8.1f} MiB  {each}")


def decompress(archive: Path, target: Path) -> None:
    """The OCI archive of one image once more, with layers that are not compressed."""
    with tarfile.open(archive) as tar:
        files = {each.name: opened.read() for each in tar.getmembers() if (opened := tar.extractfile(each))}

    def blob(descriptor: Mapping[str, Any]) -> bytes:
        return files[f"blobs/{str(descriptor['digest']).replace(':', '/')}"]

    index = json.loads(files["index.json"])
    manifest = json.loads(blob(index["manifests"][0]))
    config = blob(manifest["config"])
    layers = [gzip.decompress(blob(layer)) for layer in manifest["layers"]]
    described = {"layers": [_described("layer.v1.tar", layer) for layer in layers]}
    text = json.dumps(manifest | described).encode()
    index["manifests"][0] |= _described("manifest.v1+json", text)
    with tarfile.open(target, "w") as tar:
        for path, content in (
            ("oci-layout", files["oci-layout"]),
            ("index.json", json.dumps(index).encode()),
            *((f"blobs/sha256/{hashlib.sha256(each).hexdigest()}", each) for each in (text, config, *layers)),
        ):
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


def _described(kind: str, content: bytes) -> dict[str, Any]:
    media = f"application/vnd.oci.image.{kind}"
    return {"mediaType": media, "digest": f"sha256:{hashlib.sha256(content).hexdigest()}", "size": len(content)}


def _package_status(image: Path, scratch: Path) -> Path:
    """The list of Debian packages in an image, for apt to start from."""
    with tarfile.open(image) as tar:
        layer = max(tar.getmembers(), key=lambda each: each.size)
        opened = tar.extractfile(layer)
        assert opened is not None
        with tarfile.open(fileobj=opened, mode="r|*") as files:
            status = next(each for each in files if each.name.removeprefix("./") == "var/lib/dpkg/status")
            found = files.extractfile(status)
            assert found is not None
            target = scratch / "status"
            target.write_bytes(found.read())
    return target


def _fetch_tools(folder: Path, status: Path) -> None:
    (folder / "partial").mkdir(parents=True)
    options = [f"-oDir::State::status={status}", f"-oDir::Cache::archives={folder}", "-oDebug::NoLocking=1"]
    options += ["-oAPT::Sandbox::User=root", "--no-install-recommends"]
    _run(["apt-get", *options, "install", "-y", "-q", "--download-only", *TOOLS])
    shutil.rmtree(folder / "partial")
    (folder / "lock").unlink(missing_ok=True)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


def _run(command: list[str]) -> None:
    environment = {"XZ_OPT": "-9", **os.environ}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise programs.BuildFailed(f"{' '.join(command[:4])} … failed: {done.stderr.strip()}")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except (packages.PackagesMissing, programs.BuildFailed) as stopped:
        sys.exit(f"Error: {stopped}")
