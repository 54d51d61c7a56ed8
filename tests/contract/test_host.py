"""One set of promises, two hosts: the real one below a folder, and the fake whose / is that folder."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvloop

from nvdra.host import Node, is_temporary
from nvdra.ports import DeviceHolders, Finished, Host, LockError, LockTimeout, Put, Removal
from nvdra.testing.host import FakeHost


@dataclass(frozen=True)
class Case:
    """host and folder: `/x` of the tests is `folder + "/x"` to the host and `disk / "x"` to them."""

    host: Host
    folder: str
    disk: Path

    def __call__(self, path: str) -> str:
        return self.folder + path


@pytest.fixture(params=["real", "fake"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    host = Node() if request.param == "real" else FakeHost(tmp_path)
    yield Case(host, str(tmp_path) if request.param == "real" else "", tmp_path)
    host.close()


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if is_temporary(path.name)]


def test_a_file_is_read_whole_or_in_part(case: Case) -> None:
    (case.disk / "f").write_bytes(b"0123456789" * 300_000)
    content = case.host.read(case("/f"))
    assert content == b"0123456789" * 300_000
    assert case.host.read(case("/f"), offset=2_999_995) == b"56789"
    assert case.host.read(case("/f"), offset=3, size=4) == b"3456"
    assert case.host.read(case("/f"), offset=3_000_000, size=4) == b""
    with pytest.raises(FileNotFoundError):
        case.host.read(case("/none"))


def test_names_are_listed_in_order(case: Case) -> None:
    for name in ("b", "a", ".c", "B"):
        (case.disk / name).touch()
    assert case.host.list(case("/")) == [".c", "B", "a", "b"]
    with pytest.raises(FileNotFoundError):
        case.host.list(case("/none"))


def test_stat_says_what_lies_there(case: Case) -> None:
    (case.disk / "f").write_bytes(b"abc")
    (case.disk / "f").chmod(0o640)
    (case.disk / "d").mkdir()
    (case.disk / "l").symlink_to("nowhere")
    os.mkfifo(case.disk / "p")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(case.disk / "s"))
    kinds = {name: case.host.stat(case(f"/{name}")).kind for name in ("f", "d", "l", "p", "s")}
    assert kinds == {"f": "file", "d": "dir", "l": "link", "p": "fifo", "s": "socket"}
    seen = case.host.stat(case("/f"))
    assert (seen.mode, seen.size, seen.ino) == (0o640, 3, (case.disk / "f").stat().st_ino)
    assert seen.mtime_ns == (case.disk / "f").stat().st_mtime_ns
    for name in ("f", "d", "l"):
        there = (case.disk / name).lstat()
        assert case.host.stamp(case(f"/{name}")) == (there.st_ino, there.st_mtime_ns)
    assert case.host.stamp(case("/none")) == case.host.stamp(case("/f/none")) == (0, 0)
    assert case.host.readlink(case("/l")) == "nowhere"
    with pytest.raises(FileNotFoundError):
        case.host.stat(case("/none"))
    assert [case.host.exists(case(path)) for path in ("/f", "/d", "/l", "/none", "/f/below")] == [True] * 3 + [
        False
    ] * 2


@pytest.fixture
def tree(case: Case) -> Case:
    """A root in which links go everywhere."""
    root = case.disk / "root"
    (root / "usr/lib").mkdir(parents=True)
    (root / "usr/lib/file").write_text("x")
    for link, target in {
        "lib": "usr/lib",
        "abs": "/usr/lib",
        "up": "../../../../usr/lib",
        "usr/lib/other": "../lib/./file",
        "twice": "/abs/other",
        "loop": "loop2",
        "loop2": "/loop",
        "broken": "/etc/none",
        "through": "/usr/lib/file/more",
        "parent": "abs/../lib",
        "top": "/",
    }.items():
        (root / link).symlink_to(target)
    return case


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/usr/lib/file", "/usr/lib/file"),
        ("/lib/file", "/usr/lib/file"),
        ("/abs/file", "/usr/lib/file"),
        ("/up/file", "/usr/lib/file"),
        ("/lib/other", "/usr/lib/file"),
        ("/twice", "/usr/lib/file"),
        ("/../../lib", "/usr/lib"),
        ("/parent/file", "/usr/lib/file"),
        ("//usr//lib/", "/usr/lib"),
        ("/top/usr/lib", "/usr/lib"),
        ("/loop", None),
        ("/broken", None),
        ("/through", None),
        ("/usr/lib/none", None),
        ("/usr/lib/file/none", None),
    ],
)
def test_links_are_followed_inside_the_root(tree: Case, path: str, found: str | None) -> None:
    root = tree("/root")
    assert tree.host.resolve(path, root) == (None if found is None else root + found)


def test_the_root_itself_may_be_what_is_asked_for(tree: Case) -> None:
    assert tree.host.resolve("/", tree("/root")) == tree("/root")
    assert tree.host.resolve("/top", tree("/root")) == tree("/root")
    assert tree.host.resolve("/x", tree("/none")) is None


async def test_a_file_is_replaced_with_its_mode_whatever_the_umask(case: Case) -> None:
    (case.disk / "f").write_text("old")
    before = os.umask(0o077)
    try:
        await case.host.replace(case("/f"), b"new", mode=0o644, durable=True)
        await case.host.replace(case("/g.yaml"), b"", mode=0o600, durable=False)
    finally:
        os.umask(before)
    assert (case.disk / "f").read_text() == "new"
    assert (case.disk / "f").stat().st_mode & 0o777 == 0o644
    assert (case.disk / "g.yaml").stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(case.disk)) == ["f", "g.yaml"]


async def test_what_cannot_be_replaced_leaves_nothing_behind_and_is_named(case: Case) -> None:
    (case.disk / "d/inside").mkdir(parents=True)
    with pytest.raises(OSError, match="directory") as caught:
        await case.host.replace(case("/d"), b"x", mode=0o644, durable=False)
    assert caught.value.filename == case("/d")
    with pytest.raises(FileNotFoundError):
        await case.host.replace(case("/none/f"), b"x", mode=0o644, durable=False)
    assert os.listdir(case.disk) == ["d"]


async def test_a_file_is_written_in_place_and_stays_the_same_file(case: Case) -> None:
    (case.disk / "f").write_text("a longer content")
    before = (case.disk / "f").stat().st_ino
    await case.host.write_in_place(case("/f"), b"vfio-pci")
    assert ((case.disk / "f").read_text(), (case.disk / "f").stat().st_ino) == ("vfio-pci", before)
    with pytest.raises(FileNotFoundError) as caught:
        await case.host.write_in_place(case("/none"), b"x")
    assert caught.value.filename == case("/none")
    assert os.listdir(case.disk) == ["f"]


async def test_a_write_that_the_kernel_never_finishes_holds_up_no_other_call_and_no_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "hangs")  # which nobody reads
    host = Node()
    writing = asyncio.ensure_future(host.write_in_place(f"{tmp_path}/hangs", b"x"))
    await asyncio.sleep(0)
    await asyncio.wait_for(host.replace(f"{tmp_path}/f", b"new", mode=0o644, durable=True), 30)
    assert not writing.done()
    descriptor = os.open(tmp_path / "hangs", os.O_RDONLY)
    await asyncio.wait_for(writing, 30)
    assert os.read(descriptor, 8) == b"x"
    os.close(descriptor)
    host.close()


async def test_durable_calls_are_made_in_the_order_they_were_asked_for(case: Case) -> None:
    calls = []
    for i in range(50):
        calls.append(case.host.replace(case("/f"), b"%d" % i, mode=0o644, durable=False))
        calls.append(case.host.remove(case("/f")) if i % 7 == 3 else case.host.mkdir(case("/d"), mode=0o700))
    await asyncio.gather(*calls)
    assert (case.disk / "f").read_bytes() == b"49"
    assert leftovers(case.disk) == []


async def test_a_cancelled_caller_does_not_stop_its_call(case: Case) -> None:
    task = asyncio.create_task(case.host.replace(case("/f"), b"x" * 1_000_000, mode=0o644, durable=True))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await case.host.remove(case("/other"))  # comes after it
    assert (case.disk / "f").stat().st_size == 1_000_000


async def test_removing_says_whether_there_was_something(case: Case) -> None:
    (case.disk / "f").touch()
    assert await case.host.remove(case("/f")) is True
    assert await case.host.remove(case("/f")) is False
    (case.disk / "l").symlink_to("d")
    (case.disk / "d").mkdir()
    assert await case.host.remove(case("/l")) is True
    assert (case.disk / "d").is_dir()


async def test_folders_are_made_with_their_parents(case: Case) -> None:
    before = os.umask(0o077)
    try:
        await case.host.mkdir(case("/a/b/c"), mode=0o750)
        await case.host.mkdir(case("/a/b/c"), mode=0o700)
    finally:
        os.umask(before)
    assert (case.disk / "a/b/c").stat().st_mode & 0o777 == 0o750
    (case.disk / "f").touch()
    with pytest.raises(NotADirectoryError):
        await case.host.mkdir(case("/f"), mode=0o750)


async def test_a_held_file_is_current_until_another_lies_there(case: Case) -> None:
    (case.disk / "f").write_text("one")
    held = case.host.hold(case("/f"))
    assert held.is_current()
    assert held.read() == b"one"
    # Without the hold a file system is free to give the number again at once.
    for content in (b"two", b"three"):
        await case.host.replace(case("/f"), content, mode=0o644, durable=False)
        assert not held.is_current()
    assert held.read() == b"one"
    held.close()
    held.close()
    held = case.host.hold(case("/f"))
    await case.host.remove(case("/f"))
    assert not held.is_current()
    held.close()
    with pytest.raises(FileNotFoundError):
        case.host.hold(case("/f"))


async def test_a_lock_excludes_others_until_it_is_given_back(case: Case) -> None:
    order = []

    async def other() -> None:
        async with case.host.lock(case("/lock"), timeout_s=60):
            order.append("other")

    async with case.host.lock(case("/lock"), timeout_s=60):
        assert case.host.try_lock(case("/lock")) is None
        waiting = asyncio.create_task(other())
        await asyncio.sleep(0.05)
        order.append("first")
    await waiting
    assert order == ["first", "other"]
    assert (case.disk / "lock").stat().st_mode & 0o777 == 0o644


async def test_a_busy_lock_is_waited_for_only_so_long(case: Case) -> None:
    held = case.host.try_lock(case("/lock"))
    assert held is not None
    with pytest.raises(LockTimeout) as caught:
        async with case.host.lock(case("/lock"), timeout_s=0.01):
            pytest.fail("held by two")
    assert str(caught.value) == f"timeout acquiring lock ({case('/lock')})"
    assert caught.value.path == case("/lock")
    held.close()
    # Whoever gave up must not keep it, nor stand in the way of who comes later.
    async with case.host.lock(case("/lock"), timeout_s=60):
        pass
    async with case.host.lock(case("/lock"), timeout_s=60):
        pass


async def test_a_cancelled_wait_does_not_take_the_lock(case: Case) -> None:
    async def wait() -> None:
        async with case.host.lock(case("/lock"), timeout_s=60):
            pytest.fail("taken by one who left")

    held = case.host.try_lock(case("/lock"))
    assert held is not None
    waiting = [asyncio.create_task(wait()) for _ in range(3)]
    await asyncio.sleep(0.05)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    assert all(task.cancelled() for task in waiting)
    held.close()
    async with case.host.lock(case("/lock"), timeout_s=60):
        assert case.host.try_lock(case("/lock")) is None


async def test_a_lock_file_keeps_notes_for_the_next_holder(case: Case) -> None:
    held = case.host.try_lock(case("/lock"))
    assert held is not None
    held.add("one claim")
    held.add("another")
    held.close()
    with (case.disk / "lock").open("a") as file:
        file.write("cut of")  # no line without its end
    held = case.host.try_lock(case("/lock"))
    assert held is not None
    assert held.lines() == ("one claim", "another")
    held.add("a third")
    assert held.lines() == ("one claim", "another", "a third")
    held.clear()
    assert held.lines() == ()
    held.close()


async def test_a_lock_excludes_other_programs(case: Case) -> None:
    holder = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print('held', flush=True); input()",
        str(case.disk / "lock"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    await holder.stdout.readline()
    assert case.host.try_lock(case("/lock")) is None
    with pytest.raises(LockTimeout):
        async with case.host.lock(case("/lock"), timeout_s=0.01):
            pytest.fail("held by two programs")
    holder.stdin.close()
    async with case.host.lock(case("/lock"), timeout_s=60):
        pass
    await holder.wait()


async def test_a_lock_file_that_cannot_be_opened_is_named(case: Case) -> None:
    with pytest.raises(LockError, match=r"error opening lock file \(.*/none/lock\): No such file or directory"):
        async with case.host.lock(case("/none/lock"), timeout_s=60):
            pass
    with pytest.raises(LockError, match=r"error opening lock file"):
        case.host.try_lock(case("/none/lock"))


def test_a_device_node_has_its_numbers_and_mode(case: Case) -> None:
    try:
        case.host.device_node(case("/dev/nvidia0"), major=195, minor=3, mode=0o660, gid=44)
    except PermissionError:
        assert os.geteuid() != 0, "root may make device nodes"
        return
    seen = case.host.stat(case("/dev/nvidia0"))
    assert (seen.kind, seen.major, seen.minor, seen.mode, seen.gid) == ("char", 195, 3, 0o660, 44)
    with pytest.raises(FileExistsError):
        case.host.device_node(case("/dev/nvidia0"), major=195, minor=3, mode=0o660)


async def test_a_program_is_run_to_its_end(case: Case) -> None:
    if isinstance(case.host, FakeHost):
        case.host.programs["sh"] = lambda argv: Finished(3, b"out\n", b"err\n")
    finished = await case.host.spawn(["/bin/sh", "-c", "echo out; echo err >&2; exit 3"])
    assert finished == Finished(3, b"out\n", b"err\n")
    with pytest.raises(FileNotFoundError):
        await case.host.spawn(["/none/program"])


def test_the_boot_id_looks_like_one(case: Case) -> None:
    assert len(case.host.boot_id()) == 36


def test_errors_are_those_of_the_system(case: Case) -> None:
    (case.disk / "f").touch()
    with pytest.raises(OSError, match="directory") as caught:
        case.host.list(case("/f"))
    assert caught.value.errno == errno.ENOTDIR


def test_a_program_that_ends_without_reading_its_input_is_no_failure_on_uvloop_either() -> None:
    async def spawned() -> list[int]:
        host = Node()
        try:
            ran = [host.spawn(["/bin/true"], stdin=b"x" * 100_000) for _ in range(100)]
            return [each.exit_code for each in await asyncio.gather(*ran)]
        finally:
            host.close()

    assert uvloop.run(spawned()) == [0] * 100


async def test_changes_are_carried_out_in_order_and_stop_at_the_first_that_fails(case: Case) -> None:
    (case.disk / "old").write_text("old")
    (case.disk / "kept").write_text("kept")
    await case.host.carry_out(
        [
            Put(case("/a"), b"1", mode=0o640),
            Put(case("/a"), b"2", mode=0o600, durable=True),
            Removal(case("/old")),
            Removal(case("/absent")),
            Put(case("/b"), b"3", mode=0o644),
        ]
    )
    assert ((case.disk / "a").read_bytes(), (case.disk / "b").read_bytes()) == (b"2", b"3")
    assert (case.disk / "a").stat().st_mode & 0o777 == 0o600
    assert not (case.disk / "old").exists()
    with pytest.raises(FileNotFoundError) as failed:
        await case.host.carry_out(
            [Put(case("/c"), b"4", mode=0o644), Put(case("/no/where"), b"", mode=0o644), Removal(case("/kept"))]
        )
    assert failed.value.filename == case("/no/where")
    assert (case.disk / "c").read_bytes() == b"4"
    assert (case.disk / "kept").exists()
    assert leftovers(case.disk) == []


async def test_what_cannot_be_removed_stops_nothing(case: Case) -> None:
    for folder in ("folder", "empty"):
        (case.disk / folder).mkdir()
    (case.disk / "folder/file").touch()
    removals = [Removal(case("/folder")), Removal(case("/empty")), Put(case("/a"), b"1", mode=0o644)]
    await case.host.carry_out(removals)
    assert (case.disk / "folder/file").exists()
    assert not (case.disk / "empty").exists()
    assert (case.disk / "a").read_bytes() == b"1"


async def test_a_folder_that_is_read_only_is_told_as_such(tmp_path: Path) -> None:
    """Nothing can be removed there either, not even what was never made: that must not hide the cause."""
    host = FakeHost(tmp_path)
    host.write("/d", "no folder: an unlink below it fails, too")
    host.refuse("create", "/d", errno.EROFS)
    with pytest.raises(OSError, match="Read-only file system") as caught:
        await host.replace("/d/f", b"new", mode=0o644, durable=False)
    assert caught.value.filename == "/d/f"
    host.close()


async def test_a_tmpfs_is_mounted_counted_and_taken_off(case: Case) -> None:
    await case.host.mkdir(case("/a folder"), mode=0o755)
    path = case("/a folder")
    assert case.host.mount_count(path) == 0
    try:
        await case.host.mount_tmpfs(path, size="64k")
    except PermissionError:
        pytest.skip("mounting needs CAP_SYS_ADMIN")
    try:
        assert case.host.mount_count(path) == 1
        await case.host.mount_tmpfs(path, size="64k")  # a leaked one below
        assert case.host.mount_count(path) == 2
        assert await case.host.unmount(path)
    finally:
        assert await case.host.unmount(path)
    assert case.host.mount_count(path) == 0
    assert not await case.host.unmount(path)


async def test_a_mount_on_what_is_not_there_is_refused(case: Case) -> None:
    with pytest.raises((FileNotFoundError, PermissionError)):
        await case.host.mount_tmpfs(case("/none"), size="64k")


async def test_a_folder_is_removed_with_everything_in_it(case: Case) -> None:
    (case.disk / "top/deep").mkdir(parents=True)
    (case.disk / "top/deep/file").write_bytes(b"x")
    os.mkfifo(case.disk / "top/fifo")
    await case.host.remove_tree(case("/top"))
    await case.host.remove_tree(case("/top"))
    assert not (case.disk / "top").exists()


async def test_holders_of_devices_are_found_by_number(case: Case) -> None:
    for name, number in {"null": (1, 3), "full": (1, 7)}.items():
        place = case.disk / f"dev-{name}"
        if isinstance(case.host, FakeHost):
            case.host.put_device(case(f"/dev-{name}"), *number)
        else:
            place.symlink_to(f"/dev/{name}")
    (case.disk / "file").touch()
    for descriptor, target in {
        "10/fd/0": "file", "10/fd/1": "dev-full", "10/fd/2": "dev-full", "11/fd/5": "dev-null", "11/fd/6": "dev-full",
        "12/fd/0": "gone", "self/fd/0": "dev-full", "13x/fd/0": "dev-full",
    }.items():  # fmt: skip
        place = case.disk / "p" / descriptor
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(case(f"/{target}"))
    (case.disk / "p/9").mkdir()  # ended between the listing and the look
    devices = [(1, 7), (195, 0), (1, 3), (1, 7)]
    found = await case.host.device_holders(devices, proc=case("/p"))
    assert found == DeviceHolders(((10, 0), (10, 3), (11, 0), (11, 2), (11, 3)), processes=4, unreadable=0)
    assert (await case.host.device_holders([], proc=case("/p"))).holders == ()
    with pytest.raises(FileNotFoundError):
        await case.host.device_holders(devices, proc=case("/none"))
