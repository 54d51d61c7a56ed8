"""MPS control daemons of a made-up node: Deployments get pods as in a cluster, and their control program answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from nvdra.ports import Finished, Resource
from nvdra.testing.kube import FakeKube

_PODS = Resource("", "v1", "pods", namespaced=True)


class FakeDaemonCluster(FakeKube):
    """A FakeKube whose Deployments have one pod each, as their controller and a kubelet make it.

    is_ready   pods that come are ready at once; else `ready` makes them so
    trouble    why pods that come cannot start ("ImagePullBackOff"); "" if they can
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.is_ready = True
        self.trouble = ""

    async def create(self, resource: Resource, body: bytes, namespace: str = "") -> bytes:
        made = await super().create(resource, body, namespace)
        if resource.plural == "deployments":
            await self._start(orjson.loads(made))
        return made

    async def ready(self) -> None:
        """Every daemon's pod is ready from now on, also those that come."""
        self.is_ready, self.trouble = True, ""
        for pod in self.objects("pods"):
            await self._tell(pod)

    async def lose_pods(self) -> None:
        """Pods die and come anew, not ready."""
        self.is_ready = False
        for deployment in self.objects("deployments"):
            for pod in self.objects("pods"):
                if pod["metadata"]["labels"] == deployment["metadata"]["labels"]:
                    await self.delete(_PODS, pod["metadata"]["name"], pod["metadata"]["namespace"])
            await self._start(deployment)

    async def _start(self, deployment: dict[str, Any]) -> None:
        metadata, template = deployment["metadata"], deployment["spec"]["template"]
        owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": metadata["name"], "uid": metadata["uid"]}
        own = {"generateName": f"{metadata['name'][:50]}-", "labels": template["metadata"]["labels"]}
        pod = {"metadata": {**own, "ownerReferences": [owner]}, "spec": template["spec"]}
        made = await super().create(_PODS, orjson.dumps(pod), metadata["namespace"])
        await self._tell(orjson.loads(made))

    async def _tell(self, pod: dict[str, Any]) -> None:
        state = {"waiting": {"reason": self.trouble}} if self.trouble else {"running": {}}
        status = {"name": "mps-control-daemon", "ready": self.is_ready and not self.trouble, "state": state}
        told = {**pod, "status": {"containerStatuses": [status]}}
        await self.update(
            _PODS, pod["metadata"]["name"], orjson.dumps(told), pod["metadata"]["namespace"], subresource="status"
        )


class FakeMpsControl:
    """A program for `FakeHost.programs["nvidia-cuda-mps-control"]`.

    answer    what it prints; hangs if it is None
    is_broken it cannot be run here, like a program whose libraries do not fit
    """

    def __init__(self) -> None:
        self.answer: bytes | None = b"100.0\n"
        self.is_broken = False
        self.runs = 0

    def __call__(self, argv: Sequence[str]) -> Finished:
        self.runs += 1
        if self.is_broken:
            return Finished(127, b"", b"error while loading shared libraries: libc.so.6")
        if self.answer is None:
            raise TimeoutError("it did not end in time and was killed")
        return Finished(0, self.answer, b"")
