"""Desired ResourceSlices: layouts, the API server's limits, the difference to what is stored. Driver-neutral."""

from nvdra.slices.layouts import COUNTERS_SINCE, Layout, layout_for, minor_version, specs_for, uncounted, wanted
from nvdra.slices.limits import NEWEST_MINOR, device_problems, slice_problems
from nvdra.slices.pool import (
    Changes,
    Create,
    Delete,
    Dropped,
    Pool,
    SliceSpec,
    Update,
    changes,
    dropped,
    owned,
    spec_of,
    stored_order,
)

__all__ = [
    "COUNTERS_SINCE",
    "NEWEST_MINOR",
    "Changes",
    "Create",
    "Delete",
    "Dropped",
    "Layout",
    "Pool",
    "SliceSpec",
    "Update",
    "changes",
    "device_problems",
    "dropped",
    "layout_for",
    "minor_version",
    "owned",
    "slice_problems",
    "spec_of",
    "specs_for",
    "stored_order",
    "uncounted",
    "wanted",
]
