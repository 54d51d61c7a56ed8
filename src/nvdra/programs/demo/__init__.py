"""nvdra demo: the driver's main job on a node without hardware, told step by step and checked."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence

from nvdra.programs.demo.page import NotTrue, Page, seconds, tail

_ABOUT = """\
The driver's main job, on a node without hardware: no cluster, no GPU, no container runtime is needed.

Real here: gpu-kubelet-plugin as its own process, its sockets, its checkpoint, its CDI files, and a library with NVML's
interface that it loads. Played: the GPUs behind that library, the API server (on loopback), the scheduler, kubelet.

Every claim the demo makes is checked as it is made. Exit status: 0 all of it is true, 1 something is not (the plugin's
log is shown), 2 it could not begin, 128 + n ended by signal n. Whatever happens, no process and no file stays behind.
"""


def main(argv: Sequence[str]) -> int:
    """Run the demo; its exit status."""
    parser = argparse.ArgumentParser(
        "nvdra demo", description=_ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--portrait",
        default="h100x8",
        metavar="NAME",
        help="the node to play: h100x8 (default), h200x1, a100x8, gpus16, or the path of a portrait's .json file",
    )
    parser.add_argument("--keep", action="store_true", help="leave the folder of the played node for a look afterwards")
    parser.add_argument(
        "--plugin",
        default="",
        metavar="PROGRAM",
        help="start this program in place of gpu-kubelet-plugin, with the same arguments "
        "(the one run that is killed half way is always gpu-kubelet-plugin)",
    )
    options = parser.parse_args(argv)
    page = Page(sys.stdout, os.environ)
    try:
        return asyncio.run(_play(page, options.portrait, options.plugin, options.keep))
    except BrokenPipeError:
        # Whoever read has enough; nothing more can be told, not even by the interpreter's own last flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


async def _play(page: Page, portrait: str, plugin: str, keep: bool) -> int:
    from nvdra.programs.demo.stage import MockMissing, Stage
    from nvdra.programs.demo.story import tell

    ended_by: list[int] = []
    loop, me = asyncio.get_running_loop(), asyncio.current_task()
    assert me is not None

    def end(number: int) -> None:
        ended_by.append(number)
        me.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, end, number)
    began = time.perf_counter()
    try:
        with Stage(portrait, plugin=plugin, keep=keep) as stage:
            gpus = stage.portrait.gpus
            page.line(page.paint("One node's GPUs, from discovery to a clean end", "bold"))
            page.line(
                page.paint(
                    f"{len(gpus)} × {gpus[0].name} behind a mock of NVML; the plugin is the real one",
                    "dim",
                )
            )
            try:
                await tell(stage, page)
            except Exception as error:
                _explain(page, stage.log, error)
                return 1
            finally:
                if keep:
                    page.line(f"Kept: {stage.folder} (plugin.log, cdi/, kubelet/, driver/)")
    except MockMissing as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    except asyncio.CancelledError:
        if not ended_by:
            raise
        page.line(f"\nended by {signal.Signals(ended_by[0]).name}; nothing is left behind")
        return 128 + ended_by[0]
    took = seconds(time.perf_counter() - began)
    page.line()
    page.line(page.paint(f"All of it is true: {page.checks} checks in {took}.", "green", "bold"))
    return 0


def _explain(page: Page, log: os.PathLike[str], error: Exception) -> None:
    """What is not true, and where to look."""
    if isinstance(error, BrokenPipeError):
        raise error
    what = str(error) if isinstance(error, NotTrue) else f"{type(error).__name__}: {error}"
    page.line(f"{page.paint('Not true:', 'red', 'bold')} {what}")
    lines = tail(os.fspath(log))
    if not lines:
        page.line("The plugin's log is empty.")
        return
    # The folder goes, the log stays.
    descriptor, kept = tempfile.mkstemp(prefix="nvdra-demo-", suffix=".log")
    os.close(descriptor)
    shutil.copyfile(log, kept)
    page.line(f"The end of the plugin's log; all of it is in {kept}:")
    for text in lines:
        page.line(page.paint(f"  {text}", "dim"))
