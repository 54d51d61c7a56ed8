"""Telemetry for the people who run a program: log lines, a stack dump on SIGUSR2, metrics.

Programs set up signal handling before heavy imports, so this package imports the standard library only. Metrics live in
`nvdra.telemetry.metrics`, their HTTP server in `nvdra.telemetry.http`.

No function here raises: a log line that cannot be written is lost, and the program goes on.
"""

from nvdra.telemetry.dump import DUMP_PATH, install_stack_dump, run_plugin, task_stacks
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
    "task_stacks",
    "warning",
]
