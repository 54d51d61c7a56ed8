"""Which config applies to a device, and which claims the domain of an entry is read from."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nvdra.api.claim import OpaqueConfig, Result
from nvdra.checkpoint import DomainGroup, Entry, PreparedChannel, PreparedDevice
from nvdra.claims import ConfigRefused
from nvdra.domains.claim_configs import domains_of, groups
from nvdra.domains.devices import Channel, Daemon, parse_name

DRIVER = "compute-domain.nvidia.com"
ONE, TWO = "11111111-2222-4333-8444-555555555555", "11111111-2222-4333-8444-555555555556"
CHANNEL = (Result("channel", DRIVER, "node-a", "channel-0"), Channel(0))
DAEMON = (Result("daemon", DRIVER, "node-a", "daemon-0"), Daemon())


def config(domain: str, *requests: str, source: str = "FromClaim", kind: str = "Channel", **more: Any) -> OpaqueConfig:
    body = {"apiVersion": "resource.nvidia.com/v1beta1", "kind": f"ComputeDomain{kind}Config", "domainID": domain}
    return OpaqueConfig(source, requests, DRIVER, json.dumps({**body, **more}).encode())


def test_the_claims_config_wins_over_the_classs_and_the_named_over_the_unnamed() -> None:
    (group,) = groups([CHANNEL], [config(ONE, "channel"), config(TWO, source="FromClass")])
    assert group.config.domain_id == ONE
    (group,) = groups([CHANNEL], [config(ONE, "channel"), config(TWO)])
    assert group.config.domain_id == ONE
    (group,) = groups([CHANNEL], [config(ONE), config(TWO)])
    assert group.config.domain_id == TWO


@pytest.mark.parametrize(
    ("configs", "error"),
    [
        ([], "domainID cannot be empty"),
        ([config(ONE, "channel", kind="Daemon")], "cannot apply ComputeDomainDaemonConfig to request: channel"),
        ([config("..")], r"is not the UID of a ComputeDomain"),
        ([config(ONE + "/x")], r"is not the UID of a ComputeDomain"),
        ([config(ONE, allocationMode="all")], 'unknown allocationMode "all"'),
        ([config(ONE, extra=1)], 'strict decoding error: unknown field "extra"'),
        ([OpaqueConfig("FromPod", (), DRIVER, b"{}")], "invalid config source: FromPod"),
        ([OpaqueConfig("FromClaim", (), None, b"")], "only opaque parameters are supported"),
    ],
)
def test_odd_configs_are_refused(configs: list[OpaqueConfig], error: str) -> None:
    with pytest.raises(ConfigRefused, match=error.replace("(", r"\(")):
        groups([CHANNEL], configs)


def test_a_config_applies_to_one_device() -> None:
    second = (Result("channel", DRIVER, "node-a", "channel-1"), Channel(1))
    with pytest.raises(ConfigRefused, match="more than one device: channel-0 and channel-1"):
        groups([CHANNEL, second], [config(ONE)])
    made = groups([CHANNEL, DAEMON], [config(ONE), config(TWO, kind="Daemon")])
    assert [group.config.domain_id for group in made] == [ONE, TWO]


def started(*configs: OpaqueConfig, device: str = "channel-0") -> Entry:
    result = {"request": "channel", "driver": DRIVER, "pool": "node-a", "device": device}
    given = [
        {"source": each.source, "requests": list(each.requests), "opaque": {"driver": DRIVER, "parameters": "P"}}
        for each in configs
    ]
    text = json.dumps({"allocation": {"devices": {"results": [result], "config": given}}})
    for each in configs:
        text = text.replace('"P"', each.parameters.decode(), 1)
    return Entry("PrepareStarted", text.encode())


def test_the_domain_of_a_started_entry_is_read_leniently() -> None:
    assert domains_of(started(config(ONE, "channel", extra=1)), "channel") == {ONE}
    assert domains_of(started(config(ONE, "channel")), "daemon") == frozenset()
    assert domains_of(started(config("../..", "channel")), "channel") == frozenset()


def test_the_domain_of_an_entry_without_status_is_its_groups() -> None:
    device = PreparedDevice(PreparedChannel(0), ("channel",), "node-a", "channel-0", ())
    entry = Entry("PrepareCompleted", b"{}", (DomainGroup((device,), "channel", ONE),))
    assert domains_of(entry, "channel") == {ONE}


@pytest.mark.parametrize("name", ["channel-2048", "channel-01", "daemon-1", "channel-", "gpu-0", "channel-0\n"])
def test_names_of_other_devices(name: str) -> None:
    assert parse_name(name) is None


def test_the_last_channel_has_a_name() -> None:
    assert parse_name("channel-2047") == Channel(2047)
