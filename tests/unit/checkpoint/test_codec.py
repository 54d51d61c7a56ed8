"""The codec against its twin, against the contract's vectors, and against files of other shapes."""

from __future__ import annotations

import dataclasses
import json
import random
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvdra.checkpoint import (
    DOMAIN,
    GPU,
    Checkpoint,
    Corrupt,
    DomainGroup,
    Encoder,
    Entry,
    Future,
    Info,
    PreparedChannel,
    PreparedDaemon,
    PreparedDevice,
    PreparedGpu,
    PreparedGroup,
    PreparedMig,
    PreparedVfio,
    Schema,
    Truncated,
    Unreadable,
    decode,
    encode,
    refusal,
)
from nvdra.checkpoint import DOMAIN as DOMAIN_SCHEMA
from nvdra.checkpoint import GPU as GPU_SCHEMA
from tests.twins import checkpoint as twin
from tests.unit.checkpoint.files import BOOT, DEVICE, ENTRY, STATUS, gpu, group, mirrored, second, signed

# ---- the contract's vectors


def test_an_empty_checkpoint() -> None:
    assert encode(Checkpoint(BOOT)) == (
        b'{"checksum":1083090442,"v1":{},"v2":{"checksum":511425237,"nodeBootID":"11111111-2222-3333-4444-555555555555"}}'
    )
    assert decode(encode(Checkpoint(BOOT))) == Checkpoint(BOOT)


def test_one_completed_gpu() -> None:
    content = encode(Checkpoint(BOOT, {"c1": ENTRY}))
    root = json.loads(content)
    assert (root["checksum"], root["v2"]["checksum"]) == (3996242268, 675354383)
    assert decode(content) == Checkpoint(BOOT, {"c1": ENTRY})


def test_the_form_without_daemon_id_is_read() -> None:
    content = mirrored(second([{"devices": [gpu()], "configState": {}}]))
    root = json.loads(content)
    assert (root["checksum"], root["v2"]["checksum"]) == (3120725081, 3748688620)
    assert decode(content) == Checkpoint(BOOT, {"c1": ENTRY})


# ---- against the twin

words = st.text(st.characters(codec="utf-8"), max_size=8)
ids = st.integers(0, (1 << 32) - 1)
migs = st.builds(
    PreparedMig,
    uuid=words,
    parent_minor=ids,
    parent_uuid=words,
    gi_id=ids,
    ci_id=ids,
    parent_pci_bus_id=st.just("") | words,
)
gpu_kinds = st.builds(PreparedGpu, words) | migs | st.builds(PreparedVfio, words, st.just("") | words)
domain_kinds = st.builds(PreparedChannel, ids) | st.builds(PreparedDaemon, ids)
metadata = st.dictionaries(words, st.integers() | words, max_size=2)
devices = st.builds(
    PreparedDevice,
    info=gpu_kinds,
    requests=st.lists(words, max_size=2).map(tuple),
    pool=words,
    device=words,
    cdi_ids=st.lists(words, max_size=2).map(tuple),
    share_id=st.none() | words,
    metadata=st.just(b"") | metadata.map(lambda told: twin.text({"Attributes": told, "NetworkData": None}).encode()),
)
groups = st.builds(
    PreparedGroup,
    devices=st.lists(devices, max_size=3).map(tuple),
    mps_daemon_id=words,
    time_slice_applied=st.none() | st.booleans(),
)
domain_groups = st.builds(
    DomainGroup,
    devices=st.lists(st.builds(dataclasses.replace, devices, info=domain_kinds), max_size=3).map(tuple),
    config_type=words,
    domain=words,
)
members = st.dictionaries(words, st.none() | st.booleans() | words, max_size=3)
entries = st.builds(
    Entry,
    state=st.sampled_from(["PrepareStarted", "PrepareCompleted"]),
    status=members.map(lambda status: twin.text(status).encode()),
    prepared=st.lists(groups, max_size=2).map(tuple),
    name=words,
    namespace=words,
)
checkpoints = st.builds(Checkpoint, boot_id=words, entries=st.dictionaries(words, entries, max_size=4))
SECONDS = st.none() | st.integers(-2_208_988_800, 253_402_300_799)  # years 1900 to 9999
domain_entries = st.builds(
    dataclasses.replace,
    entries,
    state=st.sampled_from(["PrepareStarted", "PrepareCompleted", "PrepareAborted"]),
    prepared=st.lists(domain_groups, max_size=2).map(tuple),
    aborted_at=SECONDS,
)
domain_checkpoints = st.builds(Checkpoint, boot_id=words, entries=st.dictionaries(words, domain_entries, max_size=4))
EVERY_KIND = dataclasses.replace(GPU, unsupported=frozenset())


@given(checkpoints)
def test_a_checkpoint_is_written_as_the_twin_writes_it_and_read_back_whole(checkpoint: Checkpoint) -> None:
    content = encode(checkpoint)
    assert content == twin.encode(checkpoint)
    assert decode(content, EVERY_KIND) == checkpoint


@given(domain_checkpoints)
def test_a_checkpoint_of_compute_domains_is_written_as_the_twin_writes_it(checkpoint: Checkpoint) -> None:
    content = encode(checkpoint, DOMAIN)
    assert content == twin.encode(checkpoint)
    assert decode(content, DOMAIN) == checkpoint


@given(checkpoints, st.integers(0, 3), entries)
def test_an_encoder_that_knows_most_entries_writes_the_same(checkpoint: Checkpoint, which: int, other: Entry) -> None:
    encoder = Encoder()
    assert encoder.encode(checkpoint) == encode(checkpoint)
    uids = sorted(checkpoint.entries)
    changed = dict(checkpoint.entries)
    changed["new"] = other
    if uids:
        changed[uids[which % len(uids)]] = other
    checkpoint = dataclasses.replace(checkpoint, entries=changed)
    assert encoder.encode(checkpoint) == encode(checkpoint)
    assert encoder.encode(Checkpoint(checkpoint.boot_id)) == encode(Checkpoint(checkpoint.boot_id))


def test_entries_are_written_in_the_order_of_their_uids_bytes() -> None:
    content = encode(Checkpoint(BOOT, dict.fromkeys(("b", "a", "é", "Z", "a-"), ENTRY)))
    assert list(json.loads(content)["v2"]["preparedClaims"]) == ["Z", "a", "a-", "b", "é"]


def test_the_first_section_holds_completed_entries_only() -> None:
    started = Entry("PrepareStarted", STATUS, name="n", namespace="ns")
    root = json.loads(encode(Checkpoint(BOOT, {"c1": ENTRY, "c2": started})))
    assert list(root["v1"]["preparedClaims"]) == ["c1"]
    assert root["v2"]["preparedClaims"]["c2"] == {
        "checkpointState": "PrepareStarted",
        "status": json.loads(STATUS),
        "name": "n",
        "namespace": "ns",
    }


MIG = dataclasses.replace(
    DEVICE,
    info=PreparedMig("MIG-1", parent_minor=1, parent_uuid="GPU-1", gi_id=7, ci_id=0),
    device="gpu-1-mig-1g12gb-19-0",
    cdi_ids=("k8s.gpu.nvidia.com/claim=c1-gpu-1-mig-1g12gb-19-0",),
)


def test_a_mig_device_is_written_as_the_go_driver_writes_it() -> None:
    checkpoint = Checkpoint(BOOT, {"c1": dataclasses.replace(ENTRY, prepared=(PreparedGroup((MIG,)),))})
    assert (
        b'"preparedDevices":[{"devices":[{"gpu":null,"mig":{"concrete":{"parentMinor":1,"giId":7,"ciId":0,'
        b'"migUUID":"MIG-1","parentUUID":"GPU-1"},"device":{"Requests":["gpu"],"PoolName":"node-a",'
        b'"DeviceName":"gpu-1-mig-1g12gb-19-0",'
        b'"CDIDeviceIDs":["k8s.gpu.nvidia.com/claim=c1-gpu-1-mig-1g12gb-19-0"]}}}],'
        b'"configState":{"mpsControlDaemonID":""}}]'
    ) in encode(checkpoint)


def test_gpus_and_mig_devices_go_together() -> None:
    checkpoint = Checkpoint(BOOT, {"c1": dataclasses.replace(ENTRY, prepared=(PreparedGroup((DEVICE, MIG)),))})
    assert decode(encode(checkpoint)) == checkpoint


def test_where_another_writer_says_the_parents_address_it_stays() -> None:
    assert MIG.mig is not None
    told = dataclasses.replace(MIG, info=dataclasses.replace(MIG.mig, parent_pci_bus_id="0000:3b:00.0"))
    checkpoint = Checkpoint(BOOT, {"c1": dataclasses.replace(ENTRY, prepared=(PreparedGroup((told,)),))})
    assert b'"parentUUID":"GPU-1","parentPCIBusID":"0000:3b:00.0"},"device":' in encode(checkpoint)
    assert decode(encode(checkpoint)) == checkpoint


def test_what_is_to_be_undone_is_kept_while_a_claim_is_let_go_of() -> None:
    begun = dataclasses.replace(ENTRY, state="PrepareStarted", prepared=(PreparedGroup((MIG,)),))
    checkpoint = Checkpoint(BOOT, {"c1": begun, "c2": ENTRY})
    root = json.loads(encode(checkpoint))
    assert list(root["v1"]["preparedClaims"]) == ["c2"]
    assert root["v2"]["preparedClaims"]["c1"]["preparedDevices"][0]["devices"][0]["mig"]["concrete"]["giId"] == 7
    assert decode(encode(checkpoint)) == checkpoint


@pytest.mark.parametrize("number", [-1, 1 << 32])
def test_an_id_that_nvml_cannot_have_is_not_written(number: int) -> None:
    assert MIG.mig is not None
    odd = dataclasses.replace(MIG, info=dataclasses.replace(MIG.mig, gi_id=number))
    with pytest.raises((OverflowError, TypeError)):
        encode(Checkpoint(BOOT, {"c1": dataclasses.replace(ENTRY, prepared=(PreparedGroup((odd,)),))}))


# ---- other files that are read


def test_a_file_with_the_first_section_alone_is_migrated() -> None:
    claim = {"status": json.loads(STATUS), "preparedDevices": [group(gpu())]}
    assert decode(signed({"preparedClaims": {"c1": claim}}, None)) == Checkpoint("", {"c1": ENTRY})


@pytest.mark.parametrize(
    "empty",
    [
        b'{"checksum":4166374854}',
        b'{"checksum":1083090442,"v1":{}}',
        b'{"checksum":4166374854,"v1":null,"v2":null}',
        b'{"checksum":1083090442,"v1":{"preparedClaims":null}}',
    ],
)
def test_files_without_claims(empty: bytes) -> None:
    assert decode(empty) == Checkpoint("")


def test_shares_survive() -> None:
    shared = PreparedGroup((dataclasses.replace(DEVICE, share_id="s-1"),))
    checkpoint = Checkpoint(BOOT, {"c1": dataclasses.replace(ENTRY, prepared=(shared,))})
    assert b'"k8s.gpu.nvidia.com/claim=c1-gpu-0"],"ShareID":"s-1"}},"mig":null}' in encode(checkpoint)
    assert decode(encode(checkpoint)) == checkpoint


def test_a_claim_for_administrators_keeps_its_access() -> None:
    status = STATUS.replace(b'"device":"gpu-0"', b'"device":"gpu-0","adminAccess":true,"shareID":"s-1"')
    checkpoint = Checkpoint(BOOT, {"c1": dataclasses.replace(ENTRY, status=status)})
    assert decode(encode(checkpoint)).entries["c1"].status == status


def test_an_indented_file_is_the_same_file() -> None:
    checkpoint = Checkpoint(BOOT, {"c1": ENTRY})
    assert decode(json.dumps(json.loads(encode(checkpoint)), indent=4).encode()) == checkpoint


def test_a_key_that_no_checksum_covers_is_accepted_as_the_go_driver_does() -> None:
    content = encode(Checkpoint(BOOT, {"c1": ENTRY}))
    [_, section] = content.split(b',"v2":')
    edited = content.replace(section, section.replace(b'"mig":null', b'"mig":null,"edited":"by hand"'))
    [read] = decode(edited).entries["c1"].prepared  # type: ignore[misc]
    assert b'"edited":"by hand"' in read.verbatim


def test_of_equal_keys_the_last_one_counts() -> None:
    states = ("PrepareStarted", "PrepareCompleted")
    claims = "{" + ",".join(f'"c1":{{"checkpointState":"{state}","status":{{}}}}' for state in states) + "}"
    inner = twin.checksum(f'{{"checksum":0,"preparedClaims":{claims}}}'.encode())
    content = f'{{"checksum":1083090442,"v1":{{}},"v2":{{"checksum":{inner},"preparedClaims":{claims}}}}}'
    assert decode(content.encode()) == Checkpoint("", {"c1": Entry("PrepareCompleted", b"{}")})


# ---- each driver's schema


def test_only_compute_domains_have_aborted_claims() -> None:
    aborted = Checkpoint(
        BOOT, {"c1": Entry("PrepareAborted", STATUS, name="n", namespace="ns", aborted_at=1_780_308_059)}
    )
    content = encode(aborted, DOMAIN)
    assert b'"name":"n","namespace":"ns","abortedAt":"2026-06-01T10:00:59Z"}' in content
    assert decode(content, DOMAIN) == aborted
    with pytest.raises(ValueError, match=r"c1 is PrepareAborted, which a checkpoint of gpu\.nvidia\.com cannot hold"):
        encode(aborted)
    with pytest.raises(Future, match="unknown checkpointState"):
        decode(content)


@pytest.mark.parametrize(("schema", "info"), [(GPU, PreparedChannel(0)), (DOMAIN, PreparedGpu("GPU-0"))])
def test_a_device_of_the_other_driver_is_not_written(schema: Schema, info: Info) -> None:
    device = dataclasses.replace(DEVICE, info=info)
    checkpoint = Checkpoint(BOOT, {"c1": dataclasses.replace(ENTRY, prepared=(PreparedGroup((device,)),))})
    with pytest.raises(ValueError, match=f"c1 has a device of type {info.type}, which a checkpoint of {schema.driver}"):
        encode(checkpoint, schema)


@pytest.mark.parametrize("moment", [1 << 60, -(1 << 60), 253_402_300_800])
def test_a_time_without_text_is_not_written(moment: int) -> None:
    with pytest.raises(ValueError, match="has no RFC 3339 text"):
        encode(Checkpoint(BOOT, {"c1": Entry("PrepareAborted", STATUS, aborted_at=moment)}), DOMAIN)


# ---- files that are not to be trusted


def test_a_changed_byte_is_corrupt_and_the_difference_is_shown() -> None:
    content = encode(Checkpoint(BOOT, {"c1": ENTRY})).replace(b'"uuid":"GPU-0"', b'"uuid":"GPU-0","dummy":"x"')
    with pytest.raises(Corrupt) as caught:
        decode(content.replace(b"gpu-0", b"gpu-1"))
    assert str(caught.value) == "checkpoint is corrupted"
    lines = caught.value.diff.splitlines()
    assert lines[:2] == ["--- on-disk", "+++ re-marshaled"]
    assert lines[2].startswith("@@ -")
    assert any(line.startswith("-") and '"dummy": "x"' in line for line in lines)


@pytest.mark.parametrize("section", ["checksum", "v2"])
def test_each_checksum_counts(section: str) -> None:
    root = json.loads(encode(Checkpoint(BOOT, {"c1": ENTRY})))
    if section == "v2":
        root["v2"]["checksum"] ^= 1
    else:
        root["checksum"] ^= 1
    with pytest.raises(Corrupt) as caught:
        decode(twin.text(root).encode())
    assert caught.value.diff == ""


@pytest.mark.parametrize(
    "content",
    [
        b"{}",
        b'{"checksum":"1","v1":{}}',
        b'{"v1":{}}',
        b'{"checksum":-1,"v1":{}}',
        b'{"checksum":1083090442,"v1":{},"v2":{}}',
        b'{"checksum":99999999999999,"v1":{}}',
    ],
)
def test_a_missing_checksum_is_a_wrong_one(content: bytes) -> None:
    with pytest.raises(Corrupt):
        decode(content)


def test_of_a_large_corrupt_file_the_first_differences_are_shown() -> None:
    """Comparing all of it would take time with the square of its size, before the sockets are there."""
    content = encode(Checkpoint(BOOT, {f"claim-{i:04}": ENTRY for i in range(1000)}))
    broken = content.replace(b'"uuid":"GPU-0"', b'"uuid":"GPU-0","dummy":"x"').replace(b"gpu-0", b"gpu-1")
    assert len(broken) > 400_000
    with pytest.raises(Corrupt) as caught:
        decode(broken)
    lines = caught.value.diff.splitlines()
    assert lines[0] == "--- on-disk"
    assert len(lines) < 2100
    assert re.fullmatch(r"\(compared from line \d+ on, 1000 lines of \d+\)", lines[-1])


def test_a_corrupt_file_of_no_known_shape_says_so_instead_of_a_difference() -> None:
    with pytest.raises(Corrupt) as caught:
        decode(b'{"checksum":1,"v1":{"preparedClaims":[]}}')
    assert "checkpoint.v1.preparedClaims: an object was expected, found a list" in caught.value.diff


@pytest.mark.parametrize("content", [b"", b"   ", b"nonsense", b"{", b'{"checksum":1}x', b"\xff\xfe", b"\0" * 4096])
def test_what_is_no_json_is_truncated(content: bytes) -> None:
    with pytest.raises(Truncated, match="checkpoint is not readable"):
        decode(content)


def test_every_prefix_is_truncated() -> None:
    content = encode(Checkpoint(BOOT, {"c1": ENTRY}))
    for end in range(len(content)):
        with pytest.raises(Truncated):
            decode(content[:end])


def channel(info: Any, **more: Any) -> dict[str, Any]:
    return second([{"devices": [{"channel": {"info": info}, "daemon": None}]}], **more)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (signed({}, second([group(gpu())])), "none of channel and daemon"),
        (signed({}, channel({"id": -1})), r"channel\.info\.id: an index was expected, found a number"),
        (signed({}, channel({"id": "0"})), r"channel\.info\.id: an index"),
        (signed({}, channel(None)), r"channel\.info\.id: an index"),
        (signed({}, channel({"id": 0}, abortedAt="yesterday")), "abortedAt: a time was expected"),
        (signed({}, channel({"id": 0}, abortedAt=1)), "abortedAt: a time was expected"),
        (signed({}, second([{"configState": {"Type": 1}}])), r"configState\.Type: a string"),
    ],
)
def test_a_domain_file_of_unknown_shape_is_of_the_future(content: bytes, what: str) -> None:
    with pytest.raises(Future, match=what):
        decode(content, DOMAIN)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"[]", "the file holds a list"),
        (b'{"checksum":1,"v3":{}}', "v2 is not there, but v3 is"),
        (b'{"checksum":1083090442,"v1":{},"w2":{}}', "v2 is not there, but w2 is"),
        (signed({}, second(checkpointState="PrepareHalf")), "unknown checkpointState"),
        (signed({}, {"preparedClaims": []}), "v2.preparedClaims: an object was expected"),
        (signed({}, {"preparedClaims": {"c1": 1}}), "an object was expected, found a number"),
        (signed({}, {"nodeBootID": 5}), "v2.nodeBootID: a string was expected"),
        (signed({}, second({})), "preparedDevices: a list was expected"),
        (signed({}, second([[]])), r"preparedDevices\[0\]: an object was expected"),
        (signed({}, second([{"devices": [{"cpu": {}}]}])), "none of gpu, mig and vfio"),
        (signed({}, second([group(gpu(Requests="x"))])), "Requests: a list was expected"),
        (signed({}, second([{"configState": {"timeSliceApplied": 1}}])), "timeSliceApplied: a boolean"),
        (signed({}, second(status=[])), "status: an object was expected"),
        (signed({}, second(name=1)), "name: a string was expected"),
    ],
)
def test_an_intact_file_of_unknown_shape_is_of_the_future(content: bytes, what: str) -> None:
    with pytest.raises(Future, match=what):
        decode(content)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_with_an_error_of_ours(content: bytes) -> None:
    with pytest.raises(Unreadable):
        decode(content)


KEYS = [
    "checksum",
    "v1",
    "v2",
    "preparedClaims",
    "c1",
    "status",
    "preparedDevices",
    "devices",
    "gpu",
    "mig",
    "concrete",
    "device",
    "info",
    "configState",
    "Requests",
    "channel",
    "daemon",
    "id",
    "abortedAt",
]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_any_json_is_read_or_refused(value: Any) -> None:
    """Signed, so that the shapes behind the checksum are reached too."""
    for content in (
        json.dumps(value).encode(),
        signed({}, {"preparedClaims": {"c1": value}}),
        signed({}, second([value])),
        signed({}, second([{"devices": [value]}])),
    ):
        for schema in (GPU, DOMAIN):
            try:
                checkpoint = decode(content, schema)
            except Unreadable:
                continue
            assert decode(encode(checkpoint, schema), schema).entries == checkpoint.entries


def test_damage_is_found_or_does_not_matter() -> None:
    """The one key that may be damaged unseen says that something is absent; the Go driver accepts that file too."""
    content = encode(Checkpoint(BOOT, {"c1": ENTRY}))
    chance = random.Random(7)
    for _ in range(2000):
        at, byte = chance.randrange(len(content)), chance.randrange(256)
        try:
            checkpoint = decode(content[:at] + bytes([byte]) + content[at + 1 :])
        except Unreadable:
            continue
        [read] = checkpoint.entries["c1"].prepared  # type: ignore[misc]
        kept = dataclasses.replace(checkpoint.entries["c1"], prepared=(dataclasses.replace(read, verbatim=b""),))
        assert Checkpoint(checkpoint.boot_id, {"c1": kept}) == Checkpoint(BOOT, {"c1": ENTRY})


@pytest.mark.parametrize(
    ("entry", "schema", "is_refused"),
    [
        (Entry("PrepareAborted", b"{}", (), "a", "ns", aborted_at=253402300799), DOMAIN_SCHEMA, False),
        (Entry("PrepareAborted", b"{}", (), "a", "ns", aborted_at=253402300800), DOMAIN_SCHEMA, True),
        (Entry("PrepareAborted", b"{}", (), "a", "ns", aborted_at=1), GPU_SCHEMA, True),
        (Entry("PrepareCompleted", b"[]", (), "a", "ns"), GPU_SCHEMA, True),
        (Entry("PrepareCompleted", b"{}", (), "a", "ns"), GPU_SCHEMA, False),
        (Entry("PrepareCompleted", b'{"x":' * 9_990 + b"{}" + b"}" * 9_990, (), "a", "ns"), GPU_SCHEMA, False),
        (Entry("PrepareCompleted", b'{"x":' * 9_999 + b"{}" + b"}" * 9_999, (), "a", "ns"), GPU_SCHEMA, True),
    ],
)
def test_an_entry_that_could_not_be_read_again_is_known_before(entry: Entry, schema: Schema, is_refused: bool) -> None:
    assert bool(refusal("u", entry, schema)) == is_refused
