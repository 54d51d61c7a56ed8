"""The API servers a run can use, and the claims it makes there.

The stand-in is the default; a real etcd and kube-apiserver are started where their programs are given, and any other
server is used through its kubeconfig file.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson

from nvdra.api import ClaimRef
from nvdra.kube import ConfigError, HttpKube, access
from nvdra.ports import ApiError, Resource

DRIVER = "gpu.nvidia.com"
CLAIMS = Resource("resource.k8s.io", "v1", "resourceclaims", namespaced=True)
SLICES = Resource("resource.k8s.io", "v1", "resourceslices", namespaced=False)
NODES = Resource("", "v1", "nodes", namespaced=False)
NAMESPACE = "default"


class Api:
    """The run's own API client: creates nodes, slices, and claims allocated as by a scheduler."""

    def __init__(self, kubeconfig: Path, kube: HttpKube) -> None:
        self.kubeconfig = kubeconfig
        self.kube = kube

    async def node(self, name: str) -> None:
        """A Node object; whoever publishes slices for it makes them its dependents."""
        body = orjson.dumps({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
        with contextlib.suppress(ApiError):
            await self.kube.create(NODES, body)

    async def claims(self, pool: str, devices: Sequence[str]) -> list[ClaimRef]:
        """New claims, one a device of the pool, each allocated."""
        return list(await asyncio.gather(*(self._claim(pool, device) for device in devices)))

    async def delete(self, refs: Sequence[ClaimRef]) -> None:
        await asyncio.gather(*(self.kube.delete(CLAIMS, ref.name, ref.namespace) for ref in refs))

    async def devices(self, pool: str, *, timeout_s: float = 60.0) -> list[str]:
        """The pool's devices, once there are any."""
        page = await self.kube.list(SLICES, field_selector=f"spec.nodeName={pool}")
        async with asyncio.timeout(timeout_s):
            for item in page.items:
                if found := _devices(orjson.loads(item)):
                    return found
            selector, version = f"spec.nodeName={pool}", page.resource_version
            async for event in self.kube.watch(SLICES, resource_version=version, field_selector=selector):
                if event.type in ("ADDED", "MODIFIED") and (found := _devices(orjson.loads(event.object))):
                    return found
        raise TimeoutError

    async def forget(self, pool: str) -> None:
        """Delete the pool's slices."""
        for item in (await self.kube.list(SLICES, field_selector=f"spec.nodeName={pool}")).items:
            with contextlib.suppress(ApiError):
                await self.kube.delete(SLICES, orjson.loads(item)["metadata"]["name"])

    async def _claim(self, pool: str, device: str) -> ClaimRef:
        name = f"bench-{secrets.token_hex(6)}"
        claim: dict[str, Any] = {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim"}
        claim["metadata"] = {"name": name, "namespace": NAMESPACE}
        claim["spec"] = {"devices": {"requests": [{"name": "gpu", "exactly": {"deviceClassName": DRIVER}}]}}
        made = orjson.loads(await self.kube.create(CLAIMS, orjson.dumps(claim), NAMESPACE))
        result = {"request": "gpu", "driver": DRIVER, "pool": pool, "device": device}
        made["status"] = {"allocation": {"devices": {"results": [result]}}}
        await self.kube.update(CLAIMS, name, orjson.dumps(made), NAMESPACE, subresource="status")
        return ClaimRef(NAMESPACE, name, made["metadata"]["uid"])


def _devices(thing: dict[str, Any]) -> list[str]:
    return sorted(device["name"] for device in thing["spec"].get("devices") or ())


@asynccontextmanager
async def reached(kubeconfig: Path) -> AsyncIterator[Api]:
    """The API server of a kubeconfig file."""
    async with HttpKube(access(str(kubeconfig), {}), qps=0, user_agent="benchmarks") as kube:
        yield Api(kubeconfig, kube)


@contextlib.contextmanager
def stand_in(folder: Path) -> Iterator[Path]:
    """The stand-in's kubeconfig file, while the context lasts."""
    folder.mkdir()
    kubeconfig = folder / "kubeconfig"
    command = [sys.executable, "-m", "nvdra.testing.api_server", "--kubeconfig", str(kubeconfig)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield kubeconfig
    finally:
        _end(process)


@contextlib.contextmanager
def control_plane(folder: Path, programs: Path) -> Iterator[Path]:
    """The kubeconfig file of a kube-apiserver over an etcd, both of the folder `programs`, on loopback."""
    folder.mkdir()
    etcd, peer, port = (_free_port() for _ in range(3))
    token, running = secrets.token_hex(16), []
    (folder / "tokens").write_text(f"{token},admin,admin,system:masters\n")
    (folder / "tokens").chmod(0o600)
    subprocess.run(["openssl", "genrsa", "-out", folder / "key", "2048"], check=True, capture_output=True)
    client = f"http://127.0.0.1:{etcd}"
    etcd_command = [f"--data-dir={folder / 'etcd'}", "--log-level=error", "--unsafe-no-fsync", "--name=bench"]
    etcd_command += [f"--listen-client-urls={client}", f"--advertise-client-urls={client}"]
    peers = f"http://127.0.0.1:{peer}"
    etcd_command += [f"--listen-peer-urls={peers}", f"--initial-advertise-peer-urls={peers}"]
    etcd_command += [f"--initial-cluster=bench={peers}"]
    api_command = [f"--etcd-servers={client}", "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1"]
    api_command += [f"--secure-port={port}", f"--cert-dir={folder / 'certs'}", "--authorization-mode=RBAC"]
    api_command += [f"--token-auth-file={folder / 'tokens'}", "--service-cluster-ip-range=10.96.0.0/16"]
    api_command += ["--service-account-issuer=https://kubernetes.default.svc", "--endpoint-reconciler-type=none"]
    api_command += [
        f"--service-account-key-file={folder / 'key'}",
        f"--service-account-signing-key-file={folder / 'key'}",
    ]
    api_command += ["--disable-admission-plugins=ServiceAccount"]
    try:
        for name, arguments in (("etcd", etcd_command), ("kube-apiserver", api_command)):
            with (folder / f"{name}.log").open("wb") as log:
                running.append(subprocess.Popen([programs / name, *arguments], stdout=log, stderr=log))
        yield _kubeconfig(folder, port, token)
    finally:
        for process in reversed(running):
            _end(process)


def _kubeconfig(folder: Path, port: int, token: str) -> Path:
    server = {"server": f"https://127.0.0.1:{port}", "certificate-authority": str(folder / "certs" / "apiserver.crt")}
    path = folder / "kubeconfig"
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "bench",
        "clusters": [{"name": "bench", "cluster": server}],
        "users": [{"name": "bench", "user": {"token": token}}],
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
    }
    path.write_bytes(orjson.dumps(document))
    return path


async def ready(kubeconfig: Path, *, timeout_s: float = 90.0) -> None:
    """Return once the server takes claims: one that has just started lacks the namespace for a while."""
    ends = time.monotonic() + timeout_s
    while True:
        try:
            async with reached(kubeconfig) as api:
                await api.delete(await api.claims("nowhere", ["none"]))
                return
        except (ApiError, ConfigError):
            if time.monotonic() > ends:
                raise
        await asyncio.sleep(0.25)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
