"""Socket paths of a driver's instance, named as Kubernetes' plugin library names them.

One instance at a time has the fixed names. Where kubelet keeps two plugins of one driver side by side, every instance
has names of its own, so that the pods of a rolling update can overlap.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from nvdra.kubelet.sockets import SocketPathError, sockets_in

# sockaddr_un holds 108 bytes, the last of which is the terminating NUL.
PATH_LIMIT = 107
# A kubelet before 1.33 keeps one endpoint per driver; a later registration replaces the earlier one.
_SIDE_BY_SIDE_SINCE = (1, 33)
_UID = re.compile(r"[0-9A-Za-z-]+")


@dataclass(frozen=True, slots=True)
class SocketPaths:
    """Socket paths of one instance. Kubelet finds `registration` in its registry, and gets `dra` from GetInfo."""

    registration: str
    dra: str


def keeps_two(kubelet_version: str) -> bool:
    """Whether this kubelet ("v1.33.1-gke.7") keeps two plugins of one driver side by side."""
    found = re.match(r"v?(\d+)\.(\d+)", kubelet_version)
    return found is not None and (int(found[1]), int(found[2])) >= _SIDE_BY_SIDE_SINCE


def socket_paths(driver: str, registrar_dir: str, plugins_dir: str, instance: str = "") -> SocketPaths:
    """Names of the instance with this pod UID, or without one the fixed names.

    A registration name that is too long is shortened as the library does it. If that is still too long, the fixed
    names are used: an update without overlap is better than a node without a driver.
    Raises SocketPathError if the kernel would refuse even those, or if `instance` is no UID.
    """
    registrar, plugin_dir = os.path.abspath(registrar_dir), os.path.join(os.path.abspath(plugins_dir), driver)
    if instance and not _UID.fullmatch(instance):
        raise SocketPathError(f'"{instance}" is no UID of a pod (POD_UID is to come from metadata.uid, or to be unset)')
    for paths in _by_instance(driver, registrar, plugin_dir, instance) if instance else ():
        if max(len(os.fsencode(paths.registration)), len(os.fsencode(paths.dra))) <= PATH_LIMIT:
            return paths
    paths = SocketPaths(os.path.join(registrar, f"{driver}-reg.sock"), os.path.join(plugin_dir, "dra.sock"))
    for what, path, flag in (
        ("registration", paths.registration, "--kubelet-registrar-directory-path"),
        ("DRA", paths.dra, "--kubelet-plugins-directory-path"),
    ):
        length = len(os.fsencode(path))
        if length > PATH_LIMIT:
            raise SocketPathError(
                f"path of the {what} socket is too long: {length} bytes, a unix socket's path may have "
                f"{PATH_LIMIT}: {path} (choose a shorter {flag})"
            )
    return paths


def _by_instance(driver: str, registrar: str, plugin_dir: str, instance: str) -> Iterator[SocketPaths]:
    # The library has a third name without an owner. It is not used: sockets of killed instances could not be removed.
    digest = hashlib.sha256(instance.encode()).digest()[:8]
    for name in (instance, base64.urlsafe_b64encode(digest).decode().rstrip("=")):
        registration = os.path.join(registrar, f"{driver}-{name}-reg.sock")
        yield SocketPaths(registration, os.path.join(plugin_dir, f"dra-{instance}.sock"))


def registrations(driver: str, registrar_dir: str) -> list[str]:
    """Registration sockets of all instances of the driver, alive or not."""
    return sockets_in(registrar_dir, f"{driver}-*reg.sock")


def found_paths(driver: str, registrar_dir: str, plugins_dir: str) -> SocketPaths:
    """Socket paths of the newest instance, found on disk; the fixed names if there is none."""
    plugin_dir = os.path.join(plugins_dir, driver)
    pairs = [socket_paths(driver, registrar_dir, plugins_dir)]
    for path in sockets_in(plugin_dir, "dra-*.sock"):
        instance = os.path.basename(path).removeprefix("dra-").removesuffix(".sock")
        if _UID.fullmatch(instance):
            pairs.append(socket_paths(driver, registrar_dir, plugins_dir, instance))
    return max(pairs, key=lambda paths: _made_at(paths.registration))


def _made_at(path: str) -> float:
    try:
        return os.lstat(path).st_mtime
    except OSError:
        return 0.0
