"""Which sockets this instance of a plugin takes: its own beside those of another, where kubelet keeps both."""

from __future__ import annotations

from nvdra import telemetry
from nvdra.kube import document
from nvdra.kubelet import SocketPaths, keeps_two, socket_paths
from nvdra.ports import ApiError, Kube, Resource

# A node comes up without its API server too: then one instance waits for the other, which is never wrong.
TIMEOUT_S = 2.0
_NODES = Resource("", "v1", "nodes", namespaced=False)


async def instance_paths(
    kube: Kube, *, driver: str, node_name: str, pod_uid: str, registrar_dir: str, plugins_dir: str
) -> SocketPaths:
    """Names by instance if `pod_uid` is known and this node's kubelet keeps two plugins of one driver, else the fixed
    ones. Raises SocketPathError.
    """
    fixed = socket_paths(driver, registrar_dir, plugins_dir)
    if not pod_uid:
        return fixed
    try:
        node = document(await kube.get(_NODES, node_name, timeout_s=TIMEOUT_S))
        version = str(node["status"]["nodeInfo"]["kubeletVersion"])
    except (ApiError, KeyError, TypeError) as error:
        telemetry.warning("Kubelet's version cannot be read, taking the sockets' fixed names", cause=repr(error))
        return fixed
    if not keeps_two(version):
        telemetry.info(1, "This kubelet keeps one plugin a driver: sockets have their fixed names", kubelet=version)
        return fixed
    paths = socket_paths(driver, registrar_dir, plugins_dir, pod_uid)
    if paths == fixed:
        telemetry.warning("Kubelet's folders leave no room for names by instance", registrar_dir=registrar_dir)
    return paths
