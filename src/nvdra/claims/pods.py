"""The pods that a claim is reserved for."""

from __future__ import annotations

import json
from functools import lru_cache


@lru_cache(maxsize=256)
def pods(status: bytes) -> tuple[str, ...]:
    """Names of the pods in a claim's status as the checkpoint keeps it; () if it names none.

    Those of the time when the claim was prepared: more pods may share it since.
    """
    try:
        reserved = json.loads(status).get("reservedFor") or ()
        return tuple(str(each["name"]) for each in reserved if each.get("resource") == "pods")
    except (ValueError, KeyError, TypeError, AttributeError):
        return ()
