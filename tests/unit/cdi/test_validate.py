"""What container runtimes would refuse is refused before it is written."""

from __future__ import annotations

import pytest

from nvdra import cdi
from nvdra.cdi import GPU_CLAIMS, CdiDevice, DeviceNode, Document, Edits, Hook, InvalidDocument, Mount

KIND = str(GPU_CLAIMS)

GOOD = Edits(env=("A=1",))


@pytest.mark.parametrize(
    ("devices", "text"),
    [
        ([("u-gpu-0", Edits())], 'failed add device "u-gpu-0": invalid device, empty device edits'),
        ([("u-gpu-0", GOOD), ("u-gpu-0", GOOD)], 'invalid spec, multiple device "u-gpu-0"'),
        ([("", GOOD)], "empty"),
        ([("-a", GOOD)], "should start with a letter or digit"),
        ([("a/b", GOOD)], "invalid character '/' in device name \"a/b\""),
        ([("a-", GOOD)], "should end with a letter or digit"),
        ([("a", Edits(env=("A",)))], 'invalid environment variable "A"'),
        ([("a", Edits(device_nodes=(DeviceNode(""),)))], "empty"),
        ([("a", Edits(device_nodes=(DeviceNode("/a", type="x"),)))], 'invalid type "x"'),
        ([("a", Edits(device_nodes=(DeviceNode("/a", permissions="rx"),)))], 'invalid permissions "rx"'),
        ([("a", Edits(device_nodes=(DeviceNode("/a", major=-1),)))], "out of range"),
        ([("a", Edits(device_nodes=(DeviceNode("/a", gid=1 << 32),)))], "out of range"),
        ([("a", Edits(hooks=(Hook("createcontainer", "/a"),)))], 'invalid hook name "createcontainer"'),
        ([("a", Edits(hooks=(Hook("createContainer", ""),)))], "empty path"),
        ([("a", Edits(hooks=(Hook("createContainer", "/a", env=("A",)),)))], "environment"),
        ([("a", Edits(mounts=(Mount("", "/a"),)))], "empty host path"),
        ([("a", Edits(mounts=(Mount("/a", ""),)))], "empty container path"),
        ([("a", Edits(additional_gids=(-1,)))], "out of range"),
        ([("a", Edits(env=("A=\udc80",)))], "not valid UTF-8"),
    ],
)
def test_both_ways_of_rendering_refuse(devices: list[tuple[str, Edits]], text: str) -> None:
    with pytest.raises(InvalidDocument, match=r"^failed to write spec: invalid CDI Spec: ") as caught:
        cdi.render(Document(KIND, tuple(CdiDevice(*device) for device in devices), GOOD))
    assert text in str(caught.value)
    with pytest.raises(InvalidDocument, match=r"^failed to write spec: invalid CDI Spec: ") as spliced:
        cdi.render_claim(cdi.GPU_CLAIMS, cdi.Common(Edits(env=("B=1",))), devices)
    assert text in str(spliced.value)


@pytest.mark.parametrize("edits", [Edits(env=("A",)), Edits(mounts=(Mount("/\udcff", "/a"),))])
def test_common_edits_are_checked_when_they_are_made(edits: Edits) -> None:
    with pytest.raises(InvalidDocument):
        cdi.render(Document(KIND, (CdiDevice("a", GOOD),), edits))
    with pytest.raises(InvalidDocument):
        cdi.Common(edits)


@pytest.mark.parametrize(
    "kind", ["", "claim", "/claim", "vendor/", "1v/class", "v/cl ass", "v-/class", "v/c/d", "vendor/1"]
)
def test_a_kind_has_a_vendor_and_a_class(kind: str) -> None:
    with pytest.raises(InvalidDocument):
        cdi.validate(Document(kind, (CdiDevice("a", GOOD),), GOOD))


def test_good_documents_pass() -> None:
    for name in ("a", "0", "4cbd-gpu-0", "a_b.c:d"):
        cdi.validate(Document(KIND, (CdiDevice(name, GOOD),), Edits()))
