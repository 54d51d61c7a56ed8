"""telemetry: what a program tells the people who run it: log lines, a stack dump on SIGUSR2, metrics.

Light on purpose: signal handling is set up before anything heavy is imported, so this room's door imports the
standard library alone. Metrics live in `nvdra.telemetry.metrics`, their HTTP server in `nvdra.telemetry.http`.
Nothing here raises into its caller: a log line that cannot be written is lost, the program goes on.
"""

from nvdra.telemetry.dump import DUMP_PATH, install_stack_dump, run_plugin
from nvdra.telemetry.log import enabled, error, flush, info, set_up, warning
from nvdra.telemetry.startup import Struct, startup_dump

__all__ = [
    "DUMP_PATH",
    "Struct",
    "enabled",
    "error",
    "flush",
    "info",
    "install_stack_dump",
    "run_plugin",
    "set_up",
    "startup_dump",
    "warning",
]
