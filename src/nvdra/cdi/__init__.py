"""Container edits and CDI documents. This room knows values and bytes, no file."""

from nvdra.cdi.document import (
    KIND,
    claim_document,
    claim_uid,
    device_id,
    device_name,
    file_name,
    minimum_version,
    simplify,
    transform_root,
)
from nvdra.cdi.driver import (
    CapabilityNode,
    DriverFiles,
    FoundFile,
    FoundLibrary,
    FoundNode,
    GpuFiles,
    common_edits,
    gpu_edits,
    mig_edits,
)
from nvdra.cdi.edits import Device, DeviceNode, Document, Edits, Hook, Mount
from nvdra.cdi.render import Common, parse, render, render_claim
from nvdra.cdi.validate import InvalidDocument, validate

__all__ = [
    "KIND",
    "CapabilityNode",
    "Common",
    "Device",
    "DeviceNode",
    "Document",
    "DriverFiles",
    "Edits",
    "FoundFile",
    "FoundLibrary",
    "FoundNode",
    "GpuFiles",
    "Hook",
    "InvalidDocument",
    "Mount",
    "claim_document",
    "claim_uid",
    "common_edits",
    "device_id",
    "device_name",
    "file_name",
    "gpu_edits",
    "mig_edits",
    "minimum_version",
    "parse",
    "render",
    "render_claim",
    "simplify",
    "transform_root",
    "validate",
]
