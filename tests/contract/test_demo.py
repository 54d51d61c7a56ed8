"""The demo as a person runs it: in a pipe, on a terminal, broken on purpose, interrupted. It leaves nothing behind."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAM = [
    sys.executable,
    "-c",
    "import sys; from nvdra import cli; sys.exit(cli.start('nvdra', sys.argv[1:]))",
    "demo",
]
PLUGIN = Path(sys.executable).with_name("gpu-kubelet-plugin")


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where the demo may put its folder: short, as sockets lie below it."""
    path = Path(tempfile.mkdtemp(prefix="d"))
    yield path
    shutil.rmtree(path)


def start(folder: Path, *argv: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
    environ = {**os.environ, "TMPDIR": str(folder), "PYTHONIOENCODING": "utf-8"}
    return subprocess.Popen([*PROGRAM, *argv], env=environ, stdout=stdout, stderr=subprocess.PIPE, text=True)


def run(folder: Path, *argv: str) -> tuple[int, str, str]:
    """Exit status, standard output, standard error."""
    process = start(folder, *argv)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def playing(folder: Path) -> list[str]:
    """Command lines of processes that have to do with the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line:
            found.append(line)
    return found


def stand_in(folder: Path, script: str) -> str:
    """A program to start in place of the plugin."""
    path = folder / "plugin"
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_all_of_it_is_true(folder: Path) -> None:
    status, out, err = run(folder)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 110
    assert "\x1b" not in out
    assert "\r" not in out
    assert [line[:3] for line in lines if line.startswith("✔")] == [f"✔ {number}" for number in range(1, 9)]
    for text in (
        "8 × NVIDIA H100 80GB HBM3",
        "gpu-7   81559Mi  1     0000:df:00.0  pci0000:d7  GPU-f30796b5-ca80-8f5d-854b-9a734deaefae",
        "one-gpu       1 GPU → gpu-0",
        "two-gpus      2 GPUs → gpu-1 gpu-2",
        '1 GPU where device.attributes["resource.kubernetes.io"].numaNode == 1 → gpu-4',
        "/dev/nvidia1 /dev/nvidia2",
        "NVIDIA_VISIBLE_DEVICES=void",
        "sees 2 of 8 GPUs",
        "SIGKILL struck after the CDI file was in place and before the checkpoint was",
    ):
        assert text in out, text
    assert lines[-1].startswith("All of it is true: ")
    assert list(folder.iterdir()) == []
    assert playing(folder) == []


@pytest.mark.parametrize("portrait", ["h200x1", "gpus16"])
def test_other_nodes(folder: Path, portrait: str) -> None:
    status, out, err = run(folder, "--portrait", portrait)
    assert (status, err) == (0, ""), out
    assert ("two-gpus      2 GPUs: pending, the node has too few GPUs" in out) is (portrait == "h200x1")


def test_on_a_terminal_it_has_colours_unless_told_otherwise(folder: Path) -> None:
    def shown(**environ: str) -> str:
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            [*PROGRAM, "--portrait", "h200x1"],
            env={**os.environ, "TMPDIR": str(folder), "TERM": "xterm", "PYTHONIOENCODING": "utf-8", **environ},
            stdout=theirs,
        ) as process:
            os.close(theirs)
            content = b""
            while True:
                try:
                    chunk = os.read(ours, 65536)
                except OSError:  # the other side is closed
                    break
                content += chunk
            os.close(ours)
        assert process.returncode == 0
        return content.decode()

    assert "\x1b[32;1m✔\x1b[0m \x1b[1m8 The node is clean\x1b[0m" in shown()
    assert "\x1b[32" not in shown(NO_COLOR="1")


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("echo 'Error: out of luck' >&2; exit 3", "but the plugin ended with exit status 3"),
        ("kill -9 $$", "but the plugin was killed by signal 9"),
        # Each of these is a plugin that lies about one thing.
        (f'exec {PLUGIN} "$@" --cdi-root="$0.cdi"', "is answered as prepared, but its CDI file"),
        (
            'for word; do case $word in --container-driver-root=*) rm -f "${word#*=}/dev/nvidia3";; esac; done\n'
            f'exec {PLUGIN} "$@"',
            "gpu-3 should be published, but only gpu-0, gpu-1, gpu-2, gpu-4, ",
        ),
    ],
    ids=["ends", "killed", "writes elsewhere", "hides a GPU"],
)
def test_what_is_not_true_is_said(folder: Path, script: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = stand_in(folder, script)
    status, out, _ = run(folder, "--plugin", program)
    assert status == 1
    assert "All of it is true" not in out
    assert "✘" in out
    told = next(line for line in out.splitlines() if line.startswith("Not true: "))
    assert text in told
    assert playing(folder) == []
    left = sorted(path.name for path in folder.iterdir() if path.name not in ("plugin", "plugin.cdi"))
    if "out of luck" in script or PLUGIN.name in script:
        assert "The end of the plugin's log" in out
        # The log alone stays, under the name that was told.
        assert len(left) == 1
        assert f"{folder}/{left[0]}" in out
        content = (folder / left[0]).read_text()
        assert content
        assert content.splitlines()[-1] in out
    else:
        assert "The plugin's log is empty." in out
        assert left == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_it_leaves_nothing(folder: Path, number: signal.Signals) -> None:
    process = start(folder)
    assert process.stdout is not None
    while "✔ 1" not in process.stdout.readline():
        assert process.poll() is None
    assert len(playing(folder)) >= 2
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert err == ""
    assert f"ended by {number.name}; nothing is left behind" in out
    assert list(folder.iterdir()) == []
    assert playing(folder) == []


def test_a_reader_that_goes_ends_it(folder: Path) -> None:
    process = start(folder)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) == 128 + signal.SIGPIPE
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()
    deadline = time.monotonic() + 10
    while playing(folder) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert list(folder.iterdir()) == []
    assert playing(folder) == []


def test_kept_for_a_look(folder: Path) -> None:
    status, out, _ = run(folder, "--portrait", "h200x1", "--keep")
    assert status == 0
    (kept,) = folder.iterdir()
    assert f"Kept: {kept} " in out
    assert {"plugin.log", "cdi", "kubelet", "driver"} <= {path.name for path in kept.iterdir()}
    assert playing(folder) == []


def test_a_portrait_that_is_none(folder: Path) -> None:
    status, out, err = run(folder, "--portrait", "h300")
    assert (status, out) == (2, "")
    assert err.startswith("Error: no portrait 'h300': there are a100x8, ")
    assert list(folder.iterdir()) == []


def test_without_the_mock_it_says_how_to_get_it(folder: Path) -> None:
    code = f"import sys; sys.modules['nvdra_mock_nvml'] = None; {PROGRAM[2]}"
    done = subprocess.run(
        [sys.executable, "-c", code, "demo"],
        env={**os.environ, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "pip install ./native/mock-nvml" in done.stderr


def test_help(folder: Path) -> None:
    status, out, err = run(folder, "--help")
    assert (status, err) == (0, "")
    for word in ("--portrait", "--keep", "--plugin", "Exit status"):
        assert word in out
