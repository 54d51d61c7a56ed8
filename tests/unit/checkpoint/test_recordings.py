"""The codec against files that real builds of the Go driver wrote: same bytes out, everything understood."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from nvdra.api.claim import decode_claim
from nvdra.checkpoint import Checkpoint, PreparedDevice, PreparedGpu, PreparedGroup, PreparedMig, decode, encode
from tests.twins import checkpoint as twin

RECORDINGS = Path(__file__).parents[2] / "golden" / "recordings"
FOLDERS = sorted(path.parent.name for path in RECORDINGS.glob("*/checkpoint.json"))
RELEASED = [folder for folder in FOLDERS if folder.startswith("v")]


def content(folder: str) -> bytes:
    return (RECORDINGS / folder / "checkpoint.json").read_bytes()


def resigned(text: bytes) -> bytes:
    """The file with its checksums taken anew, by plain Python."""
    first = re.search(rb'"v1":(\{.*\}),"v2":', text)
    second = re.search(rb'"v2":(\{.*\})\}$', text)
    assert first is not None
    assert second is not None
    v1, v2 = first[1], re.sub(rb'^\{"checksum":\d+', b'{"checksum":0', second[1])
    inner = v2.replace(b'"checksum":0', b'"checksum":%d' % twin.checksum(v2), 1)
    return b'{"checksum":%d,"v1":%s,"v2":%s}' % (twin.checksum(b'{"checksum":0,"v1":' + v1 + b"}"), v1, inner)


def test_there_are_recordings() -> None:
    assert {"main-plain", "v0.4.0-plain", "v0.4.0-ts", "v0.4.1-plain", "v0.4.1-ts"} <= set(FOLDERS)


@pytest.mark.parametrize("folder", RELEASED)
def test_what_a_release_wrote_is_written_again_byte_for_byte(folder: str) -> None:
    assert encode(decode(content(folder))) == content(folder)


@pytest.mark.parametrize("folder", RELEASED)
def test_name_and_namespace_of_completed_entries_are_the_only_addition(folder: str) -> None:
    claims = json.loads((RECORDINGS / folder / "claims.json").read_text())
    checkpoint = decode(content(folder))
    entries = {}
    for body in claims.values():
        ref = decode_claim(json.dumps(body).encode()).ref
        entries[ref.uid] = dataclasses.replace(checkpoint.entries[ref.uid], name=ref.name, namespace=ref.namespace)
    ours = encode(Checkpoint(checkpoint.boot_id, entries))
    first, second = ours.split(b',"v2":')
    assert b"namespace" not in first
    assert second.count(b',"namespace":"cap-') == len(claims)
    stripped = re.sub(rb',"name":"[^"]*","namespace":"[^"]*"\}', b"}", second)
    assert resigned(first + b',"v2":' + stripped) == content(folder)
    assert decode(ours) == Checkpoint(checkpoint.boot_id, entries)


def test_the_build_without_empty_daemon_ids_is_read_and_rewritten_as_releases_do() -> None:
    original = content("main-plain")
    assert encode(decode(original)) == resigned(
        original.replace(b'"configState":{}', b'"configState":{"mpsControlDaemonID":""}')
    )
    assert decode(encode(decode(original))) == decode(original)


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_claims_status_is_kept_as_the_go_driver_keeps_it(folder: str) -> None:
    entries = decode(content(folder)).entries
    for body in json.loads((RECORDINGS / folder / "claims.json").read_text()).values():
        claim = decode_claim(json.dumps(body, indent=3).encode())
        assert entries[claim.ref.uid].status == claim.status


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_was_answered_to_kubelet_is_in_the_checkpoint(folder: str) -> None:
    entries = decode(content(folder)).entries
    answers = json.loads((RECORDINGS / folder / "answer.json").read_text())["claims"]
    assert answers.keys() == entries.keys()
    for uid, answer in answers.items():
        prepared = entries[uid].prepared
        assert isinstance(prepared, tuple)
        told = [
            {
                "cdiDeviceIds": list(device.cdi_ids),
                "deviceName": device.device,
                "poolName": device.pool,
                "requestNames": list(device.requests),
            }
            for group in prepared
            for device in group.devices
        ]
        assert told == answer["devices"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_mig_devices_in_the_place_of_the_recorded_gpus_are_understood(folder: str) -> None:
    """No recording has MIG devices: these are recorded entries with the one member that differs put in by hand."""
    written = re.sub(
        rb'\{"gpu":\{"info":\{"uuid":"GPU-([^"]*)"\},("device":\{[^}]*\})\},"mig":null\}',
        rb'{"gpu":null,"mig":{"concrete":{"parentMinor":3,"giId":9,"ciId":1,"migUUID":"MIG-\1","parentUUID":"GPU-\1"},\2}}',
        content(folder).replace(b'"configState":{}', b'"configState":{"mpsControlDaemonID":""}'),
    )
    checkpoint = decode(resigned(written))
    assert encode(checkpoint) == resigned(written)
    gpus = decode(content(folder)).entries
    assert checkpoint.entries.keys() == gpus.keys()
    for uid, entry in checkpoint.entries.items():
        assert isinstance(entry.prepared, tuple)
        [migs, whole] = [
            [device for group in prepared for device in group.devices]
            for prepared in (entry.prepared, gpus[uid].prepared)
            if isinstance(prepared, tuple)
        ]
        assert migs == [
            dataclasses.replace(
                gpu,
                info=PreparedMig(gpu.uuid.replace("GPU-", "MIG-"), 3, parent_uuid=gpu.uuid, gi_id=9, ci_id=1),
            )
            for gpu in whole
        ]


def test_an_applied_time_slice_is_known() -> None:
    entry = decode(content("v0.4.1-ts")).entries["1a0f5e9d-f99f-472e-9b8c-2ca0e921510e"]
    assert entry.prepared == (
        PreparedGroup(
            devices=(
                PreparedDevice(
                    info=PreparedGpu("GPU-4d4f434b-0000-0000-0000-000000000003"),
                    requests=("gpu",),
                    pool="node-a",
                    device="gpu-3",
                    cdi_ids=("k8s.gpu.nvidia.com/claim=1a0f5e9d-f99f-472e-9b8c-2ca0e921510e-gpu-3",),
                ),
            ),
            time_slice_applied=True,
        ),
    )
    assert (entry.state, entry.name, entry.namespace) == ("PrepareCompleted", "", "")
