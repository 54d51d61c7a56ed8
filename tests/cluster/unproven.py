"""The mark of scenarios that have not passed on a real cluster yet."""

from __future__ import annotations

import os

import pytest

UNPROVEN = pytest.mark.skipif(
    not os.environ.get("NVDRA_CLUSTER_UNPROVEN"),
    reason="has not passed on a real cluster yet: NVDRA_CLUSTER_UNPROVEN=1 runs it",
)
