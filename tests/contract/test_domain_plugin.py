"""compute-domain-kubelet-plugin as kubelet and users see it: channels, daemons, label, fabric, checkpoint, restarts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from nvdra.api import ClaimRef
from tests.contract.domain_node import CLIQUE, DOMAINS, DomainNode, domain_node
from tests.contract.plugin_node import CLAIMS, POOL
from tests.waiting import until

ALL_DEVICES = "k8s.compute-domain.nvidia.com/device=all"


@pytest.fixture
async def node() -> AsyncIterator[DomainNode]:
    async with domain_node() as node:
        await node.start()
        yield node


async def started(node: DomainNode, ref: ClaimRef) -> None:
    """Return once the claim's prepare is under way."""

    def is_started() -> bool:
        entry = node.checkpoint().entries.get(ref.uid) if node.checkpoint_path.exists() else None
        return entry is not None and entry.state == "PrepareStarted"

    await until(is_started, "a started claim")


async def test_a_channel_waits_for_its_daemon_and_gets_its_device_node(node: DomainNode) -> None:
    domain = await node.domain()
    channel, daemon = await node.channel(domain), await node.daemon(domain)
    preparing = asyncio.create_task(node.prepare(channel))
    await node.is_labelled(domain)
    await started(node, channel)
    told = (await node.prepare(daemon))[daemon.uid]
    assert [device.cdi_ids for device in told.devices] == [
        (ALL_DEVICES, f"k8s.compute-domain.nvidia.com/claim={daemon.uid}-daemon-0")
    ]
    assert not preparing.done()
    await node.clique(domain, "NotReady")
    await node.clique(domain)
    answer = (await preparing)[channel.uid]
    assert answer.error == ""
    assert [device.cdi_ids for device in answer.devices] == [
        (f"k8s.compute-domain.nvidia.com/claim={channel.uid}-channel-0",)
    ]
    assert node.edits(channel) == {
        "deviceNodes": [
            {
                "path": "/dev/nvidia-caps-imex-channels/channel0",
                "hostPath": "/dev/nvidia-caps-imex-channels/channel0",
                "type": "c",
                "major": 235,
                "fileMode": 438,
            }
        ]
    }
    edits = node.edits(daemon)
    assert edits["env"] == [
        f"CLIQUE_ID={CLIQUE}",
        f"COMPUTE_DOMAIN_UUID={domain}",
        "COMPUTE_DOMAIN_NAME=dom",
        "COMPUTE_DOMAIN_NAMESPACE=ns",
    ]
    assert edits["deviceNodes"][0]["path"] == "/dev/nvidia-caps/nvidia-cap2047"
    folder = node.plugin_dir / "domains" / domain
    assert edits["mounts"] == [
        {"hostPath": str(folder), "containerPath": "/imexd", "options": ["rw", "nosuid", "nodev", "bind"]}
    ]
    assert "IMEX_CMD_BIND_INTERFACE_IP={{ .IMEXCmdBindInterfaceIP }}" in (folder / "imexd.cfg.tmpl").read_text()
    await node.released(channel)
    assert node.label() == ""
    await node.released(daemon)
    assert node.checkpoint().entries == {}
    assert folder.is_dir()


async def test_a_channel_claim_of_all_channels_gets_2048_device_nodes(node: DomainNode) -> None:
    domain = await node.domain()
    await node.clique(domain)
    channel = await node.channel(domain, mode="All")
    await node.prepared(channel)
    nodes = node.edits(channel)["deviceNodes"]
    assert len(nodes) == 2048
    assert sorted(each.get("minor", 0) for each in nodes) == list(range(2048))


async def test_both_devices_and_the_base_document_are_there(node: DomainNode) -> None:
    assert node.published() == ["channel-0", "daemon-0"]
    (slice_,) = node.kube.objects("resourceslices")
    assert slice_["spec"]["devices"][0]["attributes"] == {"id": {"int": 0}, "type": {"string": "channel"}}
    base = node.cdi / "k8s.compute-domain.nvidia.com-device_base.yaml"
    await until(base.exists, "the base document")
    assert "nvidia-imex-ctl" in base.read_text()
    # Once for each driver, not at every look.
    assert node.log.count("Starting driver version validation for IMEXDaemonsWithDNSNames feature...") == 1
    assert "Driver version validation passed: 580.159.04 >= 570.158.01" in node.log


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"unexpectedField": 1}, 'strict decoding error: unknown field "unexpectedField"'),
        ({"domainID": ""}, "domainID cannot be empty"),
        ({"domainID": "../../../etc"}, 'domainID "../../../etc" is not the UID of a ComputeDomain'),
        ({"allocationMode": "Some"}, 'unknown allocationMode "Some": it must be Single or All'),
        ({"kind": "ComputeDomainDaemonConfig", "allocationMode": None}, "unknown field"),
    ],
)
async def test_odd_configs_are_refused_and_leave_nothing(node: DomainNode, more: dict[str, object], error: str) -> None:
    domain = await node.domain()
    given = {key: value for key, value in more.items() if key not in ("domainID", "allocationMode")}
    channel = await node.channel(
        str(more.get("domainID", domain)), mode=str(more.get("allocationMode") or "Single"), **given
    )
    assert error in await node.refused(channel)
    assert node.label() == ""
    assert node.checkpoint().entries == {}
    assert not (node.plugin_dir / "domains").exists()


async def test_claims_of_other_namespaces_are_refused(node: DomainNode) -> None:
    domain = await node.domain()
    elsewhere = await node.channel(domain, namespace="other")
    assert "namespace is different than the ComputeDomain's namespace" in await node.refused(elsewhere)
    foreign = await node.daemon(domain, namespace="ns")
    assert "accepted only in the driver's namespace (drv), not in ns" in await node.refused(foreign)
    gone = await node.channel("11111111-2222-4333-8444-555555555555")
    assert "ComputeDomain not found: 11111111-2222-4333-8444-555555555555" in await node.refused(gone)
    assert (node.label(), node.checkpoint().entries) == ("", {})


async def test_a_channel_of_another_domain_waits_until_the_label_is_free(node: DomainNode) -> None:
    first, second = await node.domain("one"), await node.domain("two")
    await node.clique(first)
    await node.clique(second)
    held = await node.channel(first)
    await node.prepared(held)
    other = await node.channel(second, device="channel-1")
    preparing = asyncio.create_task(node.prepare(other))
    await started(node, other)
    assert node.label() == first
    await node.released(held)
    assert (await preparing)[other.uid].error == ""
    assert node.label() == second


async def test_the_label_stays_while_a_claim_of_the_domain_remains(node: DomainNode) -> None:
    domain = await node.domain()
    await node.clique(domain)
    one, two = await node.channel(domain), await node.channel(domain, device="channel-1")
    await node.prepared(one)
    await node.prepared(two)
    await node.released(one)
    assert node.label() == domain
    await node.released(two)
    assert node.label() == ""


async def test_a_claim_given_up_while_it_waits_is_aborted_and_refuses_late_prepares(node: DomainNode) -> None:
    domain = await node.domain()
    channel = await node.channel(domain)
    preparing = asyncio.create_task(node.prepare(channel))
    await started(node, channel)
    await node.released(channel)
    assert "to be unprepared" in (await preparing)[channel.uid].error
    assert node.checkpoint().entries[channel.uid].state == "PrepareAborted"
    assert node.label() == ""
    assert "stale prepare for claim" in await node.refused(channel)
    await node.released(channel)
    assert "Unprepare noop: claim in PrepareAborted state" in node.log


async def test_a_restart_while_a_channel_waits_keeps_the_label_and_goes_on(node: DomainNode) -> None:
    domain = await node.domain()
    channel = await node.channel(domain)
    preparing = asyncio.create_task(node.prepare(channel))
    await node.is_labelled(domain)
    preparing.cancel()
    await asyncio.gather(preparing, return_exceptions=True)
    patches = node.kube.calls["patch", "nodes"]
    await node.restart()
    again = asyncio.create_task(node.prepare(channel))
    await until(lambda: node.kube.calls["get", "nodes"] > 1, "a look at the node")
    await node.clique(domain)
    assert (await again)[channel.uid].error == ""
    assert node.kube.calls["patch", "nodes"] == patches
    assert node.label() == domain


async def test_a_stop_answers_claims_that_wait_and_leaves_them_to_the_next_program(node: DomainNode) -> None:
    domain = await node.domain()
    channel = await node.channel(domain)
    preparing = asyncio.create_task(node.prepare(channel))
    await node.is_labelled(domain)
    assert node.process is not None
    process, node.process = node.process, None
    process.terminate()
    assert "the work goes on" in (await preparing)[channel.uid].error
    assert await process.wait() == 0
    assert (node.label(), node.checkpoint().entries[channel.uid].state) == (domain, "PrepareStarted")


async def test_a_ready_entry_of_a_daemon_that_is_gone_does_not_count(node: DomainNode) -> None:
    domain = await node.domain()
    await node.clique(domain, ip="10.0.0.1")
    await node.daemon_pod(domain, "10.0.0.2")
    channel = await node.channel(domain)
    preparing = asyncio.create_task(node.prepare(channel))
    await started(node, channel)
    await node.is_labelled(domain)
    assert not preparing.done()
    await node.clique(domain, ip="10.0.0.2")
    assert (await preparing)[channel.uid].error == ""


async def test_a_label_that_no_claim_here_needs_gives_way(node: DomainNode) -> None:
    await node.set_label("99999999-2222-4333-8444-555555555555")  # as a reboot leaves it
    domain = await node.domain()
    await node.clique(domain)
    await node.prepared(await node.channel(domain))
    assert node.label() == domain


async def test_without_the_right_to_watch_the_plugin_asks(node: DomainNode) -> None:
    node.kube.fail(403, times=1000, verb="watch", plural="computedomaincliques")
    node.kube.fail(403, times=1000, verb="list", plural="computedomaincliques")
    domain = await node.domain()
    channel = await node.channel(domain)
    preparing = asyncio.create_task(node.prepare(channel))
    await until(lambda: node.kube.calls["get", "computedomaincliques"], "a GET of the clique")
    await node.clique(domain)
    assert (await preparing)[channel.uid].error == ""


async def test_a_fabric_that_registers_is_waited_for() -> None:
    async with domain_node() as node:
        node.root.set_fabric({"state": 2, "minor": 1})
        await node.start(published=False)
        await until(lambda: "NVLink fabric not attached" in node.log, "the reason in the log")
        assert node.published() == []
        channel = await node.channel(await node.domain())
        assert "NVLink fabric not attached" in await node.refused(channel)
        node.root.set_fabric()
        await until(lambda: node.published() == ["channel-0", "daemon-0"], "devices")
        assert "identified fabric clique UUID/ID" in node.log


async def test_without_fabric_a_channel_has_no_device_node() -> None:
    async with domain_node("h100x8") as node:
        await node.start()
        domain = await node.domain()
        channel = await node.channel(domain)
        preparing = asyncio.create_task(node.prepare(channel))
        await started(node, channel)
        stored = json.loads(await node.kube.get(DOMAINS, "dom", "ns"))
        stored["status"] = {
            "status": "Ready",
            "nodes": [{"name": POOL, "ipAddress": "10.0.0.1", "cliqueID": "", "index": -1, "status": "Ready"}],
        }
        await node.kube.update(DOMAINS, "dom", json.dumps(stored).encode(), "ns", subresource="status")
        answer = (await preparing)[channel.uid]
        assert (answer.error, [device.cdi_ids for device in answer.devices]) == ("", [()])
        assert not node.cdi_path(channel).exists()
        assert node.label() == domain


async def test_a_lost_cdi_file_is_written_again_after_a_restart(node: DomainNode) -> None:
    domain = await node.domain()
    await node.clique(domain)
    channel, daemon = await node.channel(domain), await node.daemon(domain)
    await node.prepared(channel, daemon)
    before = {ref.uid: node.cdi_path(ref).read_bytes() for ref in (channel, daemon)}
    await node.stop()
    for ref in (channel, daemon):
        node.cdi_path(ref).unlink()
    await node.start()
    await node.prepared(channel, daemon)
    assert {ref.uid: node.cdi_path(ref).read_bytes() for ref in (channel, daemon)} == before


async def test_the_deadline_is_answered_with_the_reason(node: DomainNode) -> None:
    from nvdra.testing.kubelet import DraClient

    domain = await node.domain()
    channel = await node.channel(domain)
    client = DraClient(str(node.plugin_dir / "dra.sock"), deadline_s=7.0)
    try:
        error = (await client.prepare([channel]))[channel.uid].error
    finally:
        await client.close()
    assert "current node not ready in ComputeDomain: its daemon has not joined" in error
    assert node.label() == domain
    await node.clique(domain)
    await node.prepared(channel)


async def test_claims_that_are_gone_are_unprepared_at_the_start(node: DomainNode) -> None:
    domain = await node.domain()
    channel = await node.channel(domain)
    preparing = asyncio.create_task(node.prepare(channel))
    await node.is_labelled(domain)
    preparing.cancel()
    await asyncio.gather(preparing, return_exceptions=True)
    await node.stop()
    await node.kube.delete(CLAIMS, channel.name, channel.namespace)
    await node.start()
    await until(lambda: "Checkpointed RC cleanup: unprepared stale claim: ns/" in node.log, "the cleanup")
    assert node.checkpoint().entries[channel.uid].state == "PrepareAborted"
    assert node.label() == ""


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        ({"imex_mode": "hostManaged"}, "requires the HostManagedIMEXDaemon feature gate to be enabled"),
        ({"imex_mode": "mine"}, 'unknown imex.mode "mine"'),
        ({"imex_isolation": "channel"}, 'imex.isolation="channel" is not supported yet'),
        ({"imex_settings": "SERVER_PORT=1"}, 'IMEX setting "SERVER_PORT" cannot be set'),
        ({"feature_gates": "IMEXDaemonsWithDNSNames=false"}, "requires IMEXDaemonsWithDNSNames to also be enabled"),
    ],
)
async def test_odd_settings_are_refused_at_the_start(flags: dict[str, str], error: str) -> None:
    async with domain_node() as node:
        process = await node.launch(**flags)
        assert await process.wait() == 1
        assert error in node.log
        node.process = None


async def test_the_hosts_own_imex_is_asked_and_nodes_are_not_labelled() -> None:
    async with domain_node() as node:
        gates = "HostManagedIMEXDaemon=true"
        await node.start(imex_mode="hostManaged", feature_gates=gates)
        assert node.published() == ["channel-0"]
        domain = await node.domain()
        daemon = await node.daemon(domain)
        assert "not supported when imex.mode=hostManaged" in await node.refused(daemon)
        control = node.root.root / "usr/bin/nvidia-imex-ctl"
        control.write_text("#!/bin/sh\necho NOT_READY\n")
        channel = await node.channel(domain, mode="All", device="channel-7")
        preparing = asyncio.create_task(node.prepare(channel))
        await started(node, channel)
        control.write_text("#!/bin/sh\necho READY\n")
        assert (await preparing)[channel.uid].error == ""
        paths = [each["path"] for each in node.edits(channel)["deviceNodes"]]
        assert paths == ["/dev/nvidia-caps-imex-channels/channel7"]
        assert node.label() == ""


async def test_the_clique_label_is_written_and_stays_after_the_end() -> None:
    async with domain_node() as node:
        await node.start(gpu_clique_label_enabled="true")

        await until(lambda: node.label("nvidia.com/gpu.clique") == CLIQUE, "the clique label")
        assert await node.stop() == 0
        assert node.label("nvidia.com/gpu.clique") == CLIQUE
