"""A ResourceClaim against this node: match, plan, seal."""

from nvdra.claims.held import DRIVER, Allocation, allocation, answers, withdrawn
from nvdra.claims.outcome import Done, Group, Leave, NotPrepared, Plan, Ready, Refuse, Release, Repair, Sealed
from nvdra.claims.plan import CDI_KIND, plan, recall, seal
from nvdra.claims.release import unprepare

__all__ = [
    "CDI_KIND",
    "DRIVER",
    "Allocation",
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
    "allocation",
    "answers",
    "plan",
    "recall",
    "seal",
    "unprepare",
    "withdrawn",
]
