"""The frame of `claims` and `node` serves any driver: it names no hardware, and import contracts cover all of it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[3]
SOURCES = ROOT / "src/nvdra"

# Words of one driver or another, also inside identifiers. "partition" but for str.partition and Kubernetes' gate
# DRAPartitionableDevices.
WORDS = re.compile(
    r"gpu|nvml|nvidia|cuda|vfio|imex|compute.?domain|time.?slic|(?<![a-z])(mig|mps)(?![a-z])|(?<![.r])partition(?!able)",
    re.IGNORECASE,
)


def neutral() -> Iterator[Path]:
    yield from (SOURCES / "claims").glob("**/*.py")
    yield from (SOURCES / "node").glob("*.py")


def test_no_module_of_the_frame_speaks_of_a_drivers_hardware() -> None:
    found = [
        f"{path.relative_to(SOURCES)}:{number}: {line.strip()}"
        for path in neutral()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if WORDS.search(line)
    ]
    assert found == []


def test_the_words_are_found_where_they_are() -> None:
    for line in ("dynamic_mig", "a GPU", "NVML", "its partitions", "TimeSlicing", "kind = 'mps'"):
        assert WORDS.search(line), line
    for line in ('text.partition(" ")', 'path.rpartition("/")', "DRAPartitionableDevices", "migrated", "maps"):
        assert not WORDS.search(line), line


def test_the_import_contract_names_every_neutral_module_of_node() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (contract,) = [each for each in contracts if each["name"] == "the neutral node knows no driver"]
    modules = {f"nvdra.node.{path.stem}" for path in (SOURCES / "node").glob("*.py") if path.stem != "__init__"}
    assert set(contract["source_modules"]) == modules
    assert {"nvdra.gpu", "nvdra.node.gpu", "nvdra.nvml"} <= set(contract["forbidden_modules"])
