"""gRPC over a socket, reduced to what a plugin needs: named unary methods, bytes in, bytes out.

Messages are coded by the callers; gRPC carries bytes. `Server` answers on the caller's event loop,
`ThreadServer` on threads of its own, so that it answers in time whatever the loop does.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

# The thread that waits for calls also reads them. This saves one thread switch per call: a tenth of the time of a call
# without claims.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")

import grpc
import grpc.aio

from nvdra import telemetry
from nvdra.kubelet.sockets import refusal

Metadata = Mapping[str, str]
Method = Callable[[bytes], Awaitable[bytes]]
Stream = Callable[[bytes], AsyncIterator[bytes]]
ThreadMethod = Callable[[bytes, Metadata], bytes]

_SERVER_OPTIONS: Sequence[tuple[str, Any]] = (
    ("grpc.so_reuseport", 0),
    # No age, idle or ping limits: kubelet treats every closed connection as a plugin that stopped.
    ("grpc.http2.max_ping_strikes", 0),
)
# Limits for a server on the network: claims need free descriptors. Connections beyond the limit are closed at once;
# silent ones and ones without a running call are closed soon.
NETWORK_OPTIONS: Sequence[tuple[str, Any]] = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_allowed_incoming_connections", 32),
    ("grpc.max_concurrent_streams", 16),
    ("grpc.server_handshake_timeout_ms", 5_000),
    ("grpc.max_connection_idle_ms", 5_000),
    ("grpc.max_connection_age_ms", 30_000),
    ("grpc.max_connection_age_grace_ms", 10_000),
    ("grpc.max_receive_message_length", 4_096),
)
_MOST_BYTES = 4 << 20  # of a message, gRPC's own default
_CLIENT_OPTIONS: Sequence[tuple[str, Any]] = (
    # A separate connection without another channel's back-off, to find out whether a client can connect now.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)


# Seconds until the deadline of the running call; None if the caller set none.
time_left_s: ContextVar[float | None] = ContextVar("time_left_s", default=None)


class RpcError(Exception):
    """A gRPC status other than OK. `status` is its name: "UNAVAILABLE", "NOT_FOUND", …"""

    def __init__(self, status: str, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status
        self.text = text


class _Routes(grpc.GenericRpcHandler):
    """Maps full method paths to handlers; other methods are UNIMPLEMENTED."""

    def __init__(self, routes: Mapping[str, Any], streams: Mapping[str, Stream] | None = None) -> None:
        self._routes: dict[str, Any] = {
            path: grpc.unary_unary_rpc_method_handler(answer) for path, answer in routes.items()
        }
        for path, stream in (streams or {}).items():
            self._routes[path] = grpc.unary_stream_rpc_method_handler(_streamed(stream))

    def service(self, handler_call_details: Any) -> Any:
        return self._routes.get(handler_call_details.method)


def _metadata(context: Any) -> Metadata:
    return {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}


class Server:
    """Methods and streams by full path ("/package.Service/Method"), answered on the running loop."""

    def __init__(
        self,
        methods: Mapping[str, Method],
        options: Sequence[tuple[str, Any]] = _SERVER_OPTIONS,
        *,
        streams: Mapping[str, Stream] | None = None,
    ) -> None:
        self._server = grpc.aio.server(options=options)
        self._server.add_generic_rpc_handlers((_Routes({path: _on_loop(m) for path, m in methods.items()}, streams),))

    async def start(self, address: str) -> int:
        """Bind and serve `unix:<path>` or `<host>:<port>`; the port (1 for unix). Raises SocketPathError."""
        try:
            port: int = self._server.add_insecure_port(address)
        except RuntimeError:
            raise refusal(address) from None
        await self._server.start()
        return port

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, wait for running ones as long as `grace_s`, then close."""
        await self._server.stop(grace_s)


class ThreadServer:
    """The same on two threads of its own."""

    def __init__(self, methods: Mapping[str, ThreadMethod]) -> None:
        self._pool = ThreadPoolExecutor(2, "registration")
        self._server = grpc.server(self._pool, options=_SERVER_OPTIONS)
        self._server.add_generic_rpc_handlers((_Routes({path: _on_thread(m) for path, m in methods.items()}),))

    def start(self, address: str) -> None:
        """Bind and serve. Raises SocketPathError."""
        try:
            self._server.add_insecure_port(address)
        except RuntimeError:
            raise refusal(address) from None
        self._server.start()

    def stop(self) -> None:
        """Close now, without waiting: its answers take almost no time."""
        self._server.stop(None).wait()
        self._pool.shutdown(wait=False)


def _on_loop(method: Method) -> Any:
    async def answer(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        time_left_s.set(context.time_remaining())
        try:
            return await method(request)
        except RpcError as error:
            await context.abort(grpc.StatusCode[error.status], error.text)
        except Exception as error:
            telemetry.error("A gRPC call failed unexpectedly", error, kind=type(error).__name__)
            await context.abort(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}")
        raise AssertionError("abort returned")

    return answer


def _streamed(stream: Stream) -> Any:
    async def answer(request: bytes, _context: grpc.aio.ServicerContext[bytes, bytes]) -> AsyncIterator[bytes]:
        async for message in stream(request):
            yield message

    return answer


def _on_thread(method: ThreadMethod) -> Any:
    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            return method(request, _metadata(context))
        except RpcError as error:
            context.abort(grpc.StatusCode[error.status], error.text)

    return answer


class Client:
    """One connection to a server, for calls with a deadline.

    most_bytes   of an answer
    """

    def __init__(self, address: str, most_bytes: int = _MOST_BYTES) -> None:
        self._channel = grpc.aio.insecure_channel(
            address, options=(*_CLIENT_OPTIONS, ("grpc.max_receive_message_length", most_bytes))
        )

    async def call(
        self, method: str, request: bytes = b"", *, timeout_s: float, metadata: Metadata | None = None
    ) -> bytes:
        """The response's bytes. Raises RpcError."""
        unary: Any = self._channel.unary_unary(method)
        try:
            response: bytes = await unary(request, timeout=timeout_s, metadata=tuple((metadata or {}).items()))
        except grpc.aio.AioRpcError as error:
            raise RpcError(error.code().name, error.details() or "") from None
        return response

    async def stream(self, method: str, request: bytes = b"", *, timeout_s: float) -> AsyncIterator[bytes]:
        """The messages of a streaming method. Raises RpcError."""
        messages: Any = self._channel.unary_stream(method)
        try:
            async for message in messages(request, timeout=timeout_s):
                yield message
        except grpc.aio.AioRpcError as error:
            raise RpcError(error.code().name, error.details() or "") from None

    async def close(self) -> None:
        await self._channel.close()
