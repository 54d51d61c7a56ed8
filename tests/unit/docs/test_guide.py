"""The guide says what the code says: its tables of flags and gates, and the error texts that people look up in it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from docs import reference
from nvdra.telemetry import metrics

ROOT = Path(__file__).parents[3]
TROUBLE = (ROOT / "docs/guide/troubleshooting.md").read_text(encoding="utf-8")

# Sections whose texts are of the scheduler, of container runtimes or of kubelet.
_OF_OTHERS = ("The scheduler finds nothing", "The plugin is not there", "The container does not start")
# Of the kernel, of gRPC and of the API server, among ours.
_WORDS_OF_OTHERS = ("No space left on device", "Operation not permitted", "forbidden")
# What is put into a text, and punctuation.
_BETWEEN = r"[…:;,()'\"]|\bgpu-\d\b|gpu\.nvidia\.com|gpu-kubelet-plugin|/dev/\S+|\S+\.so\b|vfio-pci|nouveau|\b60 s"


def test_tables_of_flags_and_gates_are_current() -> None:
    page = reference.PAGE.read_text(encoding="utf-8")
    assert page == reference.written(page), "run python docs/reference.py"


def test_a_page_that_is_not_current_is_told(tmp_path: Path) -> None:
    page = tmp_path / "reference.md"
    page.write_text(
        "before\n<!-- flags -->\nstale row\n<!-- end of flags -->\n<!-- gates --><!-- end of gates -->\nafter\n"
    )
    assert reference.main(["--check"], page) == 1
    assert reference.main([], page) == 0
    assert reference.main(["--check"], page) == 0
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "stale row" not in text
    assert "| `--node-name` | `NODE_NAME` | required |" in text


def said() -> str:
    """Every text in our sources, what is put into it shown as an ellipsis."""
    texts = []
    for file in (ROOT / "src/nvdra").rglob("*.py"):
        if "proto" in file.parts:
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
                texts.append("".join(map(str, parts)))
    for file in (
        *(ROOT / "native/core/src").rglob("*.rs"),
        *(ROOT / "deploy").rglob("*.sh"),
        *(ROOT / "deploy").rglob("*.yaml"),
        *(ROOT / "deploy").rglob("*.tpl"),
    ):
        texts.append(re.sub(r"\{[^{}\n]*\}", "…", file.read_text(encoding="utf-8").replace('\\"', '"')))
    return "\n".join(texts)


SAID = said()


def told() -> list[str]:
    """Texts that the troubleshooting page quotes as ours: the first column of its tables, by section."""
    found = []
    for section in re.split(r"^#+ ", TROUBLE, flags=re.MULTILINE):
        if section.startswith(_OF_OTHERS):
            continue
        for head, rows in re.findall(r"^\| (Text|Log|Reason)[^\n]*\n\|[-|]+\n((?:\|[^\n]*\n)+)", section, re.MULTILINE):
            assert head
            for row in rows.splitlines():
                found += re.findall(r"`([^`]+)`", row.split(" | ")[0])
    return [text for text in found if text not in _WORDS_OF_OTHERS]


@pytest.mark.parametrize("text", told())
def test_an_error_text_that_is_explained_can_be_given(text: str) -> None:
    # Names in a text are examples; the clauses around them are ours.
    clauses = [clause.strip() for clause in re.split(_BETWEEN, text)]
    clauses = [clause for clause in clauses if len(clause) > 4 and clause not in _WORDS_OF_OTHERS]
    assert clauses
    assert [clause for clause in clauses if clause not in SAID] == []


def test_every_metric_of_ours_is_explained() -> None:
    source = Path(metrics.__file__).read_text(encoding="utf-8")
    names = set(re.findall(r'"(nvidia_dra_[a-z_]+)"', source))
    assert names
    assert [name for name in names if f"`{name}`" not in TROUBLE] == []
