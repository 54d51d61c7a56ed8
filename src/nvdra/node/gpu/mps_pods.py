"""What pods of MPS daemons have of the plugin's own pod."""

from __future__ import annotations

from dataclasses import replace

import orjson

from nvdra.gpu.mps_deployment import MpsPods
from nvdra.ports import Kube, Resource

PODS = Resource("", "v1", "pods", namespaced=True)


class Pods:
    """What pods of daemons have of the plugin's own: found out once, when the first daemon is needed.

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
            mine = [pod for pod in map(orjson.loads, page.items) if pod["metadata"]["uid"] == self._pod_uid]
            tolerations = tuple(each for pod in mine for each in pod["spec"].get("tolerations") or ())
            self._known = replace(self._known, tolerations=tolerations)
            self._is_complete = True
        return self._known
