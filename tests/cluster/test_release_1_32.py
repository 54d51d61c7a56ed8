"""Kubernetes 1.32, the oldest release served: claims, slices and kubelet speak v1beta1 only."""

from __future__ import annotations

import pytest

from tests.cluster.harness.claims import claim, given, remove, seen, user, wait_running
from tests.cluster.harness.control_plane import V1_32
from tests.cluster.harness.driver import Plugin

pytestmark = [pytest.mark.cluster, pytest.mark.parametrize("up", [V1_32], indirect=True, ids=["1.32"])]


def test_one_gpu_on_kubernetes_1_32(plugin: Plugin) -> None:
    api = plugin.cluster.api
    assert api.call("GET", "apis/resource.k8s.io").decode().count('"groupVersion":"resource.k8s.io/v1"') == 0
    before = plugin.traces()
    api.create(claim(api, "one"))
    api.create(user("one", "one"))
    wait_running(api, "one")
    assert len(given(plugin, "one").uuids) == 1
    assert seen(api, "one") == given(plugin, "one")
    remove(api, ("one",), ("one",))
    assert plugin.traces() == before
