"""nvdra claim explain beside a whole control plane: the scenarios of a scheduler alone, and the rights of a reader."""

from __future__ import annotations

import pytest
import yaml

from tests.cluster.harness.cluster import Cluster
from tests.contract.explain_checks import REPOSITORY, check, check_rights
from tests.contract.explain_scenarios import Scenario, scenarios

pytestmark = pytest.mark.cluster


@pytest.mark.parametrize("scenario", scenarios(), ids=lambda one: one.name)
def test_the_scheduler_does_what_the_explanation_says(up: Cluster, scenario: Scenario) -> None:
    check(up.api, up.plane.kubeconfig("admin"), scenario)


def test_the_role_of_the_guide_is_enough(up: Cluster) -> None:
    guide = (REPOSITORY / "docs/guide/pending-claims.md").read_text(encoding="utf-8")
    role = yaml.safe_load(guide.split("```yaml\n")[1].split("```")[0])
    check_rights(up.api, role, lambda token: up.plane.kubeconfig("explainer", token))
