"""Servers of gRPC over a socket, reduced to what a plugin needs: named unary methods, bytes in, bytes out.

Spoken here rather than by gRPC's library because that costs each node 15 MiB, three threads and 0.1 s of start, and
hands every call through two threads. Real kubelets and gRPC's own library are what the tests hold it to.
`Server` answers on the running loop, `ThreadServer` on a thread and loop of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeAlias

from nvdra import telemetry
from nvdra.kubelet.wire import hpack, rpc
from nvdra.kubelet.wire.http2 import Connection, Exchange, Goodbye, ProtocolError, Reset
from nvdra.kubelet.wire.rpc import Metadata, RpcError

Method: TypeAlias = Callable[[bytes, Metadata], Awaitable[bytes]]

_PREFACE_PATIENCE_S = 20.0
_CONNECTION_LIMIT = 128


class _Peer(asyncio.Protocol):
    """A connection with somebody who asks."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._http = Connection(is_client=False, message_limit=rpc.MESSAGE_LIMIT)
        self._transport: Any = None
        self._calls: dict[int, asyncio.Task[None]] = {}
        self._is_known = False
        self._loop = asyncio.get_running_loop()

    # asyncio.Protocol

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        if len(self._server.peers) >= _CONNECTION_LIMIT:
            transport.abort()
            return
        self._server.peers.add(self)
        self._loop.call_later(_PREFACE_PATIENCE_S, self._greeted)

    def data_received(self, data: bytes) -> None:
        try:
            for happening in self._http.receive(data):
                match happening:
                    case Exchange():
                        self._asked(happening)
                    case Reset(stream=stream):
                        call = self._calls.pop(stream, None)
                        if call is not None:
                            call.cancel()
                    case Goodbye():
                        pass
            self._is_known = True
            self.flush()
        except ProtocolError as error:
            telemetry.info(4, "Closing a connection that does not speak HTTP/2 as it should", cause=str(error))
            self.flush()
            self._transport.close()

    def connection_lost(self, _error: Exception | None) -> None:
        self._server.peers.discard(self)
        for call in self._calls.values():
            call.cancel()
        self._server.check_drained()

    def pause_writing(self) -> None:
        # Who asks and does not read the answers is not listened to either.
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._transport.resume_reading()

    # Calls

    def _asked(self, asked: Exchange) -> None:
        headers = dict(asked.headers)
        if headers.get(":method") != "POST" or not headers.get("content-type", "").startswith("application/grpc"):
            status = "405" if headers.get(":method") != "POST" else "415"
            self._http.answer_shortly(asked.stream, hpack.encode([(":status", status)]))
            return
        call = self._loop.create_task(self._serve(asked, headers))
        self._calls[asked.stream] = call
        timeout_s = rpc.timeout_s(headers.get("grpc-timeout"))
        if timeout_s is not None:
            timer = self._loop.call_later(timeout_s, self._late, asked.stream)
            call.add_done_callback(lambda _: timer.cancel())

    def _late(self, stream: int) -> None:
        call = self._calls.pop(stream, None)
        if call is not None:
            call.cancel()
            self._http.answer_shortly(stream, rpc.failed("DEADLINE_EXCEEDED", "deadline exceeded"))
            self.flush()

    async def _serve(self, asked: Exchange, headers: Metadata) -> None:
        stream, path = asked.stream, headers.get(":path", "")
        method = self._server.methods.get(path)
        try:
            if method is None:
                raise RpcError("UNIMPLEMENTED", f"unknown method {path}")
            answer = await method(rpc.unframed(asked.body), headers)
            self._http.answer(stream, rpc.ANSWER, rpc.framed(answer), rpc.ALL_WELL)
        except RpcError as error:
            self._http.answer_shortly(stream, rpc.failed(error.status, error.text))
        except asyncio.CancelledError:
            return  # by the peer, by its deadline or because we stop: the answer is no longer wanted
        except Exception as error:
            telemetry.error("A gRPC call failed unexpectedly", error, kind=type(error).__name__, method=path)
            self._http.answer_shortly(stream, rpc.failed("INTERNAL", f"{type(error).__name__}: {error}"))
        finally:
            self._calls.pop(stream, None)
        self.flush()
        self._server.check_drained()

    # For the server

    @property
    def is_busy(self) -> bool:
        return bool(self._calls)

    def leave(self) -> None:
        """Ask the peer to open no more streams."""
        self._http.goodbye()
        self.flush()

    def hang_up(self) -> None:
        for call in self._calls.values():
            call.cancel()
        self._transport.close()

    def flush(self) -> None:
        out = self._http.to_send()
        if out and not self._transport.is_closing():
            self._transport.write(out)

    def _greeted(self) -> None:
        if not self._is_known:
            self._transport.abort()


class Server:
    """Methods by full path ("/package.Service/Method"), answered on the running loop."""

    def __init__(self, methods: Mapping[str, Method]) -> None:
        self.methods = dict(methods)
        self.peers: set[_Peer] = set()
        self._listener: asyncio.Server | None = None
        self._drained: asyncio.Event | None = None

    async def start(self, address: str) -> int:
        """Bind and serve `unix:<path>` or `<host>:<port>` (no host: every address); the port, 0 for unix.

        Raises OSError that names the address.
        """
        bound = _bind(address)
        port = 0 if bound.family == socket.AF_UNIX else bound.getsockname()[1]
        loop = asyncio.get_running_loop()
        if bound.family == socket.AF_UNIX:
            self._listener = await loop.create_unix_server(lambda: _Peer(self), sock=bound)
        else:
            self._listener = await loop.create_server(lambda: _Peer(self), sock=bound)
        return int(port)

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, wait for running ones as long as `grace_s`, then close."""
        if self._listener is None:
            return
        self._listener.close()
        self._drained = asyncio.Event()
        for peer in list(self.peers):
            peer.leave()
        self.check_drained()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._drained.wait(), grace_s)
        for peer in list(self.peers):
            peer.hang_up()
        self._listener = None

    def check_drained(self) -> None:
        if self._drained is not None and not any(peer.is_busy for peer in self.peers):
            self._drained.set()


class ThreadServer:
    """The same on a thread and loop of its own: what the program's loop does is nothing to it."""

    def __init__(self, methods: Mapping[str, Method]) -> None:
        self._server = Server(methods)
        self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="registration", daemon=True)

    async def start(self, address: str) -> None:
        """Bind and serve. Raises OSError."""
        self._thread.start()
        try:
            await self._there(self._server.start(address))
        except BaseException:
            self._end()
            raise

    async def stop(self) -> None:
        """Close now: its answers take no time that would be worth waiting for."""
        if self._thread.is_alive():
            await self._there(self._server.stop(0))
            self._end()

    async def _there(self, work: Coroutine[Any, Any, Any]) -> None:
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def _end(self) -> None:
        # Two turns of the loop: connections just closed say so in the next one.
        self._loop.call_soon_threadsafe(lambda: self._loop.call_soon(self._loop.stop))
        self._thread.join()
        self._loop.close()


def _bind(address: str) -> socket.socket:
    try:
        if address.startswith("unix:"):
            bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                bound.bind(address.removeprefix("unix:"))
                bound.listen(128)
            except BaseException:
                bound.close()
                raise
            return bound
        host, _, port = address.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not host:
            is_dual = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if is_dual else socket.AF_INET
            return socket.create_server(("", int(port)), family=family, dualstack_ipv6=is_dual)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, int(port)), family=family)
    except OSError as error:
        text = os.strerror(error.errno) if error.errno else str(error)
        raise OSError(error.errno, f"cannot listen on {address}: {text}") from None
