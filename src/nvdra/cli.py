"""A name, flags and the environment become a program. Imports nothing heavy: each program brings its own parts."""

from __future__ import annotations

import sys

PROGRAMS = {
    "gpu-kubelet-plugin": "nvdra.programs.gpu_kubelet_plugin:main",
    "compute-domain-controller": "nvdra.programs.compute_domain_controller:main",
    "compute-domain-daemon": "nvdra.programs.compute_domain_daemon:main",
    "compute-domain-kubelet-plugin": "nvdra.programs.compute_domain_kubelet_plugin:main",
    "webhook": "nvdra.programs.webhook:main",
    "nvdra": "nvdra.programs.people:main",
    "kubectl-nvdra": "nvdra.programs.people:of_kubectl",
}


def main() -> None:
    """Entry of every console script: the program is chosen by the name it was called with."""
    name = sys.argv[0].rsplit("/", 1)[-1]
    sys.exit(start(name, sys.argv[1:]))


def start(name: str, argv: list[str]) -> int:
    """Run the program and give its exit status. Every failure is one line on standard error, never a traceback."""
    if name not in PROGRAMS:
        print(f"Error: no program is named {name!r}; there are {', '.join(PROGRAMS)}", file=sys.stderr)
        return 2
    module, function = PROGRAMS[name].split(":")
    from importlib import import_module

    program = getattr(import_module(module), function)
    status: int = program(argv)
    return status
