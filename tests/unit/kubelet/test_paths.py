"""Where sockets lie: the library's names, as long as the kernel takes them."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from nvdra.kubelet import SocketPathError, SocketPaths, found_paths, keeps_two, socket_paths
from nvdra.kubelet.sockets import Bound
from tests.unit.kubelet.doors import DRIVER, Driver, build

UID = "3f1a7c52-8f0e-4b7e-9a57-0c2d6d1b9e44"
KUBELET = "/var/lib/kubelet"


@pytest.mark.parametrize(
    ("version", "is_so"),
    [
        ("v1.32.13", False),
        ("v1.33.0", True),
        ("v1.33.1-gke.1107000", True),
        ("v1.37.2+k3s1", True),
        ("1.34.0", True),
        ("v1.9.0", False),
        ("v2.0.0", True),
        ("", False),
        ("unknown", False),
    ],
)
def test_which_kubelets_keep_two(version: str, is_so: bool) -> None:
    assert keeps_two(version) is is_so


def test_fixed_names_and_names_by_instance() -> None:
    folders = f"{KUBELET}/plugins_registry", f"{KUBELET}/plugins"
    assert socket_paths(DRIVER, *folders) == SocketPaths(
        f"{KUBELET}/plugins_registry/{DRIVER}-reg.sock", f"{KUBELET}/plugins/{DRIVER}/dra.sock"
    )
    paths = socket_paths(DRIVER, *folders, UID)
    assert paths == SocketPaths(
        f"{KUBELET}/plugins_registry/{DRIVER}-{UID}-reg.sock", f"{KUBELET}/plugins/{DRIVER}/dra-{UID}.sock"
    )
    assert len(paths.registration) == 94


def test_a_registration_name_too_long_is_shortened_as_the_library_does() -> None:
    registrar = f"/{'r' * 46}"
    assert socket_paths(DRIVER, registrar[:-1], "/p", UID).registration == f"{registrar[:-1]}/{DRIVER}-{UID}-reg.sock"
    paths = socket_paths(DRIVER, registrar, "/p", UID)
    # First 8 bytes of the UID's SHA-256, base64 for URLs without padding.
    assert paths.registration == f"{registrar}/{DRIVER}-Xkp5DspdhJ0-reg.sock"
    assert paths.dra == f"/p/{DRIVER}/dra-{UID}.sock"


@pytest.mark.parametrize(("registrar", "plugins"), [("r" * 80, "p"), ("r", "p" * 60)])
def test_where_names_by_instance_have_no_room_the_fixed_ones_are_taken(registrar: str, plugins: str) -> None:
    folders = f"/{registrar}", f"/{plugins}"
    assert socket_paths(DRIVER, *folders, UID) == socket_paths(DRIVER, *folders)


@pytest.mark.parametrize("uid", ["../x", "a/b", "$(POD_UID)", " "])
def test_what_is_no_uid_is_refused(uid: str) -> None:
    with pytest.raises(SocketPathError, match=r"is no UID of a pod .*metadata\.uid"):
        socket_paths(DRIVER, "/r", "/p", uid)


async def test_sockets_are_found_from_outside(folder: str) -> None:
    registrar, plugins = f"{folder}/reg", f"{folder}/plugins"
    os.makedirs(registrar)
    assert found_paths(DRIVER, registrar, plugins) == socket_paths(DRIVER, registrar, plugins)
    plugin = build(socket_paths(DRIVER, registrar, plugins, UID), Driver())
    await plugin.start()
    # One of another driver's, and one whose name is no instance's.
    with socket.socket(socket.AF_UNIX) as stranger, socket.socket(socket.AF_UNIX) as odd:
        stranger.bind(f"{registrar}/other.example.com-{UID}-reg.sock")
        odd.bind(f"{plugins}/{DRIVER}/dra-a.b.sock")
        assert found_paths(DRIVER, registrar, plugins) == plugin.paths
    await plugin.stop(grace_s=0)


def test_a_socket_that_got_the_inode_number_of_ours_is_not_ours(tmp_path: Path) -> None:
    hidden, path = str(tmp_path / ".s"), str(tmp_path / "dra.sock")
    with socket.socket(socket.AF_UNIX) as ours:
        ours.bind(hidden)
        bound = Bound.publish(hidden, path)
        assert bound.is_ours()
        # Another file by its time alone, as where the file system gives a freed inode number again at once.
        os.utime(path, ns=(bound.bound_ns, bound.bound_ns + 1_000_000_000))
        assert not bound.remove()
        assert os.path.exists(path)
