"""One sweep over a node in which something is wrong: the rest is read all the same."""

from __future__ import annotations

import asyncio
import json

import pytest
from nvdra_mock_nvml import Root, lay_out, load

from nvdra.gpu.scan import LeftOut, NodeScan
from nvdra.nvml import DriverAbsent, Nvml, NvmlHung
from tests.contract.clocks import LoopClock, StandingClock, until


@pytest.fixture
def root(tmp_path) -> Root:
    laid = lay_out(tmp_path / "root", "h100x8", device_files="regular")
    laid.count_calls()
    return laid


def session(root: Root, **options: float) -> Nvml:
    return Nvml(lambda: str(root.library.resolve()), LoopClock(), **options)


def minors(scan: NodeScan) -> list[int]:
    return [gpu.minor for gpu in scan.gpus]


def without(scan: NodeScan, *gone: int) -> tuple[object, ...]:
    """What a scan says of all GPUs but these."""

    def keep(pairs: dict[tuple[int, int], int]) -> dict[tuple[int, int], int]:
        return {pair: value for pair, value in pairs.items() if not set(pair) & set(gone)}

    gpus = tuple(gpu for gpu in scan.gpus if gpu.index not in gone)
    return scan.driver_version, gpus, keep(scan.common_ancestor), keep(scan.p2p)


async def test_a_node_without_gpus_is_a_node(tmp_path):
    root = lay_out(tmp_path / "root", "h100x8", device_files="regular", gpus=[])
    scan = await session(root).scan()
    assert (scan.gpus, scan.left_out) == ((), ())
    assert scan.driver_version == root.driver_version


async def test_minors_are_not_indices(tmp_path):
    root = lay_out(tmp_path / "root", "h100x8", device_files="regular", gpus=[1, 4, 6])
    scan = await session(root).scan()
    assert [gpu.index for gpu in scan.gpus] == [0, 1, 2]
    assert sorted(minors(scan)) == [1, 4, 6]
    assert set(scan.common_ancestor) == {(0, 1), (0, 2), (1, 2)}
    assert set(scan.p2p) == {(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)}


@pytest.mark.parametrize(
    ("function", "code", "knows"),
    [
        ("nvmlDeviceGetHandleByIndex_v2", 15, (False, False)),
        ("nvmlDeviceGetName", 999, (False, False)),
        ("nvmlDeviceGetMinorNumber", 3, (False, False)),
        ("nvmlDeviceGetUUID", 999, (True, False)),
        ("nvmlDeviceGetMigMode", 999, (True, True)),
        ("nvmlDeviceGetMemoryInfo", 999, (True, True)),
        ("nvmlDeviceGetArchitecture", 3, (True, True)),
        ("nvmlDeviceGetBrand", 3, (True, True)),
        ("nvmlDeviceGetCudaComputeCapability", 3, (True, True)),
        ("nvmlDeviceGetPciInfo_v3", 3, (True, True)),
        ("nvmlDeviceGetAddressingMode", 999, (True, True)),
        ("nvmlDeviceGetNumaNodeId", 15, (True, True)),
        ("nvmlDeviceGetCpuAffinity", 15, (True, True)),
        ("nvmlDeviceGetNvLinkState", 15, (True, True)),
        ("nvmlDeviceGetNvLinkRemotePciInfo_v2", 15, (True, True)),
        ("nvmlDeviceGetNvLinkRemoteDeviceType", 15, (True, True)),
    ],
)
async def test_a_gpu_that_refuses_is_left_out_with_the_reason(root, function, code, knows):
    held = session(root)
    whole = await held.scan()
    root.set_faults([{"function": function, "minor": 3, "code": code}])
    scan = await held.scan()
    gone = next(gpu for gpu in whole.gpus if gpu.minor == 3)
    (left,) = scan.left_out
    assert (left.index, left.function, left.code) == (gone.index, function, code)
    assert left.text
    assert (left.minor, left.uuid) == (gone.minor if knows[0] else None, gone.uuid if knows[1] else None)
    assert without(scan) == without(whole, gone.index)
    root.clear_faults()
    assert await held.scan() == whole


@pytest.mark.parametrize(
    ("function", "code", "changes"),
    [
        ("nvmlDeviceGetMigMode", 3, {"mig_mode": None}),
        ("nvmlDeviceGetMemoryInfo", 3, {"memory_bytes": None}),
        ("nvmlDeviceGetAddressingMode", 3, {"addressing_mode": None}),
        ("nvmlDeviceGetCpuAffinity", 999, {"cpu_affinity": ()}),
        ("nvmlDeviceGetMemoryAffinity", 999, {"memory_affinity": ()}),
        ("nvmlDeviceGetVirtualizationMode", 999, {"virtualization_mode": None}),
        ("nvmlDeviceGetPersistenceMode", 999, {"persistence_mode": None}),
        ("nvmlDeviceGetModuleId", 999, {"module_id": None}),
        ("nvmlDeviceGetNvLinkState", 999, {"nvlinks": ()}),
    ],
)
async def test_what_a_gpu_can_be_published_without_is_unknown(root, function, code, changes):
    held = session(root)
    whole = await held.scan()
    root.set_faults([{"function": function, "minor": 3, "code": code}])
    scan = await held.scan()
    assert scan.left_out == ()
    for before, after in zip(whole.gpus, scan.gpus, strict=True):
        differing = {name for name in before.__slots__ if getattr(before, name) != getattr(after, name)}
        assert differing == (set(changes) if before.minor == 3 else set())
        assert all(getattr(after, name) == value for name, value in changes.items() if before.minor == 3)


async def test_a_far_end_that_is_not_told_is_unknown(root):
    root.set_faults([{"function": "nvmlDeviceGetNvLinkRemote*", "minor": 3, "code": 999}])
    scan = await session(root).scan()
    unknown = {gpu.minor: {(link.remote_pci_bus_id, link.remote_type) for link in gpu.nvlinks} for gpu in scan.gpus}
    assert unknown[3] == {(None, None)}
    assert None not in {remote for remote, _ in unknown[2]}


async def test_a_pair_that_refuses_is_unknown(root):
    root.set_faults([{"function": "nvmlDeviceGetP2PStatus", "minor": 3, "code": 999}])
    scan = await session(root).scan()
    index = next(gpu.index for gpu in scan.gpus if gpu.minor == 3)
    assert len(scan.gpus) == 8
    assert len(scan.common_ancestor) == 28
    assert {pair for pair in scan.p2p if index in pair} == set()
    assert len(scan.p2p) == 7 * 6


async def test_an_older_library_is_called_by_its_older_names(root, tmp_path):
    older = ["nvmlDeviceGetCount_v2", "nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetNvLinkRemotePciInfo_v2"]
    older += ["nvmlDeviceGetPciInfo_v3", "nvmlDeviceGetPciInfo_v2"]
    old = lay_out(tmp_path / "old", "h100x8", device_files="regular", without=older)
    assert await session(old).scan() == await session(root).scan()


async def test_an_older_library_without_the_optional_functions_leaves_them_unknown(tmp_path):
    optional = ["nvmlDeviceGetMigMode", "nvmlDeviceGetAddressingMode", "nvmlDeviceGetNumaNodeId"]
    optional += ["nvmlDeviceGetMemoryAffinity", "nvmlDeviceGetP2PStatus", "nvmlDeviceGetNvLinkState"]
    old = lay_out(tmp_path / "old", "h100x8", device_files="regular", without=optional)
    scan = await session(old).scan()
    assert len(scan.gpus) == 8
    assert {(gpu.mig_mode, gpu.addressing_mode, gpu.numa_node, gpu.nvlinks) for gpu in scan.gpus} == {
        (None, None, None, ())
    }
    assert scan.p2p == {}


async def test_a_library_too_old_to_tell_a_gpu_says_which_function_it_lacks(tmp_path):
    old = lay_out(tmp_path / "old", "h200x1", device_files="regular", without=["nvmlDeviceGetArchitecture"])
    scan = await session(old).scan()
    assert scan.gpus == ()
    (left,) = scan.left_out
    assert (left.function, left.code, left.text) == (
        "nvmlDeviceGetArchitecture",
        13,
        "the library has no such function",
    )


async def test_a_library_too_old_to_tell_a_node_is_no_driver(tmp_path):
    counts = ["nvmlDeviceGetCount_v2", "nvmlDeviceGetCount"]
    old = lay_out(tmp_path / "old", "h200x1", device_files="regular", without=counts)
    with pytest.raises(DriverAbsent, match="too old: it lacks nvmlDeviceGetCount_v2"):
        await session(old).scan()


@pytest.mark.parametrize("name", ["DGX Display", "NVIDIA DGX Display"])
async def test_a_display_is_skipped_and_keeps_its_index(tmp_path, name):
    portrait = json.loads(load("h100x8").text)
    portrait["models"]["display"] = {**portrait["models"]["h100"], "name": [name, "documented"]}
    portrait["gpus"][2]["model"] = "display"
    file = tmp_path / "station.json"
    file.write_text(json.dumps(portrait))
    scan = await session(lay_out(tmp_path / "root", str(file), device_files="regular")).scan()
    assert [gpu.index for gpu in scan.gpus] == [0, 1, 3, 4, 5, 6, 7]
    assert scan.left_out == ()
    assert not [pair for pair in (*scan.common_ancestor, *scan.p2p) if 2 in pair]


def left(scan: NodeScan) -> list[tuple[int | None, str, int]]:
    return [(gone.minor, gone.function, gone.code) for gone in scan.left_out]


class Standing:
    """A session on a node whose time stands: a call hangs when the test says so, however slow the machine is."""

    def __init__(self, root: Root) -> None:
        self.root = root
        self.clock = StandingClock()
        self.session = Nvml(lambda: str(root.library.resolve()), self.clock)

    def calls(self, function: str) -> int:
        return self.root.calls().get(function, 0)

    async def scan(self, hanging: str, calls: int) -> NodeScan:
        """A scan that stands still in a function, at its call of this number from now on."""
        scanning = await self.begin(hanging, calls)
        await self.clock.pass_by(10)
        await self.clock.pass_by(10)  # it stood still all the time: what is left is read without it
        return await scanning

    async def begin(self, hanging: str, calls: int) -> asyncio.Task[NodeScan]:
        before = self.calls(hanging)
        scanning = asyncio.create_task(self.session.scan(timeout_s=10))
        await until(lambda: self.calls(hanging) == before + calls)
        return scanning


@pytest.mark.parametrize(
    ("function", "calls"),
    [("nvmlDeviceGetMemoryInfo", 4), ("nvmlDeviceGetCpuAffinity", 4), ("nvmlDeviceGetNvLinkState", 3 * 18 + 1)],
)
async def test_a_gpu_that_hangs_costs_the_others_nothing(root, function, calls):
    node = Standing(root)
    whole = await node.session.scan()
    gone = whole.gpus[3]
    root.set_faults([{"function": function, "minor": gone.minor, "hang": True}])
    scan = await node.scan(function, calls)
    (marked,) = scan.left_out
    assert marked == LeftOut(3, gone.minor, gone.uuid, function, 10, marked.text)
    assert "did not return" in marked.text
    assert without(scan) == without(whole, 3)

    # While the call hangs nobody asks that GPU again, and nobody waits for it.
    asked = node.calls("nvmlDeviceGetName")
    assert without(await node.session.scan()) == without(whole, 3)
    assert node.calls("nvmlDeviceGetName") - asked == 7


async def test_several_gpus_that_hang_are_given_up_together(root):
    hanging = [{"function": "nvmlDeviceGetBrand", "minor": minor, "hang": True} for minor in (2, 5, 6)]
    root.set_faults([*hanging, {"minor": 7, "lost": True}])
    node = Standing(root)
    scanning = asyncio.create_task(node.scan("nvmlDeviceGetBrand", 3))
    await until(lambda: node.calls("nvmlDeviceGetNvLinkRemoteDeviceType") == 4 * 18)
    await until(lambda: node.clock.waiting == 1)
    await asyncio.sleep(0.2)  # the last calls are out
    await node.clock.pass_by(10)
    scan = await scanning
    assert left(scan) == [
        (2, "nvmlDeviceGetBrand", 10),
        (5, "nvmlDeviceGetBrand", 10),
        (6, "nvmlDeviceGetBrand", 10),
        (None, "nvmlDeviceGetHandleByIndex_v2", 15),
    ]
    assert sorted(minors(scan)) == [0, 1, 3, 4]
    assert len(scan.p2p) == 4 * 3


async def test_a_handle_that_hangs_is_a_gpu_that_hangs(root):
    root.set_faults([{"function": "nvmlDeviceGetHandleByIndex_v2", "minor": 0, "hang": True}])
    scan = await Standing(root).scan("nvmlDeviceGetHandleByIndex_v2", 1)
    assert left(scan) == [(None, "nvmlDeviceGetHandleByIndex_v2", 10)]
    assert len(scan.gpus) == 7


async def test_a_pair_that_hangs_costs_topology_only(root):
    node = Standing(root)
    whole = await node.session.scan()
    root.set_faults([{"function": "nvmlDeviceGetP2PStatus", "minor": whole.gpus[3].minor, "hang": True}])
    scan = await node.scan("nvmlDeviceGetP2PStatus", 5)  # two of (0, 1), two of (0, 2), then (0, 3)
    assert (scan.gpus, scan.left_out) == (whole.gpus, ())
    assert set(scan.p2p) == {(0, 1), (1, 0), (0, 2), (2, 0)}
    again = await node.session.scan()
    assert (again.gpus, again.left_out) == (whole.gpus, ())
    assert {index for pair in again.p2p for index in pair} == {1, 2, 4, 5, 6, 7}, "those who hung are not asked again"


async def test_a_gpu_whose_call_came_back_is_read_again(root):
    node = Standing(root)
    whole = await node.session.scan()
    slow = {"function": "nvmlDeviceGetBrand", "minor": whole.gpus[3].minor, "delay_ms": 2000, "times": 1}
    root.set_faults([slow])
    assert left(await node.scan("nvmlDeviceGetBrand", 4)) == [(whole.gpus[3].minor, "nvmlDeviceGetBrand", 10)]
    with pytest.raises(NvmlHung, match="nvmlDeviceGetBrand has not answered"):
        await node.session.close()
    await node.clock.pass_by(5.1)
    assert node.session.is_open, "the call that hangs keeps the session"
    await until(lambda: node.clock.waiting)  # it comes back, and the idle time starts
    await node.clock.pass_by(5.1)
    await until(lambda: not node.session.is_open)
    assert await node.session.scan() == whole


async def test_a_slow_node_is_not_a_hung_one(root):
    root.set_faults([{"function": "nvmlDeviceGetName", "delay_ms": 50}])
    node = Standing(root)
    scanning = await node.begin("nvmlDeviceGetName", 1)
    for number in range(1, 8):
        await node.clock.pass_by(9)  # 63 s in all, no call longer than 9
        await until(lambda number=number: node.calls("nvmlDeviceGetName") > number)
    scan = await scanning
    assert (len(scan.gpus), scan.left_out) == (8, ())


@pytest.mark.parametrize("function", ["nvmlInitWithFlags", "nvmlSystemGetDriverVersion", "nvmlDeviceGetCount_v2"])
async def test_a_library_that_hangs_is_said_to_and_blocks_nobody(root, function):
    root.set_faults([{"function": function, "hang": True}])
    node = Standing(root)
    with pytest.raises(NvmlHung, match=f"{function} has not answered for 10 s: NVML cannot be used until it does"):
        await node.scan(function, 1)  # that time goes by shows that the event loop runs
    with pytest.raises(NvmlHung, match=function):  # at once, and with no further thread
        await node.session.scan()
    assert node.calls(function) == 1


async def test_a_library_that_came_back_is_used_again(root):
    root.set_faults([{"function": "nvmlInitWithFlags", "delay_ms": 1000, "times": 1}])
    node = Standing(root)
    with pytest.raises(NvmlHung):
        await node.scan("nvmlInitWithFlags", 1)
    await until(lambda: node.clock.waiting)  # it comes back, nobody wants it any more
    assert node.session.is_open
    await node.clock.pass_by(5.1)
    await until(lambda: not node.session.is_open)
    root.clear_faults()
    assert len((await node.session.scan()).gpus) == 8


async def test_a_hang_is_told_by_the_clock_it_was_given(root):
    root.set_faults([{"function": "nvmlDeviceGetBrand", "minor": 3, "hang": True}])
    node = Standing(root)
    scanning = await node.begin("nvmlDeviceGetBrand", 4)
    await node.clock.pass_by(10)
    await node.clock.pass_by(9)
    assert not scanning.done(), "it stood still for 9 s only"
    await node.clock.pass_by(1)
    (gone,) = (await scanning).left_out
    assert gone.minor == 3
    await node.clock.pass_by(120)
    (gone,) = (await node.session.scan()).left_out
    assert gone.text.startswith("given up 120 s ago")
