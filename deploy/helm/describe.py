"""The generated files of the chart: README.md and values.schema.json from values.yaml, templates/_gates.tpl from code.

`python deploy/helm/describe.py` writes them; with `--check` it only says whether they are as it would write them.

The comment above a key is its help. A last line `type: string, integer` names the types that the value may have where
its default does not say it. A key with help is described as a whole unless keys below it have help too: then its own
is the heading of theirs. A value that no help covers is a mistake.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nvdra.api import gates

CHART = Path(__file__).resolve().parent / "dra-driver-nvidia-gpu"
START, END = "<!-- values -->", "<!-- end of values -->"
_KEY = re.compile(r"(?P<indent> *)(?P<key>[A-Za-z]\w*):(?: |$)")
_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", dict: "object", list: "array"}


class Undescribed(Exception):
    """values.yaml holds something that no help covers; the text names it."""


@dataclass(frozen=True, slots=True)
class Value:
    """One described key: its path, its default, its help (empty for a mapping that only groups), its types."""

    path: tuple[str, ...]
    default: Any
    help: str
    types: tuple[str, ...]
    is_group: bool

    @property
    def name(self) -> str:
        return ".".join(self.path)


def values(text: str) -> list[Value]:
    """Every described key of a values.yaml, in its order. Raises Undescribed."""
    defaults = yaml.safe_load(text)
    helps = dict(_helps(text))
    found = list(_walk((), defaults, helps))
    for value in found:
        if not value.is_group and not value.help:
            raise Undescribed(f"values.yaml: {value.name} has no comment that says what it is for")
    return found


def _helps(text: str) -> Iterator[tuple[tuple[str, ...], tuple[str, tuple[str, ...]]]]:
    path: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            comment.append(line.lstrip().removeprefix("#").strip())
            continue
        key = _KEY.match(line)
        if key:
            indent = len(key["indent"])
            path = [(depth, name) for depth, name in path if depth < indent]
            path.append((indent, key["key"]))
            types: tuple[str, ...] = ()
            if comment and comment[-1].startswith("type: "):
                types = tuple(comment.pop().removeprefix("type: ").split(", "))
            if comment:
                yield tuple(name for _, name in path), (" ".join(comment), types)
        comment = []


def _walk(
    path: tuple[str, ...], defaults: dict[str, Any], helps: dict[tuple[str, ...], tuple[str, tuple[str, ...]]]
) -> Iterator[Value]:
    for key, default in defaults.items():
        here = (*path, key)
        text, types = helps.get(here, ("", ()))
        below = any(len(other) > len(here) and other[: len(here)] == here for other in helps)
        is_group = isinstance(default, dict) and bool(default) and (below or not text)
        yield Value(here, default, text, types or (_TYPES[type(default)],), is_group)
        if is_group:
            yield from _walk(here, default, helps)


def schema(described: list[Value]) -> str:
    """The JSON schema: types and help, nothing that the templates refuse with a text of their own."""
    root: dict[str, Any] = {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "properties": {}}
    for value in described:
        properties = root["properties"]
        for key in value.path[:-1]:
            properties = properties[key]["properties"]
        node: dict[str, Any] = {"type": value.types[0] if len(value.types) == 1 else list(value.types)}
        if value.help:
            node["description"] = value.help
        if value.is_group:
            node["properties"] = {}
        else:
            node["default"] = value.default
        properties[value.path[-1]] = node
    return json.dumps(root, indent=2, ensure_ascii=False) + "\n"


def table(described: list[Value]) -> str:
    """The values as Markdown: one table a top-level group, long defaults left to the file."""
    lines: list[str] = []
    heading: str | None = None
    for value in described:
        if value.is_group and len(value.path) == 1:
            heading = None
        if value.is_group:
            if value.help:
                lines += ["", f"**`{value.name}`**: {value.help}"]
                heading = None
            continue
        top = value.path[0] if len(value.path) > 1 else ""
        if heading != top:
            lines += ["", "| Value | Default | |", "|---|---|---|"]
            heading = top
        default = json.dumps(value.default, ensure_ascii=False)
        shown = f"`{default}`" if len(default) <= 60 else "see `values.yaml`"
        lines.append(f"| `{value.name}` | {shown} | {value.help.replace('|', chr(92) + '|')} |")
    return "\n".join(lines).strip()


def written(chart: Path) -> dict[Path, str]:
    """Path → content, as the files should be."""
    described = values((chart / "values.yaml").read_text())
    readme = (chart / "README.md").read_text()
    before, _, rest = readme.partition(START)
    _, _, after = rest.partition(END)
    return {
        chart / "values.schema.json": schema(described),
        chart / "README.md": f"{before}{START}\n{table(described)}\n{END}{after}",
        chart / "templates" / "_gates.tpl": gate_table(),
    }


def gate_table() -> str:
    """The programs' table of feature gates as a template."""
    text = yaml.safe_dump(gates.table(), sort_keys=False, default_flow_style=None, width=120)
    return (
        "{{/* Feature gates as the programs know them, made by deploy/helm/describe.py from nvdra.api.gates. */}}\n"
        f'{{{{- define "nvdra.gateTable" -}}}}\n{text}{{{{- end -}}}}\n'
    )


def main(arguments: list[str], chart: Path = CHART) -> int:
    """Exit status: 1 if `--check` finds a file that is not current."""
    try:
        wanted = written(chart)
    except Undescribed as mistake:
        print(f"Error: {mistake}", file=sys.stderr)
        return 1
    stale = [path for path, content in wanted.items() if not path.exists() or path.read_text() != content]
    if arguments == ["--check"]:
        for path in stale:
            print(f"{path.name} is not current: run python {Path(__file__).name}", file=sys.stderr)
        return 1 if stale else 0
    for path in stale:
        path.write_text(wanted[path])
        print(f"wrote {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
