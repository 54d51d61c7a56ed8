"""One suite over mock nodes and a real GPU: `nvdra.nvml` says exactly what NVIDIA's own binding says.

NVDRA_TEST_NVML_LIBRARY   the library of a real driver, where it is not in one of the usual places
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from nvdra_mock_nvml import lay_out

from nvdra import nvml
from tests.contract.clocks import LoopClock, until
from tests.contract.nvml_node import is_loaded, open_device_nodes, oracle, plain, real_library


@pytest.fixture(params=["h200x1", "h100x8", "a100x8", "gpus16", pytest.param("real", marks=pytest.mark.gpu)])
def library(request, tmp_path) -> Path:
    if request.param != "real":
        return lay_out(tmp_path / "root", request.param, device_files="regular").library.resolve()
    found = real_library()
    if found is None:
        pytest.skip("no NVIDIA driver on this machine")
    return found


def session(library: Path, **options: Any) -> nvml.Nvml:
    return nvml.Nvml(lambda: str(library), LoopClock(), **options)


async def test_every_value_is_nvidias(library):
    held = session(library)
    scan = plain(await held.scan())
    await held.close()
    said = oracle(library)
    assert scan.keys() == said.keys()
    for ours, theirs in zip(scan["gpus"], said["gpus"], strict=True):
        assert ours == theirs
    assert scan == said
    assert scan["gpus"], "a walk over no GPU compares nothing"


async def test_a_node_with_a_lost_gpu_is_read_as_nvidias_binding_reads_it(tmp_path):
    root = lay_out(tmp_path / "root", "h100x8", device_files="regular")
    root.set_faults([{"minor": 2, "lost": True}, {"function": "nvmlDeviceGetUUID", "minor": 5, "code": 999}])
    scan = plain(await session(root.library.resolve()).scan())
    assert [left["code"] for left in scan["left_out"]] == [15, 999]
    assert scan == oracle(root.library.resolve())


async def test_no_device_node_is_open_once_the_lease_ran_out(library):
    held = session(library, idle_s=0.05)
    before = open_device_nodes()
    async with held.hold("a look at what is open"):
        first = await held.scan()
        during = open_device_nodes()
        assert is_loaded(library)
    await until(lambda: not held.is_open)
    assert during != before, "an open session holds the device nodes"
    assert open_device_nodes() == before
    assert not is_loaded(library), "its memory is given back"
    assert await held.scan() == first, "and it opens again"
    await held.close()
    assert open_device_nodes() == before


async def test_calls_are_counted(tmp_path):
    root = lay_out(tmp_path / "root", "h100x8", device_files="regular")
    root.count_calls()
    held = session(root.library.resolve())
    before = nvml.calls()
    assert before == nvml.calls()
    await held.scan()
    await held.close()
    assert nvml.calls() - before == sum(root.calls().values())
