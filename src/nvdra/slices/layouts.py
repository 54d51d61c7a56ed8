"""The layout of a node's devices in slices: one that its API server accepts, in a stable order.

Order matters, because the scheduler takes the first device that fits. GPUs are sorted by PCI bus id, devices by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Literal

from nvdra.slices.limits import DEVICES, DEVICES_WITH_MORE, NEWEST_MINOR, SETS, is_demanding
from nvdra.slices.pool import SliceSpec

# Source: resource.k8s.io standard attributes (KEP-4381).
PCI_BUS_ID = "resource.kubernetes.io/pciBusID"

SliceDevice = Mapping[str, Any]
CounterSet = Mapping[str, Any]

# single     all devices in one slice, or as few as the limits allow
# combined   a slice per GPU, its devices with their counters: until 1.34 both must be in one
# split      slices of counters, then a slice per GPU: from 1.35 on a slice has one or the other
Layout = Literal["single", "combined", "split"]

COUNTERS_SINCE = 33
_SPLIT_SINCE = 35
_VERSION = re.compile(r"v?(\d+)\.(\d+)", re.ASCII)


def minor_version(git_version: str) -> int:
    """The minor version whose limits apply: 35 for "v1.35.0-vendor"; the newest known if the text is no version.

    A pre-release or a vendor's build has its release's rules (the Go driver takes both for the release before).
    """
    found = _VERSION.match(git_version)
    return int(found[2]) if found is not None and found[1] == "1" else NEWEST_MINOR


def layout_for(*, has_counters: bool, counter_sets: Sequence[CounterSet], minor: int) -> Layout:
    """The layout that suits a server of this minor version.

    has_counters   whether devices may share counters
    """
    if not has_counters:
        return "single"
    return "split" if counter_sets and minor >= _SPLIT_SINCE else "combined"


def uncounted(devices: Iterable[SliceDevice]) -> tuple[SliceDevice, ...]:
    """The devices for an API server without counters: no partitions, which could be allocated beside their full GPU.

    Of a GPU and its twin for virtual machines both stay: the caller withdraws one when a claim has the other.
    """
    kept = (device for device in devices if not device.get("consumesCounters") or _is_gpu(device))
    return tuple({key: device[key] for key in device if key != "consumesCounters"} for device in kept)


def wanted(
    devices: Iterable[SliceDevice],
    layout: Layout = "single",
    withdrawn: frozenset[str] = frozenset(),
    stored_order: Sequence[str] = (),
    counter_sets: Sequence[CounterSet] = (),
) -> tuple[SliceSpec, ...]:
    """The slices that publish these devices; one empty slice if there are none, so that the pool exists.

    withdrawn      names of unpublished devices
    stored_order   names as stored now: kept while none is new (per GPU, where each has its slice), since order is a
                   preference of the scheduler's and a new order a write
    counter_sets   of the GPUs among them that are partitioned on demand, by PCI bus id
    """
    chosen = sorted((device for device in devices if device["name"] not in withdrawn), key=_place)
    made: list[SliceSpec] = []
    match layout:
        case "single":
            made += _device_slices(_as_stored(chosen, stored_order))
        case "combined":
            sets = {str(each["name"]): each for each in counter_sets}
            for own in _by_gpu(chosen):
                made += _combined(_as_stored(own, stored_order), sets)
        case "split":
            made += [SliceSpec(shared_counters=part) for part in _parts(counter_sets, SETS)]
            for own in _by_gpu(chosen):
                made += _device_slices(_as_stored(own, stored_order))
    return tuple(made) or (SliceSpec(),)


def specs_for(
    devices: Iterable[SliceDevice],
    counter_sets: Sequence[CounterSet] = (),
    *,
    has_counters: bool,
    is_counted: bool,
    minor: int,
    withdrawn: frozenset[str] = frozenset(),
    uncounted_withdrawn: frozenset[str] = frozenset(),
    stored_order: Sequence[str] = (),
) -> tuple[SliceSpec, ...]:
    """The slices of a pool for a server of this minor version.

    is_counted   the server keeps counters; without them, devices that share them are left out
    uncounted_withdrawn   names that are unpublished too where it does not
    The rest is as in `layout_for` and `wanted`.
    """
    if counter_sets and not is_counted:
        devices, counter_sets, withdrawn = uncounted(devices), (), withdrawn | uncounted_withdrawn
    layout = layout_for(has_counters=has_counters, counter_sets=counter_sets, minor=minor)
    return wanted(devices, layout, withdrawn, stored_order, counter_sets)


def _combined(devices: Sequence[SliceDevice], sets: Mapping[str, CounterSet]) -> Iterator[SliceSpec]:
    """One GPU's devices, with the counters they consume in the same slice."""
    used = sorted({str(used["counterSet"]) for device in devices for used in device.get("consumesCounters") or ()})
    if not used:
        yield from _device_slices(devices)
        return
    # Servers of this layout have no lower limit for devices with counters, and no GPU has so many partitions.
    yield SliceSpec(tuple(devices), tuple(sets[name] for name in used if name in sets))


def _device_slices(devices: Sequence[SliceDevice]) -> Iterator[SliceSpec]:
    most = DEVICES_WITH_MORE if any(is_demanding(device) for device in devices) else DEVICES
    return (SliceSpec(part) for part in _parts(devices, most))


def _parts(things: Sequence[Mapping[str, Any]], most: int) -> Iterator[tuple[Mapping[str, Any], ...]]:
    return (tuple(things[start : start + most]) for start in range(0, len(things), most))


def _by_gpu(devices: Sequence[SliceDevice]) -> Iterator[list[SliceDevice]]:
    return (list(own) for _, own in groupby(devices, key=_gpu))


def _as_stored(devices: Sequence[SliceDevice], stored_order: Sequence[str]) -> Sequence[SliceDevice]:
    """The devices in the order they are stored in, if all of them are."""
    by_name = {str(device["name"]): device for device in devices}
    stored = [name for name in stored_order if name in by_name]
    return [by_name[name] for name in stored] if len(stored) == len(by_name) else devices


def _gpu(device: SliceDevice) -> str:
    return _attribute(device, PCI_BUS_ID)


def _is_gpu(device: SliceDevice) -> bool:
    return _attribute(device, "type") in ("gpu", "vfio")


def _attribute(device: SliceDevice, name: str) -> str:
    return str((device.get("attributes") or {}).get(name, {}).get("string", ""))


def _place(device: SliceDevice) -> tuple[str, str]:
    return _gpu(device), str(device["name"])
