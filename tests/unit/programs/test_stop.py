"""The wish to stop: as process number 1, before there is a loop, and once there is one."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nvdra.programs.kubelet_plugin import DRAIN_S, STOP_S
from nvdra.programs.stop import SIGNALS

_BEFORE = """
import time
from nvdra.programs.stop import Stop
Stop()
print("ready", flush=True)
time.sleep(60)
"""
_AFTER = """
import asyncio
from nvdra.programs.stop import Stop
async def main(stop):
    stop.on_loop()
    print("ready", flush=True)
    await stop.wait()
    print("wound down", flush=True)
asyncio.run(main(Stop()))
"""
_ENDED = """
import os
import uvloop
from nvdra.programs.stop import Stop
async def main(stop):
    stop.on_loop()
    stop.ask()
    await stop.wait()
stop = Stop()
uvloop.run(main(stop))
class Last:
    # The interpreter clears modules after it has given signals their default action back.
    def __del__(self, os=os):
        os.write(1, b"ready\\n")
        os.read(0, 1)
        os.write(1, b"ended by itself\\n")
last = Last()
"""
_ASKED = """
import asyncio
from nvdra.programs.stop import Stop
async def main(stop):
    stop.on_loop()
    stop.ask()
    await stop.wait()
    print("wound down", flush=True)
asyncio.run(main(Stop()))
"""
_HANGING = """
import asyncio, os, time
from nvdra.programs.stop import Stop
async def main(stop):
    stop.on_loop(0.05, lambda: (print("late", flush=True), os._exit(3)))
    print("ready", flush=True)
    await stop.wait()
    time.sleep(600)  # the loop hangs as well
asyncio.run(main(Stop()))
"""


def ended(code: str, number: signal.Signals) -> tuple[int, str]:
    """Exit status and output of a program that gets a signal once it is ready."""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        process.stdin.close()
        said = process.stdout.read()
        return process.wait(30), said


@pytest.mark.parametrize("number", SIGNALS)
def test_before_the_loop_there_is_nothing_to_wind_down(number: signal.Signals) -> None:
    assert ended(_BEFORE, number) == (0, "")


@pytest.mark.parametrize("number", SIGNALS)
def test_with_a_loop_the_program_winds_down(number: signal.Signals) -> None:
    assert ended(_AFTER, number) == (0, "wound down\n")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_after_the_loop_has_closed_changes_nothing(number: signal.Signals) -> None:
    assert ended(_ENDED, number) == (0, "ended by itself\n")


def test_the_program_itself_may_want_it() -> None:
    assert subprocess.run([sys.executable, "-c", _ASKED], capture_output=True, text=True, check=True).stdout == (
        "wound down\n"
    )


@pytest.mark.parametrize("number", SIGNALS)
def test_winding_down_that_hangs_ends_at_its_deadline(number: signal.Signals) -> None:
    assert ended(_HANGING, number) == (3, "late\n")


def test_the_deadline_is_well_below_the_grace_period_that_the_chart_sets() -> None:
    template = Path(__file__).parents[3] / "deploy/helm/dra-driver-nvidia-gpu/templates/kubelet-plugin.yaml"
    found = re.search(r"terminationGracePeriodSeconds: (\d+)", template.read_text())
    assert found is not None
    assert DRAIN_S < STOP_S <= int(found[1]) / 2
