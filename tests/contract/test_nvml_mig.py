"""MIG over mock nodes and a real GPU that is only read: `nvdra.nvml` says what NVIDIA's own binding says.

NVDRA_TEST_NVML_LIBRARY   the library of a real driver, where it is not in one of the usual places
"""

from __future__ import annotations

from pathlib import Path

import pytest
from nvdra_mock_nvml import Root, lay_out

from nvdra.gpu.scan import GpuScan, MigProfileScan
from nvdra.nvml import INSUFFICIENT_RESOURCES, Nvml, NvmlError
from tests.contract.clocks import LoopClock
from tests.contract.mock_node import smi
from tests.contract.nvml_node import oracle, plain, real_library

PORTRAITS = ["h100x8", "a100x8", "b200x8", "gb200x4", "h200x1"]
SMALL, TWO, THREE = "19", "14", "9"

# Measured on an H200: index, id, slices, SM, CE, decoders, encoders, JPEG, OFA, MiB, size, starts.
H200 = """
0  19  1   16  1  1  0  1  0   16384  1  0,1,2,3,4,5,6
1  14  2   32  2  2  0  2  0   33280  2  0,2,4
2   9  3   60  3  3  0  3  0   71424  4  0,4
3   5  4   64  4  4  0  4  0   71424  4  0
4   0  7  132  8  7  0  7  1  143360  8  0
7  20  1   16  1  1  0  1  1   16384  1  0,1,2,3,4,5,6
9  15  1   26  1  1  0  1  0   33280  2  0,2,4,6
"""


def session(library: Path) -> Nvml:
    return Nvml(lambda: str(library), LoopClock())


def laid(folder: Path, portrait: str) -> Root:
    return lay_out(folder / "root", portrait, device_files="regular")


REAL = pytest.param("real", marks=pytest.mark.gpu)


@pytest.fixture(params=[*PORTRAITS, "recorded-a100x8", REAL])
def library(request, tmp_path) -> Path:
    if request.param != "real":
        return laid(tmp_path, request.param).library.resolve()
    found = real_library()
    if found is None:
        pytest.skip("no NVIDIA driver on this machine")
    return found


@pytest.fixture(params=PORTRAITS)
def root(request, tmp_path) -> Root:
    return laid(tmp_path, request.param)


@pytest.fixture
def partitioned(root: Root) -> Root:
    """MIG on where minors are even: whole partitions, one in two halves, one without anything in it, none at all."""
    minors = sorted(gpu.minor for gpu in root.portrait.gpus)[::2]
    for minor in minors:
        root.set_mig_mode(minor, on=True)
    first, *others = minors
    root.create_mig(first, SMALL, start=6)
    root.create_mig(first, THREE, start=0)
    smi(root, "mig", "-i", str(first), "-cgi", f"{TWO}:4")
    for minor in others[:1]:
        smi(root, "mig", "-i", str(minor), "-cgi", f"{THREE}:4")
        (gi,) = root.gpu_instances(minor)
        smi(root, "mig", "-i", str(minor), "-gi", str(gi), "-cci", "0")
        smi(root, "mig", "-i", str(minor), "-gi", str(gi), "-cci", "1")
    return root


def rows(profiles: tuple[MigProfileScan, ...]) -> list[list[int]]:
    found = []
    for profile in profiles:
        (size,) = {size for _, size in profile.placements}
        engines = (profile.decoders, profile.encoders, profile.jpeg_engines, profile.ofa_engines)
        numbers = (profile.index, profile.profile_id, profile.slices, profile.multiprocessors, profile.copy_engines)
        found.append([*numbers, *engines, profile.memory_mib, size, *(start for start, _ in profile.placements)])
    return found


async def test_how_gpus_can_be_partitioned_is_nvidias_word(library):
    held = session(library)
    scan = await held.scan(profiles=True)
    await held.close()
    assert plain(scan) == oracle(library, "profiles")
    assert scan.gpus, "a walk over no GPU compares nothing"


async def test_partitions_are_nvidias_word(partitioned):
    library = partitioned.library.resolve()
    scan = await session(library).scan()
    assert plain(scan) == oracle(library)
    assert [bool(gpu.mig.profiles) for gpu in scan.gpus] == [gpu.mig_mode == (1, 1) for gpu in scan.gpus]
    told = [
        (gpu.minor, instance.gi_id, compute.ci_id, compute.uuid, instance.profile_id, instance.start, instance.size)
        for gpu in scan.gpus
        for instance in gpu.mig.instances
        for compute in instance.compute
    ]
    made = partitioned.mig_devices()
    assert sorted(told) == sorted((d.minor, d.gi, d.ci, d.uuid, d.profile, d.start, d.size) for d in made)
    seen = {gpu.minor: {i.gi_id: (i.start, i.size) for i in gpu.mig.instances} for gpu in scan.gpus}
    assert seen == {gpu.minor: partitioned.gpu_instances(gpu.minor) for gpu in scan.gpus}, "empty ones too"


async def test_one_gpu_asked_is_the_same_as_one_scanned(partitioned):
    library = partitioned.library.resolve()
    scan = await session(library).scan()
    for fresh in (False, True):
        held = session(library)
        if fresh:
            await held.scan(profiles=True)
        told = [await held.mig(gpu.uuid) for gpu in scan.gpus]
        assert told == [(gpu.mig_mode == (1, 1), gpu.mig.instances) for gpu in scan.gpus]


@pytest.mark.parametrize("library", ["h200x1", REAL], indirect=True)
async def test_a_gpu_with_mig_off_has_no_partitions(library):
    held = session(library)
    gpu = (await held.scan()).gpus[0]
    if gpu.mig_mode is not None and gpu.mig_mode[0] == 1:
        pytest.skip("MIG is on here")
    assert await held.mig(gpu.uuid) == (False, ())
    assert await held.processes(gpu.uuid, 0) == ()
    await held.close()


@pytest.mark.parametrize("library", ["h200x1", REAL], indirect=True)
async def test_an_h200_says_what_was_measured(library):
    scan = await session(library).scan(profiles=True)
    h200s = [gpu for gpu in scan.gpus if gpu.name == "NVIDIA H200"]
    if not h200s:
        pytest.skip("no H200 here")
    measured = [[int(word) for word in line.replace(",", " ").split()] for line in H200.split("\n") if line]
    for gpu in h200s:
        assert rows(gpu.mig.profiles) == measured
    assert sum(len(profile.placements) for profile in h200s[0].mig.profiles) == 25


async def test_gpus_of_one_model_share_one_table(root):
    scan = await session(root.library.resolve()).scan(profiles=True)
    assert len({id(gpu.mig.profiles) for gpu in scan.gpus}) == len({gpu.name for gpu in scan.gpus}) == 1


async def test_every_partition_there_can_be_is_made_and_goes(root):
    library = root.library.resolve()
    held = session(library)
    minor = root.portrait.gpus[0].minor
    root.set_mig_mode(minor, on=True)
    (gpu,) = [gpu for gpu in (await held.scan()).gpus if gpu.minor == minor]
    for profile in gpu.mig.profiles:
        for start, size in profile.placements:
            await made_and_gone(root, held, gpu, profile, start, size)
    assert oracle(library)["gpus"][gpu.index]["mig"]["instances"] == []


async def made_and_gone(root: Root, held: Nvml, gpu: GpuScan, profile: MigProfileScan, start: int, size: int) -> None:
    gi = await held.create_gpu_instance(gpu.uuid, profile.profile_id, start, size)
    compute = await held.create_compute_instance(gpu.uuid, gi, [its.profile_id for its in profile.compute])
    (device,) = root.mig_devices(gpu.minor)
    assert (device.gi, device.ci, device.uuid) == (gi, compute.ci_id, compute.uuid)
    assert (device.profile, device.start, device.size) == (profile.profile_id, start, size)
    is_on, (instance,) = await held.mig(gpu.uuid)
    assert is_on
    assert (instance.gi_id, instance.profile_id, instance.start, instance.size) == (gi, device.profile, start, size)
    assert instance.compute == (compute,)
    with pytest.raises(NvmlError) as full:
        await held.create_compute_instance(gpu.uuid, gi, [0])
    assert full.value.code == INSUFFICIENT_RESOURCES, "it takes the whole GPU instance"
    await held.destroy_compute_instance(gpu.uuid, gi, compute.ci_id)
    await held.destroy_gpu_instance(gpu.uuid, gi)
    assert root.gpu_instances(gpu.minor) == {}
