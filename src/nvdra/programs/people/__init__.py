"""nvdra: the command for people. One or two words select a command; its module is imported only then."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from nvdra.programs.answer import drop_output, give, version
from nvdra.programs.flags import UsageError

_COMMANDS = {
    "demo": ("nvdra.programs.demo:main", "the driver's main job on a node without hardware, checked step by step"),
    "doctor": ("nvdra.programs.people.doctor:main", "what is wrong with this node, why, and what to do about it"),
    "devices": (
        "nvdra.programs.people.devices:main",
        "the GPUs and MIG devices of this node: what is published, what not and why, who holds it",
    ),
    "checkpoint show": (
        "nvdra.programs.people.checkpoint:main",
        "the claims this node has prepared, from the plugin's checkpoint",
    ),
    "claim explain": (
        "nvdra.programs.people.explain:main",
        "why a claim is pending: every node's refusal, and what would help",
    ),
    "claim lint": (
        "nvdra.programs.people.lint:main",
        "mistakes in a claim before it is created: selectors, attributes that devices lack, configs",
    ),
    "simulate": (
        "nvdra.programs.people.simulate:main",
        "how a fleet serves a stream of pods: utilisation, fragmentation, waiting times; two fleets side by side",
    ),
    "domains remove": (
        "nvdra.programs.people.domains_remove:main",
        "end ComputeDomains and everything they left, before an uninstall",
    ),
    "domains": (
        "nvdra.programs.people.domains:main",
        "the ComputeDomains of the cluster: status, nodes, and why one is not Ready",
    ),
    "forecast": (
        "nvdra.programs.people.forecast:main",
        "the ResourceSlices that a type of node would publish, without the node",
    ),
    "health show": ("nvdra.programs.people.health:show", "the faults of this node's GPUs, which taint their devices"),
    "health clear": ("nvdra.programs.people.health:clear", "forget faults that stay, and remove their taints"),
    "health pause": ("nvdra.programs.people.health:pause", "hold no GPU, so that one can be reset"),
    "health resume": ("nvdra.programs.people.health:resume", "watch GPUs again after a pause"),
    "mps remove": (
        "nvdra.programs.people.mps:main",
        "end this node's MPS control daemons and restore compute modes, before an uninstall",
    ),
    "vfio give-back": (
        "nvdra.programs.people.vfio:main",
        "give GPUs that are bound for virtual machines back to their drivers, before an uninstall",
    ),
    "cdi render": ("nvdra.programs.people.cdi:main", "the CDI document that a claim for given devices would get"),
    "prestart": ("nvdra.programs.prestart:main", "wait until the node's driver is there: the init container's program"),
}

_ABOUT = """\
nvdra looks at one node the way gpu-kubelet-plugin does. Nothing here changes anything: no file, no claim, no GPU. Only
doctor --fix, domains remove, mps remove and vfio give-back do, and ask first; health clear, pause and resume tell the
running plugin what to do.

usage: nvdra COMMAND [OPTIONS]

{commands}

Each command has --help; all have --output json, except demo, domains remove, mps remove, vfio give-back and prestart.
The plugin's own flags and variables say where the node's files are, so inside the plugin's container no flag is needed:

  kubectl exec -n NAMESPACE POD -c gpus -- nvdra doctor

On the node itself the defaults fit a driver installed at / and a kubelet at /var/lib/kubelet (run it as root).
"""


def main(argv: Sequence[str]) -> int:
    """Exit status of the command; 2 after a wrong call, or if the command cannot do its work."""
    _open_streams()
    if not argv or argv[0] in ("--help", "-h", "help"):
        return give("nvdra", _help())
    if argv[0] == "--version":
        return give("nvdra", version("nvdra"))
    for name, (place, _) in _COMMANDS.items():
        words = name.split()
        if list(argv[: len(words)]) == words:
            return _run(name, place, argv[len(words) :])
    below = [name for name in _COMMANDS if name.split()[0] == argv[0]]
    asked = " ".join(argv[:2]) if below else argv[0]
    print(f"Error: nvdra has no command {asked!r}; there are {', '.join(below or _COMMANDS)}", file=sys.stderr)
    return 2


def of_kubectl(argv: Sequence[str]) -> int:
    """Exit status of `kubectl nvdra …`, where `explain` alone means `claim explain`."""
    return main(["claim", *argv] if list(argv[:1]) == ["explain"] else argv)


def _run(name: str, place: str, argv: Sequence[str]) -> int:
    """The command's exit status. An error in it is printed as one line, without a traceback."""
    module, function = place.split(":")
    try:
        status: int = getattr(import_module(module), function)(argv)
        sys.stdout.flush()
    except UsageError as error:
        return _failed(str(error))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        drop_output()
        return 141
    except PermissionError as error:
        return _failed(f"nvdra {name}: {error.filename or 'a file'}: {error.strerror}; run it as root")
    except OSError as error:
        where = "its answer cannot be written" if error.filename is None else str(error.filename)
        drop_output()
        return _failed(f"nvdra {name}: {where}: {error.strerror or error}")
    except Exception as error:
        return _failed(f"nvdra {name} failed unexpectedly, please report it: {type(error).__name__}: {error}")
    return status


def _failed(why: str) -> int:
    print(f"Error: {why}", file=sys.stderr)
    return 2


def _open_streams() -> None:
    """Replace closed streams by /dev/null, and escape characters that the terminal's encoding lacks."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  for the process's life
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _help() -> str:
    lines = (f"  nvdra {name:16}  {about}" for name, (_, about) in _COMMANDS.items())
    return _ABOUT.format(commands="\n".join(lines))
