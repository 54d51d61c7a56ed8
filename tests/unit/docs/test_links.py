"""What is written in Markdown leads somewhere: links, anchors; and the guide's YAML is YAML."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

ROOT = Path(__file__).parents[3]
PAGES = [
    ROOT / name
    for name in subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.md"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    if name and (ROOT / name).exists()
]
GUIDE = sorted((ROOT / "docs/guide").glob("*.md"))
_FENCE = re.compile(r"^( *)(```+|~~~+)[^\n]*\n.*?^\1\2 *$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!\\)\[(?:[^\[\]]|\[[^\[\]]*\])*\]\(\s*<?([^()\s<>]+)>?(?:\s+\"[^\"]*\")?\s*\)")


def prose(page: Path) -> str:
    """The page without blocks and spans of code: nothing in there is a link."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return re.sub(r"(`+)[^`\n]+?\1", "", text)


@cache
def anchors(page: Path) -> frozenset[str]:
    """Names of the headings, as forges make them: lower case, hyphens for spaces, no punctuation, twins numbered."""
    found: dict[str, int] = {}
    names = set()
    for title in re.findall(r"^#{1,6} +(.+?) *#*$", _FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)
        name = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        count = found.get(name, 0)
        found[name] = count + 1
        names.add(f"{name}-{count}" if count else name)
    return frozenset(names)


def broken(page: Path) -> list[str]:
    """Targets of the page's relative links that are not there."""
    lost = []
    for target in _LINK.findall(prose(page)):
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        path, _, anchor = unquote(target).partition("#")
        other = (page.parent / path).resolve() if path else page
        is_lost = not other.exists() or not other.is_relative_to(ROOT)
        if is_lost or (anchor and other.suffix == ".md" and anchor not in anchors(other)):
            lost.append(target)
    return lost


def test_the_guide_is_among_the_pages() -> None:
    assert set(GUIDE) <= set(PAGES)
    assert ROOT / "docs/guide/index.md" in GUIDE


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page) == []


@pytest.mark.parametrize("page", GUIDE, ids=lambda page: page.name)
def test_the_map_leads_to_every_page(page: Path) -> None:
    if page.name != "index.md":
        assert f"({page.name}" in prose(ROOT / "docs/guide/index.md")


def test_what_leads_nowhere_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    (tmp_path / "other.md").write_text("# A `heading`, so\n\n# Twice\n\n# Twice\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[here](#a) [there](other.md#a-heading-so) [twice](other.md#twice-1) [far](https://x.test/y.md)\n"
        "`[code](none.md)` [outside](../x.md) [gone](gone.md) [no](other.md#none)\n\n"
        "```\n[code](none.md)\n```\n\n## A\n"
    )
    assert broken(page) == ["../x.md", "gone.md", "other.md#none"]


BLOCKS = [
    (f"{page.name}-{number}", block)
    for page in GUIDE
    for number, block in enumerate(
        re.findall(r"^```ya?ml\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    )
]


@pytest.mark.parametrize("block", [block for _, block in BLOCKS], ids=[name for name, _ in BLOCKS])
def test_yaml_of_the_guide_is_objects(block: str) -> None:
    documents = list(yaml.safe_load_all(block))
    assert documents
    for document in documents:
        assert {"apiVersion", "kind", "metadata"} <= document.keys()


def test_pods_of_the_guide_use_the_claims_that_they_name() -> None:
    pods = [each for _, block in BLOCKS for each in yaml.safe_load_all(block) if each["kind"] == "Pod"]
    assert pods
    for pod in pods:
        named = {claim["name"] for claim in pod["spec"].get("resourceClaims", [])}
        used = {
            claim["name"]
            for container in pod["spec"]["containers"]
            for claim in container["resources"].get("claims", [])
        }
        assert named == used, pod["metadata"]["name"]
