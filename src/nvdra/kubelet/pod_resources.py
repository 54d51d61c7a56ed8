"""kubelet's PodResources API: which devices of device plugins the containers of this node have.

Source: KEP-606. The API has no watch, so it is asked again and again; kubelet allows 100 calls a second.
"""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import DecodeError

from nvdra.kubelet.proto.podresources.v1 import api_pb2 as pb
from nvdra.kubelet.transport import Client, RpcError

SOCKET = "/var/lib/kubelet/pod-resources/kubelet.sock"
LIST = "/v1.PodResourcesLister/List"

_REQUEST = pb.ListPodResourcesRequest().SerializeToString()
# A node has some hundreds of pods; CPUs and memory of each are in the answer too.
_MOST_BYTES = 32 << 20


class PodResourcesError(Exception):
    """kubelet gave no answer; the text says why, and which socket was asked."""


@dataclass(frozen=True, slots=True)
class ContainerDevice:
    """One device that a container has from a device plugin."""

    namespace: str
    pod: str
    container: str
    resource: str
    device_id: str


class PodResources:
    """Asks kubelet. A connection is kept only for the time of a call: kubelet makes a new socket at each start."""

    def __init__(self, path: str = SOCKET) -> None:
        self._path = path

    async def devices(self, *, timeout_s: float) -> tuple[ContainerDevice, ...]:
        """All devices that were given out, in kubelet's order. Raises PodResourcesError."""
        client = Client(f"unix:{self._path}", most_bytes=_MOST_BYTES)
        try:
            answer = pb.ListPodResourcesResponse.FromString(await client.call(LIST, _REQUEST, timeout_s=timeout_s))
        except (RpcError, DecodeError) as error:
            raise PodResourcesError(f"kubelet's PodResources API at {self._path}: {error}") from None
        finally:
            await client.close()
        return tuple(
            ContainerDevice(pod.namespace, pod.name, container.name, devices.resource_name, device_id)
            for pod in answer.pod_resources
            for container in pod.containers
            for devices in container.devices
            for device_id in devices.device_ids
        )
