"""A ComputeDomain from its creation to its end: controller, plugin, daemon and IMEX as processes, one node.

The test does what kubelet, the scheduler and the DaemonSet controller do.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from nvdra.api.compute_domain import compute_domain
from tests.contract.daemon_world import Daemon, World
from tests.contract.domain_node import CLIQUE, DOMAINS, NAMESPACE, PODS, DomainNode, domain_node
from tests.contract.plugin_node import POOL
from tests.waiting import until

CONTROLLER = str(Path(sys.executable).with_name("compute-domain-controller"))


@asynccontextmanager
async def controller(node: DomainNode) -> AsyncIterator[None]:
    """The controller runs while the context lasts."""
    command = [CONTROLLER, "--pod-name=c", f"--namespace={NAMESPACE}", "--image-name=i", "--log-verbosity-cd-daemon=4"]
    with (node.folder / "controller-log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command, f"--kubeconfig={node.folder / 'kubeconfig'}", stdout=log, stderr=log
        )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 30)
        except TimeoutError:
            process.kill()
            await process.wait()


def daemon_of(node: DomainNode, domain: str, edits: dict[str, Any]) -> Daemon:
    """The daemon's container as the runtime makes it from the claim's edits."""
    world = World(node.folder, node.kube)
    world.uid = domain
    made = world.daemon(0)
    made.node = POOL
    told = dict(line.split("=", 1) for line in edits["env"])
    assert told["COMPUTE_DOMAIN_UUID"] == domain
    (mount,) = edits["mounts"]
    made.imex_folder = Path(mount["hostPath"])
    made.clique_id = told["CLIQUE_ID"]
    return made


async def test_a_domain_forms_serves_and_ends() -> None:
    async with domain_node() as node, controller(node):
        await node.start()
        domain = await node.domain()
        await until(lambda: node.kube.objects("daemonsets"), "the DaemonSet")
        (daemon_set,) = node.kube.objects("daemonsets")
        await until(lambda: len(node.kube.objects("resourceclaimtemplates")) == 2, "both claim templates")
        channel = await node.channel(domain)
        preparing = asyncio.create_task(node.prepare(channel))
        await node.is_labelled(domain)

        claim = await node.daemon(domain)
        await node.prepared(claim)
        daemon = daemon_of(node, domain, node.edits(claim))
        try:
            await daemon.create_pod(metadata=daemon_set["spec"]["template"]["metadata"])
            await daemon.start()
            await daemon.ready()
            assert not preparing.done()
            assert await daemon.check() == (0, "")
            await daemon.set_ready(True)  # kubelet, by its probe
            answer = (await preparing)[channel.uid]
            assert (answer.error, len(answer.devices)) == ("", 1)
            member = daemon.world.member(POOL)
            assert member is not None
            assert (member.ip, member.clique, member.index, member.status) == (daemon.ip, CLIQUE, 0, "Ready")

            def status() -> tuple[str, int]:
                found = compute_domain(node.kube.objects("computedomains")[0])
                return found.status, len(found.nodes)

            await until(lambda: status() == ("Ready", 1), "the domain's status")

            await node.released(channel)
            assert node.label() == ""
            assert await daemon.stop() == 0
            await node.kube.delete(PODS, daemon.pod, NAMESPACE)
            await until(lambda: status()[1] == 0, "the node to leave the status")
            await node.released(claim)
            await node.kube.delete(DOMAINS, "dom", "ns")
            kinds = ("computedomains", "daemonsets", "resourceclaimtemplates")
            await until(lambda: not any(node.kube.objects(kind) for kind in kinds), "the domain's end")
            assert node.checkpoint().entries == {}
        finally:
            await daemon.stop()


async def test_a_replaced_daemon_is_waited_for_and_workloads_keep_their_claims() -> None:
    async with domain_node() as node, controller(node):
        await node.start()
        domain = await node.domain()
        channel, claim = await node.channel(domain), await node.daemon(domain)
        preparing = asyncio.create_task(node.prepare(channel))
        await node.prepared(claim)
        first = daemon_of(node, domain, node.edits(claim))
        second: Daemon | None = None
        try:
            await first.create_pod(assigned=True)
            await first.start()
            await first.ready()
            await first.set_ready(True)
            assert (await preparing)[channel.uid].error == ""
            # The pod is deleted by force: its entry stays, and says Ready.
            assert first.process is not None
            first.process.kill()
            await first.ended()
            first.kill_imex()
            await node.kube.delete(PODS, first.pod, NAMESPACE)
            second = first.world.daemon(1)
            second.node, second.imex_folder = POOL, first.imex_folder
            await second.create_pod(assigned=True)
            await second.start()
            await second.ready()
            await second.set_ready(True)
            await first.world.joined(second, status="Ready")
            member = first.world.member(POOL)
            assert member is not None
            assert (member.index, member.ip) == (0, second.ip)
            assert await node.prepared(channel) == ["channel-0"]
        finally:
            for daemon in (first, second):
                if daemon is not None:
                    await daemon.stop()
