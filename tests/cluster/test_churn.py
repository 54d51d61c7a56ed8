"""Many claims come and go, and nothing of them stays."""

from __future__ import annotations

import pytest

from tests.cluster.harness.api import wait_until
from tests.cluster.harness.claims import remove, seen, template, user
from tests.cluster.harness.driver import Plugin

pytestmark = pytest.mark.cluster

CLAIMS = 30


def test_thirty_claims_leave_nothing(plugin: Plugin) -> None:
    """Thirty pods share eight GPUs, one each at a time; each sees just its own."""
    api = plugin.cluster.api
    before = plugin.traces()
    api.create(template(api, "churn-template"))
    names = tuple(f"churn-{number}" for number in range(CLAIMS))
    for name in names:
        api.create(user(name, "churn-template", script="exit 0"))
    waiting = set(names)
    claims: set[str] = set()
    uuids: set[str] = set()

    def all_done() -> bool:
        for name in sorted(waiting):
            status = api.get("Pod", name)["status"]
            if status["phase"] == "Succeeded":
                shown = seen(api, name)
                assert len(shown.uuids) == len(shown.nodes) == 1, f"{name} saw {shown}"
                uuids.update(shown.uuids)
                claims.add(status["resourceClaimStatuses"][0]["resourceClaimName"])
                waiting.discard(name)
        return not waiting

    wait_until("all pods to succeed", all_done, 240, lambda: {name: api.events(name) for name in waiting}, every_s=0.5)
    assert len(claims) == CLAIMS
    assert uuids <= {gpu.uuid for gpu in plugin.root.portrait.gpus}
    remove(api, names, templates=("churn-template",))
    wait_until("the plugin to have let go of every claim", lambda: not plugin.checkpoint(), 30, plugin.checkpoint)
    # Slices of the same resourceVersion too: serving claims writes none.
    assert plugin.traces() == before
