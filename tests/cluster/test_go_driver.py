"""From the Go driver and back, with pods running: each takes up the checkpoint and the CDI files that the other left.

`$NVDRA_CLUSTER_GO_DRIVER` names a real build of its `gpu-kubelet-plugin`, v0.4.x: then that one plays its own part.
Without it, the node is laid out as v0.4.1 leaves it, by a checkpoint that a build of it wrote, filled in for
this node.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.harness.api import Api, Object, wait_until
from tests.cluster.harness.claims import claim, claim_of, given, life, remove, seen, user, wait_running
from tests.cluster.harness.driver import Installed, Process
from tests.folders import contents
from tests.twins import checkpoint as twin

pytestmark = pytest.mark.cluster

GO_DRIVER = "NVDRA_CLUSTER_GO_DRIVER"
RECORDED = Path(__file__).parents[1] / "golden" / "recordings" / "v0.4.1-plain" / "checkpoint.json"
PODS = ("p-one", "p-two", "p-with-config")
"""Named as those that the recorded record is of; each has a claim of its own name."""
CONFIG = {"apiVersion": "resource.nvidia.com/v1beta1", "kind": "GpuConfig"}


@pytest.fixture(params=["recorded", *(["built"] if GO_DRIVER in os.environ else [])])
def go_driver(request: pytest.FixtureRequest, installed: Installed) -> Iterator[Process | None]:
    """The Go driver beside the kubelet, if there is a build of it; ours runs before and afterwards."""
    go_driver = Process(installed.release, os.environ[GO_DRIVER]) if request.param == "built" else None
    yield go_driver
    if go_driver:
        go_driver.stop()
    installed.start()


def test_from_the_go_driver_and_back(installed: Installed, go_driver: Process | None) -> None:
    api = installed.cluster.api
    if go_driver:
        installed.stop()
        go_driver.start()
        start_pods(api)
        go_driver.stop()
    else:
        start_pods(api)
        installed.stop()
        lay_out(installed)
    lives = {name: life(api, name) for name in PODS}
    entries, documents = installed.checkpoint(), documents_of(installed)
    assert len(entries) == len(documents) == len(PODS)
    assert not any("name" in entry for entry in entries.values())

    installed.start()
    for name in PODS:
        assert seen(api, name) == given(installed, name)
    # A pod that joins is given what is prepared; another claim is given what is not.
    api.create(user("p-joins", "p-two"))
    api.create(claim(api, "p-new"))
    api.create(user("p-new", "p-new"))
    wait_running(api, "p-joins", "p-new")
    assert seen(api, "p-joins") == seen(api, "p-two")
    assert not given(installed, "p-new").uuids & {uuid for name in PODS for uuid in seen(api, name).uuids}
    # A claim that the Go driver prepared is let go of here.
    remove(api, ("p-one",), ("p-one",))
    wait_until("one claim to be let go of", lambda: len(installed.checkpoint()) == 3, 30, installed.checkpoint)

    installed.stop()
    kept = {claim_of(api, name)["metadata"]["uid"]: name for name in ("p-two", "p-with-config")}
    assert {uid: entry for uid, entry in installed.checkpoint().items() if uid in kept} == {
        uid: entry for uid, entry in entries.items() if uid in kept
    }
    assert documents_of(installed).items() >= {uid: documents[uid] for uid in kept}.items()
    assert_is_as_v0_4_1_writes(installed)

    last = go_driver or installed
    last.start()
    for name in kept.values():
        assert life(api, name) == lives[name]
        assert seen(api, name) == given(last, name)
    remove(api, ("p-joins", "p-new", *kept.values()), ("p-new", *kept.values()))
    wait_until("every claim to be let go of", lambda: not last.checkpoint(), 30, last.checkpoint)
    assert documents_of(last) == {}


def start_pods(api: Api) -> None:
    """Pods with claims like those of the recorded ones: of one GPU, of two, and of one with a config."""
    configured = claim(api, "p-with-config")
    opaque = {"driver": "gpu.nvidia.com", "parameters": CONFIG}
    configured["spec"]["devices"]["config"] = [{"requests": ["gpu"], "opaque": opaque}]
    for body in (claim(api, "p-one"), claim(api, "p-two", count=2), configured):
        api.create(body)
    for name in PODS:
        api.create(user(name, name))
    wait_running(api, *PODS)


def documents_of(plugin: Installed | Process) -> dict[str, bytes]:
    """Claim UID → its CDI document, as it lies on the disk."""
    found = contents(plugin.cluster.node.cdi)
    return {Path(name).stem.rpartition("_")[2]: found[name] for name in found if name.endswith(".yaml")}


def lay_out(plugin: Installed) -> None:
    """The checkpoint becomes the recorded one, filled in for the claims that the plugin has prepared.

    Only how a claim's status is written is the plugin's own; the CDI documents are, as the Go driver writes the same.
    """
    recorded = json.loads(RECORDED.read_text())
    words = {recorded["v2"]["nodeBootID"]: Path("/proc/sys/kernel/random/boot_id").read_text().strip()}
    statuses: dict[str, Any] = {}
    for uid, entry in recorded["v1"]["preparedClaims"].items():
        body = claim_of(plugin.cluster.api, entry["status"]["reservedFor"][0]["name"])
        ours = plugin.checkpoint()[body["metadata"]["uid"]]
        words[uid] = body["metadata"]["uid"]
        statuses[words[uid]] = ours["status"]
        for there, here in zip(_devices(entry), _devices(ours), strict=True):
            words[there["info"]["uuid"]] = here["info"]["uuid"]
            words[there["device"]["DeviceName"]] = here["device"]["DeviceName"]
            words[there["device"]["CDIDeviceIDs"][0]] = here["device"]["CDIDeviceIDs"][0]
    filled = _filled(recorded, words)
    for part in ("v1", "v2"):
        entries = filled[part]["preparedClaims"]
        filled[part]["preparedClaims"] = {uid: {**entries[uid], "status": statuses[uid]} for uid in sorted(entries)}
    (plugin.folder / "checkpoint.json").write_bytes(signed(filled))


def _devices(entry: Object) -> list[Any]:
    return [device["gpu"] for group in entry["preparedDevices"] for device in group["devices"]]


def _filled(value: Any, words: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {words.get(key, key): _filled(each, words) for key, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, words) for each in value]
    return words.get(value, value) if isinstance(value, str) else value


def signed(checkpoint: Object) -> bytes:
    """A checkpoint's text with checksums of its own, by plain Python."""
    v1, v2 = checkpoint["v1"], {**checkpoint["v2"], "checksum": 0}
    outer = twin.checksum(twin.text({"checksum": 0, "v1": v1}).encode())
    inner = {**v2, "checksum": twin.checksum(twin.text(v2).encode())}
    return twin.text({"checksum": outer, "v1": v1, "v2": inner}).encode()


def assert_is_as_v0_4_1_writes(plugin: Installed) -> None:
    """Checksums of both sections hold, and entries have the members of the recorded ones, and a name where ours is."""
    content = (plugin.folder / "checkpoint.json").read_bytes()
    checkpoint, recorded = json.loads(content), json.loads(RECORDED.read_text())
    assert signed(checkpoint) == content
    assert checkpoint.keys() == recorded.keys()
    for part in ("v1", "v2"):
        assert checkpoint[part].keys() == recorded[part].keys()
        assert checkpoint[part]["preparedClaims"].keys() == checkpoint["v2"]["preparedClaims"].keys()
        (members,) = {tuple(entry) for entry in recorded[part]["preparedClaims"].values()}
        for entry in checkpoint[part]["preparedClaims"].values():
            added = set(entry) - set(members)
            assert added in (set(), {"name", "namespace"} if part == "v2" else set())
            assert [member for member in entry if member not in added] == list(members)
