"""compute-domain-kubelet-plugin as a process, on a mock node in a clique, between API server and kubelet."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import yaml

from nvdra import cdi
from nvdra.api import ClaimRef
from nvdra.api.compute_domain import CLIQUE_LABEL, DOMAIN_LABEL
from nvdra.checkpoint import DOMAIN, Checkpoint
from nvdra.checkpoint import decode as decode_checkpoint
from nvdra.ports import Resource
from nvdra.testing.api_server import ApiServer, kubeconfig
from nvdra.testing.kube import FakeKube
from tests.contract.plugin_node import CLAIMS, NODES, POOL, PluginNode, short_folder
from tests.waiting import until

DRIVER, NAMESPACE = "compute-domain.nvidia.com", "drv"
CLIQUE = "7b1f0f52-3f0c-4c5e-9d7e-2c9b1f6a8e01.32766"  # of portrait gb200x4
DOMAINS = Resource("resource.nvidia.com", "v1beta1", "computedomains", namespaced=True)
CLIQUES = Resource("resource.nvidia.com", "v1beta1", "computedomaincliques", namespaced=True)
PODS = Resource("", "v1", "pods", namespaced=True)
API = "resource.nvidia.com/v1beta1"


class DomainNode(PluginNode):
    """A node of a GB200 rack with the plugin for ComputeDomains."""

    driver = DRIVER
    program = str(Path(sys.executable).with_name("compute-domain-kubelet-plugin"))
    own_flags: ClassVar[dict[str, str]] = {"namespace": NAMESPACE}

    async def domain(self, name: str = "dom", namespace: str = "ns") -> str:
        """The UID of a new ComputeDomain."""
        body = {
            "apiVersion": API,
            "kind": "ComputeDomain",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"numNodes": 0, "channel": {"resourceClaimTemplate": {"name": f"{name}-channel"}}},
        }
        made = json.loads(await self.kube.create(DOMAINS, json.dumps(body).encode(), namespace))
        uid: str = made["metadata"]["uid"]
        return uid

    async def channel(
        self, domain: str, *, mode: str = "Single", device: str = "channel-0", namespace: str = "ns", **more: Any
    ) -> ClaimRef:
        """An allocated claim of a channel."""
        config = {"apiVersion": API, "kind": "ComputeDomainChannelConfig", "domainID": domain, "allocationMode": mode}
        return await self._claim("channel", device, {**config, **more}, namespace)

    async def daemon(self, domain: str, *, namespace: str = NAMESPACE) -> ClaimRef:
        """An allocated claim of a daemon."""
        config = {"apiVersion": API, "kind": "ComputeDomainDaemonConfig", "domainID": domain}
        return await self._claim("daemon", "daemon-0", config, namespace)

    async def _claim(self, request: str, device: str, config: dict[str, Any], namespace: str) -> ClaimRef:
        self._names += 1
        name = f"{request}-{self._names}"
        body: dict[str, Any] = {"metadata": {"name": name, "namespace": namespace}, "spec": {"devices": {}}}
        made = json.loads(await self.kube.create(CLAIMS, json.dumps(body).encode(), namespace))
        result = {"request": request, "driver": DRIVER, "pool": POOL, "device": device}
        opaque = {"driver": DRIVER, "parameters": config}
        made["status"] = {
            "allocation": {
                "devices": {
                    "results": [result],
                    "config": [{"source": "FromClaim", "requests": [request], "opaque": opaque}],
                }
            }
        }
        await self.kube.update(CLAIMS, name, json.dumps(made).encode(), namespace, subresource="status")
        return ClaimRef(namespace, name, made["metadata"]["uid"])

    async def clique(self, domain: str, status: str = "Ready", ip: str = "10.0.0.1", node: str = POOL) -> None:
        """The domain's clique object says this of the node's daemon."""
        daemon = {"nodeName": node, "ipAddress": ip, "cliqueID": CLIQUE, "index": 0, "status": status}
        name = f"{domain}.{CLIQUE}"
        labels = {DOMAIN_LABEL: domain, CLIQUE_LABEL: CLIQUE}
        body = {
            "apiVersion": API,
            "kind": "ComputeDomainClique",
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
            "daemons": [daemon],
        }
        if any(each["metadata"]["name"] == name for each in self.kube.objects("computedomaincliques")):
            change = json.dumps({"daemons": [daemon]}).encode()
            await self.kube.patch(CLIQUES, name, change, NAMESPACE)
        else:
            await self.kube.create(CLIQUES, json.dumps(body).encode(), NAMESPACE)

    async def daemon_pod(self, domain: str, ip: str, name: str = "daemon") -> None:
        """A pod of the domain's DaemonSet on this node."""
        body = {
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": {DOMAIN_LABEL: domain}},
            "spec": {"nodeName": POOL},
        }
        made = json.loads(await self.kube.create(PODS, json.dumps(body).encode(), NAMESPACE))
        made["status"] = {"phase": "Running", "podIP": ip}
        await self.kube.update(PODS, name, json.dumps(made).encode(), NAMESPACE, subresource="status")

    def label(self, key: str = DOMAIN_LABEL) -> str:
        """A label of the node; "" if it has none."""
        (stored,) = self.kube.objects("nodes")
        found: str = (stored["metadata"].get("labels") or {}).get(key, "")
        return found

    async def set_label(self, value: str) -> None:
        """Label the node by hand."""
        await self.kube.patch(NODES, POOL, json.dumps({"metadata": {"labels": {DOMAIN_LABEL: value}}}).encode())

    async def is_labelled(self, domain: str) -> None:
        """Return once the node is labelled."""
        await until(lambda: self.label() == domain, "the node's label")

    def published(self) -> list[str]:
        return sorted(
            device["name"]
            for each in self.kube.objects("resourceslices")
            for device in each["spec"].get("devices") or ()
        )

    def checkpoint(self) -> Checkpoint:
        return decode_checkpoint(self.checkpoint_path.read_bytes(), DOMAIN)

    def cdi_path(self, ref: ClaimRef) -> Path:
        return self.cdi / cdi.DOMAIN_CLAIMS.file_name(ref.uid)

    def edits(self, ref: ClaimRef) -> Any:
        """The container edits of a claim with one device."""
        (device,) = yaml.safe_load(self.cdi_path(ref).read_text())["devices"]
        return device["containerEdits"]


@asynccontextmanager
async def domain_node(
    portrait: str = "gb200x4", *, kube: FakeKube | None = None, **layout: Any
) -> AsyncIterator[DomainNode]:
    """A node whose API server is served, the program not yet started; nothing of it runs afterwards."""
    with short_folder() as folder:
        node = DomainNode(folder, portrait, **layout)
        node.kube = kube or FakeKube()
        node.server = server = ApiServer(node.kube)
        await node.kube.create(NODES, json.dumps({"metadata": {"name": POOL}}).encode())
        async with server.serving() as url:
            (folder / "kubeconfig").write_text(kubeconfig(url, ""))
            try:
                yield node
            finally:
                with contextlib.suppress(AssertionError):
                    await node.stop(signal.SIGKILL)
