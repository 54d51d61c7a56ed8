"""nvdra claim explain on a real API server: what it says, against what kube-scheduler does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster.harness.api import Api
from tests.contract.explain_checks import REPOSITORY, check, check_rights
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


def test_the_role_of_the_guide_is_enough(server: tuple[Api, Path], tmp_path: Path) -> None:
    api, kubeconfig = server
    guide = (REPOSITORY / "docs/guide/pending-claims.md").read_text(encoding="utf-8")
    role = yaml.safe_load(guide.split("```yaml\n")[1].split("```")[0])

    def of_reader(token: str) -> Path:
        config = yaml.safe_load(kubeconfig.read_text())
        config["users"][0]["user"] = {"token": token}
        path = tmp_path / "reader.kubeconfig"
        path.write_text(yaml.safe_dump(config))
        return path

    check_rights(api, role, of_reader)
