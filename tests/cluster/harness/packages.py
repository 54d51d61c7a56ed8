"""Debian packages that the cluster cannot do without: installed if they are missing, told if they cannot be."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

# What proves that a package is there, so that other distributions' packages do as well.
_EVIDENCE: dict[str, tuple[str, ...]] = {
    "gcc": ("/usr/bin/gcc",),
    "libc6-dev": ("/usr/include/stdlib.h",),
    "libseccomp-dev": ("/usr/include/seccomp.h",),
    "pkg-config": ("/usr/bin/pkg-config",),
    "iproute2": ("/usr/sbin/ip", "/sbin/ip"),
    "iptables": ("/usr/sbin/iptables", "/sbin/iptables"),
    "busybox-static": ("/usr/bin/busybox", "/bin/busybox"),
    "buildah": ("/usr/bin/buildah",),
    "debootstrap": ("/usr/sbin/debootstrap",),
    "openssl": ("/usr/bin/openssl",),
    "procps": ("/usr/sbin/sysctl", "/sbin/sysctl"),
    "util-linux": ("/usr/bin/unshare",),
    "mount": ("/usr/bin/mount", "/bin/mount"),
}


class PackagesMissing(Exception):
    """System packages are missing and could not be installed; the text names them and the command."""


def install_missing() -> None:
    """Nothing is missing afterwards. Raises PackagesMissing if that cannot be reached."""
    missing = _missing()
    if not missing:
        return
    command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *missing]
    if not shutil.which("apt-get") or os.geteuid() != 0:
        raise PackagesMissing(f"the cluster needs {', '.join(missing)}: install them (as root: {' '.join(command)})")
    print(f"==> installing {', '.join(missing)}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for step in (["apt-get", "update", "-q"], command):
        done = subprocess.run(step, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise PackagesMissing(f"{' '.join(step)} failed with status {done.returncode}: {done.stderr.strip()}")
    still = _missing()
    if still:
        raise PackagesMissing(f"{', '.join(still)} installed, but none of its files is where it is looked for")


def _missing() -> list[str]:
    return [name for name, files in _EVIDENCE.items() if not any(Path(file).exists() for file in files)]
