"""What stands a cluster up in namespaces of its own, and takes it down without a trace."""

import os

import pytest

UNPROVEN = pytest.mark.skipif(
    not os.environ.get("NVDRA_CLUSTER_UNPROVEN"),
    reason="has not passed on a real cluster yet: NVDRA_CLUSTER_UNPROVEN=1 runs it",
)
