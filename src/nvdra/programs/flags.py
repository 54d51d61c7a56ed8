"""Flags, their variables and defaults as a table; parsing with the Go driver's rules and texts.

An explicit flag takes precedence over its variable, the variable over the default. The caller passes the environment
in.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from nvdra.api import quantity


class StartError(Exception):
    """The program cannot start here as it is configured; the text is for people."""


class UsageError(Exception):
    """The command line or a variable cannot be used; the text is for people."""


@dataclass(frozen=True, slots=True)
class Flag:
    """One option.

    names      without dashes; texts use the first; a single letter is a short option
    variables  the first one that is set is used
    parse      text to value; raises ValueError with a reason
    repeats    may be given several times: its value is a tuple
    """

    names: tuple[str, ...]
    variables: tuple[str, ...]
    default: Any
    help: str
    parse: Callable[[str], Any] = str
    required: bool = False
    repeats: bool = False

    @property
    def key(self) -> str:
        return self.names[0].replace("-", "_")


def boolean(text: str) -> bool:
    """Go's strconv.ParseBool."""
    if text in ("1", "t", "T", "TRUE", "true", "True"):
        return True
    if text in ("0", "f", "F", "FALSE", "false", "False"):
        return False
    raise ValueError(f'parsing "{text}": invalid syntax')


def integer(text: str) -> int:
    try:
        return int(text, 10)
    except ValueError:
        raise ValueError(f'parsing "{text}": invalid syntax') from None


def number(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        raise ValueError(f'parsing "{text}": invalid syntax') from None
    if not math.isfinite(found):
        raise ValueError(f'parsing "{text}": not a finite number')
    return found


_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def duration_s(text: str) -> float:
    """Go's time.ParseDuration, in seconds: "5s", "1m30s", "250ms"."""
    import re

    sign = -1.0 if text.startswith("-") else 1.0
    body = text[1:] if text[:1] in ("+", "-") else text
    if body == "0":
        return 0.0
    parts = re.findall(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)", body)
    if not parts or "".join(a + b for a, b in parts) != body:
        raise ValueError(f'time: invalid duration "{text}"')
    return sign * sum(float(amount) * _UNITS_S[unit] for amount, unit in parts)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def parse(
    program: str, description: str, flags: Sequence[Flag], argv: Sequence[str], environ: Mapping[str, str]
) -> dict[str, Any]:
    """Values by `Flag.key`. Raises UsageError; `--help` prints and exits 0 like any program."""
    values, words = parse_words(program, description, flags, argv, environ)
    if words:
        raise UsageError(f"arguments not supported: [{' '.join(words)}]")
    return values


def parse_words(
    program: str,
    description: str,
    flags: Sequence[Flag],
    argv: Sequence[str],
    environ: Mapping[str, str],
    *,
    usage: str | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """Values by `Flag.key`, and the positional words. Raises UsageError, or exits 0 after `--help`."""
    given, rest = _parser(program, usage, description, flags).parse_known_args(list(argv))
    unknown = [word for word in rest if word.startswith("-") and word != "--"]
    if unknown:
        raise UsageError(f"flag provided but not defined: -{unknown[0].lstrip('-').split('=')[0]}")
    words = [word for word in rest if word != "--"]
    values: dict[str, Any] = {}
    missing: list[str] = []
    for flag in flags:
        text = getattr(given, flag.key)
        # An empty variable counts only for a text flag, as in the Go driver's flag library.
        variable = next((v for v in flag.variables if v in environ and (environ[v] or flag.parse is str)), None)
        if text is not None:
            values[flag.key] = tuple(_given(flag, each) for each in text) if flag.repeats else _given(flag, text)
        elif variable is not None:
            values[flag.key] = _from_variable(flag, variable, environ[variable])
        elif flag.required:
            missing.append(flag.names[0])
        else:
            values[flag.key] = flag.default
    if missing:
        names = ", ".join(missing)
        raise UsageError(f'Required flag{"s" if len(missing) > 1 else ""} "{names}" not set')
    return values, words


def _parser(program: str, usage: str | None, description: str, flags: Sequence[Flag]) -> _Parser:
    parser = _Parser(
        prog=program,
        usage=usage,
        description=description,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for flag in flags:
        options = [f"--{name}" for name in flag.names] + [f"-{name}" for name in flag.names if len(name) == 1]
        about = flag.help.replace("%", "%%")
        if flag.variables:
            about += f" [${', $'.join(flag.variables)}]"
        about += " (required)" if flag.required else f" (default: {_shown(flag.default)})"
        if flag.parse is boolean:
            parser.add_argument(
                *options, dest=flag.key, default=None, nargs="?", const="true", metavar="BOOL", help=about
            )
        else:
            action = "append" if flag.repeats else "store"
            parser.add_argument(*options, dest=flag.key, default=None, metavar="VALUE", help=about, action=action)
    return parser


def _given(flag: Flag, text: str) -> Any:
    name = flag.names[0]
    text = text.removeprefix("=") if len(name) == 1 else text  # -v=4
    try:
        return flag.parse(text)
    except ValueError as reason:
        raise UsageError(f'invalid value "{text}" for flag -{name}: {reason}') from None


def _from_variable(flag: Flag, variable: str, text: str) -> Any:
    try:
        return flag.parse(text)
    except ValueError as reason:
        raise UsageError(
            f'could not parse "{text}" from environment variable "{variable}" '
            f"as value for flag {flag.names[0]}: {reason}"
        ) from None


def _shown(default: Any) -> str:
    if default is None or default in ("", ()):
        return "none"
    return str(default).lower() if isinstance(default, bool) else str(default)


LOGGING = (
    Flag(("v",), ("V",), 0, "how much is logged: 0 little, 4 usual in the chart, 6 every API call", integer),
    Flag(("vmodule",), ("VMODULE",), "", "verbosity by source file, name=level,... (text format only)"),
    Flag(("logging-format",), ("LOGGING_FORMAT",), "text", "text or json"),
    Flag(("log-flush-frequency",), ("LOG_FLUSH_FREQUENCY",), 5.0, "longest time a record waits, 5s", duration_s),
    *(
        Flag((name,), (name.upper().replace("-", "_"),), default, "needs the gate LoggingAlphaOptions", kind)
        for name, default, kind in (
            ("log-text-split-stream", False, boolean),
            ("log-text-info-buffer-size", quantity.Quantity(0), quantity.parse),
            ("log-json-split-stream", False, boolean),
            ("log-json-info-buffer-size", quantity.Quantity(0), quantity.parse),
        )
    ),
)

KUBE = (
    Flag(("kubeconfig",), ("KUBECONFIG",), "", "kubeconfig file; inside a cluster the pod's own account"),
    Flag(("kube-api-qps",), ("KUBE_API_QPS",), 50.0, "API calls a second; reads of claims are exempt", number),
    Flag(("kube-api-burst",), ("KUBE_API_BURST",), 100, "API calls at once above that rate", integer),
)

GATES = (Flag(("feature-gates",), ("FEATURE_GATES",), "", "Name=true|false, separated by commas"),)
