"""compute-domain-kubelet-plugin: prepares channels and daemons of ComputeDomains. This module only wires parts."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import fields

from nvdra import telemetry
from nvdra.api import gates as feature_gates
from nvdra.api.gates import GateError, Gates
from nvdra.api.imex import ImexError, check_imex
from nvdra.programs import answer, descriptors, domain_flags, gpu_flags
from nvdra.programs.domain_flags import PROGRAM, Options
from nvdra.programs.flags import UsageError
from nvdra.programs.stop import Stop


def main(argv: Sequence[str]) -> int:
    """Run until a stop signal. Returns the exit status: 0 after a signal, 1 if the plugin could not start or failed."""
    if "--version" in argv:
        return answer.give(PROGRAM, answer.version(PROGRAM))
    stop = Stop()  # before slow imports: the process may be number 1, for which signals have no default action
    descriptors.raise_limit()
    try:
        options = domain_flags.options(argv, os.environ)
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
    telemetry.info(0, _dump(options, gates))
    telemetry.install_stack_dump()

    def run() -> int:
        import uvloop

        from nvdra.api.compute_domain import DRIVER
        from nvdra.domains.driver import DEVICE_TYPES
        from nvdra.programs.domain_node import domain_node
        from nvdra.programs.kubelet_plugin import KubeletPlugin

        plugin = KubeletPlugin(DRIVER, PROGRAM, DEVICE_TYPES, options, stop)
        return uvloop.run(plugin.run(lambda chassis: domain_node(chassis, options, gates)))

    return telemetry.run_plugin(run)


def _gates(options: Options) -> Gates:
    try:
        gates = feature_gates.parse(options.feature_gates)
    except GateError as error:
        raise UsageError(f'invalid value "{options.feature_gates}" for flag -feature-gates: {error}') from None
    try:
        feature_gates.cross_check(gates)
    except GateError as error:
        raise UsageError(f"feature gate validation failed: {error}") from None
    try:
        check_imex(options.imex_mode, options.imex_isolation, gates)
    except ImexError as error:
        raise UsageError(str(error)) from None
    return gates


def _dump(options: Options, gates: Gates) -> str:
    values = {("Verbosity" if each.name == "v" else each.name): getattr(options, each.name) for each in fields(options)}
    return telemetry.startup_dump(
        commit=os.environ.get("NVDRA_COMMIT", ""), gates=gates.values, flags=telemetry.Struct("main.Flags", values)
    )
