"""Allocation: what kube-scheduler's structured allocator answers for a claim, and why.

The engine is native (`native/alloc`) and compared with the scheduler's own allocator by `make oracle-test`.
"""

from nvdra._core import AllocationError, Cluster
from nvdra.allocation.explanation import Cause, Explanation, NodeVerdict, Relaxation, explanation
from nvdra.allocation.releases import RELEASES, release_of

__all__ = [
    "RELEASES",
    "AllocationError",
    "Cause",
    "Cluster",
    "Explanation",
    "NodeVerdict",
    "Relaxation",
    "explanation",
    "release_of",
]
