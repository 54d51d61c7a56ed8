"""What pods of MPS daemons have of the plugin's own pod."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nvdra.gpu.mps_deployment import MpsPods
from nvdra.kube import document
from nvdra.ports import ApiError, Kube, Resource

PODS = Resource("", "v1", "pods", namespaced=True)


class Pods:
    """What pods of daemons have of the plugin's own: looked up when the first daemon is needed, and kept.

    pod_uid   of the plugin; "" outside of a pod
    """

    def __init__(self, kube: Kube, known: MpsPods, pod_uid: str) -> None:
        self._kube = kube
        self._known = known
        self._pod_uid = pod_uid
        self._is_complete = not pod_uid

    @property
    def namespace(self) -> str:
        return self._known.namespace

    async def __call__(self) -> MpsPods:
        """Raises ApiError."""
        if not self._is_complete:
            selector = f"spec.nodeName={self._known.node}"
            page = await self._kube.list(PODS, self._known.namespace, field_selector=selector)
            mine = next((spec for spec in map(self._own_spec, page.items) if spec is not None), None)
            if mine is not None:  # else the server does not show this pod yet: it is asked again
                self._known = replace(self._known, tolerations=tuple(mine.get("tolerations") or ()))
                self._is_complete = True
        return self._known

    def _own_spec(self, item: bytes) -> Mapping[str, Any] | None:
        """The spec of the plugin's own pod; None for another pod, and for one that cannot be read."""
        try:
            pod = document(item)
        except ApiError:
            return None
        metadata, spec = pod.get("metadata"), pod.get("spec")
        is_mine = isinstance(metadata, dict) and metadata.get("uid") == self._pod_uid
        return spec if is_mine and isinstance(spec, dict) else None
