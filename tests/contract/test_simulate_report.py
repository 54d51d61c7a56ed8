"""The report of nvdra simulate: one HTML file, every plot drawn by a browser; a disk that fills leaves nothing."""

from __future__ import annotations

import html.parser
import json
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from nvdra import cli
from nvdra.programs.people.simulate_claims import CLASSES

PROGRAM = [sys.executable, "-c", "import sys; from nvdra import cli; sys.exit(cli.start('nvdra', sys.argv[1:]))"]
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
PODS = ("--nodes=3xh100x8", "--mix=mixed", "--pods=300", "--rate=60")
MIG = "--compare=--nodes 3xh100x8@DynamicMIG=true"
PANELS = 4


def made(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Runs the command, which must succeed; returns what it prints."""
    assert cli.start("nvdra", ["simulate", *PODS, *argv]) == 0
    return capsys.readouterr().out


def browser() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser is installed: {', '.join(BROWSERS)}")
    return found


def opened(folder: Path, page: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """The browser's answer to a page; its console goes to standard error."""
    common = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={folder}")
    command = [browser(), *common, "--enable-logging=stderr", "--virtual-time-budget=2000", *argv, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)


# Marks what was drawn, in the page itself: lines with an extent on the screen, for each plot.
MEASURE = """<script>
const sizes = [...document.querySelectorAll('figure svg')].map(svg => [...svg.querySelectorAll('path')]
  .map(path => path.getBoundingClientRect()).filter(box => box.width > 100 && box.height > 0).length);
document.body.dataset.drawn = JSON.stringify(sizes);
console.log('measured');
</script>"""


def test_a_browser_draws_every_plot_without_an_error(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    made(capsys, MIG, f"--report={page}")
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", f"{MEASURE}</body>"), encoding="utf-8")
    shown = opened(tmp_path / "profile", page, "--dump-dom")
    drawn = re.search(r'data-drawn="\[([0-9,]+)\]"', shown.stdout)
    assert drawn, shown.stderr
    counts = [int(count) for count in drawn[1].split(",")]
    assert len(counts) == PANELS
    assert all(count >= 2 for count in counts), counts  # two scenarios at least
    console = [line for line in shown.stderr.splitlines() if "CONSOLE" in line]
    assert ["measured" in line for line in console] == [True], console


def test_a_picture_of_the_page_has_ink(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page, picture = tmp_path / "report.html", tmp_path / "page.png"
    made(capsys, MIG, f"--report={page}")
    opened(tmp_path / "profile", page, f"--screenshot={picture}", "--window-size=1000,3000")
    from PIL import Image

    with Image.open(picture) as image:
        colors = {color: count for count, color in image.convert("RGB").getcolors(1 << 24)}
    for line in ((0x1F, 0x77, 0xB4), (0xFF, 0x7F, 0x0E)):  # matplotlib's first two colours
        assert colors.get(line, 0) > 200


class _Links(html.parser.HTMLParser):
    """Collects what a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data")]
        assert tag != "script"


def test_the_report_is_one_file_and_the_same_for_the_same_seed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    made(capsys, MIG, f"--report={page}")
    first = page.read_bytes()
    made(capsys, MIG, f"--report={page}")
    assert page.read_bytes() == first
    links = _Links()
    links.feed(first.decode())
    assert all(link.startswith(("#", "data:")) for link in links.found), links.found
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize(("suffix", "begin"), [("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_plots_are_written_as_pictures(
    suffix: str, begin: bytes, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / f"plot.{suffix}"
    made(capsys, f"--plot={path}")
    assert path.read_bytes().startswith(begin)


def limited(argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Runs the command where no file may pass 4 KiB, as on a disk that is full."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    return subprocess.run(
        [*PROGRAM, "simulate", *argv],
        capture_output=True,
        text=True,
        timeout=100,
        preexec_fn=limit,
        check=False,
    )


def test_a_disk_that_fills_leaves_nothing_and_costs_no_answer(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "reports"
    folder.mkdir()
    page = folder / "report.html"
    page.write_text("before", encoding="utf-8")
    assert cli.start("nvdra", ["forecast", "h100x8", "--template=kwok", "--output=json"]) == 0
    dump = json.loads(capsys.readouterr().out)
    dump["items"] += CLASSES
    (tmp_path / "cluster.json").write_text(json.dumps(dump), encoding="utf-8")
    ran = limited([f"--dump={tmp_path / 'cluster.json'}", *PODS[1:], f"--report={page}"])
    assert ran.returncode == 3
    assert f"{page} cannot be written: File too large; nothing was left there" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert "pods placed" in ran.stdout
    assert page.read_text(encoding="utf-8") == "before"
    assert [path.name for path in folder.iterdir()] == ["report.html"]


def test_a_full_device_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.start("nvdra", ["simulate", *PODS, "--report=/dev/full"]) == 3
    out, err = capsys.readouterr()
    assert "/dev/full cannot be written: No space left on device" in err
    assert "pods placed" in out
