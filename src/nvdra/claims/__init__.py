"""A ResourceClaim against this node: match, plan, seal."""

from nvdra.claims.held import DRIVER, Allocation, allocation, answers, device_types, withdrawn
from nvdra.claims.outcome import Done, Group, Leave, NotPrepared, Plan, Ready, Refuse, Release, Repair, Sealed
from nvdra.claims.plan import CDI_KIND, plan, recall, seal
from nvdra.claims.reconcile import NOT_FOUND, Answer, Settled, due, nameless, orphans, settle, stale, to_get
from nvdra.claims.release import unprepare

__all__ = [
    "CDI_KIND",
    "DRIVER",
    "NOT_FOUND",
    "Allocation",
    "Answer",
    "Done",
    "Group",
    "Leave",
    "NotPrepared",
    "Plan",
    "Ready",
    "Refuse",
    "Release",
    "Repair",
    "Sealed",
    "Settled",
    "allocation",
    "answers",
    "device_types",
    "due",
    "nameless",
    "orphans",
    "plan",
    "recall",
    "seal",
    "settle",
    "stale",
    "to_get",
    "unprepare",
    "withdrawn",
]
