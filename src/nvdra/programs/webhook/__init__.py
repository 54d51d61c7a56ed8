"""webhook: judges claims for the API server, over HTTPS. This module only wires parts together."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import fields

from nvdra import telemetry
from nvdra.api import gates as feature_gates
from nvdra.api.gates import GateError, Gates
from nvdra.programs import answer
from nvdra.programs.flags import UsageError
from nvdra.programs.gpu_flags import splits_stream
from nvdra.programs.stop import Stop
from nvdra.programs.webhook import flags
from nvdra.programs.webhook.flags import PROGRAM, Options


def main(argv: Sequence[str]) -> int:
    """Run until told to stop; exit status 0 then, 1 if it could not start or had to give up."""
    if "--version" in argv:
        return answer.give(PROGRAM, answer.version(PROGRAM))
    stop = Stop()  # before anything heavy: this process may be number 1, which has no default for signals
    try:
        options = flags.options(argv, os.environ)
        gates = _gates(options)
        telemetry.set_up(
            logging_format=options.logging_format,
            verbosity=options.v,
            vmodule=options.vmodule,
            split_stream=splits_stream(options, gates),
        )
    except (UsageError, ValueError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    telemetry.info(0, _dump(options, gates))
    telemetry.install_stack_dump()

    def run() -> int:
        import uvloop

        from nvdra.programs.webhook.serve import serve

        return uvloop.run(serve(options, gates, stop))

    return telemetry.run_plugin(run)


def _gates(options: Options) -> Gates:
    """The gates; the pairs that the plugins refuse are refused here, too, unlike in the Go driver."""
    try:
        gates = feature_gates.parse(options.feature_gates)
    except GateError as error:
        raise UsageError(f'invalid value "{options.feature_gates}" for flag -feature-gates: {error}') from None
    try:
        feature_gates.cross_check(gates)
    except GateError as error:
        raise UsageError(f"feature gate validation failed: {error}") from None
    return gates


def _dump(options: Options, gates: Gates) -> str:
    values = {("Verbosity" if each.name == "v" else each.name): getattr(options, each.name) for each in fields(options)}
    return telemetry.startup_dump(
        commit=os.environ.get("NVDRA_COMMIT", ""), gates=gates.values, flags=telemetry.Struct("main.Flags", values)
    )
