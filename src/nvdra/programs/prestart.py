"""nvdra prestart: the init container's program. It ends once the driver of this node answers.

The search for the library and its error text are the plugin's own. The other texts are the Go driver's, because people
search for them. The program looks five times a second, and prints a line after each change or ten seconds.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from nvdra.host import DriverFileMissing, Node, driver_root, find_library, find_program
from nvdra.programs.flags import Flag, UsageError, number, parse_words

_ABOUT = """\
Makes the link DRIVER_ROOT to the folder of the host's driver below PARENT, then waits until the driver is there: until
the plugin would find NVML's library, and until nvidia-smi, if there is one, answers. Says what is missing meanwhile.

Exit status: 0, also on SIGTERM; 2 if it was called wrongly."""

_FLAGS = (
    Flag(("nvidia-driver-root",), ("NVIDIA_DRIVER_ROOT",), "/", "the driver root on the host"),
    Flag(("silence-s",), (), 10.0, "seconds after which it speaks although nothing changed", number),
    Flag(("answer-within-s",), (), 60.0, "seconds that nvidia-smi may take", number),
)
_OPERATORS_ROOT = "/run/nvidia/driver"


def main(argv: Sequence[str]) -> int:
    usage = "nvdra prestart [OPTIONS] DRIVER_ROOT PARENT"
    values, words = parse_words("nvdra prestart", _ABOUT, _FLAGS, argv, os.environ, usage=usage)
    if len(words) != 2:
        raise UsageError(f"usage: {usage}")
    child = _Child()
    signal.signal(signal.SIGTERM, child.leave)
    root = values["nvidia_driver_root"] or "/"
    at = _link(words[0], f"{words[1]}/{root.rstrip('/').rpartition('/')[2]}")
    host = Node()
    failed = 0
    while True:
        seen = _look(host, at)
        if _attempt(seen, at, root, child, values["answer_within_s"]):
            return 0
        if failed % 6 == 0:
            _hint(seen, at, root)
        failed += 1
        _wait(host, at, seen, values["silence_s"], 0.2 if failed <= 30 else 1.0)


@dataclass(frozen=True, slots=True)
class _Seen:
    """The paths of the program and the library, "" if missing, and why the library is missing."""

    program: str
    library: str
    reason: str


def _look(host: Node, at: str) -> _Seen:
    root = driver_root(host, at)
    program = library = reason = ""
    with contextlib.suppress(DriverFileMissing):
        program = find_program(host, root, "nvidia-smi")
    try:
        library = find_library(host, root)
    except DriverFileMissing as error:
        reason = str(error)
    return _Seen(program, library, reason)


def _attempt(seen: _Seen, at: str, root: str, child: _Child, answer_within_s: float) -> bool:
    """Whether the driver is there; prints one line with what was found."""
    program = f"'{seen.program}'" if seen.program else "not found"
    library = f"'{seen.library}'" if seen.library else "not found"
    contents = ", ".join(_entries(at))
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    _say(
        f"{now}  /driver-root ({root} on host): nvidia-smi: {program}, libnvidia-ml.so.1: {library}, "
        f"current contents: [{contents}]."
    )
    if not seen.library:
        return False
    if not seen.program:
        _say("nvidia-smi serves time slices alone; everything else works without it: success, leave")
        return True
    # --version needs no GPU, because all GPUs may be bound to vfio-pci.
    _say(f"invoke: env -i LD_PRELOAD={seen.library} {seen.program} --version")
    code = child.run([seen.program, "--version"], {"LD_PRELOAD": seen.library}, answer_within_s)
    if code == 0:
        _say("nvidia-smi returned with code 0: success, leave")
        return True
    _say(f"exit code: {code}")
    if code == 124:
        _say(f"nvidia-smi gave no answer within {answer_within_s:g} s")
    return False


def _hint(seen: _Seen, at: str, root: str) -> None:
    _say(
        "\nCheck failed. Has the NVIDIA GPU driver been set up? It is expected to be installed under "
        f"NVIDIA_DRIVER_ROOT (currently set to '{root}') in the host filesystem. If that path is not the one you "
        "expect: review the DRA driver's 'nvidiaDriverRoot' Helm chart variable. Otherwise, see whether the driver is "
        "really installed there."
    )
    if seen.reason:
        _say(seen.reason)
    if root != "/":
        if not _entries(at):
            _say(f"Hint: Directory {root} on the host is empty")
        elif not seen.library:
            _say(f"Hint: Directory {root} is not empty but at least one of the binaries wasn't found.")
    elif os.path.isfile(f"{at}{_OPERATORS_ROOT}/usr/bin/nvidia-smi"):
        _say(
            f"Hint: '{_OPERATORS_ROOT}/usr/bin/nvidia-smi' exists on the host, you may want to re-install the DRA "
            f"driver Helm chart with --set nvidiaDriverRoot={_OPERATORS_ROOT}"
        )
    if root == _OPERATORS_ROOT:
        _say(
            f"Hint: NVIDIA_DRIVER_ROOT is set to '{_OPERATORS_ROOT}', where the NVIDIA GPU Operator puts the driver "
            "that it manages. Make sure that the GPU Operator is deployed and healthy."
        )
    _say("")


def _wait(host: Node, at: str, seen: _Seen, silence_s: float, pause_s: float) -> None:
    """Return when the files changed, at the latest after `silence_s`."""
    end = time.monotonic() + silence_s
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(pause_s, left))
        if _look(host, at) != seen:
            return


def _link(at: str, target: str) -> str:
    """The path of the driver root in this container: the link `at`, or its target if no link can be made."""
    _say(f"create symlink: /driver-root -> {target}")
    if os.path.islink(at):
        return at
    try:
        os.symlink(target, at)
    except OSError:
        _say(f"no such link can be made: reading {target} itself")
        return target
    return at


def _entries(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


class _Child:
    """The one child process, ended by a signal handler at any time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._is_starting = False
        self._is_told = False

    def run(self, argv: Sequence[str], environ: dict[str, str], timeout_s: float) -> int:
        """The program's exit status, as in a shell; 124 after a timeout."""
        self._is_starting = True
        try:
            self._process = subprocess.Popen(argv, env=environ)
        except OSError as error:
            _say(f"{argv[0]}: {error.strerror}")
            return 126
        finally:
            self._is_starting = False
            if self._is_told:
                self.leave()
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()  # a hung process may not end even by SIGKILL, so do not wait for it
            return 124
        return code if code >= 0 else 128 - code

    def leave(self, *_: object) -> None:
        """End the child and this program; if a child is being started, right after its start."""
        if self._is_starting:
            self._is_told = True
            return
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        os.write(1, f"{now}: received SIGTERM\n".encode())
        os._exit(0)


def _say(text: str) -> None:
    print(text, flush=True)
