"""Where the demo plays: a folder with a node that has no hardware, the processes on it, and how all of it goes away."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from nvdra.programs.demo.page import NotTrue

T = TypeVar("T")

NODE = "demo-node"
PLUGIN = "gpu-kubelet-plugin"
TIMEOUT_S = 30.0
# Below it lie unix sockets, whose paths may have 107 bytes.
_LONGEST_FOLDER = 48


class MockMissing(Exception):
    """The mock NVML is not installed, or cannot lay out the node; the text says how to get it."""


class Stage:
    """The folder, the mock's driver root, the API server stand-in and the plugin. A context manager: leaves nothing.

    portrait   of the node
    plugin     the program to start as the plugin; "": the one beside this Python
    keep       leave the folder where it is at the end
    """

    def __init__(self, portrait: str, *, plugin: str = "", keep: bool = False) -> None:
        self._portrait = portrait
        self._plugin = plugin
        self._keep = keep
        self._stack = ExitStack()
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        try:
            import nvdra_mock_nvml
        except ModuleNotFoundError:
            raise MockMissing(
                "the demo's GPUs come from the package nvdra-mock-nvml, which is not installed here: "
                "run `make demo` in the source tree, or `pip install ./native/mock-nvml`"
            ) from None
        with ExitStack() as stack:
            parent = tempfile.gettempdir()
            folder = tempfile.mkdtemp(prefix="nvdra-", dir=parent if len(parent) < _LONGEST_FOLDER else "/tmp")
            self.folder = Path(folder)
            if not self._keep:
                stack.callback(shutil.rmtree, folder, ignore_errors=True)
            stack.callback(self._end_all)
            # Where a real driver is loaded, real device numbers would lead to it.
            kind: Any = "regular" if os.path.exists("/dev/nvidiactl") else "auto"
            try:
                self.root = nvdra_mock_nvml.lay_out(self.folder / "driver", self._portrait, device_files=kind)
            except Exception as error:  # its errors have no common class; each text is for people
                raise MockMissing(str(error)) from None
            if self.portrait.is_recorded:
                raise MockMissing(
                    f"{self._portrait} cannot be played: in its containers nobody can tell which GPUs they see"
                )
            self._stack = stack.pop_all()
        self.cdi_root = self.folder / "cdi"
        self.registrar = self.folder / "kubelet/plugins_registry"
        self.plugins = self.folder / "kubelet/plugins"
        self.plugin_dir = self.plugins / "gpu.nvidia.com"
        self.kubeconfig = self.folder / "kubeconfig"
        self.log = self.folder / "plugin.log"
        self.trap = self.folder / "trap"
        for path in (self.registrar, self.plugins):
            path.mkdir(parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    @property
    def portrait(self) -> Any:
        """What the mock was told that this node has."""
        return self.root.portrait

    # ── processes ──────────────────────────────────────────────────────────────────────────────────────────────

    async def start_api_server(self) -> str:
        """The stand-in's URL, once it answers."""
        argv = [sys.executable, "-m", "nvdra.testing.api_server", "--node", NODE, "--kubeconfig", str(self.kubeconfig)]
        said = self.folder / "api-server.out"
        self._start("api-server", argv, said)

        def url() -> str:
            text = said.read_text()
            return text.strip() if text.endswith("\n") and text.startswith("http") else ""

        self.url = await self.until("the API server stand-in to answer", url, alive="api-server")
        return self.url

    def start_plugin(self, *, killed_before: str = "") -> int:
        """Start the plugin through its own command line; its process id.

        killed_before   base name of a file: the plugin dies right before it renames onto it, once the trap is set
        """
        if killed_before:
            argv = [sys.executable, "-m", "nvdra.testing.killed", "--before", "rename", "--path", killed_before]
            argv += ["--armed", str(self.trap), PLUGIN]
        else:
            argv = [self._plugin or _beside_python(PLUGIN)]
        self._start("plugin", argv + self.plugin_arguments(), self.log)
        return self._running["plugin"].pid

    def plugin_arguments(self) -> list[str]:
        """The plugin's command line on this node."""
        flags = {
            "node-name": NODE,
            "image-name": "demo",
            "kubeconfig": self.kubeconfig,
            # The demo is both sides at once: the container runtime sees the driver where the plugin sees it.
            "nvidia-driver-root": self.root.root,
            "container-driver-root": self.root.root,
            "cdi-root": self.cdi_root,
            "nvidia-cdi-hook-path": "/usr/bin/nvidia-cdi-hook",
            "kubelet-registrar-directory-path": self.registrar,
            "kubelet-plugins-directory-path": self.plugins,
            "v": 6,
        }
        return [f"--{name}={value}" for name, value in flags.items()]

    async def stop_plugin(self) -> int:
        """SIGTERM; the exit status."""
        self._running["plugin"].send_signal(signal.SIGTERM)
        return await self.plugin_ended()

    async def plugin_ended(self) -> int:
        """The exit status of a plugin that ends by itself; negative: the signal it died of."""
        process = self._running["plugin"]
        await self.until("the plugin to end", lambda: process.poll() is not None, alive="api-server")
        del self._running["plugin"]
        return process.returncode

    async def until(self, what: str, probe: Callable[[], T], *, alive: str = "plugin") -> T:
        """The first true answer of `probe`. Raises NotTrue after a while, or once the process called `alive` ends."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            found = probe()
            if found:
                return found
            self.must_run(what, alive)
            if time.monotonic() > deadline:
                raise NotTrue(f"waited {TIMEOUT_S:.0f} s for {what}, in vain")
            await asyncio.sleep(0.005)

    def must_run(self, what: str, name: str = "plugin") -> None:
        """Raises NotTrue if the process has ended while `what` is waited for."""
        process = self._running.get(name)
        if process is not None and process.poll() is not None:
            status = process.returncode
            how = f"was killed by signal {-status}" if status < 0 else f"ended with exit status {status}"
            raise NotTrue(f"waited for {what}, but the {name} {how}")

    def _start(self, name: str, argv: Sequence[str], output: Path) -> None:
        environ = {key: value for key, value in os.environ.items() if key not in _LOUD}
        environ |= {"NVDRA_SYSFS": str(self.root.sysfs), "NVDRA_PROCFS": str(self.root.procfs)}
        with output.open("ab") as file:
            # A session of its own: Ctrl-C is for the demo, which then ends the others itself.
            self._running[name] = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environ, start_new_session=True
            )

    def _end_all(self) -> None:
        for process in self._running.values():
            process.kill()
        for process in self._running.values():
            process.wait()
        self._running.clear()

    # ── what can be read off the node ──────────────────────────────────────────────────────────────────────────

    def api_calls(self) -> Mapping[str, int]:
        """How often the API server was asked, by verb and kind."""
        with urllib.request.urlopen(f"{self.url}/testing/calls", timeout=TIMEOUT_S) as answer:
            calls: Mapping[str, int] = json.load(answer)
        return calls

    def cut_api_server(self) -> None:
        """Every connection to the API server breaks from here on."""
        self._door("POST", b'{"away": true}')

    def heal_api_server(self) -> None:
        self._door("DELETE", b"")

    def _door(self, verb: str, body: bytes) -> None:
        request = urllib.request.Request(f"{self.url}/testing/faults", data=body, method=verb)
        urllib.request.urlopen(request, timeout=TIMEOUT_S).close()

    def cdi_files(self) -> list[str]:
        return sorted(os.listdir(self.cdi_root))

    def leftovers(self) -> list[str]:
        """Files that a writer puts beside the real one, and that a killed one leaves there."""
        from nvdra.host import is_temporary

        return [
            str(folder / name)
            for folder in (self.cdi_root, self.plugin_dir)
            for name in sorted(os.listdir(folder))
            if is_temporary(name)
        ]


# Variables that stand for a flag of the plugin would speak louder than its defaults.
_LOUD = frozenset(
    ("V", "VMODULE", "LOGGING_FORMAT", "HTTP_ENDPOINT", "HEALTHCHECK_PORT", "FEATURE_GATES", "CONSUMABLE_SHARES")
)
_LOUD |= {"ALT_PROC_DEVICES_PATH", "NVDRA_MOCK_FAULTS", "NVDRA_MOCK_CALLS"}


def _beside_python(program: str) -> str:
    """Console scripts are installed beside the Python that runs them."""
    beside = os.path.join(os.path.dirname(sys.executable), program)
    found = beside if os.access(beside, os.X_OK) else shutil.which(program)
    if found is None:
        raise NotTrue(f"the program {program} is not installed beside {sys.executable}")
    return found
