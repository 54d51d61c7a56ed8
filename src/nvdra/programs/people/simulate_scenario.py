"""The options that make one scenario: its fleet, its policy, its features."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nvdra.allocation import POLICIES, RELEASES
from nvdra.api import gates as feature_gates
from nvdra.gpu.shares import shares
from nvdra.programs import gpu_flags
from nvdra.programs.flags import GATES, Flag, UsageError, boolean, integer
from nvdra.programs.people.local_node import gates_of
from nvdra.programs.people.simulate_fleet import Fleet, objects_of, of_dump, of_types, wanted
from nvdra.programs.people.simulate_run import Scenario


def _policy(text: str) -> str:
    if text not in POLICIES:
        raise ValueError(f"must be one of {', '.join(POLICIES)}")
    return text


def _release(text: str) -> str:
    if text not in RELEASES:
        raise ValueError(f"must be one of {', '.join(RELEASES)}")
    return text


def _percent(text: str) -> int:
    value = integer(text)
    if not 0 <= value <= 100:
        raise ValueError("must be 0 to 100")
    return value


SHARES = next(flag for flag in gpu_flags.FLAGS if flag.names == ("consumable-shares",))

SCENARIO = (
    Flag(("nodes",), (), (), "COUNTxTYPE[@GATES] of nvdra forecast --list, such as 100xh100x8", wanted, repeats=True),
    Flag(("dump",), (), "", "file of `kubectl get nodes,deviceclasses,resourceslices,resourceclaims -A -o json`"),
    *GATES,
    SHARES,
    Flag(("policy",), (), POLICIES[0], f"which node a pod gets: {', '.join(POLICIES)}", _policy),
    Flag(("nodes-to-score",), (), 0, "percent of the nodes that an attempt looks for; 0 as the scheduler", _percent),
    Flag(("release",), (), RELEASES[-1], f"Kubernetes release of the scheduler: {', '.join(RELEASES)}", _release),
    Flag(("allocator-features",), (), "", "Name=true|false, separated by commas, if they are not the defaults"),
)


def scenario(label: str, values: Mapping[str, Any], keeps: str) -> Scenario:
    """Returns what the options mean. `keeps` is the text of the trace's claims.

    Raises UsageError, FleetError, ForecastError, OSError.
    """
    return Scenario(
        label,
        _fleet(values, keeps),
        str(values["policy"]),
        str(values["release"]),
        features(str(values["allocator_features"])),
        int(values["nodes_to_score"]),
    )


def _fleet(values: Mapping[str, Any], keeps: str) -> Fleet:
    if values["dump"] and values["nodes"]:
        raise UsageError("--dump and --nodes exclude each other")
    if values["dump"]:
        return of_dump(objects_of(Path(values["dump"])), keeps=keeps)
    if not values["nodes"]:
        raise UsageError("give the fleet: --nodes COUNTxTYPE or --dump FILE")
    return typed_fleet(values, str(values["release"]))


def typed_fleet(values: Mapping[str, Any], release: str) -> Fleet:
    """Returns the fleet of --nodes, --feature-gates and --consumable-shares. Raises UsageError, ForecastError."""
    common, setting = str(values["feature_gates"]), str(values["consumable_shares"])
    found = [(one, gates_of({"feature_gates": ",".join(filter(None, (common, one.gates)))})) for one in values["nodes"]]
    gpu_flags.check_shares(
        setting, is_enabled=any(gates.enabled(feature_gates.CONSUMABLE_SHARES) for _, gates in found)
    )
    types = [(one, gates, shares(setting, gates)) for one, gates in found]
    return of_types(types, int(release.split(".")[1]))


def features(text: str) -> tuple[tuple[str, bool], ...]:
    """Returns allocator features. Raises UsageError."""
    made = []
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        try:
            made.append((name, boolean(value)))
        except ValueError as error:
            raise UsageError(f'invalid value "{text}" for flag -allocator-features: {error}') from None
    return tuple(made)
