"""The limit of open files, raised before anything is opened."""

from __future__ import annotations

import resource

# Enough for every claim of a node at once; more would only make programs slow that go through all possible ones.
WANTED = 65_536
# Below this a burst of claims may need more than there are. The listeners on the network take at most 48.
NEEDED = 512


def raise_limit() -> int:
    """Raise the process's soft limit of open files, as Go programs do at their start; the limit that holds now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return WANTED
    most = WANTED if hard == resource.RLIM_INFINITY else min(hard, WANTED)
    if soft >= most:
        return soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most
