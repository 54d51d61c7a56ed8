"""The command line of compute-domain-controller."""

from __future__ import annotations

import pytest

from nvdra.cli import start
from nvdra.programs.controller_flags import PROGRAM, options
from nvdra.programs.flags import UsageError

NEEDED = {"POD_NAME": "controller-0", "IMAGE_NAME": "registry/driver:v1", "LOG_VERBOSITY_CD_DAEMON": "4"}


def test_every_variable_of_the_go_controller_is_read() -> None:
    read = options(
        [],
        {
            **NEEDED,
            "NAMESPACE": "driver",
            "CD_DAEMON_IMAGE_PULL_SECRET_NAMES": "a, b\tc,,",
            "MAX_NODES_PER_IMEX_DOMAIN": "72",
            "ADDITIONAL_NAMESPACES": "one,two",
            "IMEX_MODE": "driverManaged",
            "LEADER_ELECTION_ENABLED": "true",
            "LEADER_ELECTION_LEASE_DURATION": "30s",
            "LEADER_ELECTION_RENEW_DEADLINE": "20s",
            "LEADER_ELECTION_RETRY_PERIOD": "5s",
            "LEADER_ELECTION_LEASE_LOCK_NAME": "lease",
            "LEADER_ELECTION_LEASE_LOCK_NAMESPACE": "driver",
            "HTTP_ENDPOINT": ":8080",
            "PPROF_PATH": "/debug/pprof",
            "V": "6",
        },
    )
    assert read.cd_daemon_image_pull_secret_names == ("a", "b", "c")
    assert read.additional_namespaces == ("one", "two")
    assert (read.max_nodes_per_imex_domain, read.log_verbosity_cd_daemon, read.v) == (72, 4, 6)
    times = (
        read.leader_election_lease_duration,
        read.leader_election_renew_deadline,
        read.leader_election_retry_period,
    )
    assert times == (30.0, 20.0, 5.0)
    assert (read.leader_election_lease_lock_namespace, read.leader_election_lease_lock_name) == ("driver", "lease")


def test_defaults_are_the_go_controllers() -> None:
    read = options([], NEEDED)
    assert (read.namespace, read.imex_mode, read.imex_isolation) == ("default", "driverManaged", "domain")
    assert (read.max_nodes_per_imex_domain, read.http_endpoint, read.metrics_path) == (18, "", "/metrics")
    assert read.leader_election_lease_lock_name == "nvidia-compute-domain-controller"
    assert not read.leader_election_enabled


def test_required_flags_are_named() -> None:
    with pytest.raises(UsageError, match='Required flags "pod-name, image-name, log-verbosity-cd-daemon" not set'):
        options([], {})


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--feature-gates=Foo=true"], "unrecognized feature gate: Foo"),
        (
            ["--feature-gates=IMEXDaemonsWithDNSNames=false"],
            "feature gate validation failed: feature gate ComputeDomainCliques requires IMEXDaemonsWithDNSNames "
            "to also be enabled",
        ),
        (["--imex-mode=other"], 'imex configuration validation failed: unknown imex.mode "other"'),
        (
            ["--imex-mode=hostManaged"],
            'imex configuration validation failed: imex.mode="hostManaged" requires the HostManagedIMEXDaemon feature '
            "gate to be enabled",
        ),
        (
            ["--imex-isolation=channel"],
            'imex configuration validation failed: imex.isolation="channel" is not supported yet: per-workload IMEX '
            "channel allocation is not implemented",
        ),
        (
            ["--imex-isolation=x"],
            'imex configuration validation failed: unknown imex.isolation "x": must be "domain" or "channel"',
        ),
        (
            ["--max-nodes-per-imex-domain=0"],
            'invalid value "0" for flag -max-nodes-per-imex-domain: must be at least 1',
        ),
        (
            ["--leader-election-enabled", "--leader-election-renew-deadline=20s"],
            "leader election needs retry-period < renew-deadline < lease-duration, and they are 2 s, 20 s, 15 s",
        ),
        (["word"], "arguments not supported: [word]"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    argv: list[str], text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in NEEDED.items():
        monkeypatch.setenv(name, value)
    assert start(PROGRAM, argv) == 1
    told = capsys.readouterr().err
    assert told.startswith("Error: ")
    assert text in told
    assert told.count("\n") == 1
