"""Which Kubernetes releases the engine answers for."""

from __future__ import annotations

from nvdra._core import allocation_releases

RELEASES = tuple(allocation_releases())


def release_of(server_version: str) -> str:
    """Returns the release of a version text: "v1.37.2" is of "1.37"; the text itself if it is no version."""
    parts = server_version.removeprefix("v").split(".")
    return ".".join(parts[:2]) if len(parts) > 1 else server_version
