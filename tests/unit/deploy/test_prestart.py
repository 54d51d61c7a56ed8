"""The init container's program, run by its script as the image does, on driver roots that appear while it waits."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.unit.host.ld_caches import cache

SCRIPT = Path(__file__).resolve().parents[3] / "deploy" / "image" / "kubelet-plugin-prestart.sh"
SHELLS = [shell for shell in ("sh", "bash") if shutil.which(shell)]
NOT_THERE = "nvidia-smi: not found, libnvidia-ml.so.1: not found, "
MISSING = (
    'error locating "libnvidia-ml.so.1": it is not below the driver root /driver-root; '
    "is the NVIDIA driver installed there?"
)
TIMEOUT_S = 30.0


@dataclass
class Prestart:
    """The script on a host below `folder`; /driver-root and /driver-root-parent are below it too."""

    folder: Path
    root: str
    options: list[str]
    shell: str = "sh"
    process: subprocess.Popen[str] = field(init=False)
    lines: list[str] = field(default_factory=list)

    def start(self) -> None:
        script = self.folder / "prestart.sh"
        script.write_text(SCRIPT.read_text().replace("/driver-root", f"{self.folder}/driver-root"))
        self.process = subprocess.Popen(
            [self.shell, str(script), *self.options],
            env={"PATH": f"{sys.prefix}/bin:/usr/bin:/bin", "NVIDIA_DRIVER_ROOT": self.root},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def until(self, text: str) -> str:
        """The first line from here on that holds the text. A test that waits in vain ends by its own time limit."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            line = line.rstrip("\n").replace(str(self.folder), "")
            self.lines.append(line)
            if text in line:
                return line
        raise AssertionError(f"no line has {text!r}: {self.lines}")

    def rest(self) -> list[str]:
        """All lines up to the end."""
        out, _ = self.process.communicate(timeout=TIMEOUT_S)
        self.lines += out.replace(str(self.folder), "").splitlines()
        return self.lines


Start = Callable[..., Prestart]


@pytest.fixture
def prestart(tmp_path: Path) -> Iterator[Start]:
    running: list[Prestart] = []

    def start(root: str = "/run/nvidia/driver", shell: str = "sh", *options: str) -> Prestart:
        (tmp_path / "driver-root-parent").mkdir(exist_ok=True)
        one = Prestart(tmp_path, root, list(options), shell)
        one.start()
        running.append(one)
        return one

    yield start
    for one in running:
        one.process.kill()
        one.process.wait()


def install(root: Path, smi: str = "usr/bin", lib: str = "usr/lib64", answer: str = "exit 0") -> None:
    """A driver in this root whose nvidia-smi is a shell script; the library is one that can really be preloaded."""
    (root / smi).mkdir(parents=True, exist_ok=True)
    (root / lib).mkdir(parents=True, exist_ok=True)
    library = next(path for path in Path("/").glob("lib*/*/libc.so.6"))
    shutil.copy(library, root / lib / "libnvidia-ml.so.580.1")
    link = root / lib / "libnvidia-ml.so.1"
    link.unlink(missing_ok=True)
    link.symlink_to("libnvidia-ml.so.580.1")
    program = root / smi / ".nvidia-smi"
    program.write_text(f"#!/bin/sh\n{answer}\n")
    program.chmod(0o755)
    # In one step, or the script could see half of it.
    program.rename(root / smi / "nvidia-smi")


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("root", ["/run/nvidia/driver", "/run/nvidia/driver/", "/driver"])
def test_a_driver_that_answers(prestart: Start, tmp_path: Path, shell: str, root: str) -> None:
    last = root.rstrip("/").rpartition("/")[2]
    home = tmp_path / "driver-root-parent" / last
    install(home, answer='echo "asked: $*"; echo "preloaded: $LD_PRELOAD"; echo "path: $HOME"')
    one = prestart(root, shell)
    lines = one.rest()
    assert one.process.returncode == 0
    assert lines[0] == f"create symlink: /driver-root -> /driver-root-parent/{last}"
    assert re.fullmatch(
        rf"\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\dZ  /driver-root \({re.escape(root)} on host\): "
        r"nvidia-smi: '/driver-root/usr/bin/nvidia-smi', "
        r"libnvidia-ml\.so\.1: '/driver-root/usr/lib64/libnvidia-ml\.so\.580\.1', current contents: \[usr\]\.",
        lines[1],
    )
    assert lines[2] == (
        "invoke: env -i LD_PRELOAD=/driver-root/usr/lib64/libnvidia-ml.so.580.1 "
        "/driver-root/usr/bin/nvidia-smi --version"
    )
    assert lines[3:] == [
        "asked: --version",
        "preloaded: /driver-root/usr/lib64/libnvidia-ml.so.580.1",
        "path: ",
        "nvidia-smi returned with code 0: success, leave",
    ]
    assert (tmp_path / "driver-root").readlink() == tmp_path / "driver-root-parent" / last


def test_the_hosts_own_root(prestart: Start, tmp_path: Path) -> None:
    install(tmp_path / "driver-root-parent", "usr/bin", "usr/lib/x86_64-linux-gnu")
    for root in ("", "/"):
        lines = prestart(root).rest()
        assert "/driver-root (/ on host)" in lines[1]
        assert lines[-1] == "nvidia-smi returned with code 0: success, leave"


@pytest.mark.parametrize("folder", ["opt/bin", "usr/bin", "usr/sbin", "bin", "sbin"])
def test_folders_of_the_program(prestart: Start, tmp_path: Path, folder: str) -> None:
    install(tmp_path / "driver-root-parent" / "driver", smi=folder)
    assert f"nvidia-smi: '/driver-root/{folder}/nvidia-smi'" in prestart().until("on host")


@pytest.mark.parametrize(
    "folder",
    [
        "usr/lib64",
        "usr/lib/x86_64-linux-gnu",
        "usr/lib/aarch64-linux-gnu",
        "lib64",
        "lib/x86_64-linux-gnu",
        "lib/aarch64-linux-gnu",
    ],
)
def test_folders_of_the_library(prestart: Start, tmp_path: Path, folder: str) -> None:
    install(tmp_path / "driver-root-parent" / "driver", lib=folder)
    assert f"libnvidia-ml.so.1: '/driver-root/{folder}/libnvidia-ml.so.580.1'" in prestart().until("on host")


def test_links_lead_to_places_inside_the_driver_root(prestart: Start, tmp_path: Path) -> None:
    """As Debian's packages have them: absolute, over /etc/alternatives."""
    home = tmp_path / "driver-root-parent" / "driver"
    install(home, "usr/lib/nvidia/bin", "usr/lib/nvidia")
    for path, target in (
        ("usr/bin/nvidia-smi", "/etc/alternatives/nvidia-smi"),
        ("etc/alternatives/nvidia-smi", "/usr/lib/nvidia/bin/nvidia-smi"),
        ("usr/lib64/libnvidia-ml.so.1", "../lib/nvidia/libnvidia-ml.so.1"),
    ):
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).symlink_to(target)
    lines = prestart().rest()
    assert "nvidia-smi: '/driver-root/usr/lib/nvidia/bin/nvidia-smi'" in lines[1]
    assert lines[-1] == "nvidia-smi returned with code 0: success, leave"


def test_a_driver_in_a_folder_that_only_the_loaders_cache_knows(prestart: Start, tmp_path: Path) -> None:
    home = tmp_path / "driver-root-parent" / "driver"
    install(home, lib="var/lib/nvidia/lib64")
    (home / "etc").mkdir()
    (home / "etc/ld.so.cache").write_bytes(cache(["/var/lib/nvidia/lib64/libnvidia-ml.so.1"]))
    lines = prestart().rest()
    assert "libnvidia-ml.so.1: '/driver-root/var/lib/nvidia/lib64/libnvidia-ml.so.580.1'" in lines[1]
    assert lines[-1] == "nvidia-smi returned with code 0: success, leave"


def test_a_driver_without_nvidia_smi_is_served(prestart: Start, tmp_path: Path) -> None:
    home = tmp_path / "driver-root-parent" / "driver"
    install(home)
    (home / "usr/bin/nvidia-smi").unlink()
    lines = prestart().rest()
    assert "nvidia-smi: not found, libnvidia-ml.so.1: '/driver-root/usr/lib64/libnvidia-ml.so.580.1'" in lines[1]
    assert lines[2:] == ["nvidia-smi serves time slices alone; everything else works without it: success, leave"]


def test_a_library_without_its_link_is_named_with_what_makes_the_link(prestart: Start, tmp_path: Path) -> None:
    home = tmp_path / "driver-root-parent" / "driver"
    install(home)
    (home / "usr/lib64/libnvidia-ml.so.1").unlink()
    one = prestart()
    assert one.until("error locating") == (
        'error locating "libnvidia-ml.so.1": /driver-root/usr/lib64/libnvidia-ml.so.580.1 is there, but no link '
        "libnvidia-ml.so.1 to it; run ldconfig on the node (ldconfig -r ROOT where the driver has a root of its own)"
    )
    (home / "usr/lib64/libnvidia-ml.so.1").symlink_to("libnvidia-ml.so.580.1")
    one.until("success, leave")


def test_links_in_a_circle_are_nothing(prestart: Start, tmp_path: Path) -> None:
    home = tmp_path / "driver-root-parent" / "driver"
    (home / "usr/bin").mkdir(parents=True)
    (home / "usr/bin/nvidia-smi").symlink_to("nvidia-smi")
    assert NOT_THERE in prestart().until("on host")


def test_a_driver_that_comes_later_is_seen_before_the_next_word(prestart: Start, tmp_path: Path) -> None:
    # Nothing is said for a long time unless something changes; so what is said, was said because it changed.
    one = prestart("/run/nvidia/driver", "sh", "--silence-s=3600")
    assert one.until("on host").endswith(f"{NOT_THERE}current contents: [].")
    install(tmp_path / "driver-root-parent" / "driver")
    one.until("success, leave")


def test_an_answer_that_is_no_good_is_asked_again(prestart: Start, tmp_path: Path) -> None:
    home = tmp_path / "driver-root-parent" / "driver"
    install(home, answer="exit 9")
    one = prestart("/run/nvidia/driver", "sh", "--silence-s=0.4")
    one.until("exit code: 9")
    one.until("exit code: 9")
    install(home)
    one.until("success, leave")


def test_a_driver_that_hangs_is_left(prestart: Start, tmp_path: Path) -> None:
    install(tmp_path / "driver-root-parent" / "driver", answer="exec sleep 1000")
    one = prestart("/run/nvidia/driver", "sh", "--answer-within-s=1")
    one.until("exit code: 124")
    assert one.until("nvidia-smi gave") == "nvidia-smi gave no answer within 1 s"


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("is_asking", [False, True])
def test_a_signal_ends_it_at_once(prestart: Start, tmp_path: Path, shell: str, is_asking: bool) -> None:
    if is_asking:
        install(tmp_path / "driver-root-parent" / "driver", answer="echo asked; exec sleep 1000")
    one = prestart("/run/nvidia/driver", shell, "--silence-s=3600")
    one.until("asked" if is_asking else "Make sure that the GPU Operator")
    one.process.send_signal(signal.SIGTERM)
    lines = one.rest()
    assert one.process.returncode == 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z: received SIGTERM", lines[-1])


def hints(one: Prestart) -> list[str]:
    """What the first failed attempt says after its line, up to the empty line that ends it."""
    one.until("Check failed.")
    start = len(one.lines) - 1
    while one.lines[-1]:
        one.until("")
    return one.lines[start:-1]


@pytest.mark.parametrize(
    ("root", "files", "wanted"),
    [
        ("/driver", (), ["Hint: Directory /driver on the host is empty"]),
        (
            "/driver",
            ("usr/bin/nvidia-smi",),
            ["Hint: Directory /driver is not empty but at least one of the binaries wasn't found."],
        ),
        ("/", ("usr/bin/other",), []),
        (
            "/",
            ("run/nvidia/driver/usr/bin/nvidia-smi",),
            [
                "Hint: '/run/nvidia/driver/usr/bin/nvidia-smi' exists on the host, you may want to re-install the "
                "DRA driver Helm chart with --set nvidiaDriverRoot=/run/nvidia/driver"
            ],
        ),
        (
            "/run/nvidia/driver",
            (),
            [
                "Hint: Directory /run/nvidia/driver on the host is empty",
                "Hint: NVIDIA_DRIVER_ROOT is set to '/run/nvidia/driver', where the NVIDIA GPU Operator puts the "
                "driver that it manages. Make sure that the GPU Operator is deployed and healthy.",
            ],
        ),
    ],
)
def test_hints(prestart: Start, tmp_path: Path, root: str, files: tuple[str, ...], wanted: list[str]) -> None:
    home = tmp_path / "driver-root-parent" / root.rpartition("/")[2]
    for file in files:
        (home / file).parent.mkdir(parents=True, exist_ok=True)
        (home / file).touch()
    first, reason, *rest = hints(prestart(root))
    assert reason == MISSING
    assert first.startswith(
        "Check failed. Has the NVIDIA GPU driver been set up? It is expected to be installed under "
        f"NVIDIA_DRIVER_ROOT (currently set to '{root}') in the host filesystem."
    )
    assert "review the DRA driver's 'nvidiaDriverRoot' Helm chart variable." in first
    assert rest == wanted


def test_hints_come_with_every_sixth_failure(prestart: Start) -> None:
    one = prestart("/driver", "sh", "--silence-s=0.1")
    for _ in range(14):
        one.until("on host")
    one.process.send_signal(signal.SIGTERM)
    words = [
        "hint" if line.startswith("Check failed.") else "word"
        for line in one.rest()
        if "on host)" in line or "Check" in line
    ]
    assert words[:2] == ["word", "hint"]
    assert words[2:9] == ["word"] * 6 + ["hint"]
    assert words[9:16] == ["word"] * 6 + ["hint"]


def test_a_root_that_cannot_be_written(prestart: Start, tmp_path: Path) -> None:
    """The container's own files are read-only: without the link it reads the folder itself."""
    home = tmp_path / "driver-root-parent" / "driver"
    install(home)
    # A folder where the link should be: the same refusal without needing another user.
    (tmp_path / "driver-root").touch()
    lines = prestart().rest()
    assert "no such link can be made: reading /driver-root-parent/driver itself" in lines
    assert lines[-1] == "nvidia-smi returned with code 0: success, leave"
