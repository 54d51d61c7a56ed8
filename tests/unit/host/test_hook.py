"""The CDI hook in the plugin's folder: there, whole, and not touched without need."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from nvdra.host import HookMissing, install_hook
from nvdra.testing.host import FakeHost

PROGRAM = b"\x7fELF hook" * 400_000
TARGET = "/plugins/gpu/nvidia-cdi-hook"


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    host = FakeHost(tmp_path)
    host.write("/usr/bin/nvidia-cdi-hook", PROGRAM, mode=0o755)
    host.write("/plugins/gpu/other")
    return host


def changes(host: FakeHost) -> list[str]:
    return [effect.path for effect in host.effects if effect.kind == "rename"]


async def test_the_hook_is_copied_and_named(host: FakeHost) -> None:
    assert await install_hook(host, "/plugins/gpu") == TARGET
    assert host.read(TARGET) == PROGRAM
    assert host.stat(TARGET).mode == 0o755


async def test_the_same_hook_is_left_alone(host: FakeHost) -> None:
    await install_hook(host, "/plugins/gpu")
    inode = host.stat(TARGET).ino
    await install_hook(host, "/plugins/gpu")
    assert host.stat(TARGET).ino == inode
    assert changes(host) == [TARGET]


@pytest.mark.parametrize("old", [b"", PROGRAM[:-1], PROGRAM + b"x", PROGRAM[:2_000_000] + b"y" + PROGRAM[2_000_001:]])
async def test_another_hook_is_replaced_whole(host: FakeHost, old: bytes) -> None:
    host.write(TARGET, old, mode=0o755)
    running = host.hold(TARGET)
    await install_hook(host, "/plugins/gpu")
    assert host.read(TARGET) == PROGRAM
    assert running.read() == old  # who executes it keeps what it began with
    running.close()


async def test_a_hook_that_cannot_be_run_is_replaced(host: FakeHost) -> None:
    host.write(TARGET, PROGRAM, mode=0o644)
    await install_hook(host, "/plugins/gpu")
    assert host.stat(TARGET).mode == 0o755


async def test_a_given_path_is_taken_as_it_is(host: FakeHost) -> None:
    assert await install_hook(host, "/plugins/gpu", given="/host/only/nvidia-ctk") == "/host/only/nvidia-ctk"
    assert host.effects == []


async def test_without_a_hook_the_flag_is_named(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    with pytest.raises(HookMissing, match=r"cannot copy .* No such file or directory; .* --nvidia-cdi-hook-path"):
        await install_hook(host, "/plugins/gpu")


async def test_a_full_disk_keeps_the_old_hook(host: FakeHost) -> None:
    host.write(TARGET, b"old", mode=0o755)
    host.refuse("write", "/plugins", errno.ENOSPC)
    with pytest.raises(HookMissing, match="No space left on device"):
        await install_hook(host, "/plugins/gpu")
    assert host.read(TARGET) == b"old"
    assert host.list("/plugins/gpu") == ["nvidia-cdi-hook", "other"]
