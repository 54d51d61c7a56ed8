"""The fake host's own doors: dying before an effect, refusing one, remembering all of them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from nvdra.host import is_temporary
from nvdra.ports import Finished
from nvdra.testing.host import Effect, FakeHost, Killed


async def write(host: FakeHost) -> None:
    await host.replace("/f", b"new", mode=0o644, durable=True)


async def test_effects_are_remembered_in_order(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    host.programs["tool"] = lambda argv: Finished(0, b"", b"")
    await host.mkdir("/d", mode=0o755)
    await write(host)
    await host.remove("/f")
    host.device_node("/dev/n", major=1, minor=2, mode=0o666)
    await host.spawn(["chroot", "/d", "/bin/tool", "-x"])
    assert host.effects == [
        Effect("mkdir", "/d"),
        Effect("create", "/f"),
        Effect("write", "/f"),
        Effect("fsync", "/f"),
        Effect("rename", "/f"),
        Effect("unlink", "/f"),
        Effect("mknod", "/dev/n"),
        Effect("exec", "chroot /d /bin/tool -x"),
    ]
    host.close()


@pytest.mark.parametrize("effects", range(4))
async def test_death_comes_before_an_effect_and_leaves_what_was_there(tmp_path: Path, effects: int) -> None:
    host = FakeHost(tmp_path)
    host.write("/f", "old")
    host.kill_after(effects)
    with pytest.raises(Killed):
        await write(host)
    assert len(host.effects) == effects
    assert (tmp_path / "f").read_text() == "old"
    beside = [name for name in os.listdir(tmp_path) if is_temporary(name)]
    assert len(beside) == (1 if effects else 0)  # nobody was left to clean up
    with pytest.raises(Killed):
        await host.remove("/f")
    with pytest.raises(Killed):
        host.read("/f")

    again = host.revive()
    await write(again)
    assert (tmp_path / "f").read_text() == "new"
    host.close()
    again.close()


async def test_nobody_dies_who_was_given_enough(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    host.kill_after(4)
    await write(host)
    assert (tmp_path / "f").read_text() == "new"
    host.close()


@pytest.mark.parametrize("kind", ["create", "write", "fsync", "rename"])
async def test_a_refused_effect_fails_and_leaves_nothing_behind(tmp_path: Path, kind: str) -> None:
    host = FakeHost(tmp_path)
    host.write("/d/f", "old")
    host.refuse(kind, "/d", errno.ENOSPC)
    with pytest.raises(OSError, match="No space left") as caught:
        await host.replace("/d/f", b"new", mode=0o644, durable=True)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "/d/f")
    assert os.listdir(tmp_path / "d") == ["f"]
    assert (tmp_path / "d/f").read_text() == "old"
    await host.replace("/other", b"new", mode=0o644, durable=True)
    host.forgive()
    await host.replace("/d/f", b"new", mode=0o644, durable=True)
    assert (tmp_path / "d/f").read_text() == "new"
    host.close()


def test_devices_survive_the_program_that_made_them(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    host.put_device("/dev/nvidia0", 195, 0, gid=44)
    seen = host.revive().stat("/dev/nvidia0")
    assert (seen.kind, seen.major, seen.minor, seen.gid) == ("char", 195, 0, 44)
    (tmp_path / "dev/nvidia0").unlink()
    host.write("/dev/nvidia0", "no device")
    assert host.stat("/dev/nvidia0").kind == "file"


def test_absolute_links_stay_inside_the_node(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    host.write("/usr/lib/f", "inside")
    host.link("/lib", "/usr/lib")
    host.link("/run/f", "/lib/f")
    assert host.read("/run/f") == b"inside"
    assert host.list("/lib") == ["f"]
    assert host.stat("/lib/f").kind == "file"
    assert host.stat("/run/f").kind == "link"
    assert host.resolve("/f", "/lib") == "/lib/f"


async def test_what_is_no_file_is_an_effect_from_its_beginning_on(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    done: list[str] = []

    async def change(what: str) -> str:
        done.append(what)
        if what == "second":
            with pytest.raises(Killed):  # it began already: the one that would be next
                await host.perform("paint", "/wall", lambda: change("third"))
        return what

    assert await host.perform("paint", "/wall", lambda: change("first")) == "first"
    host.kill_after(1)
    with pytest.raises(Killed):  # it was done, and nobody hears of it
        await host.perform("paint", "/wall", lambda: change("second"))
    assert done == ["first", "second"]
    assert host.effects == [Effect("paint", "/wall")] * 2
    host.close()


async def test_the_locks_of_the_dead_are_free(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    held = host.try_lock("/lock")
    assert held is not None
    host.kill_after(0)
    with pytest.raises(Killed):
        held.add("a line")
    again = host.revive()
    assert again.try_lock("/lock") is None
    host.close()
    held.close()  # the dead may still come to it
    assert again.try_lock("/lock") is not None
    again.close()


async def test_the_files_of_the_dead_are_closed(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    host.write("/f", b"x")
    before = len(os.listdir("/proc/self/fd"))
    host.hold("/f")
    assert len(os.listdir("/proc/self/fd")) == before + 1
    host.close()
    assert len(os.listdir("/proc/self/fd")) == before
