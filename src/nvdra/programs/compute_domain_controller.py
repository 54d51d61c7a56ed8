"""compute-domain-controller: serves ComputeDomains. This module only wires parts together."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from types import MappingProxyType

from nvdra import telemetry
from nvdra.api import gates as feature_gates
from nvdra.api.gates import COMPUTE_DOMAIN_CLIQUES, IMEX_DAEMONS_WITH_DNS_NAMES, GateError, Gates
from nvdra.api.imex import HOST_MANAGED, ImexError, check_imex
from nvdra.programs import answer, controller_flags
from nvdra.programs.controller_flags import PROGRAM, Options
from nvdra.programs.flags import UsageError
from nvdra.programs.gpu_flags import splits_stream
from nvdra.programs.stop import Stop


def main(argv: Sequence[str]) -> int:
    """Run until a stop signal or the loss of the leader's lease. Exit status: 0 then, 1 if it could not start."""
    if "--version" in argv:
        return answer.give(PROGRAM, answer.version(PROGRAM))
    stop = Stop()  # before slow imports: the process may be number 1, for which signals have no default action
    try:
        options = controller_flags.options(argv, os.environ)
        gates = _gates(options)
        telemetry.set_up(
            logging_format=options.logging_format,
            verbosity=options.v,
            vmodule=options.vmodule,
            split_stream=splits_stream(options, gates),
        )
    except (UsageError, ImexError, ValueError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    telemetry.info(0, _dump(options, gates))
    telemetry.install_stack_dump()

    def run() -> int:
        import uvloop

        from nvdra.programs.controller_run import run

        return uvloop.run(run(options, gates, stop))

    return telemetry.run_plugin(run)


def _gates(options: Options) -> Gates:
    """The gates in effect. Raises UsageError and ImexError."""
    try:
        gates = feature_gates.parse(options.feature_gates)
    except GateError as error:
        raise UsageError(f'invalid value "{options.feature_gates}" for flag -feature-gates: {error}') from None
    try:
        feature_gates.cross_check(gates)
    except GateError as error:
        raise UsageError(f"feature gate validation failed: {error}") from None
    check_imex(options.imex_mode, options.imex_isolation, gates)
    if options.imex_mode == HOST_MANAGED:
        off = {IMEX_DAEMONS_WITH_DNS_NAMES: False, COMPUTE_DOMAIN_CLIQUES: False}
        return Gates(MappingProxyType({**gates.values, **off}))
    return gates


def _dump(options: Options, gates: Gates) -> str:
    values = {("Verbosity" if each.name == "v" else each.name): getattr(options, each.name) for each in fields(options)}
    return telemetry.startup_dump(
        commit=os.environ.get("NVDRA_COMMIT", ""), gates=gates.values, flags=telemetry.Struct("main.Flags", values)
    )
