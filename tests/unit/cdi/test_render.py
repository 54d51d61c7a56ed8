"""Documents as text: against the recordings, against the twin, and read back by PyYAML."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvdra import cdi
from nvdra.cdi import GPU_CLAIMS, CdiDevice, DeviceNode, Document, Edits
from tests.twins import cdi as twin
from tests.unit.cdi.documents import RECORDED, any_text, documents_of, edits_of, odd_texts, paths

KIND = str(GPU_CLAIMS)


def test_there_are_recordings() -> None:
    assert len(RECORDED) == 15


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.parent.parent.name)
def test_a_recorded_document_is_rendered_byte_for_byte(path: Path) -> None:
    content = path.read_bytes()
    assert cdi.render(cdi.parse(content)) == content


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.parent.parent.name)
def test_a_recorded_document_is_spliced_byte_for_byte_but_for_repetitions(path: Path) -> None:
    recorded = cdi.parse(path.read_bytes())
    spliced = cdi.render_claim(
        cdi.GPU_CLAIMS, cdi.Common(recorded.edits), [(device.name, device.edits) for device in recorded.devices]
    )
    assert spliced == cdi.render(cdi.simplify(recorded))


@given(documents_of(paths))
def test_paths_are_rendered_as_the_twin_does(document: Document) -> None:
    version = cdi.minimum_version(document)
    assert cdi.render(document) == twin.render(document, version)
    assert cdi.render(document, "json") == twin.as_json(document, version)


@given(documents_of(any_text | odd_texts))
def test_any_string_survives(document: Document) -> None:
    assert cdi.parse(cdi.render(document)) == document
    assert cdi.parse(cdi.render(document, "json")) == document
    assert json.loads(cdi.render(document, "json")) == json.loads(twin.as_json(document, cdi.minimum_version(document)))


@given(
    st.dictionaries(
        st.from_regex(r"\A[0-9a-z]{1,6}-gpu-[0-9]\Z", fullmatch=True),
        edits_of(paths | odd_texts).map(lambda edits: edits + Edits(env=("X=1",))),
        min_size=1,
        max_size=4,
    ),
    edits_of(paths | odd_texts),
    st.sampled_from([("/", "/"), ("/driver", "/"), ("/driver", "/driver/usr"), ("/", "/usr")]),
)
def test_splicing_gives_what_the_long_way_gives(
    devices: dict[str, Edits], common: Edits, roots: tuple[str, str]
) -> None:
    document = Document(KIND, tuple(CdiDevice(name, edits) for name, edits in devices.items()), common)
    expected = cdi.render(cdi.transform_root(cdi.simplify(document), *roots))
    ready = cdi.Common(common, *roots)
    assert cdi.render_claim(cdi.GPU_CLAIMS, ready, list(devices.items())) == expected
    assert cdi.render_claim(cdi.GPU_CLAIMS, ready, list(reversed(devices.items()))) == expected


def test_a_common_part_serves_more_devices_than_it_remembers() -> None:
    common = cdi.Common(Edits(env=("A=1",)))
    for minor in range(3000):
        edits = Edits(device_nodes=(DeviceNode(f"/dev/nvidia{minor}", minor=minor),))
        assert cdi.parse(cdi.render_claim(cdi.GPU_CLAIMS, common, [("u", edits)])).devices[0].edits == edits


# ---- reading


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"a",
        b"- a",
        b"{",
        b"devices: 1",
        b"devices: [1]",
        b"kind: [a]",
        b"containerEdits: []x",
        b"containerEdits: a",
        b"\xff\xfe\xfa",
        b"[" * 5000,
        b"containerEdits: {deviceNodes: [{path: /a, major: x}]}",
        b"containerEdits: {env: [[a]]}",
        b"containerEdits: {additionalGids: [{}]}",
        b"a: *b",
        b"!!python/name:os.system x",
    ],
)
def test_what_is_no_document_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="not a CDI document"):
        cdi.parse(content)


def test_other_writers_files_are_read() -> None:
    document = cdi.parse(
        b"""{"cdiVersion": "0.6.0", "kind": "k8s.gpu.nvidia.com/claim", "annotations": {"a": "b"},
        "devices": [{"name": "u-gpu-0",
                     "containerEdits": {"deviceNodes": [{"path": "/dev/nvidia0", "uid": 5}], "netDevices": []}}]}"""
    )
    assert document == Document(
        KIND, (CdiDevice("u-gpu-0", Edits(device_nodes=(DeviceNode("/dev/nvidia0"),))),), Edits()
    )
    flow = b"kind: k8s.gpu.nvidia.com/claim\ndevices: [{name: 'u-gpu-1', containerEdits: {env: [A=1]}}]\n"
    assert [device.name for device in cdi.parse(flow).devices] == ["u-gpu-1"]


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    with contextlib.suppress(ValueError):
        cdi.parse(content)
