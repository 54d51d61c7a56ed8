"""For every test here: properties are judged by what they find, never by how long a busy machine takes to look."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("here")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--crash-sample",
        type=int,
        default=4,
        metavar="N",
        help="crash suites run one death in N, spread evenly over all stories; 1 runs every death (make crash-test)",
    )
