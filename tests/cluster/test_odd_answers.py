"""Claims that no parser takes, and an API server out of reach behind a page: what is prepared stays prepared."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.cluster.harness.api import Api, Object, wait_until
from tests.cluster.harness.claims import claim, given, life, remove, seen, user, wait_running
from tests.cluster.harness.control_plane import V1_32, V1_37
from tests.cluster.harness.driver import Plugin, Process

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.parametrize("up", [V1_37, V1_32], indirect=True, ids=lambda release: release.version),
]

OTHER = "other.example.com"
ODD = {
    "surrogate": rb'{"a":"\ud800"}',
    "no-utf8": b'{"a":"\xff\xfe"}',
    **{f"deep-{depth}": b'{"a":' + b"[" * depth + b"]" * depth + b"}" for depth in (190, 193, 990, 1_030)},
}


def _odd(api: Api, name: str, parameters: bytes) -> bytes:
    """A claim for one GPU with a config of another driver, as raw JSON."""
    body: Object = {"apiVersion": f"resource.k8s.io/{api.dra}", **claim(api, name)}
    body["spec"]["devices"]["config"] = [{"opaque": {"driver": OTHER, "parameters": "ODD"}}]
    return json.dumps(body).encode().replace(b'"ODD"', parameters)


def test_claims_that_no_parser_takes(plugin: Plugin) -> None:
    """They are used by pods as any other, and read again after a restart and after the checkpoint was lost."""
    api = plugin.cluster.api
    before = plugin.traces()
    path = f"apis/resource.k8s.io/{api.dra}/namespaces/default/resourceclaims"
    try:
        for name, parameters in ODD.items():
            api.send("POST", path, _odd(api, name, parameters))
            api.create(user(name, name))
        _live_through_restart_and_loss(plugin, api)
    finally:
        remove(api, tuple(ODD), tuple(ODD))
    now = plugin.traces()
    assert (now.documents, now.claims) == (before.documents, before.claims)


def _live_through_restart_and_loss(plugin: Plugin, api: Api) -> None:
    wait_running(api, *ODD)
    lives = {name: life(api, name) for name in ODD}
    plugin.stop()
    plugin.start()
    assert not (plugin.folder / "checkpoint.json.unreadable").exists()
    for name in ODD:
        assert len(given(plugin, name).uuids) == 1

    # A lost checkpoint is made up from a LIST of all claims.
    plugin.stop()
    entries = set(plugin.checkpoint())
    (plugin.folder / "checkpoint.json").unlink()
    plugin.start()
    wait_until("the claims to be taken over", lambda: set(plugin.checkpoint()) == entries, 60, plugin.tail)
    for name in ODD:
        assert seen(api, name) == given(plugin, name)
        assert life(api, name) == lives[name]


class _Page(BaseHTTPRequestHandler):
    """The default backend of a load balancer."""

    def do_GET(self) -> None:
        body = b"404 page not found\n"
        self.send_response(404)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.server.asked.add(self.path.partition("?")[0])  # type: ignore[attr-defined]

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the plugin's log tells."""


@contextmanager
def _behind_a_page(kubeconfig: Path) -> Iterator[set[str]]:
    """The kubeconfig leads to a page instead of the API server; the paths asked for."""
    original = kubeconfig.read_text()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Page)
    server.asked = set()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "page",
        "clusters": [{"name": "page", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "page", "user": {}}],
        "contexts": [{"name": "page", "context": {"cluster": "page", "user": "page"}}],
    }
    kubeconfig.write_text(json.dumps(document))
    try:
        yield server.asked  # type: ignore[attr-defined]
    finally:
        kubeconfig.write_text(original)
        server.shutdown()
        server.server_close()
        thread.join(10)


def test_a_page_in_place_of_the_api_server_frees_nothing(plugin: Plugin) -> None:
    api = plugin.cluster.api
    api.create(claim(api, "paged"))
    api.create(user("paged", "paged"))
    wait_running(api, "paged")
    lived, entries = life(api, "paged"), plugin.checkpoint()
    plugin.stop()
    # The pod of the chart has its API server from kubelet: a process on the same files stands in for it.
    astray = plugin if isinstance(plugin, Process) else Process(plugin.release)
    with _behind_a_page(astray.kubeconfig) as asked:
        astray.launch()
        wait_until("the sweep to have asked", lambda: any("resource.k8s.io" in path for path in asked), 60, astray.tail)
        # A new kubelet knows of no prepared claim: it asks again, for a pod that joins.
        plugin.cluster.node.restart_kubelet()
        api.create(user("joining", "paged"))
        wait_running(api, "joining")
        assert "from the checkpoint" in astray.tail(1_000)
        assert plugin.checkpoint() == entries
        astray.stop()
    plugin.start()
    assert seen(api, "paged") == seen(api, "joining") == given(plugin, "paged")
    assert life(api, "paged") == lived
    remove(api, ("paged", "joining"), ("paged",))
