"""What is read of the NVLink fabric: through the mock NVML, as the plugin reads it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from nvdra_mock_nvml import Root, lay_out

from nvdra._nvml import Library, NvmlError, read_fabric

CLUSTER = UUID("7b1f0f52-3f0c-4c5e-9d7e-2c9b1f6a8e01")


@contextmanager
def opened(root: Root) -> Iterator[Library]:
    library = Library(str(root.library.resolve()))
    library.init()
    try:
        yield library
    finally:
        library.shutdown()
        library.unload()


def laid(folder: Path, portrait: str, **layout: Any) -> Root:
    return lay_out(folder / "root", portrait, device_files="regular", **layout)


@pytest.mark.parametrize("without", [(), ("nvmlDeviceGetGpuFabricInfo",)])
def test_each_gpu_tells_its_clique(tmp_path: Path, without: tuple[str, ...]) -> None:
    root = laid(tmp_path, "gb200x4", without=without)
    with opened(root) as library:
        version, gpus = read_fabric(library)
    assert version == root.driver_version
    assert [gpu[0] for gpu in gpus] == [0, 1, 2, 3]
    assert {gpu[2:] for gpu in gpus} == {(0, "", CLUSTER.bytes, 0, 32766, 3)}


def test_a_library_or_node_without_fabric_does_not_support_it(tmp_path: Path) -> None:
    both = ("nvmlDeviceGetGpuFabricInfo", "nvmlDeviceGetGpuFabricInfoV")
    for name, root in (
        ("old", laid(tmp_path / "a", "gb200x4", without=both)),
        ("none", laid(tmp_path / "b", "h100x8")),
    ):
        with opened(root) as library:
            assert {gpu[2] for gpu in read_fabric(library)[1]} == {3}, name


def test_a_fabric_changes_while_a_session_is_open(tmp_path: Path) -> None:
    root = laid(tmp_path, "gb200x4")
    with opened(root) as library:
        root.set_fabric({"minor": 1, "state": 2}, {"status": 5, "clique_id": 7})
        assert sorted(gpu[5:] for gpu in read_fabric(library)[1]) == [(0, 32766, 2), (5, 7, 3), (5, 7, 3), (5, 7, 3)]
        root.set_fabric()
        assert {gpu[5:] for gpu in read_fabric(library)[1]} == {(0, 32766, 3)}


def test_a_refusal_of_one_gpu_is_told_with_it(tmp_path: Path) -> None:
    root = laid(tmp_path, "gb200x4")
    with opened(root) as library:
        root.set_faults([{"function": "nvmlDeviceGetGpuFabricInfo", "minor": 2, "code": "UNKNOWN"}])
        assert sorted(gpu[2] for gpu in read_fabric(library)[1]) == [0, 0, 0, 999]
        root.set_faults([{"function": "nvmlDeviceGetUUID", "minor": 2, "code": "GPU_IS_LOST"}])
        with pytest.raises(NvmlError):
            read_fabric(library)
