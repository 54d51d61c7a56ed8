"""Helm, built once and kept like the cluster's other programs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.chart.rendering import Helm
from tests.cluster.harness import programs


@pytest.fixture(scope="session")
def helm_program() -> Path:
    return programs.built(programs.HELM)[programs.HELM] / "helm"


@pytest.fixture(scope="session")
def helm(helm_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    return Helm(helm_program, tmp_path_factory.mktemp("chart"))
