"""The codec against files that the Go driver's own code wrote, one for each kind of device."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from nvdra.api.claim import decode_status
from nvdra.checkpoint import (
    DOMAIN,
    GPU,
    Checkpoint,
    DomainGroup,
    Entry,
    PreparedChannel,
    PreparedDaemon,
    PreparedDevice,
    PreparedGroup,
    PreparedMig,
    PreparedVfio,
    Schema,
    Unsupported,
    decode,
    encode,
)
from tests.twins import checkpoint as twin

GOLDEN = Path(__file__).parents[2] / "golden" / "checkpoint"
RC2 = "domain-v25.3.0-rc.2"
FILES = sorted(path.stem for path in GOLDEN.glob("*.json") if path.stem != RC2)
EVERY_KIND = GPU
WITHOUT_VFIO = dataclasses.replace(GPU, unsupported=frozenset({"vfio"}))
CLAIM = "00000000-0000-4000-8000-00000000000{}"
DOMAIN_UID = "00000000-0000-4000-8000-00000000d001"


def content(name: str) -> bytes:
    return (GOLDEN / f"{name}.json").read_bytes()


def schemas(name: str) -> tuple[Schema, ...]:
    return (DOMAIN,) if name.startswith("domain") else (WITHOUT_VFIO, EVERY_KIND)


def entry(name: str, number: int, schema: Schema) -> Entry:
    return decode(content(name), schema).entries[CLAIM.format(number)]


def only(prepared: Any) -> tuple[Any, PreparedDevice]:
    [group] = prepared
    [device] = group.devices
    return group, device


def test_there_is_a_file_for_every_kind() -> None:
    kinds = {"gpu-mig", "gpu-mps", "gpu-shares", "gpu-time-slicing", "gpu-vfio"}
    assert set(FILES) >= kinds | {"domain-channel", "domain-daemon", "domain-aborted", "domain-empty"}


@pytest.mark.parametrize("name", FILES)
def test_what_the_go_driver_wrote_is_written_again_byte_for_byte(name: str) -> None:
    for schema in schemas(name):
        assert encode(decode(content(name), schema), schema) == content(name)


@pytest.mark.parametrize("name", FILES)
def test_the_twin_writes_what_the_go_driver_wrote(name: str) -> None:
    """From the fields alone: no group is there that only its own text describes."""
    checkpoint = decode(content(name), schemas(name)[-1])
    groups = [group for one in checkpoint.entries.values() for group in one.prepared]  # type: ignore[union-attr]
    assert all(not group.verbatim for group in groups)
    assert twin.encode(checkpoint) == content(name)


@pytest.mark.parametrize("name", FILES)
def test_an_indented_file_is_the_same_file(name: str) -> None:
    for schema in schemas(name):
        indented = json.dumps(json.loads(content(name)), indent=2).encode()
        assert decode(indented, schema) == decode(content(name), schema)


@pytest.mark.parametrize(("name", "number", "kinds"), [("gpu-vfio", 2, {"vfio"})])
def test_unsupported_kinds_are_carried_and_supported_ones_read(name: str, number: int, kinds: set[str]) -> None:
    carried, read = (entry(name, number, schema).prepared for schema in (WITHOUT_VFIO, EVERY_KIND))
    assert isinstance(carried, Unsupported)
    assert isinstance(read, tuple)
    assert carried.kinds == kinds
    assert carried.devices == tuple(device for group in read for device in group.devices)


def test_an_mps_daemon_serves_a_group() -> None:
    groups = entry("gpu-mps", 2, GPU).prepared
    [group] = groups  # type: ignore[misc]
    assert isinstance(group, PreparedGroup)
    assert group.mps_daemon_id.startswith(CLAIM.format(2) + "-")
    assert [type(device.info) for device in group.devices] == [PreparedMig, PreparedMig]


def test_a_time_slice_is_applied_or_not() -> None:
    applied = [only(entry("gpu-time-slicing", number, GPU).prepared)[0].time_slice_applied for number in (1, 3)]
    assert applied == [True, False]


def test_a_vfio_device_is_a_pci_address() -> None:
    _, device = only(entry("gpu-vfio", 1, EVERY_KIND).prepared)
    assert device.info == PreparedVfio("403f902d-fd43-5185-a4bb-21b64c0f5e36", "0000:03:00.0")
    assert (device.type, device.uuid, device.mig) == ("vfio", "403f902d-fd43-5185-a4bb-21b64c0f5e36", None)
    _, told = only(entry("gpu-vfio", 3, EVERY_KIND).prepared)
    assert json.loads(told.metadata)["Attributes"]["type"] == {"string": "vfio"}
    _, older = only(entry("gpu-vfio", 4, EVERY_KIND).prepared)
    assert older.info == PreparedVfio(older.uuid)


def test_a_share_is_part_of_result_and_answer() -> None:
    one = entry("gpu-shares", 1, GPU)
    [result], _ = decode_status(one.status)
    _, device = only(one.prepared)
    assert result.share_id == device.share_id == "00000000-0000-4000-8000-0000000000a1"
    assert result.consumed_capacity == (("compute", "1500m"), ("memory", "40Gi"))


def test_a_channel_with_and_without_fabric() -> None:
    group, device = only(entry("domain-channel", 1, DOMAIN).prepared)
    assert group == DomainGroup((device,), "channel", DOMAIN_UID)
    assert (device.info, device.type, device.uuid, device.mig) == (PreparedChannel(0), "channel", "", None)
    assert device.cdi_ids == (f"k8s.compute-domain.nvidia.com/claim={CLAIM.format(1)}-channel-0",)
    assert only(entry("domain-channel", 2, DOMAIN).prepared)[1].cdi_ids == ()
    assert only(entry("domain-channel", 3, DOMAIN).prepared)[1].info == PreparedChannel(1203)


def test_a_daemon_has_two_cdi_devices() -> None:
    group, device = only(entry("domain-daemon", 1, DOMAIN).prepared)
    assert (group.config_type, device.info) == ("daemon", PreparedDaemon(0))
    assert device.cdi_ids[0] == "k8s.compute-domain.nvidia.com/device=all"


def test_an_aborted_claim_has_its_time_in_whole_seconds() -> None:
    one = entry("domain-aborted", 1, DOMAIN)
    assert (one.state, one.prepared, one.name, one.aborted_at) == ("PrepareAborted", (), "c1", 1_780_308_059)
    assert entry("domain-aborted", 2, DOMAIN).aborted_at is None


def test_the_oldest_shape_is_converted_as_the_go_driver_does() -> None:
    checkpoint = decode(content(RC2), DOMAIN)
    assert encode(checkpoint, DOMAIN) == content(f"{RC2}-converted")
    assert decode(content(f"{RC2}-converted"), DOMAIN) == checkpoint


def test_no_file_of_one_driver_is_taken_for_the_others() -> None:
    assert (
        decode(content("domain-empty"), GPU)
        == decode(content("domain-empty"), DOMAIN)
        == Checkpoint("11111111-2222-3333-4444-555555555555")
    )
    for name in ("domain-channel", "domain-daemon", "domain-aborted"):
        with pytest.raises(ValueError, match="later release"):
            decode(content(name), GPU)
