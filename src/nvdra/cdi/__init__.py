"""Container edits and CDI documents. Values and bytes, no files."""

from nvdra.cdi.document import (
    claim_document,
    minimum_version,
    simplify,
    transform_root,
)
from nvdra.cdi.edits import CdiDevice, DeviceNode, Document, Edits, Hook, Mount
from nvdra.cdi.names import DOMAIN_CLAIMS, GPU_CLAIMS, ClaimKind
from nvdra.cdi.rendering import Common, parse, render, render_claim
from nvdra.cdi.validation import InvalidDocument, validate

__all__ = [
    "DOMAIN_CLAIMS",
    "GPU_CLAIMS",
    "CdiDevice",
    "ClaimKind",
    "Common",
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
