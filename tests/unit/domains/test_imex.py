"""The files of IMEX daemons: configuration, node list, hosts."""

from __future__ import annotations

import pytest

from nvdra.api.compute_domain import Member
from nvdra.domains import imex

HOSTS = "127.0.0.1\tlocalhost\n# Kubernetes-managed hosts file.\n10.0.0.9\tpod-a\n"


def member(index: int, ip: str) -> Member:
    return Member(f"node-{index}", ip, "c", index)


def test_the_template_has_the_go_drivers_settings_and_takes_others() -> None:
    text = imex.config(imex.template({}), "10.0.0.7", "/imexd")
    assert "IMEX_NODE_CONFIG_FILE=/imexd/nodes.cfg\n" in text
    assert "IMEX_CMD_BIND_INTERFACE_IP=10.0.0.7\n" in text
    assert "{{" not in text
    changed = imex.settings("IMEX_ENABLE_AUTH_ENCRYPTION=1, IMEX_SERVER_KEY=/tls/key=1,")
    assert "IMEX_SERVER_KEY=/tls/key=1\n" in imex.template(changed)


@pytest.mark.parametrize("text", ["IMEX_CMD_PORT=1", "NO_SUCH=1", "LOG_LEVEL", "imex_server_key=1"])
def test_settings_that_daemons_rely_on_cannot_be_set(text: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be set|is not KEY=value"):
        imex.settings(text)


def test_hosts_are_in_order_and_repeated_updates_change_nothing() -> None:
    first = imex.hosts(HOSTS, [member(3, "10.0.0.4"), member(0, "10.0.0.1")])
    assert first == (
        HOSTS
        + "# Compute Domain Daemon mappings\n"
        + "10.0.0.1\tcompute-domain-daemon-0000\n10.0.0.4\tcompute-domain-daemon-0003\n"
    )
    assert imex.hosts(first, [member(0, "10.0.0.1"), member(3, "10.0.0.4")]) == first
    assert imex.hosts(first, []) == HOSTS


def test_hosts_of_the_go_driver_are_cleaned() -> None:
    theirs = HOSTS + "\n# Compute Domain Daemon mappings\n10.0.0.1\tcompute-domain-daemon-0000\n\n"
    assert imex.hosts(theirs, []) == HOSTS


def test_node_lists() -> None:
    assert imex.named_nodes(2) == "compute-domain-daemon-0000\ncompute-domain-daemon-0001\n"
    assert imex.listed_nodes([member(1, "10.0.0.2"), member(0, "10.0.0.1")]) == "10.0.0.1\n10.0.0.2\n"
