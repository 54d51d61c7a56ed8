"""Bad input and faults against the real process: clear errors that name the claim, nothing lost, no traceback."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import resource
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from nvdra.checkpoint import Checkpoint
from nvdra.checkpoint import decode as decode_checkpoint
from nvdra.checkpoint import encode as encode_checkpoint
from nvdra.ports import ApiError
from nvdra.testing.kubelet import ClaimAnswer
from tests.contract.plugin_node import DRIVER, PluginNode, plugin_node, short_folder, until

GROUP = "resource.nvidia.com/v1beta1"
NO_KIND = 'no kind "{kind}" is registered for version "{version}" in scheme'


@contextlib.asynccontextmanager
async def sane(**options: Any) -> AsyncIterator[PluginNode]:
    """A node whose program, whatever happens to it, shows no traceback and ends with 0 when told to."""
    async with plugin_node(**options) as node:
        yield node
        assert node.process is not None, "the test ended the program"
        assert node.process.returncode is None, node.log
        assert await node.stop() == 0
        assert "Traceback" not in node.log


@pytest.fixture
async def node() -> AsyncIterator[PluginNode]:
    async with sane() as node:
        await node.start()
        yield node


# ── claims ─────────────────────────────────────────────────────────────────────────────────────────────────────────

CONFIGS: dict[str, tuple[str, str]] = {
    "unknown field": (
        f'{{"apiVersion":"{GROUP}","kind":"GpuConfig","sharing":{{"strategy":"MPS","speed":1}}}}',
        'strict decoding error: unknown field "sharing.speed"',
    ),
    "duplicate field": (
        f'{{"apiVersion":"{GROUP}","kind":"GpuConfig","sharing":{{"strategy":"MPS"}},"sharing":{{}}}}',
        'strict decoding error: duplicate field "sharing"',
    ),
    "other case": (f'{{"apiVersion":"{GROUP}","kind":"GpuConfig","Sharing":{{}}}}', 'unknown field "Sharing"'),
    "wrong kind": (f'{{"apiVersion":"{GROUP}","kind":"CpuConfig"}}', NO_KIND.format(kind="CpuConfig", version=GROUP)),
    "wrong version": (
        '{"apiVersion":"resource.nvidia.com/v9","kind":"GpuConfig"}',
        NO_KIND.format(kind="GpuConfig", version="resource.nvidia.com/v9"),
    ),
    "no kind": (f'{{"apiVersion":"{GROUP}"}}', "Object 'Kind' is missing in "),
    "no version": ('{"kind":"GpuConfig"}', "Object 'apiVersion' is missing in "),
    "no object": ('"GpuConfig"', "couldn't get version/kind; json parse error: "),
    "empty time slice": (
        f'{{"apiVersion":"{GROUP}","kind":"GpuConfig","sharing":{{"strategy":"TimeSlicing","timeSlicingConfig":{{}}}}}}',
        '"TimeSlicing" is selected as the GPU sharing strategy, but the "TimeSlicingSettings" feature gate is not '
        "enabled",
    ),
    "unknown strategy": (
        f'{{"apiVersion":"{GROUP}","kind":"GpuConfig","sharing":{{"strategy":"Luck"}}}}',
        "unknown GPU sharing strategy: Luck, supported GPU sharing strategies: TimeSlicing, MPS",
    ),
}


async def test_configs_that_are_refused(node: PluginNode) -> None:
    good = await node.claim("gpu-7")
    bad = {name: await node.claim("gpu-0", parameters=text) for name, (text, _) in CONFIGS.items()}
    told = await node.prepare(good, *bad.values())
    assert set(told) == {good.uid, *(ref.uid for ref in bad.values())}
    assert [device.device for device in told[good.uid].devices] == ["gpu-7"]
    for name, ref in bad.items():
        error = told[ref.uid].error
        assert error.startswith(f"error preparing devices for claim {ref}: prepare devices failed: "), (name, error)
        assert CONFIGS[name][1] in error, (name, error)
    # kubelet asks again: the same texts, and the claim can still be let go of.
    assert await node.prepare(good, *bad.values()) == told
    await node.released(*bad.values())
    assert set(node.checkpoint().entries) == {good.uid}


async def test_claims_that_are_refused(node: PluginNode) -> None:
    good, taken = await node.claim("gpu-7"), await node.claim("gpu-6")
    await node.prepared(taken)
    missing, replaced = await node.claim("gpu-0", name="missing"), await node.claim("gpu-0", name="replaced")
    await node.delete(missing)
    await node.delete(replaced)
    await node.claim("gpu-0", name="replaced")
    bad = {
        await node.claim(name="unallocated"): "claim ns/unallocated not allocated",
        missing: "retrieve claim ns/missing: ",
        replaced: "claim ns/replaced got replaced",
        await node.claim({"device": "nic-0", "driver": "nic.example.com"}): f"is allocated no device of {DRIVER}",
        await node.claim("gpu-99"): 'allocatable not found for device "gpu-99"',
        await node.claim({"device": "gpu-0", "pool": "node-b"}): 'in pool "node-b"',
        await node.claim("gpu-6"): f"gpu-6 is already allocated to different claim {taken.uid}",
    }
    told = await node.prepare(good, *bad)
    assert told[good.uid].error == ""
    for ref, text in bad.items():
        assert told[ref.uid].error.startswith(f"error preparing devices for claim {ref}: ")
        assert text in told[ref.uid].error
    assert set(node.checkpoint().entries) == {good.uid, taken.uid}


async def test_a_claim_allocated_anew_under_the_same_uid(node: PluginNode) -> None:
    ref, other = await node.claim("gpu-0"), await node.claim("gpu-0")
    await node.prepared(ref)
    assert "gpu-0 is already allocated" in await node.refused(other)
    await node.allocate(ref, "gpu-1", "gpu-2")
    assert await node.prepared(ref) == ["gpu-1", "gpu-2"]
    assert await node.prepared(other) == ["gpu-0"]
    assert f"{ref.uid}-gpu-2" in node.cdi_path(ref).read_text()
    assert f"{ref.uid}-gpu-0" not in node.cdi_path(ref).read_text()


# ── the checkpoint ─────────────────────────────────────────────────────────────────────────────────────────────────


def foreign_boot(content: bytes) -> bytes:
    return encode_checkpoint(Checkpoint("another boot", decode_checkpoint(content).entries))


DAMAGE: dict[str, Callable[[bytes], bytes | None]] = {
    "corrupt": lambda content: content.replace(b'"gpu-0"', b'"gpu-3"'),
    "truncated": lambda content: content[:-40],
    "empty": lambda content: b"",
    "binary": lambda content: bytes(range(256)),
    "future": lambda content: b'{"checksum":1,"v9":{"preparedClaims":{}}}',
    "missing": lambda content: None,
}


async def test_checkpoints_that_cannot_be_used_never_stop_the_program(node: PluginNode) -> None:
    ref = await node.claim("gpu-0")
    other = await node.claim("gpu-0")
    first = await node.prepare(ref)
    good = node.checkpoint_path.read_bytes()
    for name, damage in DAMAGE.items():
        gone = await node.claim("gpu-1")
        await node.prepared(gone)
        await node.stop()
        await node.delete(gone)
        content = damage(node.checkpoint_path.read_bytes())
        if content is None:
            node.checkpoint_path.unlink()
        else:
            node.checkpoint_path.write_bytes(content)
        await node.start()
        # From here on the device is never given to somebody else, and its own claim is answered as before.
        assert "gpu-0" in await node.refused(other), name
        assert await node.prepare(ref) == first, name
        await until(lambda: not (node.plugin_dir / "checkpoint.json.quarantined").exists(), f"claims of {name}")
        assert node.checkpoint_path.read_bytes() == good, name
        await until(lambda gone=gone: not node.cdi_path(gone).exists(), "an orphan's end")
        if content is not None:
            assert (node.plugin_dir / "checkpoint.json.unreadable").read_bytes() == content, name
    assert "checkpoint failed checksum verification; unified diff" in node.log
    await node.released(ref)


async def test_a_checkpoint_of_another_boot_is_void(node: PluginNode) -> None:
    ref = await node.claim("gpu-0")
    first = await node.prepare(ref)
    await node.stop()
    node.checkpoint_path.write_bytes(foreign_boot(node.checkpoint_path.read_bytes()))
    await node.start()
    assert 'Invalidating checkpoint: checkpoint nodeBootID "another boot" != current' in node.log
    await until(lambda: not node.cdi_path(ref).exists(), "the end of a file from before the reboot")
    assert node.checkpoint().entries == {}
    assert await node.prepare(ref) == first


# ── the disk ───────────────────────────────────────────────────────────────────────────────────────────────────────


def with_mount(script: str, *arguments: str) -> list[str]:
    """A command that runs a program in a mount namespace of its own, after a script; needs no rights."""
    own = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-Urm"]
    return [*own, "sh", "-ec", f'{script}\nshift {len(arguments)}\nexec "$@"', "sh", *arguments]


def inside(node: PluginNode, path: Path) -> Path:
    """A path as the program sees it."""
    return Path(f"/proc/{node.pid}/root{path}")


async def nsenter(node: PluginNode, *command: str) -> None:
    user = [] if os.geteuid() == 0 else ["-U", "--preserve-credentials"]
    ran = await asyncio.create_subprocess_exec("nsenter", "-t", str(node.pid), *user, "-m", *command)
    assert await ran.wait() == 0


async def test_a_cdi_folder_that_is_read_only() -> None:
    async with sane() as node:
        node.cdi.mkdir()
        await node.start(*with_mount('mount --bind "$1" "$1"', str(node.cdi)))
        before, ref = await node.claim("gpu-1"), await node.claim("gpu-0")
        await node.prepared(before)
        await nsenter(node, "mount", "-o", "remount,bind,ro", str(node.cdi))
        text = f"unable to create CDI spec file for claim: {node.cdi_path(ref)}: Read-only file system"
        assert await node.refused(ref) == text
        assert set(node.checkpoint().entries) == {before.uid}
        assert await node.prepared(before) == ["gpu-1"]
        # What is let go of leaves the checkpoint; its file cannot go now and is an orphan for the sweep.
        await node.released(before)
        assert node.checkpoint().entries == {}
        await nsenter(node, "mount", "-o", "remount,bind,rw", str(node.cdi))
        assert await node.prepared(ref) == ["gpu-0"]
        assert set(node.checkpoint().entries) == {ref.uid}


async def test_a_cdi_folder_that_is_full() -> None:
    async with sane() as node:
        node.cdi.mkdir()
        await node.start(*with_mount('mount -t tmpfs -o size=64k none "$1"', str(node.cdi)))
        before, ref = await node.claim("gpu-1"), await node.claim("gpu-0")
        await node.prepared(before)
        filler = inside(node, node.cdi) / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"x" * 4096):
                pass
        files = sorted(inside(node, node.cdi).iterdir())
        text = f"unable to create CDI spec file for claim: {node.cdi_path(ref)}: No space left on device"
        assert await node.refused(ref) == text
        assert sorted(inside(node, node.cdi).iterdir()) == files
        assert await node.prepared(before) == ["gpu-1"]
        filler.unlink()
        assert await node.prepared(ref) == ["gpu-0"]


async def test_a_checkpoint_that_cannot_be_written(node: PluginNode) -> None:
    before, ref = await node.claim("gpu-1"), await node.claim("gpu-0")
    await node.prepared(before)
    files = node.files()
    _, most = resource.prlimit(node.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(node.pid, resource.RLIMIT_FSIZE, (0, most))  # every write fails, those of the log too
    told = (await node.client.unprepare([before]))[before.uid]
    assert told == (
        f"error unpreparing devices for claim {before}: "
        f"unable to update checkpoint: {node.checkpoint_path}: File too large"
    )
    assert "File too large" in await node.refused(ref)
    assert await node.prepared(before) == ["gpu-1"]
    resource.prlimit(node.pid, resource.RLIMIT_FSIZE, (most, most))
    await node.settled(files)
    await node.released(before)
    assert await node.prepared(ref) == ["gpu-0"]


async def test_a_cdi_root_that_is_no_folder_is_told_at_once() -> None:
    async with plugin_node() as node:
        node.cdi.write_text("")
        process = await node.launch()
        assert await asyncio.wait_for(process.wait(), 60) == 1
        assert f"Error: path for cdi file generation is not a directory: '{node.cdi}'" in node.log
        assert "Traceback" not in node.log


# ── the API server ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_api_server_that_is_away_at_the_start_and_later() -> None:
    async with sane() as node:
        await node.start()
        ref, later = await node.claim("gpu-0"), await node.claim("gpu-1")
        first = await node.prepare(ref, later)
        fresh = await node.claim("gpu-2")
        for start_anew in (False, True):
            node.kube.go_away()
            if start_anew:
                await node.stop()
                await node.start(published=False)
            assert await node.prepare(ref) == {ref.uid: first[ref.uid]}
            text = await node.refused(fresh)
            assert text.startswith(f"retrieve claim ns/{fresh.name}: ")
            assert "127.0.0.1" in text
            if start_anew:
                await node.released(later)
                assert set(node.checkpoint().entries) == {ref.uid}
            node.kube.heal()
        assert await node.prepared(fresh) == ["gpu-2"]


async def test_an_api_server_that_forgot_the_past_or_refuses(node: PluginNode) -> None:
    ref, fresh = await node.claim("gpu-0"), await node.claim("gpu-1")
    first = await node.prepare(ref)
    for status in (401, 403, 500):
        node.kube.fail(status, times=1000, message=f"no, {status}")
        assert await node.prepare(ref) == first
        assert await node.refused(fresh) == f"retrieve claim ns/{fresh.name}: no, {status}"
        node.kube.heal()
    node.kube.fail(429, times=1, verb="get", retry_after_s=0)
    assert await node.prepared(fresh) == ["gpu-1"]
    node.kube.compact()
    node.kube.end_watches(ApiError(410, "Expired", "too old resource version"))
    published = [s["spec"]["devices"] for s in node.kube.objects("resourceslices")]
    await node.wipe_slices()
    await until(lambda: node.kube.objects("resourceslices"), "slices after a 410")
    assert [s["spec"]["devices"] for s in node.kube.objects("resourceslices")] == published


async def test_a_token_that_is_not_taken() -> None:
    async with sane(token="right") as node:
        await node.start()
        ref, fresh = await node.claim("gpu-0"), await node.claim("gpu-1")
        first = await node.prepare(ref)
        node.server.token = "another"
        assert await node.prepare(ref) == first
        assert await node.refused(fresh) == f"retrieve claim ns/{fresh.name}: Unauthorized"
        node.server.token = "right"
        assert await node.prepared(fresh) == ["gpu-1"]


# ── another instance ───────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def held(path: Path) -> Any:
    with path.open("a+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


async def test_locks_that_another_instance_holds(node: PluginNode) -> None:
    """Ten seconds of patience, twice: with calls, and at a start."""
    known, ref = await node.claim("gpu-0"), await node.claim("gpu-1")
    await node.prepared(known)
    text = f"error acquiring prep/unprep lock: timeout acquiring lock ({node.plugin_dir}/pu.lock)"
    with held(node.plugin_dir / "pu.lock"):
        assert await node.prepare(ref) == {ref.uid: ClaimAnswer((), text)}
    await node.stop()
    await node.wipe_slices()
    with held(node.plugin_dir / "pu.lock"):
        await node.start(published=False)
    # Nobody asks for anything, and yet the checkpoint is read and the devices are published.
    await until(lambda: node.kube.objects("resourceslices"), "slices once the locks are free")
    assert await node.prepared(ref) == ["gpu-1"]
    await node.released(known)


# ── the driver ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_device_nodes_that_are_missing(node: PluginNode) -> None:
    uvm, tool = node.root.root / "dev/nvidia-uvm", node.root.root / "usr/bin/nvidia-modprobe"
    devices = node.root.procfs / "devices"
    ref, known = await node.claim("gpu-0"), await node.claim("gpu-1")
    await node.prepared(known)
    uvm.unlink()
    tool.rename(tool.with_suffix(".away"))
    before = devices.read_text()
    devices.write_text("".join(line for line in before.splitlines(keepends=True) if "nvidia-uvm" not in line))
    for _ in range(2):
        text = await node.refused(ref)
        assert text.startswith("the driver's /dev/nvidia-uvm (")
        assert "the kernel module nvidia_uvm is not loaded" in text
        assert "kubelet will ask again" in text
    # No container with the prepared claim's file could start: it names the node that is gone.
    assert (await node.refused(known)).startswith("the driver's /dev/nvidia-uvm (")
    tool.with_suffix(".away").rename(tool)
    devices.write_text(before)
    assert await node.prepared(ref) == ["gpu-0"]
    assert uvm.exists()


async def test_a_gpu_that_fails_is_left_out_alone() -> None:
    async with sane() as node:
        node.root.set_faults([{"function": "nvmlDeviceGetName", "minor": 3, "code": "GPU_IS_LOST"}])
        await node.start()
        published = [d["name"] for s in node.kube.objects("resourceslices") for d in s["spec"]["devices"]]
        assert sorted(published) == [f"gpu-{i}" for i in range(8) if i != 3]
        bad, good = await node.claim("gpu-3"), await node.claim("gpu-4")
        assert await node.prepared(good) == ["gpu-4"]
        text = await node.refused(bad)
        assert text.startswith('prepare devices failed: allocatable not found for device "gpu-3": ')
        assert "GPU with index 3: nvmlDeviceGetName: GPU is lost (15)" in text
        node.root.clear_faults()
        assert await node.prepared(bad) == ["gpu-3"]  # an unknown device is looked for


async def test_a_call_into_the_driver_that_hangs_costs_its_gpu() -> None:
    async with sane() as node:
        node.root.set_faults([{"function": "nvmlDeviceGetMemoryInfo*", "minor": 5, "hang": True}])
        await node.start(published=False)
        ref = await node.claim("gpu-4")
        assert await node.prepared(ref) == ["gpu-4"]
        await until(lambda: node.kube.objects("resourceslices"), "slices of the other GPUs")
        published = [d["name"] for s in node.kube.objects("resourceslices") for d in s["spec"]["devices"]]
        assert sorted(published) == [f"gpu-{i}" for i in range(8) if i != 5]


async def test_a_library_that_is_missing_until_it_comes() -> None:
    async with sane() as node:
        await node.start()
        known, fresh = await node.claim("gpu-0"), await node.claim("gpu-1")
        first = await node.prepare(known)
        before = node.kube.objects("resourceslices")
        await node.stop()
        away = node.root.library.with_name("away")
        node.root.library.rename(away)
        await node.start(published=False)
        assert await node.prepare(known) == first
        text = await node.refused(fresh)
        assert 'allocatable not found for device "gpu-1": error locating "libnvidia-ml.so.1"' in text
        assert "but no link libnvidia-ml.so.1 to it; run ldconfig on the node" in text
        assert node.kube.objects("resourceslices") == before
        away.rename(node.root.library)
        assert await node.prepared(fresh) == ["gpu-1"]
        await node.released(known)


async def test_a_driver_root_that_is_empty_until_a_driver_is_put_there() -> None:
    with short_folder() as stand_ins:
        async with sane(stand_in_dir=stand_ins) as node:
            root, away = node.root.root, node.root.root.with_name("away")
            root.rename(away)
            root.mkdir()
            await node.start(published=False)
            ref = await node.claim("gpu-0")
            assert 'error locating "libnvidia-ml.so.1": it is not below the driver root' in await node.refused(ref)
            root.rmdir()
            away.rename(root)
            # With device nodes of its own, too: where to look for those is settled at a start.
            await until(lambda: "starting anew" in node.log, "the root to be noticed")
            await until(lambda: node.kube.objects("resourceslices"), "slices")
            assert await node.prepared(ref) == ["gpu-0"]
            assert f"{root}/dev/nvidia0" not in node.cdi_path(ref).read_text()
            assert "/run/nvidia/driver/dev/nvidia0" in node.cdi_path(ref).read_text()


async def test_a_library_that_is_too_old() -> None:
    async with sane(without=["nvmlDeviceGetCount_v2", "nvmlDeviceGetCount"]) as node:
        await node.start(published=False)
        ref = await node.claim("gpu-0")
        assert "is no NVML library, or one too old: it lacks nvmlDeviceGetCount" in await node.refused(ref)
        assert node.kube.objects("resourceslices") == []
        await node.released(ref)


async def test_a_stop_in_the_middle_of_claims_ends_them_whole(node: PluginNode) -> None:
    refs = [await node.claim(f"gpu-{i}") for i in range(6)]
    with held(node.plugin_dir / "pu.lock"):
        calls = [asyncio.create_task(node.prepared(ref)) for ref in refs]
        gets = ("get", "resourceclaims")
        await until(lambda: node.kube.calls[gets] >= 2 * len(refs), "all claims to be fetched")
        assert node.process is not None
        node.process.send_signal(signal.SIGTERM)
    assert [await call for call in calls] == [[f"gpu-{i}"] for i in range(6)]
    assert await asyncio.wait_for(node.process.wait(), 60) == 0
    await node.start()
    assert set(node.checkpoint().entries) == {ref.uid for ref in refs}
    await node.released(*refs)
