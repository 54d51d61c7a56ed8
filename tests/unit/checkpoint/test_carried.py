"""What this release does not build or does not know goes through it unharmed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nvdra.checkpoint import Checkpoint, Unsupported, decode, encode
from tests.twins import checkpoint as twin
from tests.unit.checkpoint.files import BOOT, answer, gpu, group, mig, mirrored, second, signed

CONCRETE = {"parentMinor": 1, "giId": 2, "ciId": 0, "migUUID": "MIG-1", "parentUUID": "GPU-1"}
VFIO = {
    "info": {"uuid": "v-1", "pciBusID": "0000:01:00.0"},
    "device": answer(Metadata={"Attributes": {"a": {"int": 1}}, "NetworkData": None}),
}
OLD_MIG = group(mig(info={"uuid": "MIG-2", "index": "0"}))
UNSUPPORTED = {
    "MIG before v25.12": (OLD_MIG, {"mig"}, "MIG-2"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_kinds_not_built_here_are_carried_verbatim_and_named(name: str) -> None:
    written, kinds, uuid = UNSUPPORTED[name]
    content = mirrored(second([written]))
    checkpoint = decode(content)
    unsupported = checkpoint.entries["c1"].prepared
    assert isinstance(unsupported, Unsupported)
    assert unsupported.kinds == kinds
    assert unsupported.prepared_devices == twin.text([written]).encode()
    [device] = unsupported.devices
    assert device.uuid == uuid
    assert unsupported.device_names == (device.device,)
    assert device.cdi_ids
    assert encode(checkpoint) == content


def test_a_claim_with_one_foreign_group_is_foreign_as_a_whole() -> None:
    content = mirrored(second([group(gpu()), OLD_MIG]))
    unsupported = decode(content).entries["c1"].prepared
    assert isinstance(unsupported, Unsupported)
    assert unsupported.device_names == ("gpu-0", "gpu-1-mig-1g12gb-19-0")
    assert encode(decode(content)) == content


def test_a_foreign_group_without_daemon_id_gets_the_empty_one_that_releases_check_by() -> None:
    without = {"devices": OLD_MIG["devices"], "configState": {"timeSliceApplied": True}}
    unsupported = decode(signed({}, second([without]))).entries["c1"].prepared
    assert isinstance(unsupported, Unsupported)
    assert json.loads(unsupported.prepared_devices) == [group(*OLD_MIG["devices"], timeSliceApplied=True)]


@pytest.mark.parametrize(
    "odd",
    [
        *({key: None} for key in CONCRETE),
        *({"giId": number} for number in (-1, 1.5, 1 << 32, "1", {})),
        {"parentUUID": 1},
        {"parentPCIBusID": 1},
    ],
)
def test_a_mig_device_whose_place_is_not_wholly_said_is_foreign(odd: dict[str, Any]) -> None:
    """Read as zero, a missing id would have another partition destroyed."""
    content = mirrored(second([group(mig(concrete=CONCRETE | odd))]))
    checkpoint = decode(content)
    unsupported = checkpoint.entries["c1"].prepared
    assert isinstance(unsupported, Unsupported)
    assert unsupported.kinds == {"mig"}
    assert encode(checkpoint) == content


@pytest.mark.parametrize(
    "written",
    [
        group(gpu(), computeMode="X"),
        group(gpu()) | {"later": {"b": 1.50, "a": None}},
        group(gpu(NewID="x")),
        group(gpu() | {"cpu": None}),
        group(gpu(), mpsApplied=False),
        group(gpu(), mpsApplied=True),
        group(mig(concrete=CONCRETE) | {"new": [1.50]}, mpsControlDaemonID="x"),
        group(gpu(Requests=None)),
        group(mig(concrete=CONCRETE | {"later": [1.50]})),
        group(mig(concrete=CONCRETE | {"parentPCIBusID": ""})),
        group(mig(info={"uuid": "MIG-1"}, concrete=CONCRETE)),
    ],
)
def test_keys_of_a_group_that_are_not_known_are_written_again(written: dict[str, Any]) -> None:
    content = mirrored(second([written]))
    checkpoint = decode(content)
    [read] = checkpoint.entries["c1"].prepared  # type: ignore[misc]
    assert read.devices[0].uuid == ("GPU-0" if read.devices[0].mig is None else "MIG-1")
    assert read.verbatim == twin.text(written).encode()
    assert encode(checkpoint) == content


def test_keys_of_an_entry_that_are_not_known_are_written_again() -> None:
    content = mirrored(second([group(gpu())], name="n", namespace="ns", later={"x": [1.0]}, more="<"))
    checkpoint = decode(content)
    assert checkpoint.entries["c1"].unknown == b'"later":{"x":[1.0]},"more":"\\u003c"'
    assert encode(checkpoint) == content


def test_keys_of_a_status_that_are_not_known_are_written_again() -> None:
    claim = {"checkpointState": "PrepareStarted", "status": {"later": {"z": 1, "a": 2}}}
    content = signed({}, {"preparedClaims": {"c1": claim}})
    assert encode(decode(content)) == content


def test_keys_outside_entries_that_are_not_known_are_named() -> None:
    content = signed({}, {"preparedClaims": {}, "nodeBootID": BOOT, "later": 1})
    assert decode(content[:-1] + b',"v3":{},"note":"x"}') == Checkpoint(BOOT, left_out=("v3", "note", "v2.later"))
