"""The tables of docs/guide/reference.md that code knows best: flags and feature gates of gpu-kubelet-plugin.

`python docs/reference.py` writes them into the page; with `--check` it only says whether they are as it would write
them.
"""

from __future__ import annotations

import sys
from pathlib import Path

from nvdra.api import gates
from nvdra.api.gates import GATES, Gate, GateError, Gates
from nvdra.programs.flags import Flag, duration_s
from nvdra.programs.gpu_flags import FLAGS, PROGRAM

PAGE = Path(__file__).resolve().parent / "guide/reference.md"
NOT_BUILT = "not built yet"


def flags() -> str:
    """A row a flag."""
    lines = ["| Flag | Variable | Default | |", "|---|---|---|---|"]
    for flag in FLAGS:
        names = ", ".join(f"`{'-' if len(name) == 1 else '--'}{name}`" for name in flag.names)
        names += ", `--v`" if flag.names == ("v",) else ""
        variables = ", ".join(f"`{variable}`" for variable in flag.variables)
        # The gates have a table of their own.
        about = flag.help.split(": AllAlpha=")[0]
        lines.append(f"| {names} | {variables} | {_default(flag)} | {_cell(about)} |")
    return "\n".join(lines)


def feature_gates() -> str:
    """A row a gate: what it is by default, and what this plugin makes of it."""
    lines = ["| Gate | Stage | Default | In gpu-kubelet-plugin |", "|---|---|---|---|"]
    for gate in GATES.values():
        default = "on" if gate.default else "off"
        lines.append(f"| `{gate.name}` | {gate.stage} | {default} | {_meaning(gate)} |")
    return "\n".join(lines)


def _meaning(gate: Gate) -> str:
    if gate.name in (gates.ALL_ALPHA, gates.ALL_BETA):
        return f"moves every gate that is {gate.stage} and not named itself"
    if gate.is_locked:
        return "cannot be turned off"
    try:
        gates.refuse_unbuilt(Gates({name: name == gate.name for name in GATES}), PROGRAM)
    except GateError:
        return NOT_BUILT
    match gate.name:
        case gates.DYNAMIC_MIG:
            return "[partitions GPUs for claims](mig.md#partitions-made-for-a-claim)"
        case gates.TIME_SLICING_SETTINGS:
            return "[sets time slices for claims](time-slicing.md)"
        case gates.MPS_SUPPORT:
            return "[runs MPS daemons for claims](mps.md)"
        case gates.CONSUMABLE_SHARES:
            return "[lets claims share devices](shares.md)"
        case gates.DEVICE_METADATA:
            return "[tells containers which devices they have](device-metadata.md)"
        case gates.FABRIC_MANAGER_PARTITIONING:
            return "[activates fabric partitions for claims](fabric-partitions.md)"
        case gates.PASSTHROUGH_SUPPORT:
            return "[gives GPUs to virtual machines](vfio.md)"
        case gates.DRA_LIST_TYPE_ATTRIBUTES:
            return "publishes `numaNode` as a list"
        case gates.LOGGING_ALPHA_OPTIONS | gates.LOGGING_BETA_OPTIONS:
            return "known, changes nothing"
        case _:
            return "of another program, ignored"


def _default(flag: Flag) -> str:
    if flag.required:
        return "required"
    match flag.default:
        case "":
            return ""
        case bool(value):
            return f"`{str(value).lower()}`"
        case float(value):
            return f"`{value:g}s`" if flag.parse is duration_s else f"`{value:g}`"
        case value:
            return f"`{value}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def written(page: str) -> str:
    """The page with current tables."""
    for name, table in (("flags", flags()), ("gates", feature_gates())):
        start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, _, rest = page.partition(start)
        _, _, after = rest.partition(end)
        page = f"{before}{start}\n{table}\n{end}{after}"
    return page


def main(arguments: list[str], file: Path = PAGE) -> int:
    """Exit status: 1 if `--check` finds that the page is not current."""
    page = file.read_text(encoding="utf-8")
    wanted = written(page)
    if arguments == ["--check"]:
        if page != wanted:
            print(f"{file.name} is not what the code says: run python docs/{Path(__file__).name}", file=sys.stderr)
        return int(page != wanted)
    if page != wanted:
        file.write_text(wanted, encoding="utf-8")
        print(f"wrote {file.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
