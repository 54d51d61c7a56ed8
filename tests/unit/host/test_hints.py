"""Hints: the same while nothing happens, another as soon as something does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nvdra_mock_nvml as mock
import pytest

from nvdra.host import Hints, Node, driver_root


@pytest.fixture
def laid(tmp_path: Path) -> mock.Root:
    return mock.lay_out(tmp_path / "root", "h100x8")


def hints(laid: mock.Root) -> Hints:
    node = Node()
    environ = {"NVDRA_SYSFS": str(laid.sysfs), "NVDRA_PROCFS": str(laid.procfs)}
    return Hints(node, driver_root(node, str(laid.root), environ))


def install_again(laid: mock.Root) -> None:
    """The same version, another file."""
    file = laid.library.resolve()
    content = file.read_bytes()
    file.rename(file.with_name("old"))
    file.write_bytes(content)


def lose_a_library(laid: mock.Root) -> None:
    next(laid.library.parent.glob("libcuda.so.*.*")).unlink()


def partition(laid: mock.Root) -> None:
    (laid.procfs / "driver/nvidia/capabilities/gpu2/mig/gi1").mkdir()


def load_another_module(laid: mock.Root) -> None:
    (laid.procfs / "driver/nvidia/version").unlink()
    (laid.sysfs / "module/nvidia/version").write_text("1.2.3\n")


def unload(laid: mock.Root) -> None:
    (laid.procfs / "driver/nvidia/version").unlink()
    (laid.sysfs / "module/nvidia/version").unlink()


@pytest.mark.parametrize(
    "change",
    [
        lambda laid: laid.remove_gpu(3),
        lambda laid: laid.replace_driver("590.10.01"),
        lambda laid: laid.library.unlink(),
        install_again,
        lose_a_library,
        partition,
        load_another_module,
        unload,
    ],
    ids=["gpu", "driver", "library", "reinstall", "cuda", "mig", "module", "unload"],
)
def test_a_change_is_noticed(laid: mock.Root, change: Callable[[mock.Root], object]) -> None:
    looker = hints(laid)
    first = looker.look()
    assert looker.look() == first
    assert hash(looker.look()) == hash(first)
    change(laid)
    second = looker.look()
    assert second != first
    assert looker.look() == second


def test_what_is_seen_is_told(laid: mock.Root) -> None:
    seen = hints(laid).look()
    assert seen.library == str(laid.library.resolve())
    assert seen.module == laid.driver_version
    addresses = tuple(sorted(gpu.pci_bus_id for gpu in laid.portrait.gpus))
    assert seen.functions == addresses
    assert seen.bound == addresses
    assert seen.partitions == ()


def test_a_gpu_that_comes_back_is_noticed(laid: mock.Root) -> None:
    looker = hints(laid)
    first = looker.look()
    laid.remove_gpu(3)
    assert looker.look() != first
    laid.add_gpu(3)
    assert looker.look() == first


def test_a_node_without_a_driver_has_hints_too(tmp_path: Path) -> None:
    node = Node()
    environ = {"NVDRA_SYSFS": str(tmp_path / "sys"), "NVDRA_PROCFS": str(tmp_path / "proc")}
    looker = Hints(node, driver_root(node, str(tmp_path), environ))
    first = looker.look()
    assert (first.library, first.library_status, first.module) == (None, None, None)
    assert (first.functions, first.bound, first.partitions) == ((), (), ())
    mock.lay_out(tmp_path / "root", "h200x1")
    assert looker.look() == first
