"""What the chart says of itself is what the code says: values, gates, versions."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from deploy.helm import describe
from nvdra.api import gates
from nvdra.telemetry.claim_devices import ClaimDevices
from nvdra.telemetry.metrics import DriverMetrics, process_metrics

REPOSITORY = Path(__file__).resolve().parents[3]
CHART = describe.CHART


def test_readme_and_schema_are_current() -> None:
    for path, content in describe.written(CHART).items():
        assert path.read_text() == content, f"{path.name}: run python deploy/helm/describe.py"


def test_a_stale_file_is_told(tmp_path: Path, capsys: Any) -> None:
    for name in ("values.yaml", "README.md", "values.schema.json"):
        (tmp_path / name).write_text((CHART / name).read_text())
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates/_gates.tpl").write_text((CHART / "templates/_gates.tpl").read_text())
    assert describe.main(["--check"], tmp_path) == 0
    (tmp_path / "values.yaml").write_text("# What it is for.\nmine: 1\n")
    assert describe.main(["--check"], tmp_path) == 1
    assert "README.md is not current" in capsys.readouterr().err
    assert describe.main([], tmp_path) == 0
    assert describe.main(["--check"], tmp_path) == 0
    assert "| `mine` | `1` | What it is for. |" in (tmp_path / "README.md").read_text()


def test_a_value_without_help_is_a_mistake() -> None:
    with pytest.raises(describe.Undescribed, match=re.escape("values.yaml: a.c has no comment")):
        describe.values("a:\n  # This one has.\n  b: 1\n  c: 2\n")


def test_the_schema_states_types_and_help_only() -> None:
    """Whatever else is wrong with a value is refused by the templates, in words."""

    def walk(node: dict[str, Any]) -> None:
        assert node.keys() <= {"$schema", "type", "description", "default", "properties"}
        for child in node.get("properties", {}).values():
            walk(child)

    walk(json.loads((CHART / "values.schema.json").read_text()))


def test_the_charts_version_is_the_programs() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == project["version"]


def test_the_chart_names_the_programs_that_there_are() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    programs = set(chart["annotations"]["dra-driver-nvidia-gpu/programs"].split(" "))
    assert programs == set(project["scripts"]) - {"nvdra", "kubectl-nvdra"}


def test_the_chart_refuses_gates_by_the_programs_own_table() -> None:
    text = (CHART / "templates" / "_gates.tpl").read_text()
    assert yaml.safe_load(text.partition('{{- define "nvdra.gateTable" -}}')[2].partition("{{- end -}}")[0]) == (
        gates.table()
    )
    assert set(gates.table()["stages"]) == set(gates.GATES)
    # The templates take it for granted.
    groups = {gates.ALL_ALPHA, gates.ALL_BETA}
    assert all(gate.default == (gate.stage == "beta") for name, gate in gates.GATES.items() if name not in groups)


def test_the_dashboard_asks_for_metrics_that_the_plugin_serves() -> None:
    """Every metric of its queries and variables, with the labels it selects by."""
    text = (CHART / "dashboards/dra-driver-nvidia-gpu.json").read_text()
    board = json.loads(text)
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    queries += [each["query"] for each in board["templating"]["list"] if each["type"] == "query"]
    asked = {name for query in queries for name in re.findall(r"\b(?:nvidia_dra|nvdra|process)_\w+", query)}
    registry = CollectorRegistry()
    process_metrics(registry)
    DriverMetrics(registry, driver="gpu.nvidia.com", node="n", device_types=("gpu",)).wrote_checkpoint()
    ClaimDevices(registry, lambda: [("c", "ns", "p", "gpu-0", "u", "a", "0")])
    served = {sample.name for family in registry.collect() for sample in family.samples}
    assert asked <= served
    assert len(asked) >= 8
    panels = [panel["id"] for panel in board["panels"]]
    assert len(set(panels)) == len(panels)
