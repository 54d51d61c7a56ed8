"""The node whose GPUs are partitioned."""

from __future__ import annotations

import pytest
from nvdra_mock_nvml import Root, lay_out


@pytest.fixture
def root(tmp_path) -> Root:
    """Eight H100, MIG on for the first two."""
    laid = lay_out(tmp_path / "root", "h100x8", device_files="regular")
    for minor in (0, 1):
        laid.set_mig_mode(minor, on=True)
    laid.count_calls()
    return laid
