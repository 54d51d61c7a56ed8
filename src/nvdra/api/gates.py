"""Feature gates: names, defaults, and forbidden combinations.

A program parses its setting once and passes the frozen `Gates` on. No gate is global.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from types import MappingProxyType
from typing import Any, Literal

Stage = Literal["alpha", "beta"]

TIME_SLICING_SETTINGS = "TimeSlicingSettings"
MPS_SUPPORT = "MPSSupport"
IMEX_DAEMONS_WITH_DNS_NAMES = "IMEXDaemonsWithDNSNames"
PASSTHROUGH_SUPPORT = "PassthroughSupport"
DYNAMIC_MIG = "DynamicMIG"
NVML_DEVICE_HEALTH_CHECK = "NVMLDeviceHealthCheck"
COMPUTE_DOMAIN_CLIQUES = "ComputeDomainCliques"
CRASH_ON_NVLINK_FABRIC_ERRORS = "CrashOnNVLinkFabricErrors"
DEVICE_METADATA = "DeviceMetadata"
DRA_LIST_TYPE_ATTRIBUTES = "DRAListTypeAttributes"
FABRIC_MANAGER_PARTITIONING = "FabricManagerPartitioning"
HOST_MANAGED_IMEX_DAEMON = "HostManagedIMEXDaemon"
CONSUMABLE_SHARES = "ConsumableShares"
CONTEXTUAL_LOGGING = "ContextualLogging"
LOGGING_ALPHA_OPTIONS = "LoggingAlphaOptions"
LOGGING_BETA_OPTIONS = "LoggingBetaOptions"
ALL_ALPHA = "AllAlpha"
ALL_BETA = "AllBeta"


@dataclass(frozen=True, slots=True)
class Gate:
    """One gate. `since` is the driver release that brought it, "" for the logging framework's own."""

    name: str
    stage: Stage
    default: bool
    since: str
    is_locked: bool = False


_ALL = (
    Gate(TIME_SLICING_SETTINGS, "alpha", False, "0.2"),
    Gate(MPS_SUPPORT, "alpha", False, "0.2"),
    Gate(IMEX_DAEMONS_WITH_DNS_NAMES, "beta", True, "0.2"),
    Gate(PASSTHROUGH_SUPPORT, "alpha", False, "0.3"),
    Gate(DYNAMIC_MIG, "alpha", False, "0.3"),
    Gate(NVML_DEVICE_HEALTH_CHECK, "alpha", False, "0.3"),
    Gate(COMPUTE_DOMAIN_CLIQUES, "beta", True, "0.3"),
    Gate(CRASH_ON_NVLINK_FABRIC_ERRORS, "beta", True, "0.3"),
    Gate(DEVICE_METADATA, "alpha", False, "0.4"),
    Gate(DRA_LIST_TYPE_ATTRIBUTES, "alpha", False, "0.4"),
    Gate(FABRIC_MANAGER_PARTITIONING, "alpha", False, "0.5"),
    Gate(HOST_MANAGED_IMEX_DAEMON, "alpha", False, "0.5"),
    Gate(CONSUMABLE_SHARES, "alpha", False, "0.5"),
    Gate(CONTEXTUAL_LOGGING, "beta", True, "", is_locked=True),
    Gate(LOGGING_ALPHA_OPTIONS, "alpha", False, ""),
    Gate(LOGGING_BETA_OPTIONS, "beta", True, ""),
    Gate(ALL_ALPHA, "alpha", False, ""),
    Gate(ALL_BETA, "beta", False, ""),
)
GATES: Mapping[str, Gate] = MappingProxyType({gate.name: gate for gate in sorted(_ALL, key=lambda gate: gate.name)})

_GROUPS: Mapping[str, Stage] = MappingProxyType({ALL_ALPHA: "alpha", ALL_BETA: "beta"})

# The pairs that are special: checked in this order; the first that fails is reported. All other pairs work together.
_REQUIRES: Literal["requires"] = "requires"
_EXCLUDES: Literal["excludes"] = "excludes"
_SUPPORTS: Literal["supports"] = "supports"  # refused by the Go driver v0.4.1, and not here
Relation = Literal["requires", "excludes", "supports"]
_CROSS_CHECKS: tuple[tuple[str, Relation, str], ...] = (
    (COMPUTE_DOMAIN_CLIQUES, _REQUIRES, IMEX_DAEMONS_WITH_DNS_NAMES),
    (DYNAMIC_MIG, _EXCLUDES, PASSTHROUGH_SUPPORT),
    (DYNAMIC_MIG, _SUPPORTS, NVML_DEVICE_HEALTH_CHECK),
    (DYNAMIC_MIG, _EXCLUDES, MPS_SUPPORT),
    (PASSTHROUGH_SUPPORT, _EXCLUDES, NVML_DEVICE_HEALTH_CHECK),
    (DEVICE_METADATA, _REQUIRES, PASSTHROUGH_SUPPORT),
)

# Gates that would change a program's behaviour but are not built in this release.
_UNBUILT: Mapping[str, tuple[str, ...]] = MappingProxyType({})

_TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))


class GateError(ValueError):
    """A gate setting is invalid. The text names the gate and the cause."""


@dataclass(frozen=True, slots=True)
class Gates:
    """Every gate's effective value."""

    values: Mapping[str, bool]

    def enabled(self, name: str) -> bool:
        """Whether the gate is on. KeyError for a name that is no gate: that is a mistake of ours, not the user's."""
        return self.values[name]

    def __str__(self) -> str:
        """The map as the start-up dump of the Go driver shows it, names sorted."""
        inner = ", ".join(f'"{name}":{_go_bool(value)}' for name, value in sorted(self.values.items()))
        return f"map[string]bool{{{inner}}}"


def defaults() -> Gates:
    """Every gate at its default."""
    return Gates(MappingProxyType({gate.name: gate.default for gate in GATES.values()}))


def parse(setting: str) -> Gates:
    """The gates that `A=true,B=false` asks for; all others at their default.

    Blank items and a trailing comma are fine (the chart renders one). AllAlpha and AllBeta move every gate of their
    stage that is not named itself, wherever they stand; a locked gate never moves. A gate named twice takes the
    last value.
    Raises GateError with the text of the Kubernetes feature-gate library.
    """
    asked: dict[str, bool] = {}
    for item in setting.split(","):
        if not item.strip():
            continue
        name, equals, text = item.partition("=")
        name, text = name.strip(), text.strip()
        if not equals:
            raise GateError(f"missing bool value for {name}")
        asked[name] = _bool(name, text)
    for name, value in asked.items():
        gate = GATES.get(name)
        if gate is None:
            raise GateError(f"unrecognized feature gate: {name}")
        if gate.is_locked and value != gate.default:
            raise GateError(
                f"cannot set feature gate {name} to {_go_bool(value)}, feature is locked to {_go_bool(gate.default)}"
            )
    values = {gate.name: gate.default for gate in GATES.values()}
    for group, stage in _GROUPS.items():
        if group in asked:
            for gate in GATES.values():
                if gate.stage == stage and gate.name not in _GROUPS and not gate.is_locked:
                    values[gate.name] = asked[group]
    values.update(asked)
    return Gates(MappingProxyType(values))


def cross_check(gates: Gates) -> None:
    """Refuse forbidden combinations of gates. Raises GateError for the first conflict, in the contract's order."""
    for name, relation, other in _CROSS_CHECKS:
        if not gates.enabled(name):
            continue
        if relation == _REQUIRES and not gates.enabled(other):
            raise GateError(f"feature gate {name} requires {other} to also be enabled")
        if relation == _EXCLUDES and gates.enabled(other):
            raise GateError(f"feature gate {name} is currently mutually exclusive with {other}")


def refuse_unbuilt(gates: Gates, program: str) -> None:
    """Refuse gates for `program` that are on and not built in this release. GateError names them all.

    Gates of other programs are ignored: one setting serves the whole chart.
    """
    asked = [name for name in _UNBUILT.get(program, ()) if gates.enabled(name)]
    if asked:
        names, them = ", ".join(asked), "it" if len(asked) == 1 else "them"
        raise GateError(
            f"{program} does not support feature gate{'s' if len(asked) > 1 else ''} {names} yet: "
            f"turn {them} off in --feature-gates (FEATURE_GATES), or run the Go driver for {them}"
        )


def pairs(names: Sequence[str]) -> dict[tuple[str, str], tuple[Relation, str]]:
    """How each two of these gates stand together, in the order of `names`: the relation, and the text of a refusal.

    Gates that one of the two requires are on, too.
    """
    found: dict[tuple[str, str], tuple[Relation, str]] = {}
    special = {frozenset((name, other)): relation for name, relation, other in _CROSS_CHECKS}
    needed = {name: other for name, relation, other in _CROSS_CHECKS if relation == _REQUIRES}
    for one, other in combinations(names, 2):
        relation = special.get(frozenset((one, other)), _SUPPORTS)
        on = {one, other} | {needed[name] for name in (one, other) if name in needed}
        try:
            cross_check(parse(",".join(f"{name}=true" for name in on)))
        except GateError as error:
            found[one, other] = relation, str(error)
        else:
            found[one, other] = relation, ""
    return found


def special() -> tuple[tuple[str, Relation, str], ...]:
    """The pairs with a rule of their own: what one gate requires or excludes, or supports unlike the Go driver."""
    return _CROSS_CHECKS


def table() -> dict[str, Any]:
    """What `parse`, `cross_check` and `refuse_unbuilt` decide by, as plain values: the chart refuses the same.

    A gate of stage "group" moves all gates of the stage that its name ends with.
    """
    return {
        "stages": {name: "group" if name in _GROUPS else gate.stage for name, gate in GATES.items()},
        "locked": {name: gate.default for name, gate in GATES.items() if gate.is_locked},
        "checks": [list(check) for check in _CROSS_CHECKS],
        "unbuilt": {program: list(names) for program, names in _UNBUILT.items()},
    }


def help_lines() -> list[str]:
    """One line a gate for a flag's help text, sorted by name."""
    return [
        f"{gate.name}=true|false ({gate.stage.upper()} - default={_go_bool(gate.default)})" for gate in GATES.values()
    ]


def _bool(name: str, text: str) -> bool:
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise GateError(f'invalid value of {name}={text}, err: strconv.ParseBool: parsing "{text}": invalid syntax')


def _go_bool(value: bool) -> str:
    return "true" if value else "false"
