"""The table of docs/guide/gates.md: which feature gates of the GPU plugin work together.

`python docs/gates.py` writes it into the page; with `--check` it only says whether it is current. It says what the
plugin, the chart and the webhook do: they read the same pairs (`nvdra.api.gates`).
"""

from __future__ import annotations

import sys
from pathlib import Path

from nvdra.api import gates

PAGE = Path(__file__).resolve().parent / "guide/gates.md"
START, END = "<!-- pairs -->", "<!-- end of pairs -->"

# The gates that change what gpu-kubelet-plugin does with devices.
GATES = (
    gates.DYNAMIC_MIG,
    gates.NVML_DEVICE_HEALTH_CHECK,
    gates.PASSTHROUGH_SUPPORT,
    gates.MPS_SUPPORT,
    gates.TIME_SLICING_SETTINGS,
    gates.CONSUMABLE_SHARES,
    gates.DEVICE_METADATA,
    gates.FABRIC_MANAGER_PARTITIONING,
)


def table() -> str:
    """A row for each pair of gates that is special, and one for all others."""
    lines = ["| Gate | With | |", "|---|---|---|"]
    plain = 0
    for (one, other), (relation, refusal) in gates.pairs(GATES).items():
        if refusal:
            lines.append(f"| `{one}` | `{other}` | refused: `{refusal}` |")
        elif relation == "requires":
            first, second = (other, one) if (other, relation, one) in gates.special() else (one, other)
            lines.append(f"| `{first}` | `{second}` | works; `{first}` needs `{second}` |")
        elif {(one, relation, other), (other, relation, one)} & set(gates.special()):
            lines.append(f"| `{one}` | `{other}` | works; the Go driver v0.4.1 refuses it |")
        else:
            plain += 1
    lines.append(f"| any of these | any other of these | works ({plain} pairs) |")
    return "\n".join(lines)


def written(page: str) -> str:
    """The page with the current table."""
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{table()}\n{END}{after}"


def main(arguments: list[str], file: Path = PAGE) -> int:
    """Exit status: 1 if `--check` finds that the page is not current."""
    page = file.read_text(encoding="utf-8")
    wanted = written(page)
    if arguments == ["--check"]:
        if page != wanted:
            print(f"{file.name} is not what the code says: run python docs/{Path(__file__).name}", file=sys.stderr)
        return int(page != wanted)
    file.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
