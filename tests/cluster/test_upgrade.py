"""The release is upgraded while pods start: no claim meets a node without its driver, no slice ever goes."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from tests.cluster.harness.api import Api, Object, wait_until
from tests.cluster.harness.claims import claim, given, remove, seen, sight, template, user, wait_running
from tests.cluster.harness.cluster import Cluster
from tests.cluster.harness.control_plane import V1_32
from tests.cluster.harness.driver import DRIVER, Installed, Plugin, Process
from tests.cluster.harness.helm_release import NAMESPACE, HelmRelease

pytestmark = pytest.mark.cluster

AT_ONCE = 6
"""Pods in flight: fewer than there are GPUs, so that none waits for another's."""
FAILED = "FailedPrepareDynamicResources"


@dataclass
class Stream:
    """Pods with a GPU each that start, see it and end, one after the other, until told to stop."""

    api: Api
    started: int = 0
    ended: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    _is_over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """In a thread of its own, with a connection of its own."""
        under_way: list[str] = []
        while under_way or not self._is_over.is_set():
            if len(under_way) < AT_ONCE and not self._is_over.is_set():
                name = f"stream-{self.started:03}"
                self.api.create(user(name, "stream-template", script="exit 0"))
                self.started += 1
                under_way.append(name)
            under_way = [name for name in under_way if not self._has_ended(name)]
            time.sleep(0.1)

    def _has_ended(self, name: str) -> bool:
        phase = self.api.get("Pod", name)["status"].get("phase")
        if phase not in ("Succeeded", "Failed"):
            return False
        log = self.api.logs(name, "main")
        self.ended.append(name)
        if phase == "Failed" or len(sight(log).uuids) != 1:
            self.wrong.append(f"{name} {phase}: {log}")
        self.api.delete("Pod", name, grace_s=0)
        return True

    def stop(self) -> None:
        self._is_over.set()


@contextmanager
def stream(up: Cluster) -> Iterator[Stream]:
    """Pods start until the block ends; then all of them have ended."""
    up.api.create(template(up.api, "stream-template"))
    pods = Stream(up.plane.api())
    thread = threading.Thread(target=pods.run, name="stream of pods")
    thread.start()
    try:
        yield pods
    finally:
        pods.stop()
        thread.join(120)
        up.api.delete("ResourceClaimTemplate", "stream-template")
    assert not thread.is_alive(), "pods of the stream do not end"


def upgrade(release: HelmRelease, *arguments: str) -> Object:
    """The pod that the upgrade left, Ready and alone."""
    # One of before an earlier upgrade may still be ending.
    wait_until("one pod of the driver", lambda: len(release.pods()) == 1, 60, release.state)
    (before,) = release.pods()
    release.upgrade(*arguments)

    def is_done() -> bool:
        uids = [pod["metadata"]["uid"] for pod in release.pods()]
        return len(uids) == 1 and uids != [before["metadata"]["uid"]] and release.is_ready()

    wait_until("the new pod to be alone and Ready", is_done, 90, release.state)
    (pod,) = release.pods()
    return pod


def failures(api: Api) -> list[str]:
    """Each claim that kubelet could not have prepared."""
    return [str(event["message"]) for event in api.items("Event") if event["reason"] == FAILED]


def slices_since(api: Api, version: str) -> list[tuple[str, int]]:
    """What became of the driver's ResourceSlices since then: kind of change, and how many devices were left."""
    path = f"apis/resource.k8s.io/{api.dra}/resourceslices?watch=1&timeoutSeconds=2&resourceVersion={version}"
    events = [json.loads(line) for line in api.call("GET", path).splitlines()]
    return [
        (event["type"], len(event["object"]["spec"].get("devices") or []))
        for event in events
        if event["object"]["spec"]["driver"] == DRIVER
    ]


def version_now(api: Api) -> str:
    listed = json.loads(api.call("GET", f"apis/resource.k8s.io/{api.dra}/resourceslices"))
    return str(listed["metadata"]["resourceVersion"])


def sockets(plugin: Plugin) -> set[str]:
    """Names of the driver's sockets, the registration's and the plugin's own."""
    names = [*os.listdir(plugin.cluster.node.registry), *os.listdir(plugin.folder)]
    return {name for name in names if name.endswith(".sock")}


def logged(plugin: Installed, pod: Object, text: str) -> bool:
    name = pod["metadata"]["name"]
    return re.search(text, plugin.cluster.api.logs(name, "gpus", NAMESPACE)) is not None


FIXED = {f"{DRIVER}-reg.sock", "dra.sock"}


def test_no_claim_fails_while_the_release_is_upgraded(installed: Installed) -> None:
    up, api, release = installed.cluster, installed.cluster.api, installed.release
    before, failed, version = installed.traces(), failures(api), version_now(api)
    with stream(up) as pods:
        wait_until("the first pods to have ended", lambda: len(pods.ended) > 3)
        for verbosity in ("5", "6", "4"):
            started, ended = pods.started, len(pods.ended)
            pod = upgrade(release, f"--set=logVerbosity={verbosity}")
            assert pods.started > started, "no pod was started during the upgrade"
            uid = pod["metadata"]["uid"]
            assert sockets(installed) == {f"{DRIVER}-{uid}-reg.sock", f"dra-{uid}.sock"}
            wait_until("pods to end with the new one", lambda ended=ended: len(pods.ended) > ended + AT_ONCE, 60)  # type: ignore[misc]
    name = pod["metadata"]["name"]
    doctor = ("exec", name, f"--namespace={NAMESPACE}", "--container=gpus", "--", "sh", "-c", "nvdra doctor || true")
    assert "answers at both sockets, as kubelet asks" in up.kubectl(*doctor)
    print(f"{pods.started} pods started during three upgrades")
    assert pods.wrong == []
    assert len(pods.ended) == pods.started
    assert failures(api) == failed
    gpus = len(installed.root.portrait.gpus)
    assert [change for change in slices_since(api, version) if change != ("MODIFIED", gpus)] == []
    wait_until("no trace of the claims", lambda: installed.traces().claims == before.claims, 60, installed.traces)


def test_where_sockets_have_fixed_names_the_new_pod_stands_by(installed: Installed) -> None:
    """With POD_UID unset. Kubelet may miss the driver for a moment; what runs does not, and nothing is left undone."""
    api, release = installed.cluster.api, installed.release
    env = [*release.values()["kubeletPlugin"]["containers"]["gpus"]["env"], {"name": "POD_UID", "value": ""}]
    unset = f"--set-json=kubeletPlugin.containers.gpus.env={json.dumps(env)}"
    version = version_now(api)
    try:
        old = upgrade(release, unset)
        assert sockets(installed) == FIXED
        api.create(claim(api, "stays"))
        api.create(user("stays", "stays"))
        wait_running(api, "stays")
        new = upgrade(release, unset, "--set=logVerbosity=5")
        assert logged(installed, new, f"standing by for pod {old['metadata']['name']}")
        assert sockets(installed) == FIXED
        api.create(claim(api, "after"))
        api.create(user("after", "after"))
        wait_running(api, "after")
        for name in ("stays", "after"):
            assert seen(api, name) == given(installed, name)
        remove(api, ("stays", "after"), ("stays", "after"))
        assert installed.checkpoint() == {}
    finally:
        upgrade(release)
    assert "DELETED" not in {kind for kind, _ in slices_since(api, version)}


@pytest.mark.parametrize("up", [V1_32], indirect=True, ids=["1.32"])
def test_where_kubelet_keeps_one_the_new_process_stands_by(plugin: Plugin) -> None:
    api = plugin.cluster.api
    api.create(claim(api, "stays"))
    api.create(user("stays", "stays"))
    wait_running(api, "stays")
    new = Process(plugin.release, flags=("--pod-uid=22222222-bbbb",))
    try:
        new.start()
        wait_until("it to stand by", lambda: "standing by for pod" in new.tail(), 30, new.tail)
        plugin.stop()
        # The log is that of both.
        wait_until("it to take over", lambda: "Registered" in new.tail().partition("taking over")[2], 30, new.tail)
        assert sockets(plugin) == FIXED
        # This kubelet has removed the slices together with the registration.
        new.wait_published()
        api.create(claim(api, "after"))
        api.create(user("after", "after"))
        wait_running(api, "after")
        for name in ("stays", "after"):
            assert seen(api, name) == given(plugin, name)
        remove(api, ("stays", "after"), ("stays", "after"))
        assert plugin.checkpoint() == {}
    finally:
        new.stop()
        plugin.start()
        wait_until("it to serve again", lambda: sockets(plugin) == FIXED, 30, plugin.tail)
