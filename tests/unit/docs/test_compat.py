"""docs/compat.md: every name in it exists, and every flag, variable and metric is named in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from nvdra.api.gates import GATES
from nvdra.controller.metrics import ControllerMetrics
from nvdra.gpu.driver import DEVICE_TYPES
from nvdra.programs.controller_flags import FLAGS as CONTROLLER_FLAGS
from nvdra.programs.daemon_flags import FLAGS as DAEMON_FLAGS
from nvdra.programs.domain_flags import FLAGS as DOMAIN_FLAGS
from nvdra.programs.flags import Flag
from nvdra.programs.gpu_flags import FLAGS
from nvdra.programs.webhook.flags import FLAGS as WEBHOOK_FLAGS
from nvdra.programs.webhook.metrics import WebhookMetrics
from nvdra.telemetry.metrics import DriverMetrics

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs/compat.md").read_text(encoding="utf-8")
ALL_FLAGS = tuple(dict.fromkeys((*FLAGS, *WEBHOOK_FLAGS, *CONTROLLER_FLAGS)))
TESTS = {
    name
    for file in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"def (test_\w+)", file.read_text(encoding="utf-8"))
}


def _unique(flags: tuple[Flag, ...]) -> list[Flag]:
    return list({flag.names: flag for flag in flags}.values())


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(test_\w+)`", TEXT))))
def test_a_proof_that_is_named_exists(name: str) -> None:
    assert name in TESTS


@pytest.mark.parametrize(
    "flag",
    _unique((*FLAGS, *DOMAIN_FLAGS, *DAEMON_FLAGS, *WEBHOOK_FLAGS, *CONTROLLER_FLAGS)),
    ids=lambda flag: flag.names[0],
)
def test_every_flag_and_variable_is_listed(flag: Flag) -> None:
    for name in flag.names:
        assert f"`--{name}`" in TEXT
    if not flag.names[0].startswith("log-"):
        assert all(f"`{variable}`" in TEXT for variable in flag.variables)


@pytest.mark.parametrize("gate", sorted(GATES))
def test_every_gate_is_listed(gate: str) -> None:
    assert f"`{gate}`" in TEXT


def test_every_metric_is_listed() -> None:
    registry = CollectorRegistry()
    DriverMetrics(registry, driver="gpu.nvidia.com", node="n", device_types=DEVICE_TYPES)
    WebhookMetrics(webhook := CollectorRegistry())
    ControllerMetrics(controller := CollectorRegistry(), list, int)
    page = b"".join(map(generate_latest, (registry, webhook, controller))).decode()
    names = [name for name in re.findall(r"^# TYPE (\S+)", page, re.MULTILINE) if not name.startswith("process_")]
    assert names
    assert [name for name in names if f"`{name}`" not in TEXT] == []
