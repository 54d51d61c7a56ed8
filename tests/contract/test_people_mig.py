"""nvdra devices and doctor on GPUs that are partitioned: by an administrator, by claims, and by nobody knows whom."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nvdra_mock_nvml import MigDevice, lay_out

from nvdra.checkpoint import Checkpoint, Entry, PreparedDevice, PreparedGroup, PreparedMig
from nvdra.checkpoint import decode as decode_checkpoint
from nvdra.checkpoint import encode as encode_checkpoint
from nvdra.programs.demo.scheduler import status
from tests.contract.test_people import DRIVER, PROGRAM, Ran, Site

DYNAMIC = {"FEATURE_GATES": "DynamicMIG=true"}
THREE, ONE = "gpu-0-mig-3g40gb-9-0", "gpu-0-mig-1g10gb-19-5"


@pytest.fixture
def site() -> Iterator[Site]:
    """Three H100, MIG mode off, and a plugin's empty folders."""
    folder = Path(tempfile.mkdtemp(prefix="p"))
    made = Site(lay_out(folder / "driver", "h100x8", gpus=range(3), device_files="regular"), folder)
    (made.plugin_dir / ".locks").mkdir(parents=True)
    made.cdi.mkdir()
    (folder / "kubelet/plugins_registry").mkdir()
    checkpoint(made)
    yield made
    shutil.rmtree(folder)


def checkpoint(site: Site, **entries: Entry) -> None:
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    site.checkpoint.write_bytes(
        encode_checkpoint(Checkpoint(boot_id, {f"uid-{name}": each for name, each in entries.items()}))
    )


def begun(name: str, *devices: str) -> Entry:
    return Entry("PrepareStarted", json.dumps(status(DRIVER, "node", devices, "pod")).encode(), (), name, "ns")


def held(site: Site, name: str, device: str, made: MigDevice) -> Entry:
    mig = PreparedMig(made.uuid, made.minor, site.root.gpu(made.minor).uuid, made.gi, made.ci)
    answer = PreparedDevice(mig, ("gpu",), "node", device, (f"k8s.{DRIVER}/claim=x",))
    group = PreparedGroup((answer,))
    return Entry("PrepareCompleted", json.dumps(status(DRIVER, "node", [device], "pod")).encode(), (group,), name, "ns")


def half_make(site: Site, minor: int, profile: str) -> None:
    """A GPU instance without compute instance, as a death between the two leaves it."""
    uuid = site.root.gpu(minor).uuid
    subprocess.run([site.root.nvidia_smi, "mig", "-i", uuid, "-cgi", profile], check=True, capture_output=True)


def picture(ran: Ran) -> list[str]:
    """The lines that show memory slices."""
    _, _, rest = ran.out.partition("\nmemory slices:\n\n")
    return rest.partition("\n\n")[0].splitlines()


def told(site: Site, level: str, **environ: str) -> list[str]:
    """What the doctor finds of partitions."""
    return [text for check, text in site.findings(level, **environ) if check == "partitions"]


def fix(site: Site, answers: str, **environ: str) -> Ran:
    """`nvdra doctor --fix`, its questions answered."""
    known = {
        "DRIVER_ROOT_CTR_PATH": str(site.root.root),
        "NVIDIA_DRIVER_ROOT": str(site.root.root),
        "NVDRA_SYSFS": str(site.root.sysfs),
        "NVDRA_PROCFS": str(site.root.procfs),
        "CDI_ROOT": str(site.cdi),
        "KUBELET_PLUGINS_DIRECTORY_PATH": str(site.folder / "kubelet/plugins"),
        **environ,
    }
    command = [*PROGRAM, "doctor", "--fix"]
    done = subprocess.run(command, env=known, input=answers, capture_output=True, text=True, check=False, timeout=60)
    assert "Traceback" not in done.stderr
    return Ran(done.returncode, done.stdout, done.stderr)


# ── an administrator's partitions ──────────────────────────────────────────────────────────────────────────────────


def test_partitions_made_beforehand_are_shown_with_their_claims(site: Site) -> None:
    site.root.set_mig_mode(0, True)
    three, one = site.root.create_mig(0, "3g.40gb", start=0), site.root.create_mig(0, "1g.10gb", start=5)
    checkpoint(site, a=held(site, "a", THREE, three))
    ran = site.run("devices")
    assert (ran.status, ran.err) == (0, "")
    rows = {line.split()[0]: line for line in ran.out.splitlines()[3:6]}
    assert list(rows) == [THREE, ONE, "gpu-1"]
    assert three.uuid in rows[THREE]
    assert "NVIDIA H100 80GB HBM3 3g.40gb" in rows[THREE]
    assert rows[THREE].endswith("  ns/a")
    assert picture(ran) == [
        "gpu-0  |A A A A|.|B|. .|",
        f"       A  {THREE}   3g.40gb  slices 0-3  ns/a",
        f"       B  {ONE}  1g.10gb  slice 5     free",
    ]
    assert told(site, "ok") == ["2 partitions, 1 of them held by claims"]
    found = site.run("devices", "-o", "json").json
    assert [(each["name"], each["heldBy"]) for each in found["devices"]][:2] == [(THREE, ["ns/a"]), (ONE, [])]
    (gpu,) = found["partitions"]
    assert (gpu["gpu"], gpu["migMode"], gpu["memorySlices"]) == ("gpu-0", True, 8)
    assert gpu["partitions"][1] == {
        "device": ONE,
        "profile": "1g.10gb",
        "start": 5,
        "size": 1,
        "gpuInstance": one.gi,
        "uuids": [one.uuid],
        "state": "free",
        "heldBy": [],
    }
    assert (found["notPublished"], found["heldAndAbsent"]) == ([], {})


def test_a_gpu_in_mig_mode_with_nothing_on_it(site: Site) -> None:
    site.root.set_mig_mode(0, True)
    reason = (
        "MIG mode is on and there is no MIG device: make some (nvidia-smi mig -cgi), or turn it off (nvidia-smi -mig 0)"
    )
    assert site.run("devices", "-o", "json").json["notPublished"] == [{"device": "gpu-0", "reason": reason}]
    assert ("GPUs", f"gpu-0 is not offered: {reason}") in site.findings("warning")
    text = "MIG mode of gpu-0 is on with no partition on it"
    assert told(site, "warning", **DYNAMIC) == [text]
    assert told(site, "warning") == []


def test_a_gpu_instance_without_compute_instance(site: Site) -> None:
    site.root.set_mig_mode(0, True)
    half_make(site, 0, "3g.40gb:4")
    assert picture(site.run("devices")) == [
        "gpu-0  |. . . .|A A A A|",
        "       A  gpu-0-mig-unknown-9-4  profile 9  slices 4-7  half made: it has no compute instance",
    ]
    (text,) = told(site, "warning")
    assert text.endswith("of gpu-0 (profile 9, memory slices 4-7) has no compute instance, so it is no MIG device")


def test_a_partition_that_vanished_under_its_claim(site: Site) -> None:
    site.root.set_mig_mode(0, True)
    three = site.root.create_mig(0, "3g.40gb", start=0)
    checkpoint(site, a=held(site, "a", THREE, three))
    site.root.destroy_mig(three)
    text = f"{THREE} ({three.uuid}), which claim ns/a holds, is gone: somebody took it away"
    assert told(site, "problem") == [text]
    assert f"  {THREE}  held by ns/a, and not there now\n" in site.run("devices").out


def test_without_a_checkpoint_the_owner_of_a_partition_is_unknown(site: Site) -> None:
    site.root.set_mig_mode(0, True)
    site.root.create_mig(0, "3g.40gb", start=0)
    site.checkpoint.write_bytes(b"{")
    assert picture(site.run("devices"))[1].endswith("  not known")


# ── partitions on demand ───────────────────────────────────────────────────────────────────────────────────────────


def test_what_could_be_made_is_summed_up_and_listed_in_full_for_programs(site: Site) -> None:
    ran = site.run("devices", **DYNAMIC)
    assert [line.split()[0] for line in ran.out.splitlines()[3:6]] == ["gpu-0", "gpu-1", "gpu-2"]
    assert "  gpu-0, gpu-1, gpu-2: 1g.10gb (7), 2g.20gb (3), 3g.40gb (2), " in ran.out
    assert picture(ran)[2] == "gpu-2  |. . . . . . . .|  MIG mode is off"
    found = site.run("devices", "-o", "json", **DYNAMIC).json
    assert len(found["devices"]) == 3 * 26
    assert ("GPUs", "75 partitions offered, to be made when a claim has one") in site.findings("ok", **DYNAMIC)


def test_a_partition_that_nobody_here_made_is_named_with_what_it_keeps_back(site: Site) -> None:
    site.root.set_mig_mode(0, True)
    three, one = site.root.create_mig(0, "3g.40gb", start=0), site.root.create_mig(0, "1g.10gb", start=5)
    checkpoint(site, a=held(site, "a", ONE, one))
    ran = site.run("devices", **DYNAMIC)
    assert picture(ran)[:3] == [
        "gpu-0  |a a a a|.|B|. .|",
        f"       a  {THREE}   3g.40gb  slices 0-3  nobody here made it: what overlaps it is not offered",
        f"       B  {ONE}  1g.10gb  slice 5     ns/a",
    ]
    assert "  15 partitions of gpu-0  held back: " in ran.out
    warnings = site.findings("warning", **DYNAMIC)
    text = (
        f"GPU instance {three.gi} of gpu-0 (3g.40gb, memory slices 0-3): nobody here made it; "
        "16 devices that overlap it are not offered"
    )
    assert [text for check, text in warnings if check == "partitions"] == [text]
    assert not [text for check, text in warnings if check == "checkpoint"]
    site.root.destroy_mig(three)
    assert told(site, "ok", **DYNAMIC) == ["1 partition, 1 of them held by claims"]


# ── leftovers of claims ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def broken(site: Site) -> Site:
    """Of one claim a partition is half made, of one only MIG mode is on, one holds what it has, one is a stranger's."""
    for minor in (0, 1):
        site.root.set_mig_mode(minor, True)
    half_make(site, 0, "3g.40gb:0")
    one = site.root.create_mig(0, "1g.10gb", start=5)
    site.root.create_mig(0, "1g.10gb", start=6)
    checkpoint(
        site,
        first=begun("first", THREE),
        second=begun("second", "gpu-1-mig-7g80gb-0-0"),
        whole=held(site, "whole", ONE, one),
        plain=begun("plain", "gpu-2"),
    )
    return site


LEFT = (
    f"claim ns/first was begun, and nobody works on it: {THREE} stands half made",
    "claim ns/second was begun, and nobody works on it: MIG mode of gpu-1 is on for it",
)


def entries(site: Site) -> set[str]:
    return set(decode_checkpoint(site.checkpoint.read_bytes()).entries)


def stands(site: Site) -> dict[str, Any]:
    """How the GPUs are partitioned: start and size of each instance, and MIG mode."""
    return {
        f"gpu-{minor}": (sorted(site.root.gpu_instances(minor).values()), site.root.mig_mode(minor)[0])
        for minor in range(3)
    }


def test_what_claims_left_half_done_is_named(broken: Site) -> None:
    assert [text for text in told(broken, "warning", **DYNAMIC) if text.startswith("claim")] == list(LEFT)
    assert picture(broken.run("devices", **DYNAMIC))[1].endswith("half made: it has no compute instance, for ns/first")


def test_nothing_is_taken_away_unasked(broken: Site) -> None:
    before, files = stands(broken), broken.checkpoint.read_bytes()
    ran = fix(broken, "n\n", **DYNAMIC)
    assert ran.status == 0
    assert ran.out.split(" [y/N] ")[:2] == [f"{text}. Take it away?" for text in LEFT]
    assert (stands(broken), broken.checkpoint.read_bytes()) == (before, files)


def test_leftovers_are_taken_away_and_nothing_else(broken: Site) -> None:
    ran = fix(broken, "y\nyes\n", **DYNAMIC)
    assert (ran.status, ran.err) == (0, "")
    assert "claim ns/first: taken away\nclaim ns/second: taken away\n" in ran.out
    assert stands(broken) == {"gpu-0": ([(5, 1), (6, 1)], True), "gpu-1": ([], False), "gpu-2": ([], False)}
    assert entries(broken) == {"uid-whole", "uid-plain"}
    assert fix(broken, "", **DYNAMIC).out == "claims left nothing half done on GPUs\n"


def test_one_of_two_is_taken_away(broken: Site) -> None:
    assert fix(broken, "n\ny\n", **DYNAMIC).status == 0
    assert stands(broken)["gpu-0"] == ([(0, 4), (5, 1), (6, 1)], True)
    assert entries(broken) == {"uid-first", "uid-whole", "uid-plain"}


def test_what_somebody_works_on_is_no_leftover(broken: Site) -> None:
    with (broken.plugin_dir / ".locks" / broken.root.gpu(0).uuid).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert [text for text in told(broken, "warning", **DYNAMIC) if text.startswith("claim")] == [LEFT[1]]
        fix(broken, "y\ny\n", **DYNAMIC)
    assert entries(broken) == {"uid-first", "uid-whole", "uid-plain"}


def test_without_the_gate_there_are_no_leftovers_to_take_away(broken: Site) -> None:
    before = stands(broken)
    ran = fix(broken, "y\ny\n")
    assert (ran.status, ran.out) == (0, "claims left nothing half done on GPUs\n")
    assert stands(broken) == before


def test_a_leftover_that_the_driver_keeps_is_told_with_the_reason(broken: Site) -> None:
    broken.root.set_faults([{"function": "nvmlGpuInstanceDestroy", "code": "IN_USE"}])
    ran = fix(broken, "y\nn\n", **DYNAMIC)
    assert ran.status == 2
    assert f"error deleting MIG device {THREE}: error destroying GPU Instance: " in ran.out
    assert "uid-first" in entries(broken)


def test_an_answer_for_programs_cannot_be_asked(site: Site) -> None:
    ran = site.run("doctor", "--fix", "-o", "json")
    assert (ran.status, ran.out, ran.err) == (2, "", "Error: --fix asks: it has no --output json\n")


def test_a_node_can_be_taken_for_one_whose_gpus_stay_as_they_are(site: Site) -> None:
    site.root.set_mig_mode(0, True)
    forced = {**DYNAMIC, "NVIDIA_DRA_TEST_FORCE_GPU_ARCH": " Ampere "}
    found = site.run("devices", "-o", "json", **forced).json["devices"]
    # Of the one with MIG mode on all partitions and not itself, of the others only themselves.
    assert [each["name"] for each in found if each["attributes"]["type"] == {"string": "gpu"}] == ["gpu-1", "gpu-2"]
    assert {each["attributes"]["parentUUID"]["string"] for each in found if "mig" in each["name"]} == {
        site.root.gpu(0).uuid
    }
    assert found[-1]["attributes"]["architecture"] == {"string": "Hopper"}
