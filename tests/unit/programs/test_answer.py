"""What every program says of itself, where there is no room for it or nobody reads it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

ANSWERS = [("nvdra", "--help"), ("nvdra", "--version"), ("gpu-kubelet-plugin", "--version"), ("webhook", "--version")]


def run(name: str, argument: str, stdout: int) -> tuple[int, str]:
    code = f"import sys; from nvdra import cli; sys.exit(cli.start({name!r}, sys.argv[1:]))"
    argv = [sys.executable, "-c", code, argument]
    done = subprocess.run(argv, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    return done.returncode, done.stderr


@pytest.mark.parametrize(("name", "argument"), ANSWERS)
def test_an_answer_that_a_full_disk_refuses_is_one_line(name: str, argument: str) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        assert run(name, argument, full) == (
            2,
            f"Error: {name}: its answer cannot be written: No space left on device\n",
        )
    finally:
        os.close(full)


@pytest.mark.parametrize(("name", "argument"), ANSWERS)
def test_an_answer_that_nobody_reads_ends_without_a_word(name: str, argument: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert run(name, argument, writer) == (141, "")
    finally:
        os.close(writer)
