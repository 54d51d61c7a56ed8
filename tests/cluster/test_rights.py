"""Least rights: what the chart grants is what the plugin asks for, as the API server's audit log has it."""

from __future__ import annotations

import pytest

from tests.cluster.harness.api import Api, wait_until
from tests.cluster.harness.claims import claim, remove, user, wait_running
from tests.cluster.harness.driver import Installed
from tests.cluster.harness.helm_release import ACCOUNT, NAMESPACE

pytestmark = pytest.mark.cluster

Rights = set[tuple[str, str, str]]
"""Verb, group, resource."""
ROLE = "dra-driver-nvidia-gpu-clusterrole-kubeletplugin"


def granted(api: Api) -> Rights:
    return {
        (verb, group, resource)
        for rule in api.get("ClusterRole", ROLE)["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def asked(installed: Installed, after: int) -> Rights:
    """What the plugin's account asked for since the audit log had `after` lines. Raises AssertionError if refused."""
    found = set()
    for event in installed.cluster.plane.audited()[after:]:
        # Which API groups there are, everybody may ask.
        if "objectRef" in event and event["user"]["username"] == f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}":
            where = event["objectRef"]
            assert event["responseStatus"]["code"] not in (401, 403), event
            found.add((event["verb"], where.get("apiGroup", ""), where["resource"]))
    return found


def test_every_right_is_used_and_no_other_is_asked_for(installed: Installed) -> None:
    """A life of the plugin in which everything happens that it has rights for."""
    api = installed.cluster.api
    after = len(installed.cluster.plane.audited())

    # A start reads the node, lists slices and watches them; a broken checkpoint is made up from a list of claims.
    installed.stop()
    (installed.folder / "checkpoint.json").write_text("{")
    installed.start()
    (installed.folder / "checkpoint.json.unreadable").unlink()
    # A claim is read when it is prepared.
    api.create(claim(api, "asked"))
    api.create(user("asked", "asked"))
    wait_running(api, "asked")
    remove(api, ("asked",), ("asked",))

    # Slices are kept true: one that is gone is created, one too many is deleted, one that was changed is written anew.
    (true,) = installed.slices()
    api.delete("ResourceSlice", true["metadata"]["name"])
    wait_until("the slice to come back", lambda: len(installed.slices()) == 1, 30, installed.slices)
    (true,) = installed.slices()
    api.create({"kind": "ResourceSlice", "metadata": {"name": "surplus"}, "spec": true["spec"]})
    wait_until("the surplus slice to go", lambda: api.find("ResourceSlice", "surplus") is None, 30, installed.slices)

    (true,) = installed.slices()
    del true["metadata"]["resourceVersion"]
    devices, path = true["spec"].pop("devices"), api.path("ResourceSlice", "", true["metadata"]["name"])

    def change_and_look() -> bool:
        # Somebody who writes again and again gets in between sooner or later: then the slice is read once more.
        for number in range(100):
            api.call("PUT", path, {**true, "spec": {**true["spec"], "devices": devices[: 1 + number % 2]}})
        return ("get", "resource.k8s.io", "resourceslices") in asked(installed, after)

    wait_until("a write to meet another", change_and_look, 90, lambda: asked(installed, after))
    installed.wait_published()
    assert asked(installed, after) == granted(api)
