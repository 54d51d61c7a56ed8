"""Pod images made by hand: one layer with a static busybox, in an OCI archive that containerd imports."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

PAUSE = "nvdra.test/pause:1"
BUSYBOX = "nvdra.test/busybox:1"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


_OWN = {PAUSE: ("/bin/sleep", "infinity"), BUSYBOX: ("/bin/sh",)}


def write_archive(
    target: Path, commands: Mapping[str, Sequence[str]] = _OWN, scripts: Mapping[str, str] | None = None
) -> None:
    """An OCI archive at `target` with the images PAUSE and BUSYBOX, or others of the same layer.

    commands   command of each image by its whole name
    scripts    programs beside busybox, by their paths without the first slash
    """
    busybox = next(path for path in (Path("/usr/bin/busybox"), Path("/bin/busybox")) if path.exists())
    layer = _layer(busybox, scripts or {})
    blobs: dict[str, bytes] = {}

    def store(content: bytes) -> dict[str, object]:
        digest = hashlib.sha256(content).hexdigest()
        blobs[digest] = content
        return {"digest": f"sha256:{digest}", "size": len(content)}

    compressed = store(gzip.compress(layer, 1, mtime=0))
    machine = subprocess.run(["uname", "-m"], capture_output=True, text=True, check=True).stdout.strip()
    manifests = []
    for name, command in commands.items():
        config = {
            "architecture": _ARCHITECTURES[machine],
            "os": "linux",
            "config": {"Cmd": list(command), "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **store(_json(config))},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", **compressed}],
        }
        manifests.append(
            {
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                **store(_json(manifest)),
                "annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name},
            }
        )
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests}
    with tarfile.open(target, "w") as archive:
        _file(archive, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _file(archive, "index.json", _json(index))
        for digest, content in blobs.items():
            _file(archive, f"blobs/sha256/{digest}", content)


def _layer(busybox: Path, scripts: Mapping[str, str]) -> bytes:
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder in ("bin", "dev", "etc", "proc", "sys", "tmp", "usr", "usr/bin"):
            entry = tarfile.TarInfo(folder)
            entry.type = tarfile.DIRTYPE
            entry.mode = 0o1777 if folder == "tmp" else 0o755
            tar.addfile(entry)
        _file(tar, "bin/busybox", busybox.read_bytes(), mode=0o755)
        for applet in applets:
            if applet == "busybox":
                continue
            entry = tarfile.TarInfo(f"bin/{applet}")
            entry.type = tarfile.SYMTYPE
            entry.linkname = "busybox"
            tar.addfile(entry)
        for name, script in scripts.items():
            _file(tar, name, script.encode(), mode=0o755)
        _file(tar, "etc/passwd", b"root:x:0:0:root:/:/bin/sh\n")
        _file(tar, "etc/group", b"root:x:0:\n")
    return buffer.getvalue()


def _file(tar: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    entry.mode = mode
    tar.addfile(entry, io.BytesIO(content))


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
