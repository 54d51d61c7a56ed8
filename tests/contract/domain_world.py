"""A controller of ComputeDomains over an API server, and what users, kubelets and daemons do there."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import yaml

from nvdra.api import gates
from nvdra.api.compute_domain import CLIQUE_LABEL, DOMAIN_LABEL, FINALIZER, GROUP_VERSION
from nvdra.controller.controller import Controller
from nvdra.controller.settings import CLIQUES, CRDS, DAEMON_SETS, DOMAINS, EVENTS, NODES, PODS, Settings
from nvdra.domains.templates import DaemonSettings
from nvdra.kube import Followed, ResourceApi, document
from nvdra.kube.follow import until
from nvdra.node.clock import LoopClock
from nvdra.ports import ApiError, Kube, Resource

CHART = Path(__file__).parents[2] / "deploy/helm/dra-driver-nvidia-gpu"
TEMPLATES = Resource("resource.k8s.io", "v1", "resourceclaimtemplates", namespaced=True)
NAMESPACES = Resource("", "v1", "namespaces", namespaced=False)
FABRIC = "9f410827-489f-46fd-8203-51266ca08eb7.32766"
TIMEOUT_S = 30.0
Object = dict[str, Any]


class World:
    """One test's namespaces on an API server. `driver` is the driver's namespace, `user` the user's."""

    def __init__(self, kube: Kube) -> None:
        self.kube = kube
        self.clock = LoopClock()
        tail = secrets.token_hex(3)
        self.driver, self.other, self.user = f"driver-{tail}", f"other-{tail}", f"user-{tail}"
        self._addresses = (f"10.1.{high}.{low}" for high, low in itertools.product(range(256), range(1, 255)))
        self.settings = Settings(
            DaemonSettings(self.driver, "registry/driver:v1", gates.defaults().values, log_verbosity=4),
            spare_s=0.2,
        )

    async def set_up(self) -> None:
        for name in (self.driver, self.other, self.user):
            await self.make(NAMESPACES, "v1", "Namespace", {"metadata": {"name": name}})

    async def tear_down(self) -> None:
        """Remove what would concern the next test's controller."""
        for resource in (DOMAINS, TEMPLATES, DAEMON_SETS, CLIQUES, PODS):
            for namespace in (self.user, self.driver, self.other):
                for raw in (await self.kube.list(resource, namespace)).items:
                    name = document(raw)["metadata"]["name"]
                    with contextlib.suppress(ApiError):
                        await self.kube.patch(resource, name, b'{"metadata":{"finalizers":null}}', namespace)
                    with contextlib.suppress(ApiError):
                        await self.kube.delete(resource, name, namespace)
        for raw in (await self.kube.list(NODES)).items:
            with contextlib.suppress(ApiError):
                await self.kube.delete(NODES, document(raw)["metadata"]["name"])

    @asynccontextmanager
    async def controller(self, settings: Settings | None = None) -> AsyncIterator[Controller]:
        """A controller that works while the context lasts; its unexpected end fails the test."""
        made = Controller(ResourceApi(self.kube), self.clock, settings or self.settings, instance="test")
        task = asyncio.create_task(made.run())
        try:
            yield made
            if task.done():
                task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    # What people and other programs do

    async def make(
        self, resource: Resource, version: str, kind: str, body: Mapping[str, Any], space: str = ""
    ) -> Object:
        thing = {"apiVersion": version, "kind": kind, **body}
        return document(await self.kube.create(resource, orjson.dumps(thing), space))

    async def domain(self, name: str = "domain", template: str = "channel", **spec: Any) -> Object:
        channel = {"resourceClaimTemplate": {"name": template}, "allocationMode": spec.pop("mode", "Single")}
        body = {"metadata": {"name": name}, "spec": {"numNodes": spec.pop("num_nodes", 0), "channel": channel}}
        return await self.make(DOMAINS, GROUP_VERSION, "ComputeDomain", body, self.user)

    async def node(self, name: str, uid: str = "") -> None:
        """A node, labelled for a domain as the kubelet plugin does it."""
        labels = {DOMAIN_LABEL: uid} if uid else {}
        await self.make(NODES, "v1", "Node", {"metadata": {"name": name, "labels": labels}})

    async def daemon(
        self, uid: str, node: str, *, clique: str | None = FABRIC, ready: bool = False, space: str = "", ip: str = ""
    ) -> Object:
        """A daemon's pod with an address, as the DaemonSet's controller, kubelet and the daemon leave it."""
        labels = {DOMAIN_LABEL: uid} | ({} if clique is None else {CLIQUE_LABEL: clique})
        name = f"computedomain-daemon-{uid[:8]}-{secrets.token_hex(3)}"
        containers = [{"name": "compute-domain-daemon", "image": "registry/driver:v1"}]
        spec = {"nodeName": node, "containers": containers, "terminationGracePeriodSeconds": 0}
        body = {"metadata": {"name": name, "labels": labels}, "spec": spec}
        space = space or self.driver
        await self.make(PODS, "v1", "Pod", body, space)
        return await self.pod_status(name, ready=ready, ip=ip or next(self._addresses), space=space)

    async def pod_status(self, name: str, *, ready: bool, ip: str = "", space: str = "") -> Object:
        conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
        status: Object = {"phase": "Running", "conditions": conditions}
        if ip:
            status |= {"podIP": ip, "podIPs": [{"ip": ip}]}
        body = orjson.dumps({"status": status})
        return document(await self.kube.patch(PODS, name, body, space or self.driver, subresource="status"))

    async def kill(self, pod: Object) -> None:
        """The pod is gone at once, as after a forced deletion."""
        await self.kube.delete(PODS, pod["metadata"]["name"], pod["metadata"]["namespace"])

    # What is there

    async def get(self, resource: Resource, name: str, space: str = "") -> Object:
        return document(await self.kube.get(resource, name, space))

    async def wait(
        self, resource: Resource, decide: Callable[[list[Object]], Any], space: str = "", *, what: str = ""
    ) -> Any:
        """What `decide` says of all objects of a kind, once it is neither None nor False."""
        last: list[Object] = []

        def found(objects: Mapping[str, Any]) -> Any:
            last[:] = objects[resource.plural]
            return decide(last) or None

        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await until(self.kube, self.clock, space, [Followed(resource)], found)
        except TimeoutError:
            raise AssertionError(f"waited in vain for {what or resource.plural}; there is {last}") from None

    async def ready_domain(self, name: str = "domain", decide: Callable[[Object], Any] = lambda _: True) -> Object:
        """The domain, once it has a status and `decide` holds."""

        def found(domains: list[Object]) -> Object | None:
            return next(
                (
                    each
                    for each in domains
                    if each["metadata"]["name"] == name and each.get("status", {}).get("status") and decide(each)
                ),
                None,
            )

        return dict(await self.wait(DOMAINS, found, self.user, what=f"the domain {name}"))

    async def clique(self, decide: Callable[[dict[str, Object]], Any], space: str = "") -> dict[str, Object]:
        """The only clique's daemons by node, once `decide` holds."""

        def found(cliques: list[Object]) -> dict[str, Object] | None:
            daemons = {each["nodeName"]: each for clique in cliques for each in clique.get("daemons") or ()}
            return daemons if cliques and decide(daemons) else None

        return dict(await self.wait(CLIQUES, found, space or self.driver, what="the clique"))

    async def event(self, reason: str) -> Object:
        """The first Event with this reason."""

        def found(events: list[Object]) -> Object | None:
            return next((each for each in events if each["reason"] == reason), None)

        return dict(await self.wait(EVENTS, found, self.user, what=f"an Event {reason}"))

    async def gone(self, resource: Resource, space: str = "") -> None:
        await self.wait(resource, lambda found: not found, space, what=f"the end of all {resource.plural}")

    def with_settings(self, **changes: Any) -> Settings:
        daemons = {key: changes.pop(key) for key in ("image", "gates", "max_nodes", "namespace") if key in changes}
        return replace(self.settings, daemons=replace(self.settings.daemons, **daemons), **changes)


def crds(folder: Path = CHART / "crds") -> list[Object]:
    """The CRDs of a chart."""
    return [yaml.safe_load(path.read_text()) for path in sorted(folder.glob("*.yaml"))]


async def install(kube: Kube, documents: list[Object]) -> None:
    """Create the CRDs that are not there, and return when they are served."""
    for each in documents:
        with contextlib.suppress(ApiError):
            await kube.create(CRDS, orjson.dumps(each))
    async with asyncio.timeout(TIMEOUT_S):
        for resource in (DOMAINS, CLIQUES):
            while True:
                try:
                    await kube.list(resource)
                    break
                except ApiError:
                    await asyncio.sleep(0.1)


__all__ = ["CRDS", "FABRIC", "FINALIZER", "World", "crds", "install"]
