"""kube-apiserver and kube-scheduler on loopback, if they are built; nodes are objects without a kubelet."""

from __future__ import annotations

import contextlib
import socket
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import yaml

from benchmarks.api import control_plane
from tests.cluster.harness.api import Api, Refused, wait_until
from tests.cluster.harness.children import Child
from tests.cluster.harness.programs import KUBERNETES, found


def missing() -> str | None:
    """Returns why the control plane cannot be started here; None if it can."""
    return None if found(KUBERNETES) else "kube-apiserver is not built: python -m tests.cluster build"


@contextlib.contextmanager
def scheduled(folder: Path) -> Iterator[tuple[Api, Path]]:
    """The API as its administrator sees it, and the kubeconfig file; a scheduler runs while the context lasts."""
    programs = found(KUBERNETES)
    assert programs is not None
    with control_plane(folder, programs) as kubeconfig:
        api = _api(kubeconfig)
        wait_until("the API server", lambda: _is_ready(api), 90)
        flags = [f"--kubeconfig={kubeconfig}", "--leader-elect=false", "--secure-port=0"]
        scheduler = Child("kube-scheduler", [str(programs / "kube-scheduler"), *flags], folder / "kube-scheduler.log")
        scheduler.start()
        try:
            yield api, kubeconfig
        finally:
            scheduler.stop()


def _api(kubeconfig: Path) -> Api:
    config = yaml.safe_load(kubeconfig.read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    address = urllib.parse.urlsplit(cluster["server"])
    certificate = Path(cluster["certificate-authority"])
    wait_until("the API server's certificate", certificate.exists, 60)
    assert address.hostname is not None
    assert address.port is not None
    return Api(socket.gethostbyname(address.hostname), address.port, certificate, user["token"], "v1")


def _is_ready(api: Api) -> bool:
    with contextlib.suppress(Refused, OSError):
        return api.call("GET", "readyz", timeout_s=2) == b"ok" and api.find("Namespace", "default") is not None
    return False
