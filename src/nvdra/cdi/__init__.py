"""Container edits and CDI documents. This room knows values and bytes, no file."""

from nvdra.cdi.document import (
    claim_document,
    minimum_version,
    simplify,
    transform_root,
)
from nvdra.cdi.edits import Device, DeviceNode, Document, Edits, Hook, Mount
from nvdra.cdi.names import DOMAIN_CLAIMS, GPU_CLAIMS, ClaimKind
from nvdra.cdi.render import Common, parse, render, render_claim
from nvdra.cdi.validate import InvalidDocument, validate

__all__ = [
    "DOMAIN_CLAIMS",
    "GPU_CLAIMS",
    "ClaimKind",
    "Common",
    "Device",
    "DeviceNode",
    "Document",
    "Edits",
    "Hook",
    "InvalidDocument",
    "Mount",
    "claim_document",
    "minimum_version",
    "parse",
    "render",
    "render_claim",
    "simplify",
    "transform_root",
    "validate",
]
