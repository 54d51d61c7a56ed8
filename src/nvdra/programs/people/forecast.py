"""nvdra forecast: the ResourceSlices that a type of node would publish, and how a live node differs from them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nvdra.api import gates as feature_gates
from nvdra.gpu.extents import DRIVER
from nvdra.gpu.shares import shares
from nvdra.kube import ConfigError, HttpKube, ResourceApi, access, document, from_wire
from nvdra.ports import ApiError
from nvdra.programs import gpu_flags
from nvdra.programs.flags import GATES, Flag, UsageError, boolean, parse_words
from nvdra.programs.people.forecast_compare import Difference, compare, devices_of
from nvdra.programs.people.forecast_slices import Forecast, ForecastError, forecast, portraits
from nvdra.programs.people.forecast_templates import TEMPLATES, documents
from nvdra.programs.people.local_node import gates_of
from nvdra.programs.people.paper import as_json, counted, table
from nvdra.slices import NEWEST_MINOR

_ABOUT = """\
The ResourceSlices that nodes of a type publish with given feature gates, made by the code that publishes them. A type
is a portrait by name (nvdra forecast --list shows them) or a portrait's .json file. No hardware and no cluster is
needed.

  nvdra forecast h100x8 --feature-gates DynamicMIG=true         the slices, as YAML
  nvdra forecast h100x8 --template kwok | kubectl apply -f -    a kwok node with these devices
  nvdra forecast h100x8 --compare gpu-node-7                    what a live node lacks, has more, or says otherwise

UUIDs and PCI addresses are the portrait's; --compare leaves them out.

Exit status: 0, 1 if --compare finds a difference, 2 if called wrongly, 3 if it cannot be told."""

_VERSION = re.compile(r"v?1\.(\d+)(\..*)?", re.ASCII)


def _minor(text: str) -> int:
    found = _VERSION.fullmatch(text)
    if found is None or not 32 <= int(found[1]) <= NEWEST_MINOR:
        raise ValueError(f"must be a Kubernetes release from 1.32 to 1.{NEWEST_MINOR}")
    return int(found[1])


def _one_of(*choices: str) -> Any:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return text

    return parse


_FLAGS = (
    *GATES,
    *(flag for flag in gpu_flags.FLAGS if flag.names in (("consumable-shares",), ("topology-attributes",))),
    Flag(("kubernetes",), (), NEWEST_MINOR, f"release of the API server, 1.32 to 1.{NEWEST_MINOR}", _minor),
    Flag(("node-name",), (), "", "name of the node; else the type's"),
    Flag(
        ("template",),
        (),
        "slices",
        f"{', '.join(TEMPLATES)}: the slices alone, with a Node for kwok, or as annotations of a MachineDeployment",
        _one_of(*TEMPLATES),
    ),
    Flag(("compare",), (), "", "name of a live node to compare with"),
    Flag(("from",), (), "", "file of `kubectl get resourceslices -o json` for --compare, instead of the cluster"),
    Flag(("list",), (), False, "list the types", boolean),
    Flag(("kubeconfig",), ("KUBECONFIG",), "", "kubeconfig file; inside a cluster the pod's own account"),
    Flag(("output", "o"), (), "yaml", "yaml or json", _one_of("yaml", "json")),
)


def main(argv: Sequence[str]) -> int:
    usage = "nvdra forecast [OPTIONS] TYPE"
    values, words = parse_words("nvdra forecast", _ABOUT, _FLAGS, argv, os.environ, usage=usage)
    try:
        if values["list"]:
            return _list()
        if len(words) != 1:
            raise UsageError("give one type of node, such as h100x8 (nvdra forecast --list shows them)")
        gates = gates_of(values)
        name = str(values["node_name"] or values["compare"] or Path(words[0]).stem)
        setting = str(values["consumable_shares"])
        gpu_flags.check_shares(setting, is_enabled=gates.enabled(feature_gates.CONSUMABLE_SHARES))
        sharing = shares(setting, gates)
        found = asyncio.run(
            forecast(
                words[0],
                gates,
                sharing,
                node_name=name,
                minor=int(values["kubernetes"]),
                with_topology=bool(values["topology_attributes"]),
            )
        )
        if values["compare"]:
            return _compared(found, str(values["compare"]), values)
    except (ForecastError, ConfigError, ApiError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 3
    for left in found.not_published:
        print(f"Note: {left.device} is not published: {left.reason}", file=sys.stderr)
    print(_document(documents(found, str(values["template"]), name), str(values["output"])), end="")
    return 0


def _list() -> int:
    no_gates = feature_gates.parse("")
    rows = []
    for name in portraits():
        found = asyncio.run(forecast(name, no_gates, node_name=name, minor=NEWEST_MINOR))
        products = sorted({_text(device, "productName") for device in found.devices.values()})
        rows.append([name, str(found.gpus), ", ".join(products)])
    print(table(["TYPE", "GPUS", "PRODUCT"], rows), end="")
    return 0


def _compared(found: Forecast, node: str, values: Mapping[str, Any]) -> int:
    stored = (
        _from_file(str(values["from"])) if values["from"] else asyncio.run(_from_cluster(str(values["kubeconfig"])))
    )
    live = devices_of(stored, DRIVER, node)
    if live is None:
        known = sorted({str(item["spec"].get("nodeName")) for item in stored if item["spec"].get("driver") == DRIVER})
        raise ForecastError(f"node {node} has no slice of {DRIVER}; nodes that have: {', '.join(known) or 'none'}")
    differences = compare(found.devices, live)
    if values["output"] == "json":
        print(as_json({"node": node, "type": found.portrait, "differences": [each.as_json() for each in differences]}))
    else:
        _print(node, found, differences)
    return 1 if differences else 0


def _print(node: str, found: Forecast, differences: Sequence[Difference]) -> None:
    if not differences:
        print(f"{node} publishes what {found.portrait} forecasts: {counted(len(found.devices), 'device')}")
        return
    print(f"{node} differs from {found.portrait} in {counted(len(differences), 'point')}")
    rows = [[each.device, each.field, each.forecast, each.live] for each in differences]
    print(table(["DEVICE", "WHAT", "FORECAST", "LIVE"], rows), end="")


def _from_file(name: str) -> list[dict[str, Any]]:
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text()
        document = json.loads(text)
        items = document.get("items", [document])
        return [item for item in items if item.get("kind") == "ResourceSlice" and item["spec"]["pool"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ForecastError(
            f"{name}: not the output of `kubectl get resourceslices -o json`: {type(error).__name__}: {error}"
        ) from None


async def _from_cluster(kubeconfig: str) -> list[dict[str, Any]]:
    async with HttpKube(access(kubeconfig, os.environ), user_agent="nvdra-forecast") as kube:
        slices = await ResourceApi(kube).resource("resourceslices")
        page = await kube.list(slices, field_selector=f"spec.driver={DRIVER}")
    return [from_wire(document(item), slices.version) for item in page.items]


def _document(made: Sequence[Mapping[str, Any]], output: str) -> str:
    if output == "json":
        return as_json(made[0] if len(made) == 1 else {"apiVersion": "v1", "kind": "List", "items": list(made)})
    import yaml

    return "---\n".join(yaml.safe_dump(dict(each), sort_keys=False, width=120) for each in map(_plain, made))


def _plain(value: Any) -> Any:
    """The same with plain dicts and lists, which the YAML writer knows; no two of them the same object."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


def _text(device: Mapping[str, Any], attribute: str) -> str:
    return str(device["attributes"].get(attribute, {}).get("string", ""))
