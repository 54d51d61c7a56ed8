"""Fixtures of the cluster tests: the cluster that is up, and what its logs say when a test fails."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator

import pytest
from nvdra_mock_nvml import lay_out

from tests.cluster.harness import driver_image
from tests.cluster.harness.cluster import Cluster, cluster
from tests.cluster.harness.control_plane import V1_37, Release
from tests.cluster.harness.driver import PROGRAM, Installed, Plugin, Process
from tests.cluster.harness.helm_release import HelmRelease
from tests.cluster.harness.seclusion import inside

_durations: list[tuple[str, float]] = []


@pytest.fixture(scope="session", params=[V1_37], ids=lambda release: release.version)
def up(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster of one node; of another release if a test is parametrized with one."""
    release: Release = request.param
    with cluster(release, inside()) as cluster_up:
        yield cluster_up


@pytest.fixture(scope="session")
def release(up: Cluster) -> HelmRelease:
    """The chart, installed once on the cluster. On the newest Kubernetes the node has the driver's image too."""
    image = None
    if up.plane.release is V1_37 and PROGRAM not in os.environ:
        image, archive = driver_image.built()
        up.node.import_images(archive)
    release = HelmRelease(up, lay_out(up.folder / "driver", "h100x8"), image)
    release.install()
    return release


@pytest.fixture(scope="session")
def plugin(release: HelmRelease) -> Iterator[Plugin]:
    """The plugin on the cluster's node, with the eight mock GPUs published.

    Installed as users install it; on the oldest Kubernetes, and where another program takes its place, as a process.
    """
    plugin: Plugin = Installed(release) if release.image else Process(release, os.environ.get(PROGRAM, ""))
    plugin.start()
    yield plugin
    plugin.stop()


@pytest.fixture
def installed(plugin: Plugin) -> Installed:
    """The plugin as users install it."""
    if not isinstance(plugin, Installed):
        pytest.skip(f"${PROGRAM} takes the place of what the chart installs")
    return plugin


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
