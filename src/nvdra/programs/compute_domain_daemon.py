"""compute-domain-daemon: runs the IMEX daemon of a ComputeDomain on one node. This module only wires parts together."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from nvdra import telemetry
from nvdra.api import gates as feature_gates
from nvdra.api.gates import COMPUTE_DOMAIN_CLIQUES, IMEX_DAEMONS_WITH_DNS_NAMES, GateError, Gates
from nvdra.domains.imex import CONFIG
from nvdra.programs import answer, daemon_flags, gpu_flags
from nvdra.programs.daemon_flags import PROGRAM, Options
from nvdra.programs.flags import UsageError
from nvdra.programs.stop import Stop

_CHECK_S = 10.0


def main(argv: Sequence[str]) -> int:
    """Run a command and return its exit status, as `daemon_flags.DESCRIPTION` has them."""
    if "--version" in argv:
        return answer.give(PROGRAM, answer.version(PROGRAM))
    try:
        options, command = daemon_flags.options(argv, os.environ)
        if command == "check":
            return check(options)
        stop = Stop()  # before slow imports: the process is number 1, for which signals have no default action
        gates = _gates(options)
        telemetry.set_up(
            logging_format=options.logging_format,
            verbosity=options.v,
            vmodule=options.vmodule,
            split_stream=gpu_flags.splits_stream(options, gates),
        )
    except (UsageError, ValueError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    if not options.compute_domain_uuid:
        # DROP-IN: the Go driver's text.
        print("Error: CDI container edits did not apply -- is CDI enabled in your container runtime?", file=sys.stderr)
        return 1
    telemetry.install_stack_dump()

    def run() -> int:
        import uvloop

        from nvdra.programs.daemon_run import run as serve

        return uvloop.run(
            serve(
                options,
                stop,
                uses_names=gates.enabled(IMEX_DAEMONS_WITH_DNS_NAMES),
                uses_cliques=gates.enabled(COMPUTE_DOMAIN_CLIQUES),
            )
        )

    return telemetry.run_plugin(run)


def check(options: Options) -> int:
    """The probes' question. The image has a small compiled program for it; its texts are the same."""
    if not options.cliqueid:
        return answer.give(PROGRAM, "check succeeded (noop, clique ID is empty)\n")
    argv = ["nvidia-imex-ctl", "-c", f"{options.imex_folder}/{CONFIG}", "-q"]
    try:
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=_CHECK_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"IMEX daemon check failed: error running nvidia-imex-ctl: {error}", file=sys.stderr)
        return 1
    said = done.stdout.decode(errors="replace")
    if done.returncode != 0:
        print(
            f"IMEX daemon check failed: error running nvidia-imex-ctl: exit status {done.returncode}: {said.strip()}",
            file=sys.stderr,
        )
        return 1
    if said.split("\n")[-2:] != ["READY", ""]:
        print(f"IMEX daemon not ready: {said.strip()}", file=sys.stderr)
        return 1
    return 0


def _gates(options: Options) -> Gates:
    try:
        gates = feature_gates.parse(options.feature_gates)
    except GateError as error:
        raise UsageError(f'invalid value "{options.feature_gates}" for flag -feature-gates: {error}') from None
    try:
        feature_gates.cross_check(gates)
    except GateError as error:
        raise UsageError(f"feature gate validation failed: {error}") from None
    return gates
