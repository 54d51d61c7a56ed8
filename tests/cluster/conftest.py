"""Fixtures of the cluster tests: the cluster that is up, and what its logs say when a test fails."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest

from tests.cluster.harness.cluster import Cluster, cluster
from tests.cluster.harness.control_plane import V1_37, Release
from tests.cluster.harness.driver import Plugin, running
from tests.cluster.harness.seclusion import inside

_durations: list[tuple[str, float]] = []


@pytest.fixture(scope="session", params=[V1_37], ids=lambda release: release.version)
def up(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster of one node; of another release if a test is parametrized with one."""
    release: Release = request.param
    with cluster(release, inside()) as cluster_up:
        yield cluster_up


@pytest.fixture(scope="session")
def plugin(up: Cluster) -> Iterator[Plugin]:
    """The plugin on the cluster's node, with the eight mock GPUs published."""
    with running(up) as plugin:
        yield plugin


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows the end of every component's log."""
    report = yield
    if call.when == "call" and "up" in getattr(item, "funcargs", {}):
        _durations.append((item.name, call.duration))
    if report.failed:
        cluster_up = getattr(item, "funcargs", {}).get("up")
        if cluster_up is not None:
            report.sections.append(("components of the cluster", cluster_up.tails()))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The time of each scenario, before pytest's own last line."""
    terminalreporter.section("seconds per scenario")
    for name, seconds in _durations:
        terminalreporter.write_line(f"{seconds:8.1f}  {name}")
