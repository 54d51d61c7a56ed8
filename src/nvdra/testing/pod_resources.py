"""kubelet's PodResources API, played on a unix socket: what device plugins gave to pods."""

from __future__ import annotations

import asyncio

from nvdra.kubelet.pod_resources import LIST, ContainerDevice
from nvdra.kubelet.proto.podresources.v1 import api_pb2 as pb
from nvdra.kubelet.transport import Server


class PodResourcesServer:
    """Serves `given`, which a test changes as it likes. While `hangs` is set, calls are not answered."""

    def __init__(self, path: str) -> None:
        self.given: list[ContainerDevice] = []
        self.calls = 0
        self.hangs = False
        self._path = path
        self._server = Server({LIST: self._list})

    def give(self, device_id: str, *, pod: str = "other", resource: str = "nvidia.com/gpu") -> None:
        """A device plugin gives a device to a pod's container."""
        self.given.append(ContainerDevice("ns", pod, "main", resource, device_id))

    async def start(self) -> None:
        await self._server.start(f"unix:{self._path}")

    async def stop(self) -> None:
        await self._server.stop(0.0)

    async def _list(self, _request: bytes) -> bytes:
        self.calls += 1
        if self.hangs:
            await asyncio.Event().wait()
        answer = pb.ListPodResourcesResponse()
        for device in self.given:
            pod = answer.pod_resources.add(namespace=device.namespace, name=device.pod)
            container = pod.containers.add(name=device.container)
            container.devices.add(resource_name=device.resource, device_ids=[device.device_id])
        return answer.SerializeToString()
