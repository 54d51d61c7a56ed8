"""Device metadata, byte for byte as Kubernetes' own library writes it for the Go driver."""

from __future__ import annotations

from pathlib import Path

import pytest

from nvdra.api import ClaimRef
from nvdra.checkpoint import PreparedDevice, PreparedGpu, PreparedVfio
from nvdra.claims import metadata

GOLDEN = Path(__file__).parents[2] / "golden/metadata"
DRIVER = "gpu.nvidia.com"
CLAIM = ClaimRef("vms", "vm-gpu-x7d2f", "4c9f0f4e-6a0a-4b4e-9d0a-0b2f4b7a1c11")
ATTRIBUTES = {
    "type": {"string": "vfio"},
    "resource.kubernetes.io/numaNode": {"int": 1},
    "iommuFDEnabled": {"bool": True},
}
DEVICES = (
    PreparedDevice(
        PreparedVfio("u"), ("gpus/big",), "node-a", "gpu-vfio-0", (), metadata=metadata.encode(ATTRIBUTES)
    ),
    PreparedDevice(PreparedGpu("GPU-3"), ("gpus/big",), "node-a", "gpu-3", ()),
)  # fmt: skip


def test_the_file_is_the_recorded_one_behind_the_newer_version() -> None:
    recorded = (GOLDEN / "metadata.json").read_bytes()
    made = metadata.document(DRIVER, CLAIM, "gpu", DEVICES)
    assert made == recorded.replace(b"/v1alpha1", b"/v1beta1") + recorded


def test_the_cdi_file_is_the_recorded_one() -> None:
    path = f"/var/lib/kubelet/plugins/{DRIVER}/dra-device-metadata/vms_vm-gpu-x7d2f/gpus/metadata.json"
    made = metadata.cdi_file(DRIVER, CLAIM, "gpu", "gpus", path)
    assert made == (GOLDEN / "cdi.json").read_bytes()
    assert metadata.pod_claim(made) == "gpu"


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b'{"devices":[]}', b'{"devices":[{"containerEdits":{}}]}', b"\xff"]
)
def test_a_cdi_file_that_says_nothing_is_no_answer(content: bytes) -> None:
    assert metadata.pod_claim(content) is None
