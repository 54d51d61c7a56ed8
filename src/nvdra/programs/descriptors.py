"""Raises the limit of open files, before anything is opened."""

from __future__ import annotations

import resource

# Enough for every claim of a node at once. A higher limit slows down programs that close all possible descriptors.
WANTED = 65_536
# Below this limit a burst of claims may exhaust the descriptors. The network listeners take at most 48.
NEEDED = 512


def raise_limit() -> int:
    """Raise the process's soft limit of open files, as Go programs do at their start. Returns the new limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return WANTED
    most = WANTED if hard == resource.RLIM_INFINITY else min(hard, WANTED)
    if soft >= most:
        return soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most
