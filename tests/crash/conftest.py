"""What the tests of this folder have in common: which share of the deaths runs, and a folder in memory."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.sample import Sample

_MEMORY = "/dev/shm"


def _sample(config: pytest.Config) -> Sample:
    return Sample(max(config.getoption("--crash-sample"), 1))


@pytest.fixture
def sample(request: pytest.FixtureRequest) -> Sample:
    return _sample(request.config)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of each test marked as sampled, keep every other one of two neighbouring cases."""
    if _sample(config).is_whole:
        return
    seen: Counter[str] = Counter()
    kept, left_out = [], []
    for item in items:
        case = None
        if item.get_closest_marker("sampled") is not None:
            name = item.nodeid.partition("[")[0]
            case, seen[name] = seen[name], seen[name] + 1
        (kept if case is None or (case + case // 2) % 2 == 0 else left_out).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    sample = _sample(config)
    share = "every death" if sample.is_whole else f"1 death in {sample.step} (make crash-test runs every one)"
    terminalreporter.write_line(f"crash suites: {share}")


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder that is in memory if there is a place: a disk takes milliseconds an fsync."""
    with tempfile.TemporaryDirectory(dir=_MEMORY if os.access(_MEMORY, os.W_OK) else None) as folder:
        yield Path(folder)
