"""nvdra health: the faults of this node's GPUs as the running plugin keeps them, and commands to it."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Sequence
from typing import Any

from nvdra.programs.people.local_node import open_local_node

SOCKET = "health.sock"
TIMEOUT_S = 30.0

_SHOW = "Shows the faults of this node's GPUs: what was seen, when, and whether the taint stays until it is cleared."
_CLEAR = """\
Forgets the faults of devices, or of all devices if none is named, and removes their taints. For a fault that stays: one
that came back three times in an hour, or one of a driver that cannot tell whether a GPU recovered. Look after the GPU
first. A fault that still lasts is found again at once."""
_PAUSE = """\
Lets the plugin hold no GPU until `nvdra health resume`, so that a GPU can be reset (nvidia-smi --gpu-reset) or a
kernel module unloaded. Meanwhile no event is received, and devices have the taint gpu.nvidia.com/unmonitored, which
has no effect."""
_RESUME = "Ends `nvdra health pause`. What recovery a GPU needs now is read from NVML."


def show(argv: Sequence[str]) -> int:
    """0 if the plugin answered."""
    return _command("show", _SHOW, argv, nothing="no GPU has a fault")


def clear(argv: Sequence[str]) -> int:
    """0 if every named device had a fault."""
    return _command("clear", _CLEAR, argv, words="[DEVICE ...]", nothing="no GPU has a fault")


def pause(argv: Sequence[str]) -> int:
    """0 if no GPU is held any more."""
    return _command("pause", _PAUSE, argv)


def resume(argv: Sequence[str]) -> int:
    """0 if the plugin answered."""
    return _command("resume", _RESUME, argv)


def _command(name: str, about: str, argv: Sequence[str], *, words: str = "", nothing: str = "") -> int:
    here, _, devices = open_local_node(f"health {name}", about, argv, os.environ, words=words)
    path, lines, errors = f"{here.plugin_dir}/{SOCKET}", list[str](), list[str]()
    for device in devices or [""]:
        try:
            answer = _asked(path, {"do": name, "device": device})
        except (OSError, ValueError) as error:
            errors.append(_unanswered(path, error))
            break
        lines += map(str, answer.get("lines", ()))
        errors += [str(answer["error"])] if "error" in answer else []
    if here.output == "json":
        print(json.dumps({"lines": lines, "errors": errors}, indent=1))
    elif lines or errors:
        print("\n".join(lines), end="\n" if lines else "")
    else:
        print(nothing)
    for text in errors if here.output != "json" else ():
        print(f"Error: {text}", file=sys.stderr)
    return 1 if errors else 0


def _asked(path: str, question: dict[str, str]) -> dict[str, Any]:
    """The plugin's answer. Raises OSError, ValueError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(TIMEOUT_S)
        client.connect(path)
        client.sendall(json.dumps(question).encode() + b"\n")
        with client.makefile("rb") as answer:
            told = json.loads(answer.readline())
    if not isinstance(told, dict):
        raise ValueError("the plugin's answer cannot be read")
    return told


def _unanswered(path: str, error: Exception) -> str:
    if isinstance(error, PermissionError):
        return f"{path}: {error.strerror}; run it as root"
    cause = getattr(error, "strerror", None) or str(error)
    return (
        f"no plugin answers at {path}: {cause}; it does while gpu-kubelet-plugin runs on this node with the feature "
        "gate NVMLDeviceHealthCheck"
    )
