"""Runs child processes to their end, with limits on time and output."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from typing import Any

from nvdra.ports import Finished

_MOST_OUTPUT = 256 * 1024  # bytes kept of each stream; further bytes are read and dropped


async def run(argv: Sequence[str], env: Mapping[str, str] | None, timeout_s: float, stdin: bytes = b"") -> Finished:
    """Run a program as `ports.Host.spawn` specifies. Raises OSError if the program cannot be started."""
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=env,
            start_new_session=True,  # in a process group of its own, so that its children can be killed too
        )
    )
    try:
        child = await asyncio.shield(starting)
    except asyncio.CancelledError:
        # The process may run already, and no other code would end its children.
        with contextlib.suppress(OSError):
            child = await starting
            await _kill(child, asyncio.ensure_future(child.wait()))
        raise
    assert child.stdout is not None
    assert child.stderr is not None
    ended = asyncio.gather(_keep(child.stdout), _keep(child.stderr), child.wait(), _feed(child.stdin, stdin))
    try:
        stdout, stderr, exit_code, _ = await asyncio.wait_for(asyncio.shield(ended), timeout_s)
    except TimeoutError:
        await _kill(child, ended)
        raise TimeoutError(f"{argv[0]} did not end within {timeout_s:g} s and was killed") from None
    except BaseException:
        await _kill(child, ended)
        raise
    return Finished(exit_code, stdout, stderr)


async def _feed(stream: asyncio.StreamWriter | None, content: bytes) -> None:
    if stream is None:
        return
    # One that ended without reading is no failure here. uvloop's word for a pipe that closed before is RuntimeError.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError, RuntimeError):
        stream.write(content)
        stream.close()
        await stream.wait_closed()


async def _keep(stream: asyncio.StreamReader) -> bytes:
    kept = bytearray()
    while chunk := await stream.read(64 * 1024):
        kept += chunk[: _MOST_OUTPUT - len(kept)]
    return bytes(kept)


async def _kill(child: asyncio.subprocess.Process, ended: asyncio.Future[Any]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    # A process that left the group may keep the streams open; this must not block the caller.
    await asyncio.wait([ended], timeout=5.0)
    ended.cancel()
