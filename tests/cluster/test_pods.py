"""Pods are given the GPUs of their claims, and see no others; on the newest Kubernetes and the oldest that is served.

On 1.32 claims, slices and kubelet speak v1beta1 only.
"""

from __future__ import annotations

import pytest

from tests.cluster.harness.api import wait_until
from tests.cluster.harness.claims import claim, claim_of, given, remove, seen, template, user, wait_running
from tests.cluster.harness.control_plane import V1_32, V1_37
from tests.cluster.harness.driver import Plugin

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.parametrize("up", [V1_37, V1_32], indirect=True, ids=lambda release: release.version),
]


def test_one_gpu(plugin: Plugin) -> None:
    api = plugin.cluster.api
    before = plugin.traces()
    api.create(claim(api, "one"))
    api.create(user("one", "one"))
    wait_running(api, "one")
    assert len(given(plugin, "one").uuids) == 1
    assert seen(api, "one") == given(plugin, "one")
    remove(api, ("one",), ("one",))
    assert plugin.traces() == before


def test_the_hooks_of_a_claim_reach_its_containers(plugin: Plugin) -> None:
    """What only they can have put there, in an image that has none of it but CUDA of a newer driver."""
    api, here = plugin.cluster.api, plugin.cluster
    newer = here.folder / "compat"
    newer.mkdir()
    (newer / "libcuda.so.999.1.1").touch()
    compat = "/usr/local/cuda/compat"
    api.create(claim(api, "hooked"))
    pod = user("hooked", "hooked", volumes=[{"name": "compat", "hostPath": {"path": str(newer)}}])
    pod["spec"]["containers"][0]["volumeMounts"] = [{"name": "compat", "mountPath": compat}]
    api.create(pod)
    wait_running(api, "hooked")
    # create-symlinks
    libraries = "/usr/lib/x86_64-linux-gnu"
    cuda = f"libcuda.so.{plugin.root.driver_version}"
    assert here.exec("hooked", "readlink", f"{libraries}/libcuda.so.1") == f"{cuda}\n"
    # enable-cuda-compat
    assert compat in here.exec("hooked", "sh", "-c", "cat /etc/ld.so.conf.d/*").split()
    # update-ldcache
    for library in (f"{libraries}/libcuda.so.1", f"{libraries}/libnvidia-ml.so.1"):
        here.exec("hooked", "grep", "-q", library, "/etc/ld.so.cache")
    remove(api, ("hooked",), ("hooked",))


def test_two_pods_with_one_gpu_each(plugin: Plugin) -> None:
    api = plugin.cluster.api
    before = plugin.traces()
    api.create(template(api, "each-template"))
    for name in ("each-a", "each-b"):
        api.create(user(name, "each-template"))
    wait_running(api, "each-a", "each-b")
    for name in ("each-a", "each-b"):
        assert len(given(plugin, name).uuids) == 1
        assert seen(api, name) == given(plugin, name)
    assert not seen(api, "each-a").uuids & seen(api, "each-b").uuids
    remove(api, ("each-a", "each-b"), templates=("each-template",))
    assert plugin.traces() == before


def test_two_pods_share_one_claim(plugin: Plugin) -> None:
    api = plugin.cluster.api
    before = plugin.traces()
    api.create(claim(api, "shared"))
    for name in ("shared-a", "shared-b"):
        api.create(user(name, "shared"))
    wait_running(api, "shared-a", "shared-b")
    assert len(given(plugin, "shared-a").uuids) == 1
    assert seen(api, "shared-a") == seen(api, "shared-b") == given(plugin, "shared-a")
    # The first to go must not take the GPU from the other.
    remove(api, ("shared-a",))
    assert plugin.cluster.exec("shared-b", "nvidia-smi", "-L") in api.logs("shared-b", "main")
    assert given(plugin, "shared-b") == seen(api, "shared-b")
    remove(api, ("shared-b",), ("shared",))
    assert plugin.traces() == before


def test_one_pod_with_two_containers_on_one_claim_of_two_gpus(plugin: Plugin) -> None:
    api = plugin.cluster.api
    before = plugin.traces()
    api.create(claim(api, "pair", count=2))
    api.create(user("pair", "pair", containers=("first", "second")))
    wait_running(api, "pair")
    assert len(given(plugin, "pair").uuids) == 2
    assert seen(api, "pair", "first") == seen(api, "pair", "second") == given(plugin, "pair")
    remove(api, ("pair",), ("pair",))
    assert plugin.traces() == before


def test_a_selector_picks_the_gpu_it_names(plugin: Plugin) -> None:
    api = plugin.cluster.api
    before = plugin.traces()
    # The last one: without a selector the first free one would be taken.
    wanted = max(plugin.root.portrait.gpus, key=lambda gpu: gpu.minor).uuid
    api.create(claim(api, "named", selector=f"device.attributes['gpu.nvidia.com'].uuid == '{wanted}'"))
    api.create(user("named", "named"))
    wait_running(api, "named")
    assert given(plugin, "named").uuids == {wanted}
    assert seen(api, "named") == given(plugin, "named")
    remove(api, ("named",), ("named",))
    assert plugin.traces() == before


def test_a_pod_whose_selector_matches_nothing_stays_pending(plugin: Plugin) -> None:
    api = plugin.cluster.api
    before = plugin.traces()
    api.create(claim(api, "never", selector="device.attributes['gpu.nvidia.com'].productName == 'no such GPU'"))
    api.create(user("never", "never"))
    wait_until(
        "the scheduler to say that no device matches",
        lambda: "cannot allocate all claims" in api.events("never"),
        60,
        lambda: api.events("never"),
    )
    assert api.get("Pod", "never")["status"]["phase"] == "Pending"
    assert "allocation" not in claim_of(api, "never").get("status", {})
    assert plugin.traces() == before
    remove(api, ("never",), ("never",))
