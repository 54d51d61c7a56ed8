"""A client of gRPC over a socket: unary calls with a deadline. For the health check, and for who plays kubelet."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from nvdra.kubelet.wire import hpack, rpc
from nvdra.kubelet.wire.http2 import Code, Connection, Exchange, Goodbye, ProtocolError, Reset
from nvdra.kubelet.wire.rpc import Metadata, RpcError


class _Asker(asyncio.Protocol):
    """A connection with somebody who answers."""

    def __init__(self) -> None:
        self._http = Connection(is_client=True, message_limit=rpc.MESSAGE_LIMIT)
        self._transport: Any = None
        self._waiting: dict[int, asyncio.Future[Exchange]] = {}
        self.is_usable = True

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._flush()

    def data_received(self, data: bytes) -> None:
        try:
            for happening in self._http.receive(data):
                match happening:
                    case Exchange(stream=stream):
                        self._settle(stream, happening)
                    case Reset(stream=stream, code=code):
                        self._settle(stream, RpcError("UNAVAILABLE", f"the call was reset by the server ({code})"))
                    case Goodbye(last=last):
                        self.is_usable = False
                        for stream in [stream for stream in self._waiting if stream > last]:
                            self._settle(stream, RpcError("UNAVAILABLE", "the server is going away"))
            self._flush()
        except ProtocolError as error:
            self._flush()
            self._fail(f"the server does not speak HTTP/2 as it should: {error}")
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(f"connection lost: {error}" if error else "connection closed")

    async def ask(self, block: bytes, message: bytes) -> Exchange:
        stream = self._http.request(block, rpc.framed(message))
        answer: asyncio.Future[Exchange] = asyncio.get_running_loop().create_future()
        self._waiting[stream] = answer
        self._flush()
        try:
            return await answer
        finally:
            if self._waiting.pop(stream, None) is not None:
                self._http.reset(stream, Code.CANCEL)
                self._flush()

    def close(self) -> None:
        self.is_usable = False
        if self._transport is not None:
            self._transport.close()

    def _settle(self, stream: int, outcome: Exchange | RpcError) -> None:
        answer = self._waiting.pop(stream, None)
        if answer is None or answer.done():
            return
        if isinstance(outcome, RpcError):
            answer.set_exception(outcome)
        else:
            answer.set_result(outcome)

    def _fail(self, why: str) -> None:
        self.is_usable = False
        for stream in list(self._waiting):
            self._settle(stream, RpcError("UNAVAILABLE", why))

    def _flush(self) -> None:
        out = self._http.to_send()
        if out and not self._transport.is_closing():
            self._transport.write(out)


class Client:
    """A connection to `unix:<path>` or `<host>:<port>`, kept open, made anew when it has ended."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._asker: _Asker | None = None
        self._turn = asyncio.Lock()

    async def call(
        self, method: str, request: bytes = b"", *, timeout_s: float, metadata: Metadata | None = None
    ) -> bytes:
        """The response's bytes. Raises RpcError."""
        block = hpack.encode(
            [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", method),
                (":authority", "localhost"),
                ("te", "trailers"),
                ("content-type", "application/grpc"),
                ("grpc-timeout", rpc.timeout_text(timeout_s)),
                *(metadata or {}).items(),
            ]
        )
        try:
            async with asyncio.timeout(timeout_s):
                answer = await (await self._connected()).ask(block, request)
        except TimeoutError:
            raise RpcError("DEADLINE_EXCEEDED", f"no answer within {timeout_s:g} s") from None
        rpc.check(dict(answer.headers) | dict(answer.trailers))
        return rpc.unframed(answer.body)

    async def close(self) -> None:
        if self._asker is not None:
            self._asker.close()
            self._asker = None

    async def _connected(self) -> _Asker:
        async with self._turn:
            if self._asker is None or not self._asker.is_usable:
                await self.close()
                loop = asyncio.get_running_loop()
                try:
                    if self._address.startswith("unix:"):
                        path = self._address.removeprefix("unix:")
                        _, self._asker = await loop.create_unix_connection(_Asker, path)
                    else:
                        host, _, port = self._address.rpartition(":")
                        _, self._asker = await loop.create_connection(_Asker, host.strip("[]"), int(port))
                except OSError as error:
                    text = os.strerror(error.errno) if error.errno else str(error)
                    raise RpcError("UNAVAILABLE", f"cannot connect to {self._address}: {text}") from None
            return self._asker
