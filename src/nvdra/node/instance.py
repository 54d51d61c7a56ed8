"""Chooses this instance's sockets: names of its own if kubelet keeps two plugins of a driver, else the fixed names."""

from __future__ import annotations

from nvdra import telemetry
from nvdra.kube import document
from nvdra.kubelet import SocketPaths, keeps_two, socket_paths
from nvdra.ports import ApiError, Kube, Resource

# A plugin must start without an API server too. It then takes the fixed names, which work with every kubelet: a new
# instance waits for the old one to end.
TIMEOUT_S = 2.0
_NODES = Resource("", "v1", "nodes", namespaced=False)


async def instance_paths(
    kube: Kube, *, driver: str, node_name: str, pod_uid: str, registrar_dir: str, plugins_dir: str
) -> SocketPaths:
    """Names by instance if `pod_uid` is known and this kubelet keeps two plugins of one driver, else the fixed names.

    Raises SocketPathError.
    """
    fixed = socket_paths(driver, registrar_dir, plugins_dir)
    if not pod_uid:
        return fixed
    try:
        node = document(await kube.get(_NODES, node_name, timeout_s=TIMEOUT_S))
        version = str(node["status"]["nodeInfo"]["kubeletVersion"])
    except (ApiError, KeyError, TypeError) as error:
        telemetry.warning("Kubelet's version cannot be read, using the fixed socket names", cause=repr(error))
        return fixed
    if not keeps_two(version):
        telemetry.info(1, "This kubelet keeps one plugin per driver: using the fixed socket names", kubelet=version)
        return fixed
    paths = socket_paths(driver, registrar_dir, plugins_dir, pod_uid)
    if paths == fixed:
        telemetry.warning("Kubelet's paths are too long for socket names by instance", registrar_dir=registrar_dir)
    return paths
