"""The paths of this node, from the command line or the plugin's variables. Only reads."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from nvdra.api import Gates
from nvdra.api import gates as feature_gates
from nvdra.checkpoint import Checkpoint
from nvdra.checkpoint import decode as decode_checkpoint
from nvdra.gpu import Inventory, from_scan, with_twins
from nvdra.gpu.extents import DRIVER
from nvdra.host import (
    DriverRoot,
    Node,
    PciBus,
    PciNames,
    driver_root,
    find_library,
    localities,
    look_at_bus,
    look_at_passthrough,
)
from nvdra.node.checkpoint_file import NAME
from nvdra.node.clock import LoopClock
from nvdra.node.gpu.stuck_modes import read_stuck_modes
from nvdra.nvml import DriverAbsent, DriverChanged, Nvml, NvmlHung
from nvdra.programs import gpu_flags
from nvdra.programs.flags import Flag, UsageError, parse_words

_SHARED = (
    "container-driver-root",
    "nvidia-driver-root",
    "cdi-root",
    "kubelet-plugins-directory-path",
    "kubelet-registrar-directory-path",
    "nvidia-cdi-hook-path",
    "topology-attributes",
)


_HOST_ROOT = "/host-root"


@dataclass(frozen=True, slots=True)
class LocalNode:
    """One node's paths, and the output format.

    root       the driver root as this process sees it
    host_root  the same folder on the host
    output     "text" or "json"; for documents "yaml" or "json"
    never_toggles   the plugin treats every GPU as if its MIG mode could not be changed without a reset
    topology_attributes   the plugin publishes where GPUs lie
    """

    host: Node
    root: DriverRoot
    host_root: str
    cdi_root: str
    plugins_dir: str
    registrar_dir: str
    hook_path: str
    output: str
    never_toggles: bool = False
    topology_attributes: bool = False

    @property
    def plugin_dir(self) -> str:
        return f"{self.plugins_dir}/{DRIVER}"

    @property
    def checkpoint_path(self) -> str:
        return f"{self.plugin_dir}/{NAME}"

    @property
    def hook(self) -> str:
        """The CDI hook that documents name."""
        return self.hook_path or f"{self.plugin_dir}/nvidia-cdi-hook"

    def sees_host(self, path: str) -> bool:
        """Whether a path of the host can be looked at from here: on the node itself, or below the driver root."""
        return self._is_on_node or path.startswith(f"{self.host_root.rstrip('/')}/")

    def on_host(self, path: str) -> str | None:
        """The path at which this process sees a file of the host, links followed; None if it is missing."""
        if self._is_on_node:
            return self.host.resolve(path)
        return self.host.resolve(path[len(self.host_root.rstrip("/")) :], self.root.path)

    @property
    def _is_on_node(self) -> bool:
        return self.root.path == (self.host_root.rstrip("/") or "/")

    def bus(self) -> PciBus:
        return look_at_bus(self.host, self.root)

    def checkpoint(self) -> Checkpoint | None:
        """The checkpoint as it is on disk; None if there is none. Raises OSError and Unreadable."""
        try:
            return decode_checkpoint(self.host.read(self.checkpoint_path))
        except FileNotFoundError:
            return None

    async def inventory(self, bus: PciBus, *, dynamic_mig: bool = False, passthrough: bool = False) -> Inventory:
        """The node's inventory now; `unread` says why if NVML gives no answer.

        dynamic_mig   GPUs are partitioned on demand, as with the gate of that name
        passthrough   GPUs are offered to virtual machines too, as with the gate PassthroughSupport
        """
        found = await self._scanned(bus, dynamic_mig=dynamic_mig)
        if not passthrough:
            return found
        root = self.node_root
        facts = look_at_passthrough(self.host, self.root, root, PciNames(self.host, root), bus.facts)
        return with_twins(found, bus.facts, facts)

    @property
    def node_root(self) -> str:
        """The host's root as this process sees it."""
        return _HOST_ROOT if self.host.exists(_HOST_ROOT) else "/"

    async def _scanned(self, bus: PciBus, *, dynamic_mig: bool) -> Inventory:
        nvml = Nvml(self.library, LoopClock())
        try:
            scan = await nvml.scan(profiles=dynamic_mig)
            return from_scan(
                scan,
                bus.facts,
                dynamic_mig=dynamic_mig,
                never_toggles=self.never_toggles,
                stuck=read_stuck_modes(self.host, self.plugin_dir),
                localities=localities(self.host, self.root, bus.facts) if self.topology_attributes else None,
            )
        except (DriverAbsent, DriverChanged, NvmlHung) as error:
            return Inventory(unread=str(error))
        finally:
            with contextlib.suppress(Exception):  # a hung driver call: the process ends anyway
                await nvml.close(timeout_s=2.0)

    def library(self) -> str:
        """The path of NVML's library. Raises DriverFileMissing."""
        return find_library(self.host, self.root)


def gates_of(values: Mapping[str, object]) -> Gates:
    """The plugin's feature gates, from its flag or variable. Raises UsageError."""
    text = str(values["feature_gates"])
    try:
        return feature_gates.parse(text)
    except feature_gates.GateError as error:
        raise UsageError(f'invalid value "{text}" for flag -feature-gates: {error}') from None


def open_local_node(
    command: str,
    about: str,
    argv: Sequence[str],
    environ: Mapping[str, str],
    *,
    outputs: tuple[str, ...] = ("text", "json"),
    more: Sequence[Flag] = (),
    words: str = "",
) -> tuple[LocalNode, dict[str, object], list[str]]:
    """The node that the command line and the environment describe, the values of `more`, and the words.

    outputs  the first is the default
    words    the words' name in the usage line; "": words are refused
    Raises UsageError.
    """
    host = Node()
    known = {flag.names[0]: flag for flag in gpu_flags.FLAGS}
    flags = [_fitting(host, known[name]) for name in _SHARED]

    def output(text: str) -> str:
        if text not in outputs:
            raise ValueError(f"must be one of {', '.join(outputs)}")
        return text

    flags = [*more, Flag(("output", "o"), (), outputs[0], f"{' or '.join(outputs)}", output), *flags]
    usage = f"nvdra {command} [OPTIONS]{' ' + words if words else ''}"
    values, rest = parse_words(f"nvdra {command}", about, flags, argv, environ, usage=usage)
    if rest and not words:
        raise UsageError(f"nvdra {command} takes no arguments: {' '.join(rest)}")
    here = LocalNode(
        host=host,
        root=driver_root(host, os.path.abspath(values["container_driver_root"]), environ),
        host_root=values["nvidia_driver_root"],
        cdi_root=os.path.abspath(values["cdi_root"]),
        plugins_dir=os.path.abspath(values["kubelet_plugins_directory_path"]),
        registrar_dir=os.path.abspath(values["kubelet_registrar_directory_path"]),
        hook_path=values["nvidia_cdi_hook_path"],
        output=values["output"],
        never_toggles=gpu_flags.never_toggles(environ),
        topology_attributes=values["topology_attributes"],
    )
    return here, {flag.key: values[flag.key] for flag in more}, rest


def _fitting(host: Node, flag: Flag) -> Flag:
    """The plugin's flag with a default for this process's place: the plugin's container, or the node itself."""
    match flag.names[0]:
        case "container-driver-root" if not os.path.isdir("/driver-root"):
            return replace(flag, default="/")
        case "cdi-root":
            # The chart's folder or the plugin's own default: the one that has files of this driver.
            for folder in ("/var/run/cdi", "/etc/cdi"):
                if any(name.startswith("k8s.gpu.nvidia.com-") for name in _names(host, folder)):
                    return replace(flag, default=folder)
            return replace(flag, default="/var/run/cdi" if os.path.isdir("/var/run/cdi") else "/etc/cdi")
    return flag


def _names(host: Node, folder: str) -> list[str]:
    try:
        return host.list(folder)
    except OSError:
        return []
