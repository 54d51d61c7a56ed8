"""An explanation for the terminal."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterator

from nvdra.allocation import Cause, Explanation
from nvdra.programs.people.paper import counted

_SHOWN_CAUSES = 12
_SHOWN_NODES = 10


def page(found: Explanation) -> str:
    """Returns the text: the verdict, causes by the number of nodes, changes that help, then nodes."""
    return "\n".join(_lines(found)) + "\n"


def _lines(found: Explanation) -> Iterator[str]:
    yield _bold(f"{found.subject}: {_verdict(found)}")
    yield f"as kube-scheduler {found.release} allocates ({found.variant})"
    for _, text in found.notes:
        yield from _wrapped("- ", text)
    for code, text, nodes in found.errors:
        yield ""
        yield from _wrapped(
            f"{counted(nodes, 'node')}  {code}  ", f"{text}. This error ends the whole scheduling attempt of the pod."
        )
    if found.causes and not found.fits:
        yield ""
        yield _bold("why")
        for cause in found.causes[:_SHOWN_CAUSES]:
            yield from _cause(cause)
        if len(found.causes) > _SHOWN_CAUSES:
            yield f"  and {counted(len(found.causes) - _SHOWN_CAUSES, 'cause')} more; --output json lists them all"
    if found.relaxations:
        yield ""
        yield _bold("what would help (each change was tried, alone)")
        for one in found.relaxations:
            yield from _wrapped(
                f"  {counted(one.nodes, 'node'):>9}  ", f"{one.change} ({_some(one.example_nodes, one.nodes)})"
            )
    elif found.causes and not found.fits:
        yield ""
        yield "No single change that was tried would make it fit."
    if found.nodes:
        yield ""
        yield _bold("nodes")
        width = max(len(verdict.node) for verdict in found.nodes[:_SHOWN_NODES])
        for verdict in found.nodes[:_SHOWN_NODES]:
            yield f"  {verdict.node:{width}}  {verdict.verdict}  {', '.join(verdict.causes)}".rstrip()
        if len(found.nodes) > _SHOWN_NODES:
            yield f"  and {counted(len(found.nodes) - _SHOWN_NODES, 'node')} more; --node NAME asks for one"


def _verdict(found: Explanation) -> str:
    total = len(found.nodes)
    if not found.claims:
        return "nothing waits for devices"
    if found.fits:
        one_of = "one of " if len(found.fits) > 1 else ""
        return (
            f"fits now on {one_of}{_some(found.fits, len(found.fits))}; "
            "the scheduler has not tried since the last change, or something else than devices keeps the pod"
        )
    if not total:
        return "there is no node"
    return f"does not fit on {'the only node' if total == 1 else f'any of {total} nodes'}"


def _cause(cause: Cause) -> Iterator[str]:
    devices = f", {counted(cause.devices, 'device')}" if cause.devices else ""
    yield from _wrapped(f"  {counted(cause.nodes, 'node'):>9}  ", f"{cause.text} [{cause.code}{devices}]")
    indent = " " * 13
    if cause.example_devices:
        yield from _wrapped(indent, f"such as {_some(cause.example_devices, cause.devices)}")
    for key, about in (("holders", "held by "), ("values", "the first device has ")):
        if cause.facts.get(key):
            facts = tuple(cause.facts[key])
            yield from _wrapped(indent, about + _some(facts, len(facts)))


def _some(names: tuple[str, ...], total: int) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {total - 3} more" if total > 3 else shown


def _wrapped(head: str, text: str) -> list[str]:
    width = max(60, min(shutil.get_terminal_size((100, 24)).columns, 140))
    return textwrap.wrap(text, width, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False)


def _bold(text: str) -> str:
    if sys.stdout.isatty() and "NO_COLOR" not in os.environ:
        return f"\033[1m{text}\033[0m"
    return text
