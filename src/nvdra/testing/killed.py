"""Run one of our programs and kill it, unannounced, just before a chosen effect on disk.

    python -m nvdra.testing.killed --before rename --path checkpoint.json --armed FILE gpu-kubelet-plugin ...

While FILE exists, the program dies by SIGKILL right before it would rename onto (or unlink) a path of that base name.
What it did before that is on disk, what comes after is not: the way a node loses power, a container its memory.
"""

from __future__ import annotations

import argparse
import os
import runpy
import signal
import sys

_EVENTS = {"rename": ("os.rename", 1), "unlink": ("os.remove", 0)}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m nvdra.testing.killed", description=__doc__.split("\n\n")[0])
    parser.add_argument("--before", choices=sorted(_EVENTS), required=True, help="the effect that does not happen")
    parser.add_argument("--path", required=True, help="base name of the file it is about")
    parser.add_argument("--armed", required=True, help="only while this file exists")
    parser.add_argument(
        "program", nargs=argparse.REMAINDER, help="the program's console script, then its own arguments"
    )
    options = parser.parse_args(argv)
    event, argument = _EVENTS[options.before]

    def watch(seen: str, values: tuple[object, ...]) -> None:
        is_it = seen == event and os.path.basename(str(values[argument])) == options.path
        if is_it and os.path.exists(options.armed):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    program = options.program[0]
    if "/" not in program:  # a console script of this environment
        program = os.path.join(os.path.dirname(sys.executable), program)
    sys.argv = [program, *options.program[1:]]
    runpy.run_path(program, run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
