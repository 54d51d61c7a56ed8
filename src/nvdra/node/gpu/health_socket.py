"""The socket for administrators: `nvdra health` shows and clears faults through it.

One line of JSON each way: {"do": "clear", "device": "gpu-0"} is answered {"lines": […]} or {"error": "…"}. Only root
may connect: the socket has mode 0600, from before it accepts.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence

from nvdra import telemetry
from nvdra.kubelet import Bound, hidden_beside
from nvdra.nvml import NvmlHung

NAME = "health.sock"
LINE_LIMIT = 4096
TIMEOUT_S = 30.0

Command = Callable[[str], Awaitable[Sequence[str]]]


class HealthSocket:
    """The server.

    commands   by name; called with a device's name or "". They raise LookupError or NvmlHung
    """

    def __init__(self, plugin_dir: str, commands: Mapping[str, Command]) -> None:
        self._path = f"{plugin_dir}/{NAME}"
        self._commands = commands
        self._server: asyncio.Server | None = None
        self._bound: Bound | None = None

    async def start(self) -> None:
        """Serve. Raises OSError."""
        hidden = hidden_beside(self._path, "health")
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            bound.bind(hidden)
            os.chmod(hidden, 0o600)
            self._server = await asyncio.start_unix_server(self._serve, sock=bound, limit=LINE_LIMIT)
        except OSError:
            bound.close()
            raise
        self._bound = Bound.publish(hidden, self._path)

    async def stop(self) -> None:
        if self._bound is not None:
            self._bound.remove()
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                answer = await self._answer(await reader.readline())
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except (OSError, TimeoutError, ValueError) as error:
            telemetry.info(1, "A command about health was not answered", cause=str(error) or type(error).__name__)
        finally:
            writer.close()

    async def _answer(self, line: bytes) -> Mapping[str, object]:
        try:
            asked = json.loads(line)
            command, device = self._commands[asked["do"]], str(asked.get("device") or "")
        except (ValueError, LookupError, TypeError, AttributeError):
            return {"error": f"unknown command: {line[:100]!r}"}
        try:
            return {"lines": list(await command(device))}
        except LookupError as error:
            return {"error": str(error.args[0])}
        except NvmlHung as error:
            return {"error": str(error)}
