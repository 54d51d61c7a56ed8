"""Allocation: what kube-scheduler's structured allocator answers for a claim, and why.

The engine is native (`native/alloc`) and compared with the scheduler's own allocator by `make oracle-test`.
"""

from nvdra._core import AllocationError, Cluster, Simulation, simulation_policies
from nvdra.allocation.explanation import Cause, Explanation, NodeVerdict, Relaxation, explanation
from nvdra.allocation.releases import RELEASES, release_of

POLICIES = tuple(simulation_policies())

__all__ = [
    "POLICIES",
    "RELEASES",
    "AllocationError",
    "Cause",
    "Cluster",
    "Explanation",
    "NodeVerdict",
    "Relaxation",
    "Simulation",
    "explanation",
    "release_of",
]
