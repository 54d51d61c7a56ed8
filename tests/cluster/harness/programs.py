"""The cluster's programs, built once from their published Go modules and kept in a cache.

A build is named by everything that went into it, so a cached one is never stale, and is renamed into place
when it is whole, so an interrupted one is never used.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).resolve().parent.parent / "build"
PROGRESS_EVERY_S = 10.0
GIVEN = "NVDRA_CLUSTER_PROGRAMS"
"""Names a folder with built programs, in one folder for each part, for a machine that cannot build them."""


class BuildFailed(Exception):
    """A program could not be built; the text says which, why, and what to do."""


@dataclass(frozen=True, slots=True)
class Part:
    """One Go module of `build/` and what comes out of it."""

    name: str
    """Folder below `build/`."""
    packages: tuple[str, ...]
    """Main packages, each becoming a program named after its last element; `.` becomes `links[0]`."""
    links: tuple[str, ...] = ()
    """Names under which the one program of `.` is called."""
    cgo: bool = False
    tags: tuple[str, ...] = ()
    ldflags: str = "-s -w"


def _kubernetes(version: str) -> str:
    # Without these the servers call themselves v0.0.0 and refuse each other's skew.
    minor = version.split(".")[1]
    at = "k8s.io/component-base/version"
    return f"-s -w -X {at}.gitVersion=v{version} -X {at}.gitMajor=1 -X {at}.gitMinor={minor}"


_NODE_AND_PLANE = ("kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubelet")

KUBERNETES = Part("kubernetes", (".",), ("etcd", "kubectl", *_NODE_AND_PLANE), ldflags=_kubernetes("1.37.2"))
KUBERNETES_1_32 = Part("kubernetes-1.32", (".",), _NODE_AND_PLANE, ldflags=_kubernetes("1.32.2"))
CONTAINERD = Part(
    "containerd",
    (
        "github.com/containerd/containerd/v2/cmd/containerd",
        "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
        "github.com/containerd/containerd/v2/cmd/ctr",
        "github.com/containernetworking/plugins/plugins/ipam/host-local",
        "github.com/containernetworking/plugins/plugins/main/bridge",
        "github.com/containernetworking/plugins/plugins/main/loopback",
    ),
    tags=("no_btrfs", "no_devmapper", "no_zfs"),
)
# runc enters namespaces in C, and without seccomp every sandbox is refused.
RUNC = Part("containerd", ("github.com/opencontainers/runc",), cgo=True, tags=("seccomp",))
# The hook cannot do without cgo, and a container's root must not have to hold its loader: so it is linked statically.
# `-z lazy` because it resolves NVML's functions only once it has loaded the library.
CDI_HOOK = Part(
    "cdi-hook",
    ("github.com/NVIDIA/nvidia-container-toolkit/cmd/nvidia-cdi-hook",),
    cgo=True,
    tags=("netgo", "osusergo"),
    ldflags="-s -w -linkmode external -extldflags '-static -Wl,-z,lazy'",
)
# The toolkit's own discovery of driver files, which ours is compared with. Of the version that the hook has.
NVIDIA_CTK = Part(
    "nvidia-ctk",
    ("github.com/NVIDIA/nvidia-container-toolkit/cmd/nvidia-ctk",),
    cgo=True,
    ldflags="-s -w -extldflags '-Wl,-z,lazy'",
)
# Renders and installs the chart; the tests of `tests/cluster/chart` build it alone.
_HELM = "helm.sh/helm/v3/internal/version"
HELM = Part("helm", ("helm.sh/helm/v3/cmd/helm",), ldflags=f"-s -w -X {_HELM}.version=v3.22.0")
ALL = (CDI_HOOK, NVIDIA_CTK, RUNC, CONTAINERD, HELM, KUBERNETES, KUBERNETES_1_32)


def cache() -> Path:
    """Where built programs are kept: `$NVDRA_CLUSTER_CACHE`, else a folder below the user's cache."""
    set_by_user = os.environ.get("NVDRA_CLUSTER_CACHE")
    return Path(set_by_user) if set_by_user else Path.home() / ".cache" / "nvdra-cluster"


def built(*parts: Part) -> dict[Part, Path]:
    """The folder of programs of each part, building what the cache lacks."""
    return {part: _built(part) for part in parts}


def found(part: Part) -> Path | None:
    """The folder of the part's programs if they are built already."""
    try:
        target = _target(part)
    except BuildFailed:
        return None
    return target if target.is_dir() else None


def label(part: Part) -> str:
    """What the part is called in messages and folders."""
    return part.name if part.packages == (".",) or len(part.packages) > 1 else part.packages[0].rpartition("/")[2]


def _target(part: Part) -> Path:
    return cache() / f"{label(part)}-{_fingerprint(part)}"


def _built(part: Part) -> Path:
    if given := os.environ.get(GIVEN):
        return Path(given) / label(part)
    root, name, target = cache(), label(part), _target(part)
    root.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        return target
    with _only_one(root / f".{name}.lock", name):
        if target.is_dir():
            return target
        work = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=root))
        try:
            _compile(part, name, work)
            work.chmod(0o755)
            work.rename(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return target


def _fingerprint(part: Part) -> str:
    digest = hashlib.sha256(repr(part).encode())
    digest.update(_go("env", "GOVERSION", "GOARCH", cwd=SOURCES / part.name).encode())
    for file in sorted((SOURCES / part.name).iterdir()):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def _only_one(lock: Path, label: str) -> Iterator[None]:
    with lock.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"    {label}: another run is building it, waiting", flush=True)
            fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _environment(cgo: bool) -> dict[str, str]:
    # The caller's GOFLAGS may say -mod=vendor or the like; the module proxy and caches stay the caller's.
    return {**os.environ, "GOFLAGS": "", "GOWORK": "off", "CGO_ENABLED": "1" if cgo else "0"}


def _go(*arguments: str, cwd: Path) -> str:
    try:
        done = subprocess.run(
            ["go", *arguments], cwd=cwd, env=_environment(False), capture_output=True, text=True, check=True
        )
    except FileNotFoundError:
        raise BuildFailed("go is not installed: the cluster's programs are built from Go modules; install Go") from None
    except subprocess.CalledProcessError as failed:
        raise BuildFailed(f"go {arguments[0]} in {cwd}: {failed.stderr.strip()}") from None
    return done.stdout


def _compile(part: Part, label: str, into: Path) -> None:
    started = time.monotonic()
    print(f"==> building {label} (its Go modules are fetched first if need be)", flush=True)
    command = ["go", "build", "-v", "-trimpath", "-buildvcs=false", "-gcflags=all=-dwarf=false"]
    command += ["-tags", ",".join(part.tags), "-ldflags", part.ldflags]
    # `go build -o DIR/` names each program after its package; a lone `.` is named here.
    command += ["-o", str(into / "program") if part.packages == (".",) else f"{into}/", *part.packages]
    complaints: list[str] = []
    fetched = compiled = 0
    with subprocess.Popen(
        command, cwd=SOURCES / part.name, env=_environment(part.cgo), stderr=subprocess.PIPE, text=True
    ) as build:
        assert build.stderr is not None
        told = started
        for line in build.stderr:
            if line.startswith("go: downloading "):
                fetched += 1
            elif re.fullmatch(r"[\w.\-/~+]+\n", line):
                compiled += 1
            else:
                complaints.append(line)
            if time.monotonic() - told >= PROGRESS_EVERY_S:
                told = time.monotonic()
                so_far = f"{fetched} modules fetched, {compiled} packages compiled"
                print(f"    {label}: {so_far}, {told - started:.0f} s", flush=True)
    if build.returncode:
        raise BuildFailed(
            f"building {label} failed with status {build.returncode}:\n{''.join(complaints[-30:])}"
            f"Run it again once the cause is gone: what is compiled already is kept by Go."
        )
    for name in part.links:
        (into / name).symlink_to("program")
    print(f"    {label}: built in {time.monotonic() - started:.0f} s ({compiled} packages compiled)", flush=True)


if __name__ == "__main__":
    try:
        for part, folder in built(*ALL).items():
            print(f"{part.packages[0] if part.name == 'containerd' else part.name}: {folder}")
    except BuildFailed as failed:
        sys.exit(f"Error: {failed}")
