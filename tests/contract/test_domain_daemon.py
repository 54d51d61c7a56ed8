"""compute-domain-daemon as pods, peers and users see it: entry, names, IMEX, readiness, ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from nvdra.api.compute_domain import Member, clique_wire, compute_domain
from tests.contract.daemon_world import CLIQUE, CLIQUES, NAMESPACE, PODS, World, world
from tests.waiting import until


@pytest.fixture
async def domain() -> AsyncIterator[World]:
    async with world() as made:
        yield made


async def test_daemons_join_name_each_other_and_connect(domain: World) -> None:
    one, two = domain.daemon(0), domain.daemon(1)
    await one.start()
    await one.ready()
    await domain.joined(one, status="Ready")
    await two.start()
    await domain.joined(one, two, status="Ready")
    assert sorted((each.node, each.index) for each in domain.clique.daemons) == [("node-0", 0), ("node-1", 1)]
    assert {owner.name for owner in domain.clique.owners} == {one.pod, two.pod}
    for daemon in (one, two):
        await until(lambda daemon=daemon: len(daemon.named) == 2, "names")
        assert daemon.named == [f"{one.ip}\tcompute-domain-daemon-0000", f"{two.ip}\tcompute-domain-daemon-0001"]
    await one.sees("SELF", "CONNECTED")
    await two.sees("CONNECTED", "SELF")
    stored = json.loads(await domain.kube.get(PODS, one.pod, NAMESPACE))
    assert stored["metadata"]["labels"]["resource.nvidia.com/computeDomain.cliqueID"] == CLIQUE
    assert await one.check() == (0, "")
    # One leaves: its entry goes, the other's index stays, and the next daemon of the node gets the free index.
    assert await one.stop() == 0
    assert [each.node for each in domain.clique.daemons] == ["node-1"]
    assert f"Successfully removed daemon with IP {one.ip} from CDClique" in one.log
    assert "(from ComputeDomain ns/dom)" in one.log
    await until(lambda: len(two.named) == 1, "the name that is gone")
    assert domain.member("node-1") == Member("node-1", two.ip, CLIQUE, 1, "Ready")


async def test_a_controller_that_assigns_is_waited_for(domain: World) -> None:
    daemon = domain.daemon(0)
    await daemon.create_pod(assigned=True)
    await daemon.start()
    await until(lambda: domain.kube.calls["watch", "computedomaincliques"], "the daemon's watch")
    assigned = Member(daemon.node, daemon.ip, CLIQUE, 5, "NotReady")
    body = clique_wire(domain.uid, CLIQUE, (assigned,), ())
    await domain.kube.create(CLIQUES, json.dumps(body).encode(), NAMESPACE)
    await daemon.ready()
    assert daemon.named == [f"{daemon.ip}\tcompute-domain-daemon-0005"]
    assert domain.kube.calls["create", "computedomaincliques"] == 1  # this test's
    assert domain.member(daemon.node) == assigned


async def test_without_an_assigned_entry_a_daemon_inserts_itself_after_two_seconds(domain: World) -> None:
    daemon = domain.daemon(0)
    await daemon.create_pod(assigned=True)
    await daemon.start()
    await domain.joined(daemon)
    assert domain.member(daemon.node) == Member(daemon.node, daemon.ip, CLIQUE, 0, "NotReady")
    await daemon.ready()
    await daemon.set_ready(True)  # no controller writes the status either
    await domain.joined(daemon, status="Ready")


async def test_an_index_that_changes_restarts_imex(domain: World) -> None:
    daemon = domain.daemon(0)
    await daemon.start()
    await daemon.ready()
    await domain.joined(daemon, status="Ready")
    before = (await daemon.nodes())[0]
    assert before[3] == "SELF"
    moved = {"nodeName": daemon.node, "ipAddress": daemon.ip, "cliqueID": CLIQUE, "index": 3, "status": "Ready"}
    await domain.kube.patch(CLIQUES, domain.clique.meta.name, json.dumps({"daemons": [moved]}).encode(), NAMESPACE)
    await daemon.sees("UNRESOLVED", "UNRESOLVED", "UNRESOLVED", "SELF")
    assert "The index of this daemon changed, so IMEX starts anew" in daemon.log
    assert "Watchdog" not in daemon.log


async def test_a_clique_deleted_by_hand_comes_back_with_the_same_index(domain: World) -> None:
    daemon = domain.daemon(0)
    other = Member("elsewhere", "127.0.0.9", CLIQUE, 0, "Ready")
    body = clique_wire(domain.uid, CLIQUE, (other,), ())
    await domain.kube.create(CLIQUES, json.dumps(body).encode(), NAMESPACE)
    await daemon.start()
    await domain.joined(daemon, status="Ready")
    assert domain.member(daemon.node) == Member(daemon.node, daemon.ip, CLIQUE, 1, "Ready")
    await domain.kube.delete(CLIQUES, domain.clique.meta.name, NAMESPACE)
    await domain.joined(daemon, status="Ready")
    assert domain.member(daemon.node) == Member(daemon.node, daemon.ip, CLIQUE, 1, "Ready")


async def test_a_full_clique_is_told_and_left_alone(domain: World) -> None:
    daemon = domain.daemon(0)
    other = Member("elsewhere", "127.0.0.9", CLIQUE, 0, "Ready")
    body = clique_wire(domain.uid, CLIQUE, (other,), ())
    await domain.kube.create(CLIQUES, json.dumps(body).encode(), NAMESPACE)
    await daemon.start(MAX_NODES_PER_IMEX_DOMAIN="1")
    await until(lambda: "no available indices within maxNodesPerIMEXDomain (1)" in daemon.log, "the reason")
    assert domain.clique.daemons == (other,)
    assert await daemon.stop() == 0


async def test_imex_that_crashes_is_started_again_with_pauses(domain: World) -> None:
    daemon = domain.daemon(0)
    await daemon.start()
    await daemon.ready()
    await domain.joined(daemon, status="Ready")
    daemon.faults("exit 7\n")
    await until(lambda: daemon.log.count("Child exited with code 7") >= 2, "two crashes")
    await domain.joined(daemon, status="NotReady")
    status, said = await daemon.check()
    assert status == 1
    assert "IMEX daemon check failed: error running nvidia-imex-ctl" in said
    daemon.faults("")
    await daemon.ready()
    await domain.joined(daemon, status="Ready")


async def test_imex_that_does_not_end_is_killed_and_the_entry_is_removed(domain: World) -> None:
    daemon = domain.daemon(0)
    await daemon.start()
    await daemon.ready()
    daemon.faults("deaf\n")
    await domain.joined(daemon)
    assert await daemon.stop() == 0
    assert domain.clique.daemons == ()
    assert "IMEX does not end, killing it" in daemon.log


async def test_the_entry_is_removed_although_the_api_server_was_away(domain: World) -> None:
    daemon = domain.daemon(0)
    await daemon.start()
    await daemon.ready()
    await domain.joined(daemon, status="Ready")
    domain.kube.is_away = True
    stopping = asyncio.create_task(daemon.stop())
    await until(lambda: "The entry of this daemon cannot be removed yet" in daemon.log, "a failed attempt")
    domain.kube.heal()
    assert await stopping == 0
    assert domain.clique.daemons == ()


async def test_without_fabric_nothing_is_run(domain: World) -> None:
    daemon = domain.daemon(0, clique_id="")
    await daemon.start()
    await until(lambda: "no cliqueID: skipping controller and IMEX daemon management" in daemon.log, "the reason")
    assert await daemon.check() == (0, "check succeeded (noop, clique ID is empty)\n")
    stored = json.loads(await domain.kube.get(PODS, daemon.pod, NAMESPACE))
    assert stored["metadata"]["labels"]["resource.nvidia.com/computeDomain.cliqueID"] == ""
    assert await daemon.stop() == 0
    assert domain.kube.objects("computedomaincliques") == []


@pytest.mark.parametrize(
    ("environment", "status", "error"),
    [
        ({"COMPUTE_DOMAIN_UUID": ""}, 1, "CDI container edits did not apply -- is CDI enabled"),
        ({"POD_NAME": "no-such"}, 2, "failed to add compute domain clique label to pod"),
        ({"IMEX_FOLDER": "/nowhere"}, 3, "cannot read /nowhere/imexd.cfg.tmpl"),
        ({"HOSTS_FILE": "/proc/version"}, 3, "cannot write /proc/version"),
        ({"PATH": "/nowhere"}, 4, "cannot start nvidia-imex"),
        ({"MAX_NODES_PER_IMEX_DOMAIN": "0"}, 1, "must be 1 to 10000"),
        ({"FEATURE_GATES": "IMEXDaemonsWithDNSNames=false"}, 1, "feature gate validation failed"),
    ],
)
async def test_the_exit_status_tells_what_failed(
    domain: World, environment: dict[str, str], status: int, error: str
) -> None:
    daemon = domain.daemon(0)
    await daemon.start(**environment)
    assert (await daemon.ended(), error in daemon.log) == (status, True), daemon.log
    assert "Traceback" not in daemon.log
    assert all(each.node != daemon.node for each in domain.clique.daemons)


async def test_the_legacy_mode_writes_the_domains_status(domain: World) -> None:
    daemon = domain.daemon(0)
    await daemon.start(FEATURE_GATES="ComputeDomainCliques=false")
    await daemon.ready()

    def nodes() -> tuple[Member, ...]:
        return compute_domain(domain.kube.objects("computedomains")[0]).nodes

    await until(lambda: nodes() == (Member("node-0", daemon.ip, CLIQUE, 0, "Ready"),), "the entry")
    assert domain.kube.objects("computedomaincliques") == []
    assert await daemon.stop() == 0
    assert nodes() == ()


async def test_ip_mode_starts_once_the_domain_is_complete() -> None:
    async with world(num_nodes=2) as domain:
        gates = "ComputeDomainCliques=false,IMEXDaemonsWithDNSNames=false"
        one, two = domain.daemon(0), domain.daemon(1)
        await one.start(FEATURE_GATES=gates)
        await until(lambda: compute_domain(domain.kube.objects("computedomains")[0]).nodes, "the first entry")
        assert not (one.folder / "nodes.cfg").exists()
        await two.start(FEATURE_GATES=gates)
        await one.sees("SELF", "CONNECTED")
        assert (one.folder / "nodes.cfg").read_text() == f"{one.ip}\n{two.ip}\n"
        assert one.named == []


async def test_a_peer_of_another_domain_is_refused(domain: World) -> None:
    async with world(others=1) as other:
        other.net = domain.net
        ours, theirs = domain.daemon(0), other.daemon(1)
        await ours.start()
        await ours.ready()
        await theirs.start()
        await theirs.ready()
        # The pod's address was used before by a daemon of the other domain, whose entry is still there.
        stale = Member("node-9", theirs.ip, CLIQUE, 1, "Ready")
        await domain.joined(ours, status="Ready")
        members = [*domain.clique.daemons, stale]
        body = clique_wire(domain.uid, CLIQUE, tuple(members), ())["daemons"]
        await domain.kube.patch(CLIQUES, domain.clique.meta.name, json.dumps({"daemons": body}).encode(), NAMESPACE)
        await ours.sees("SELF", "DISCONNECTED")
        await until(lambda: f"refused a peer, node 0 of domain {domain.uid}" in theirs.log, "the refusal")
        assert (await ours.check())[0] == 0
