"""Plugin killed, plugin replaced, kubelet restarted, each with claims alive: running pods stay, others get through."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.cluster.harness.api import wait_until
from tests.cluster.harness.claims import claim, given, life, remove, seen, template, user, wait_running
from tests.cluster.harness.driver import Plugin, Traces

pytestmark = pytest.mark.cluster


def _documents(plugin: Plugin) -> int:
    return len(list(plugin.cluster.node.cdi.iterdir()))


def _entries(plugin: Plugin) -> int:
    return len(plugin.checkpoint())


@pytest.mark.parametrize("count", [_documents, _entries], ids=["first CDI document", "first checkpoint entry"])
def test_the_plugin_is_killed_while_pods_start(plugin: Plugin, count: Callable[[Plugin], int]) -> None:
    """Four pods start; as soon as the plugin has left a trace of the first, it is gone."""
    api = plugin.cluster.api
    before = plugin.traces()
    api.create(claim(api, "steady"))
    api.create(user("steady", "steady"))
    wait_running(api, "steady")
    lived, quiet = life(api, "steady"), count(plugin)

    api.create(template(api, "late-template"))
    late = tuple(f"late-{number}" for number in range(4))
    for name in late:
        api.create(user(name, "late-template"))
    wait_until("the plugin to be at work", lambda: count(plugin) > quiet, 60, plugin.traces, every_s=0.001)
    plugin.kill()
    # A pod is not touched by the plugin's death.
    assert plugin.cluster.exec("steady", "nvidia-smi", "-L") in api.logs("steady", "main")
    plugin.start()

    wait_running(api, *late)
    for name in ("steady", *late):
        assert len(given(plugin, name).uuids) == 1
        assert seen(api, name) == given(plugin, name)
    assert len({uuid for name in ("steady", *late) for uuid in seen(api, name).uuids}) == 5
    assert life(api, "steady") == lived
    remove(api, ("steady", *late), ("steady",), ("late-template",))
    wait_until("nothing to be left", lambda: _is_clean(plugin, before), 30, plugin.traces)


def test_the_plugin_is_replaced_with_a_claim_alive(plugin: Plugin) -> None:
    api = plugin.cluster.api
    before = plugin.traces()
    api.create(claim(api, "kept"))
    api.create(user("kept", "kept"))
    wait_running(api, "kept")
    lived, alive = life(api, "kept"), plugin.traces()
    plugin.stop()
    plugin.start()
    # Nothing about the claim or the devices has changed, so nothing is written.
    assert plugin.traces() == alive
    assert seen(api, "kept") == given(plugin, "kept")
    assert life(api, "kept") == lived
    remove(api, ("kept",), ("kept",))
    assert plugin.traces() == before


def test_the_kubelet_restarts_with_claims_alive(plugin: Plugin) -> None:
    api = plugin.cluster.api
    before = plugin.traces()
    api.create(claim(api, "lasting", count=2))
    api.create(user("lasting", "lasting"))
    wait_running(api, "lasting")
    lived, uuids, slices = life(api, "lasting"), plugin.uuids(), plugin.traces().slices

    plugin.cluster.node.restart_kubelet()
    # A starting kubelet deletes all slices of its node: the plugin must publish them anew.
    wait_until("the slices to be other objects", lambda: not plugin.traces().slices & slices, 90, plugin.traces)
    plugin.wait_published()
    assert plugin.uuids() == uuids

    # The new kubelet knows of no prepared claim: it asks again for the running pod, and for one that joins.
    api.create(user("joining", "lasting"))
    wait_running(api, "joining")
    assert seen(api, "joining") == seen(api, "lasting") == given(plugin, "lasting")
    assert life(api, "lasting") == lived
    assert plugin.cluster.exec("lasting", "nvidia-smi", "-L") in api.logs("lasting", "main")
    remove(api, ("lasting", "joining"), ("lasting",))
    wait_until("nothing to be left", lambda: _is_clean(plugin, before), 30, plugin.traces)


def _is_clean(plugin: Plugin, before: Traces) -> bool:
    now = plugin.traces()
    return (now.documents, now.claims) == (before.documents, before.claims)
