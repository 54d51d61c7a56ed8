"""The driver's image, built from the Dockerfile as users build it, without any registry.

Images made here stand in for the base images that the Dockerfile names: Debian by debootstrap for Python's, and this
machine's own Rust and Go. What was built is kept like the cluster's programs, named by everything that went into it.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tests.cluster.harness.programs import BuildFailed, cache

REPOSITORY = Path(__file__).resolve().parents[3]
SUITE = "bookworm"
NAME = "nvdra.test/dra-driver-nvidia-gpu"
"""The image's name without a tag; its tag is the fingerprint of what went into it."""
GIVEN = "NVDRA_CLUSTER_IMAGE"
"""Names an OCI archive to use in place of a build."""
STEPS_KEPT = 40
_SOURCES: tuple[str, ...] = (
    "Dockerfile",
    ".dockerignore",
    "LICENSE",
    "README.md",
    "constraints.txt",
    "deploy/image",
    "native",
)
_SOURCES += ("proto", "pyproject.toml", "src")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@functools.cache
def built() -> tuple[str, Path]:
    """The image's whole name, and an OCI archive of it; only the newest archive is kept.

    Made once in a process, whatever becomes of the sources meanwhile; `$NVDRA_CLUSTER_IMAGE` names an archive to take
    instead. (The tests run where no package server can be reached, so theirs is made before and handed on.)
    """
    given = os.environ.get(GIVEN)
    if given:
        return _name_in(Path(given)), Path(given)
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / ".driver-image.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        return _built()


def unpacked(into: Path) -> Path:
    """The image's files in a folder of their own."""
    _, archive = built()
    container = _buildah("from", f"oci-archive:{archive}")
    try:
        mounted = _buildah("mount", container)
        subprocess.run(["cp", "-a", "--reflink=auto", f"{mounted}/.", str(into)], check=True)
    finally:
        _buildah("rm", container)
    return into


def _built() -> tuple[str, Path]:
    tag = _fingerprint()
    name = f"{NAME}:{tag}"
    archive = cache() / f"driver-image-{tag}.tar"
    if archive.exists():
        return name, archive
    bases = {"BASE": _python(), "RUST": _rust(), "GO": _go()}
    print("==> building the driver's image", flush=True)
    arguments = [f"--build-arg={key}={value}" for key, value in bases.items()]
    # The same for every build: buildah takes a cached step for an argument that has changed.
    arguments += ["--build-arg=VERSION=test", "--build-arg=GIT_COMMIT=test"]
    # The build speaks to package servers; the certificates that this machine trusts must do inside too.
    arguments += ["--volume=/etc/ssl/certs:/etc/ssl/certs:ro", "--network=host"]
    _buildah("build", "--quiet", "--layers", "--force-rm", *arguments, f"--tag={name}", str(REPOSITORY))
    half = archive.with_suffix(".half")
    _buildah("push", "--quiet", name, f"oci-archive:{half}:{name}")
    for older in cache().glob("driver-image-*.tar"):
        older.unlink()
    half.rename(archive)
    _forget_older(name)
    return name, archive


def _name_in(archive: Path) -> str:
    with tarfile.open(archive) as tar:
        index = tar.extractfile("index.json")
        if index is None:
            raise BuildFailed(f"{archive} holds no OCI image: its index.json is missing")
        name: str = json.load(index)["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"]
    return name


def _forget_older(name: str) -> None:
    """Steps that are kept for the next build are some hundred megabytes each time the sources change."""
    for older in _buildah("images", "--format={{.Name}}:{{.Tag}}", "--filter", f"reference={NAME}").splitlines():
        if older != name:
            _buildah("rmi", older)
    # Stages that nothing was done to leave a container behind, and a container holds on to its image.
    _buildah("rm", "--all")
    if len(_buildah("images", "--all", "--quiet").splitlines()) > STEPS_KEPT:
        _buildah("rmi", "--prune", "--force")


def _python() -> str:
    name = f"standin/python:{SUITE}"
    if not _has(name):
        print(f"==> Debian {SUITE}, in place of Python's image", flush=True)
        with tempfile.TemporaryDirectory(dir=cache()) as folder:
            # debootstrap leaves devices and mounts behind if it is cut off; a folder of its own is removed whole.
            packages = "--include=python3,python3-venv,ca-certificates"
            _run(["debootstrap", "--variant=minbase", packages, SUITE, folder])
            shutil.rmtree(Path(folder, "var/cache/apt/archives"))
            _commit(name, [(folder, "/")], path=_PATH)
    return name


def _rust() -> str:
    sysroot = Path(_run(["rustc", "--print", "sysroot"]))
    name = f"standin/rust:{_tag(_run(['rustc', '--version', '--verbose']))}"
    if not _has(name):
        print("==> this machine's Rust, in place of Rust's image", flush=True)
        home = "/usr/local/rustup/toolchains/here"
        with tempfile.TemporaryDirectory() as folder:
            for program in ("cargo", "rustc"):
                Path(folder, program).symlink_to(f"{home}/bin/{program}")
            copies = [(str(sysroot / part), f"{home}/{part}") for part in ("bin", "lib")]
            _commit(name, [*copies, (folder, "/usr/local/cargo/bin")], path=_PATH)
    return name


def _go() -> str:
    name = f"standin/go:{_tag(_run(['go', 'version']))}"
    if not _has(name):
        print("==> this machine's Go, in place of Go's image", flush=True)
        home = _run(["go", "env", "GOROOT"])
        _commit(name, [(home, "/usr/local/go")], path=f"/usr/local/go/bin:{_PATH}", base=_python())
    return name


def _commit(name: str, copies: Iterable[tuple[str, str]], *, path: str, base: str = "scratch") -> None:
    container = _buildah("from", "--pull-never", base)
    try:
        for source, target in copies:
            _buildah("copy", "--quiet", container, source, target)
        _buildah("config", "--env", f"PATH={path}", container)
        _buildah("commit", "--quiet", container, name)
    finally:
        _buildah("rm", container)


def _has(name: str) -> bool:
    return bool(_buildah("images", "--quiet", "--noheading", "--filter", f"reference={name}"))


def _fingerprint() -> str:
    digest = hashlib.sha256()
    listed = _run(["git", "-C", str(REPOSITORY), "ls-files", "-co", "--exclude-standard", "--", *_SOURCES])
    for line in sorted(listed.splitlines()):
        path = REPOSITORY / line
        if path.is_file():
            digest.update(line.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _tag(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _buildah(*arguments: str) -> str:
    # Its own store, which goes when the cache goes. Containers of the build need no namespaces of their own.
    return _run(
        ["buildah", "--root", str(cache() / "buildah"), "--runroot", "/run/nvdra-buildah", *arguments],
        {**os.environ, "BUILDAH_ISOLATION": "chroot"},
    )


def _run(command: list[str], environment: dict[str, str] | None = None) -> str:
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise BuildFailed(f"{command[0]} is not installed: the driver's image is built with it") from None
    except subprocess.CalledProcessError as failed:
        said = (failed.stdout + failed.stderr).strip().splitlines()
        raise BuildFailed(f"{' '.join(command[:8])} … failed:\n" + "\n".join(said[-30:])) from None
    return done.stdout.strip()
