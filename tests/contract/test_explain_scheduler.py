"""nvdra claim explain on a real API server: what it says, against what kube-scheduler does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.harness.api import Api
from tests.contract.explain_checks import check
from tests.contract.explain_scenarios import Scenario, scenarios
from tests.contract.scheduled import missing, scheduled

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Api, Path]]:
    with scheduled(tmp_path_factory.mktemp("plane") / "plane") as running:
        yield running


@pytest.mark.parametrize("scenario", scenarios(), ids=lambda one: one.name)
def test_the_scheduler_does_what_the_explanation_says(server: tuple[Api, Path], scenario: Scenario) -> None:
    check(*server, scenario)
