"""Partitions of the mock NVML: NVIDIA's own binding makes, finds and destroys them, in one process and in several."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nvdra_mock_nvml import MigDevice, MigError, Root, lay_out, realistic_delays

from tests.contract.mock_node import INVALID, NOT_FOUND, PORTRAITS, SUCCESS, UNSUPPORTED, smi

REPOSITORY = Path(__file__).parent.parent.parent
NO_PERMISSION, TIMED_OUT, LOST, RESET_REQUIRED, IN_USE, NO_ROOM = 4, 10, 15, 16, 19, 23
WHOLE = 0xFFFFFFFF
XID = 8
SMALL, SMALL_MEDIA, TWO, THREE, FOUR, ALL = 19, 20, 14, 9, 5, 0
PARTITIONED = [name for name in PORTRAITS if name != "recorded-a100x8"]


class Client:
    """A program of its own that works MIG through pynvml."""

    def __init__(self, library: Path) -> None:
        environment = {**os.environ, "LD_LIBRARY_PATH": str(library.parent), "PYTHONPATH": str(REPOSITORY)}
        command = [sys.executable, "-m", "tests.contract.mock_mig_client"]
        self.process = subprocess.Popen(
            command, env=environment, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, verb: str, *arguments: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([verb, *arguments]) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def __call__(self, verb: str, *arguments: Any) -> Any:
        self.ask(verb, *arguments)
        return self.answer()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


NewClient = Callable[[Root], Client]


@pytest.fixture
def client() -> Iterator[NewClient]:
    """Starts clients, and ends them."""
    started: list[Client] = []

    def start(root: Root) -> Client:
        started.append(Client(root.library))
        return started[-1]

    yield start
    for one in started:
        one.kill()


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return lay_out(tmp_path / "root", "h100x8", device_files="regular")


@pytest.fixture
def on(root: Root) -> Root:
    """MIG mode is on at GPU 0."""
    root.set_mig_mode(0, on=True)
    return root


def error(code: int) -> dict[str, int]:
    return {"error": code}


def table(root: Root, minor: int = 0) -> list[dict[str, Any]]:
    portrait = json.loads(root.portrait.text)
    model = next(gpu["model"] for gpu in portrait["gpus"] if gpu["minor"] == minor)
    profiles: list[dict[str, Any]] = portrait["models"][model]["mig"]["profiles"]
    return profiles


@pytest.mark.parametrize("name", PARTITIONED)
def test_every_placement_lives_and_dies(name: str, tmp_path: Path, client: NewClient) -> None:
    root = lay_out(tmp_path / "root", name, device_files="regular")
    one = client(root)
    minor = root.portrait.gpus[-1].minor
    assert one("mode", minor) == [0, 0]
    if one("set mode", minor, 1) == RESET_REQUIRED:
        assert name == "a100x8"
        assert one("mode", minor) == [0, 1]
        root.reset_gpu(minor)
    assert one("mode", minor) == [1, 1]
    assert one("max", minor) == 7
    uuids = set()
    for profile in table(root, minor):
        assert one("left", minor, profile["id"]) == profile["instances"]
        for start in profile["starts"]:
            gi = one("create", minor, profile["id"], start, profile["size"])
            assert one("instance", minor, gi) == [gi, profile["id"], start, profile["size"]]
            assert one("instances", minor, profile["id"]) == [gi]
            assert one("devices", minor) == []
            index = {1: 0, 2: 1, 3: 2, 4: 3, 7: 4}[profile["slices"]]
            told = one("compute profile", minor, gi, index)
            assert told == [index, profile["slices"], 1, profile["sm"], f"MIG {profile['text']}"]
            ci = one("create compute", minor, gi, index)
            assert one("computes", minor, gi, index) == [ci] == [0]
            [device] = root.mig_devices(minor)
            assert device == MigDevice(minor, gi, ci, device.uuid, profile["id"], start, profile["size"])
            assert one("compute", minor, gi, ci) == [ci, index, [0, profile["slices"]], device.uuid]
            name_of = f"{root.gpu(minor).name} MIG {profile['text']}"
            assert one("devices", minor) == [[gi, ci, device.uuid, name_of]]
            about = one("about", device.uuid)
            assert about["memory"] == profile["memory_mib"] << 20 == about["memorySizeMB"] << 20
            assert about["multiprocessorCount"] == profile["sm"]
            assert about["minor"] == error(UNSUPPORTED)
            assert f"  MIG {profile['text']:<11} Device  0: (UUID: {device.uuid})\n" in smi(root, "-L")
            uuids.add(device.uuid)
            assert one("destroy compute", minor, gi, ci) == SUCCESS
            assert one("destroy", minor, gi) == SUCCESS
            assert root.gpu_instances(minor) == {}
    assert len(uuids) == len({(start, p["size"]) for p in table(root, minor) for start in p["starts"]})
    assert one("set mode", minor, 0) in (SUCCESS, RESET_REQUIRED)


def test_uuids_and_capability_minors_are_fixed(on: Root) -> None:
    # These are in other people's goldens: a change here is a change of every mock node.
    device = on.create_mig(0, "1g.10gb", start=2)
    assert (device.gi, device.ci, device.profile) == (9, 0, SMALL)
    assert device.uuid == "MIG-89340ee4-d75b-888a-bd00-2ddbcda5218d"
    assert (on.capability_minor(0, 9), on.capability_minor(0, 9, 0)) == (84, 85)
    assert on.capability_minor(1, 0) == 3 + 15 * 9
    minors = (on.procfs / "driver/nvidia-caps/mig-minors").read_text()
    assert "gpu0/gi9/access 84\ngpu0/gi9/ci0/access 85\n" in minors


def test_capability_files_and_nodes_come_and_go(on: Root) -> None:
    device = on.create_mig(0, "2g.20gb", start=4)
    folder = on.procfs / "driver/nvidia/capabilities/gpu0/mig"
    for path, minor in [("gi5/access", 48), ("gi5/ci0/access", 49)]:
        text = f"DeviceFileMinor: {minor}\nDeviceFileMode: 292\nDeviceFileModify: 1\n"
        assert (folder / path).read_text() == text
        node = on.root / f"dev/nvidia-caps/nvidia-cap{minor}"
        assert node.stat().st_mode & 0o777 == 0o444
    on.destroy_mig(device)
    assert list(folder.iterdir()) == []
    assert list((on.root / "dev/nvidia-caps").iterdir()) == []


def test_nodes_are_devices_where_they_may_be(tmp_path: Path) -> None:
    root = lay_out(tmp_path / "root", "h200x1", stand_in_dir=tmp_path / "elsewhere")
    if root.device_files != "mknod":
        pytest.skip("device nodes may not be made here")
    root.set_mig_mode(0, on=True)
    device = root.create_mig(0, ALL)
    node = root.capability_node(0, device.gi, device.ci)
    assert node.is_char_device()
    assert (os.major(node.stat().st_rdev), os.minor(node.stat().st_rdev)) == (234, 4)
    assert (tmp_path / "elsewhere/proc/driver/nvidia/capabilities/gpu0/mig/gi0/ci0/access").is_file()


def test_a_device_is_visible_exactly_if_its_two_nodes_are_there(on: Root, client: NewClient) -> None:
    device = on.create_mig(0, "1g.10gb", start=0)
    other = on.create_mig(0, "3g.40gb", start=4)
    one = client(on)
    both = [other.uuid, device.uuid]
    assert [told[2] for told in one("devices", 0)] == both
    for node in (on.capability_node(0, device.gi), on.capability_node(0, device.gi, device.ci)):
        node.rename(node.with_suffix(".away"))
        assert [told[2] for told in one("devices", 0)] == [other.uuid]
        assert one("about", device.uuid) == error(NOT_FOUND)
        assert device.uuid not in smi(on, "-L")
        node.with_suffix(".away").rename(node)
        assert [told[2] for told in one("devices", 0)] == both


def test_a_container_needs_no_state(on: Root, client: NewClient, tmp_path: Path) -> None:
    """What CDI brings: the GPU's node, control nodes, two capability nodes, the driver's files."""
    device = on.create_mig(0, "1g.20gb", start=4)
    on.create_mig(0, "3g.40gb", start=0)
    inside = tmp_path / "container"
    shutil.copytree(on.library.parent, inside / on.library.parent.relative_to(on.root), symlinks=True)
    (inside / "usr/bin").mkdir()
    shutil.copy(on.nvidia_smi, inside / "usr/bin/nvidia-smi")
    (inside / "dev/nvidia-caps").mkdir(parents=True)
    carried = [on.capability_node(0, device.gi), on.capability_node(0, device.gi, 0), on.root / "dev/nvidiactl"]
    for node in [*carried, on.root / "dev/nvidia0"]:
        (inside / node.relative_to(on.root)).touch()
    one = Client(inside / on.library.relative_to(on.root))
    try:
        assert one("mode", 0) == [1, 1]
        # Two profiles have this size, and nothing in a container says which it is.
        name = "NVIDIA H100 80GB HBM3 MIG 1g.20gb/2g.20gb"
        assert one("devices", 0) == [[device.gi, 0, device.uuid, name]]
        assert one("instance", 0, device.gi) == error(UNSUPPORTED)
        assert one("create", 0, SMALL, 0, 1) == error(NO_PERMISSION)
        assert one("set mode", 0, 0) == error(NO_PERMISSION)
        assert one("instances", 0, SMALL) == error(NO_PERMISSION)
        assert one("destroy compute", 0, device.gi, 0) == error(NO_PERMISSION)
    finally:
        one.kill()
    listed = subprocess.run([str(inside / "usr/bin/nvidia-smi"), "-L"], capture_output=True, text=True, check=True)
    assert listed.stdout.count("GPU ") == 1
    assert listed.stdout.count("  MIG ") == 1
    assert f"(UUID: {device.uuid})" in listed.stdout


def test_refusals_have_nvmls_codes(on: Root, client: NewClient) -> None:
    one = client(on)
    gi = one("create", 0, TWO, 2, 2)
    assert one("create", 0, TWO, 2, 2) == error(NO_ROOM)
    assert one("create", 0, FOUR, 0, 4) == error(NO_ROOM)
    assert one("create", 0, TWO, 1, 2) == error(INVALID)
    assert one("create", 0, 99, 0, 1) == error(INVALID)
    assert one("create", 1, SMALL, 0, 1) == error(UNSUPPORTED)  # MIG mode is off there
    assert one("instances", 1, SMALL) == error(UNSUPPORTED)
    assert one("slot", 1, 0) == error(NOT_FOUND)
    assert one("instance", 1, 7) == error(NOT_FOUND)
    ci = one("create compute", 0, gi, 1)
    assert one("create compute", 0, gi, 0) == error(NO_ROOM)
    assert one("create compute", 0, gi, 2) == error(UNSUPPORTED)
    assert one("compute profile", 0, gi, 8) == error(UNSUPPORTED)
    assert one("compute profile", 0, gi, 9) == error(INVALID)
    assert one("compute profile", 0, gi, 1, 1) == error(INVALID)
    assert one("compute", 0, gi, 5) == error(NOT_FOUND)
    assert one("destroy", 0, gi) == error(IN_USE)
    assert one("set mode", 0, 0) == error(IN_USE)
    assert one("mode", 0) == [1, 1]
    assert one("destroy compute", 0, gi, ci) == SUCCESS
    assert one("set mode", 0, 0) == error(IN_USE)
    assert one("destroy", 0, gi) == SUCCESS
    assert one("set mode", 0, 0) == SUCCESS
    assert one("mode", 0) == [0, 0]


def test_smi_without_a_choice_concerns_the_gpus_in_mig_mode(on: Root) -> None:
    on.set_mig_mode(3, on=True)
    made = smi(on, "mig", "-cgi", "3g.40gb", "-C")
    assert [(device.minor, device.gi) for device in on.mig_devices()] == [(0, 1), (3, 1)]
    assert made.count("Successfully created GPU instance") == 2
    assert len(smi(on, "mig", "-lgi").splitlines()) == 3
    on.destroy_mig(on.mig_devices(0)[0])
    smi(on, "mig", "-dci")
    smi(on, "mig", "-dgi")
    assert on.mig_devices() == []
    assert on.gpu_instances(3) == {}
    assert "Not Found" in smi(on, "mig", "-dgi", status=6)
    for minor in (0, 3):
        on.set_mig_mode(minor, on=False)
    assert smi(on, "mig", "-cgi", "3g.40gb", "-C") == "No MIG-enabled devices found.\n"
    smi(on, "mig", "-i", "0", "-cgi", "3g.40gb", "-C", status=3)


def test_remaining_capacity_and_limits(on: Root, client: NewClient) -> None:
    one = client(on)
    assert one("create anywhere", 0, SMALL_MEDIA) == 7
    assert one("create anywhere", 0, SMALL_MEDIA) == error(NO_ROOM)  # one has the engines
    assert one("left", 0, SMALL) == 6
    gi = one("create", 0, THREE, 4, 4)
    assert one("left", 0, SMALL) == 3
    assert one("left", 0, ALL) == 0
    assert [one("compute left", 0, gi, index) for index in (0, 1, 2)] == [3, 1, 1]
    assert [one("create compute", 0, gi, 0), one("create compute", 0, gi, 1)] == [0, 1]
    assert [told[3] for told in one("devices", 0)] == [
        "NVIDIA H100 80GB HBM3 MIG 1c.3g.40gb",
        "NVIDIA H100 80GB HBM3 MIG 2c.3g.40gb",
    ]
    assert one("compute", 0, gi, 1)[2] == [1, 2]
    assert one("left", 2, SMALL) == 0  # MIG mode is off there


def test_a_program_that_uses_a_gpu_keeps_it(on: Root, client: NewClient) -> None:
    device = on.create_mig(0, "1g.10gb", start=0)
    parent = on.gpu(0).uuid
    one = client(on)
    assert (one("processes", parent), one("processes", device.uuid)) == ([], [])
    inside = {"minor": 0, "gi": device.gi, "ci": device.ci, "pid": 4711, "memory_bytes": 1 << 30}
    on.set_processes([inside, {"minor": 0, "gi": device.gi, "ci": device.ci, "pid": 4712, "hidden": True}])
    listed = [[4711, 1 << 30, device.gi, device.ci]]
    assert (one("processes", parent), one("processes", device.uuid)) == (listed, listed)
    assert one("destroy compute", 0, device.gi, device.ci) == error(IN_USE)
    with pytest.raises(MigError, match="In use by another client") as refused:
        on.destroy_mig(device)
    assert refused.value.code == IN_USE
    on.stop_processes()
    assert one("destroy compute", 0, device.gi, device.ci) == SUCCESS
    # A mode that cannot be activated is accepted, and the activation says why it did not happen.
    on.set_processes([{"minor": 1, "pid": 4713}])
    assert one("set mode", 1, 1) == IN_USE
    assert one("mode", 1) == [0, 1]
    assert one("processes", on.gpu(1).uuid) == [[4713, 0, WHOLE, WHOLE]]
    on.stop_processes(1)
    assert one("set mode", 1, 1) == SUCCESS
    assert one("mode", 1) == [1, 1]


def test_a_guest_with_a_virtual_gpu_manages_nothing(tmp_path: Path, client: NewClient) -> None:
    portrait = json.loads(lay_out(tmp_path / "model", "h200x1", device_files="regular").portrait.text)
    portrait["models"]["h200"]["virtualization_mode"] = [2, "assumed"]
    (tmp_path / "guest.json").write_text(json.dumps(portrait))
    root = lay_out(tmp_path / "root", str(tmp_path / "guest.json"), device_files="regular")
    one = client(root)
    assert one("set mode", 0, 1) == error(UNSUPPORTED)
    assert one("create", 0, SMALL, 0, 1) == error(UNSUPPORTED)


def test_state_is_shared_and_survives_a_kill(on: Root, client: NewClient) -> None:
    one, other = client(on), client(on)
    gi = one("create", 0, SMALL, 3, 1)
    assert other("create", 0, SMALL, 3, 1) == error(NO_ROOM)
    ci = other("create compute", 0, gi, 0)
    [told] = one("devices", 0)
    one.kill()
    assert other("devices", 0) == [told]
    other.kill()
    third = client(on)
    assert third("devices", 0) == [told]
    assert third("mode", 0) == [1, 1]
    assert third("destroy compute", 0, gi, ci) == SUCCESS
    assert third("instance", 0, gi) == [gi, SMALL, 3, 1]


def test_many_processes_at_once_never_overlap(on: Root, client: NewClient) -> None:
    clients = [client(on) for _ in range(4)]
    starts = [start for start in range(7) for _ in range(2)]
    made: list[int] = []
    for at in range(0, len(starts), 4):
        asked = list(zip(clients, starts[at : at + 4], strict=False))
        for one, start in asked:
            one.ask("create", 0, SMALL, start, 1)
        made += [answer for one, _ in asked if isinstance(answer := one.answer(), int)]
    assert sorted(made) == sorted(on.gpu_instances(0)) == list(range(7, 14))


def test_a_delay_does_not_hold_the_lock(on: Root, client: NewClient) -> None:
    """A call that never comes back keeps nobody from changing the same GPU."""
    create = "nvmlDeviceCreateGpuInstanceWithPlacement"
    on.set_faults([{"function": create, "minor": 0, "hang": True}])
    stuck, free = client(on), client(on)
    stuck.ask("create", 0, SMALL, 0, 1)
    while create not in on.calls():
        time.sleep(0.001)
    device = on.create_mig(0, "1g.10gb", start=0)
    assert free("destroy compute", 0, device.gi, device.ci) == SUCCESS
    assert free("destroy", 0, device.gi) == SUCCESS
    stuck.kill()
    assert on.gpu_instances(0) == {}


def test_a_fault_strikes_before_the_work_or_after(on: Root, client: NewClient) -> None:
    one = client(on)
    create = {"function": "nvmlDeviceCreateGpuInstanceWithPlacement", "code": "GPU_IS_LOST", "times": 1}
    on.set_faults([create])
    assert one("create", 0, SMALL, 0, 1) == error(LOST)
    assert on.gpu_instances(0) == {}
    on.set_faults([{**create, "when": "after"}])
    assert one("create", 0, SMALL, 0, 1) == error(LOST)
    assert on.gpu_instances(0) == {7: (0, 1)}


def test_realistic_delays_reach_every_change(on: Root, client: NewClient) -> None:
    assert {fault["function"].rstrip("*") for fault in realistic_delays()} == {
        "nvmlDeviceCreateGpuInstance",
        "nvmlGpuInstanceCreateComputeInstance",
        "nvmlComputeInstanceDestroy",
        "nvmlGpuInstanceDestroy",
        "nvmlDeviceSetMigMode",
    }
    on.delay_realistically()
    one = client(on)
    gi = one("create", 0, SMALL, 0, 1)
    assert one("create compute", 0, gi, 0) == 0


def test_what_a_kill_left_half_done_shows_nothing_and_goes(on: Root, client: NewClient) -> None:
    """Nodes without their instance: a program died between making them and saying so."""
    device = on.create_mig(0, "1g.10gb", start=0)
    folder = on.procfs / "driver/nvidia/capabilities/gpu0/mig/gi9/ci0"
    folder.mkdir(parents=True)
    for node in (on.capability_node(0, 9), on.capability_node(0, 9, 0)):
        node.touch()
    one = client(on)
    assert [told[2] for told in one("devices", 0)] == [device.uuid]
    on.destroy_mig(device)
    assert list((on.root / "dev/nvidia-caps").iterdir()) == []
    assert not folder.parent.exists()


def test_an_administrator_repartitions(on: Root, client: NewClient) -> None:
    one = client(on)
    devices = [on.create_mig(0, "3g.40gb", start=4), on.create_mig(0, THREE, start=0)]
    assert on.mig_devices() == sorted(devices, key=lambda device: device.gi)
    assert smi(on, "mig", "-lgi").splitlines()[1:] == [
        "0    MIG 3g.40gb       profile  9, instance  1, placement 0:4",
        "0    MIG 3g.40gb       profile  9, instance  2, placement 4:4",
    ]
    assert "0/2 free" in smi(on, "mig", "-i", "0", "-lgip")
    assert smi(on, "-i", "0", "--query-gpu=mig.mode.current", "--format=csv,noheader") == "Enabled\n"
    for device in devices:
        on.destroy_mig(device)
    assert one("devices", 0) == []
    with pytest.raises(MigError, match=r"no profile .9g."):
        on.create_mig(0, "9g")
    with pytest.raises(MigError, match="Invalid Argument"):
        on.create_mig(0, "3g.40gb", start=1)
    on.set_mig_mode(0, on=False)
    assert one("mode", 0) == [0, 0]
    on.set_mig_mode(0, on=True)
    on.create_mig(0, ALL)
    with pytest.raises(MigError, match="In use by another client"):
        on.set_mig_mode(0, on=False)
    on.remove_gpu(0)
    on.add_gpu(0)
    assert on.mig_devices() == []


def test_a_mode_change_before_hopper_waits_for_a_reset(tmp_path: Path, client: NewClient) -> None:
    root = lay_out(tmp_path / "root", "a100x8", device_files="regular")
    one = client(root)
    assert one("set mode", 3, 1) == RESET_REQUIRED
    assert (one("mode", 3), root.mig_mode(3)) == ([0, 1], (False, True))
    assert one("create", 3, SMALL, 0, 1) == error(UNSUPPORTED)
    root.reset_gpu(3)
    assert one("mode", 3) == [1, 1]
    root.set_mig_mode(4, on=True)  # an administrator resets it too
    assert one("mode", 4) == [1, 1]


def test_a_handle_of_what_is_gone_is_invalid(on: Root, client: NewClient) -> None:
    device = on.create_mig(0, "1g.10gb", start=0)
    one = client(on)
    assert one("about", device.uuid)["multiprocessorCount"] == 16
    on.destroy_mig(device)
    assert one("about", device.uuid) == error(NOT_FOUND)
    again = on.create_mig(0, "1g.10gb", start=0)
    assert again == device


def test_events_block_and_fire(on: Root, client: NewClient) -> None:
    one = client(on)
    on.fire_event(2, "xid", 13)  # before anybody listens
    assert one("listen", 2, XID) == 0
    assert one("listen", 0, XID | 1) == 0
    assert one("wait", 0) == error(TIMED_OUT)
    one.ask("wait", 60_000)
    on.fire_event(3, "xid", 48)  # nobody listens to that GPU
    on.fire_event(2, "single-bit-ecc")  # nor to this there
    on.fire_event(2, "xid", 79)
    assert one.answer() == [2, XID, 79, WHOLE, WHOLE]
    on.fire_event(0, "single-bit-ecc")
    on.fire_event(0, "xid", 94, gi=7, ci=0)
    assert one("wait", 60_000) == [0, 1, 0, WHOLE, WHOLE]
    assert one("wait", 60_000) == [0, XID, 94, 7, 0]
    assert one("listen", 0, 1 << 60) == error(UNSUPPORTED)
    on.set_faults([{"function": "nvmlEventSetWait*", "code": "GPU_IS_LOST", "times": 1}])
    assert one("wait", 60_000) == error(LOST)
    assert one("wait", 10) == error(TIMED_OUT)
    assert one("free set") is None


def test_a_set_dies_with_its_session(root: Root, client: NewClient) -> None:
    one = client(root)
    assert one("listen", 0, XID) == 0
    assert one("reopen") == 0
    assert one("wait", 10) == error(INVALID)


@pytest.mark.parametrize("name", PORTRAITS)
def test_fabric(name: str, tmp_path: Path, client: NewClient) -> None:
    root = lay_out(tmp_path / "root", name, device_files="regular")
    told = client(root)("fabric", root.portrait.gpus[0].minor)
    fabric = json.loads(root.portrait.text).get("fabric")
    if fabric is None:
        assert told == error(UNSUPPORTED)
    else:
        uuid = fabric["cluster_uuid"][0].replace("-", "")
        assert told == [uuid, *(fabric[key][0] for key in ("clique_id", "state", "status", "health_summary"))]
