"""HTTP/2 (RFC 9113) without a socket: bytes in, what happened out, bytes to send kept until taken.

Only what unary calls need: each stream carries one message whole in each direction, so an exchange is reported when
the peer has ended its side. Both ends of a connection are here; the server's end also refuses and says goodbye.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TypeAlias

from nvdra.kubelet.wire.hpack import Decoder, Header, HpackError

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_FRAME_LIMIT = 16384
_LARGEST_WINDOW = 2**31 - 1
_FIRST_WINDOW = 65535
# How many more streams a peer may give up than hear out. Kubelet gives one up when a deadline passes.
_PATIENCE = 1000


class Code(IntEnum):
    """RFC 9113, section 7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class _Type(IntEnum):
    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


_END_STREAM = _ACK = 0x1
_END_HEADERS = 0x4
_PADDED = 0x8
_PRIORITY = 0x20

_SETTING_TABLE, _SETTING_STREAMS, _SETTING_WINDOW, _SETTING_FRAME, _SETTING_LIST = 1, 3, 4, 5, 6


@dataclass(frozen=True, slots=True)
class Exchange:
    """The peer has said everything on this stream: a request, or an answer to one."""

    stream: int
    headers: list[Header]
    body: bytes
    trailers: list[Header]


@dataclass(frozen=True, slots=True)
class Reset:
    """The peer gave the stream up."""

    stream: int
    code: int


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The peer takes no stream above `last` any more."""

    last: int
    code: int


Happening: TypeAlias = Exchange | Reset | Goodbye


class ProtocolError(Exception):
    """The connection cannot go on. What is left to send says why to the peer."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(f"{code.name}: {text}")
        self.code = code


@dataclass(slots=True)
class _Stream:
    window: int  # how much may be sent
    headers: list[Header] | None = None
    body: bytearray = field(default_factory=bytearray)
    trailers: list[Header] = field(default_factory=list)
    is_ended: bool = False  # by the peer
    unsent: memoryview = memoryview(b"")  # noqa: RUF009  of nothing, so nothing is shared
    last_block: bytes | None = None  # of trailers, after `unsent`; None: the data ends the stream
    is_sending: bool = False


class Connection:
    """One end.

    message_limit   bytes a peer's message may have; a longer one is reset with ENHANCE_YOUR_CALM
    stream_limit    streams a peer may have open at once
    """

    def __init__(self, *, is_client: bool, message_limit: int = 4 << 20, stream_limit: int = 1000) -> None:
        self._is_client = is_client
        self._message_limit = message_limit
        self._stream_limit = stream_limit
        self._decoder = Decoder()
        self._in = bytearray()
        self._out = bytearray()
        self._needs_preface = not is_client
        self._needs_settings = True
        self._streams: dict[int, _Stream] = {}
        self._last = 0  # highest stream id the peer has opened
        self._next = 1  # of ours, as a client
        self._is_leaving = False
        self._block: tuple[int, bytearray, bool] | None = None  # stream, header block so far, ends the stream
        self._window = _FIRST_WINDOW  # how much may be sent on the connection
        self._peer_window = _FIRST_WINDOW  # on each new stream
        self._peer_frame = _FRAME_LIMIT
        self._abandoned = 0  # streams the peer gave up, less those it heard out
        self._taken = 0  # received and not yet given back to the peer's window
        # A whole message fits the window of its stream, so streams need no updates.
        window = min(message_limit + _FRAME_LIMIT, _LARGEST_WINDOW)
        settings = [(_SETTING_WINDOW, window), (_SETTING_LIST, 16384)]
        settings.append((2, 0) if is_client else (_SETTING_STREAMS, stream_limit))
        self._room = min(4 * window, _LARGEST_WINDOW)
        if is_client:
            self._out += PREFACE
        self._frame(_Type.SETTINGS, 0, 0, b"".join(struct.pack(">HI", key, value) for key, value in settings))
        self._frame(_Type.WINDOW_UPDATE, 0, 0, struct.pack(">I", self._room - _FIRST_WINDOW))

    def to_send(self) -> bytes:
        """What has to go to the peer now; handed out once."""
        out = bytes(self._out)
        self._out.clear()
        return out

    @property
    def is_idle(self) -> bool:
        """No stream is open and nothing waits to be sent."""
        return not self._streams and not self._out

    def receive(self, data: bytes) -> list[Happening]:
        """What these bytes complete. Raises ProtocolError; send what is left and close then."""
        self._in += data
        happened: list[Happening] = []
        buffer = self._in
        at = 0
        try:
            if self._needs_preface:
                got = bytes(buffer[: len(PREFACE)])
                if not PREFACE.startswith(got):
                    raise ProtocolError(Code.PROTOCOL_ERROR, "this is not HTTP/2")
                if len(got) < len(PREFACE):
                    return happened
                self._needs_preface = False
                at = len(PREFACE)
            while len(buffer) - at >= 9:
                length = int.from_bytes(buffer[at : at + 3], "big")
                if length > _FRAME_LIMIT:
                    raise ProtocolError(Code.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
                if len(buffer) - at < 9 + length:
                    break
                kind, flags = buffer[at + 3], buffer[at + 4]
                stream = int.from_bytes(buffer[at + 5 : at + 9], "big") & 0x7FFFFFFF
                payload = bytes(buffer[at + 9 : at + 9 + length])
                at += 9 + length
                self._take(kind, flags, stream, payload, happened)
        except ProtocolError as error:
            self.goodbye(error.code)
            raise
        finally:
            del buffer[:at]
        return happened

    def request(self, block: bytes, body: bytes) -> int:
        """Open a stream with a header block and a whole body; its id."""
        stream = self._next
        self._next += 2
        self._streams[stream] = state = _Stream(self._peer_window)
        self._headers(stream, block, ends=False)
        self._queue(stream, state, body, None)
        return stream

    def answer(self, stream: int, block: bytes, body: bytes, trailers: bytes) -> None:
        """Header block, body and trailer block, which end the stream. Without effect if the peer gave it up."""
        state = self._streams.get(stream)
        if state is not None:
            self._headers(stream, block, ends=False)
            self._queue(stream, state, body, trailers)

    def answer_shortly(self, stream: int, block: bytes) -> None:
        """One header block that ends the stream."""
        if stream in self._streams:
            self._headers(stream, block, ends=True)
            self._close(stream)

    def reset(self, stream: int, code: Code) -> None:
        """Give a stream up."""
        if self._streams.pop(stream, None) is not None:
            self._frame(_Type.RST_STREAM, 0, stream, struct.pack(">I", code))

    def goodbye(self, code: Code = Code.NO_ERROR) -> None:
        """Take no new stream; those that are open go on."""
        if not self._is_leaving:
            self._is_leaving = True
            self._frame(_Type.GOAWAY, 0, 0, struct.pack(">II", self._last, code))

    # Receiving.

    def _take(self, kind: int, flags: int, stream: int, payload: bytes, happened: list[Happening]) -> None:
        if self._needs_settings:
            if kind != _Type.SETTINGS or flags & _ACK:
                raise ProtocolError(Code.PROTOCOL_ERROR, "settings come first")
            self._needs_settings = False
        if self._block is not None and (kind != _Type.CONTINUATION or stream != self._block[0]):
            raise ProtocolError(Code.PROTOCOL_ERROR, "a header block was interrupted")
        match kind:
            case _Type.DATA:
                self._take_data(flags, stream, payload, happened)
            case _Type.HEADERS:
                self._take_headers(flags, stream, payload, happened)
            case _Type.CONTINUATION:
                if self._block is None:
                    raise ProtocolError(Code.PROTOCOL_ERROR, "continuation of nothing")
                self._block[1].extend(payload)
                self._continue(flags, happened)
            case _Type.RST_STREAM:
                self._sized(payload, 4)
                self._known(stream)
                self._take_reset(stream, int.from_bytes(payload, "big"), happened)
            case _Type.SETTINGS:
                self._take_settings(flags, stream, payload)
            case _Type.PING:
                self._sized(payload, 8)
                self._on_connection(stream)
                if not flags & _ACK:
                    self._frame(_Type.PING, _ACK, 0, payload)
            case _Type.GOAWAY:
                self._on_connection(stream)
                if len(payload) < 8:
                    raise ProtocolError(Code.FRAME_SIZE_ERROR, "a goodbye cut short")
                last, code = struct.unpack_from(">II", payload)
                happened.append(Goodbye(last & 0x7FFFFFFF, code))
            case _Type.WINDOW_UPDATE:
                self._take_window(stream, payload)
            case _Type.PRIORITY:
                self._sized(payload, 5)
                if stream == 0:
                    raise ProtocolError(Code.PROTOCOL_ERROR, "a priority without stream")
            case _Type.PUSH_PROMISE:
                raise ProtocolError(Code.PROTOCOL_ERROR, "pushes are off")
            case _:
                pass  # unknown frames are to be ignored

    def _take_data(self, flags: int, stream: int, payload: bytes, happened: list[Happening]) -> None:
        self._known(stream)
        # Counted whole, with padding, and even if nobody wants it any more: the peer counts so too.
        self._taken += len(payload)
        if self._taken > self._room:
            raise ProtocolError(Code.FLOW_CONTROL_ERROR, "more data than the window allows")
        if self._taken > self._room // 4:
            self._frame(_Type.WINDOW_UPDATE, 0, 0, struct.pack(">I", self._taken))
            self._taken = 0
        data = _unpadded(flags, payload)
        state = self._streams.get(stream)
        if state is None:
            return
        if state.headers is None or state.is_ended:
            raise ProtocolError(Code.STREAM_CLOSED, "data where none is expected")
        state.body += data
        if len(state.body) > self._message_limit:
            self.reset(stream, Code.ENHANCE_YOUR_CALM)
            happened.append(Reset(stream, Code.ENHANCE_YOUR_CALM))
        elif flags & _END_STREAM:
            self._ended(stream, state, happened)

    def _take_headers(self, flags: int, stream: int, payload: bytes, happened: list[Happening]) -> None:
        if stream == 0 or (stream % 2 == 0):
            raise ProtocolError(Code.PROTOCOL_ERROR, "headers on a stream that cannot be")
        payload = _unpadded(flags, payload)
        if flags & _PRIORITY:
            if len(payload) < 5:
                raise ProtocolError(Code.FRAME_SIZE_ERROR, "headers cut short")
            payload = payload[5:]
        self._block = (stream, bytearray(payload), bool(flags & _END_STREAM))
        self._continue(flags, happened)

    def _continue(self, flags: int, happened: list[Happening]) -> None:
        assert self._block is not None
        stream, block, ends = self._block
        if len(block) > 2 * _FRAME_LIMIT:
            raise ProtocolError(Code.ENHANCE_YOUR_CALM, "a header block without end")
        if not flags & _END_HEADERS:
            return
        self._block = None
        try:
            # Also for streams nobody wants: the decoder's state depends on every block.
            headers = self._decoder.decode(bytes(block))
        except HpackError as error:
            raise ProtocolError(Code.COMPRESSION_ERROR, str(error)) from None
        state = self._streams.get(stream) or self._opened(stream)
        if state is None:
            return
        if state.headers is None:
            # Informational answers (1xx) precede the real one.
            if self._is_client and dict(headers).get(":status", "").startswith("1") and not ends:
                return
            state.headers = headers
        elif state.is_ended or not ends:
            raise ProtocolError(Code.PROTOCOL_ERROR, "trailers have to end a stream")
        else:
            state.trailers = headers
        if ends:
            self._ended(stream, state, happened)

    def _opened(self, stream: int) -> _Stream | None:
        """A peer's new stream; None if it is not wanted or was over before."""
        if self._is_client:
            self._known(stream)
            return None
        if stream <= self._last:
            return None
        if self._is_leaving or len(self._streams) >= self._stream_limit:
            if not self._is_leaving:
                self._last = stream
            self._frame(_Type.RST_STREAM, 0, stream, struct.pack(">I", Code.REFUSED_STREAM))
            return None
        self._last = stream
        self._streams[stream] = state = _Stream(self._peer_window)
        return state

    def _ended(self, stream: int, state: _Stream, happened: list[Happening]) -> None:
        state.is_ended = True
        happened.append(Exchange(stream, state.headers or [], bytes(state.body), state.trailers))
        state.body = bytearray()
        if self._is_client:
            # An answer may come before the request was taken whole.
            if state.is_sending:
                self._frame(_Type.RST_STREAM, 0, stream, struct.pack(">I", Code.NO_ERROR))
            del self._streams[stream]

    def _take_reset(self, stream: int, code: int, happened: list[Happening]) -> None:
        self._abandoned += 1
        if self._abandoned > _PATIENCE:
            raise ProtocolError(Code.ENHANCE_YOUR_CALM, "streams are opened to be given up")
        if self._streams.pop(stream, None) is not None:
            happened.append(Reset(stream, code))

    def _take_settings(self, flags: int, stream: int, payload: bytes) -> None:
        self._on_connection(stream)
        if flags & _ACK:
            self._sized(payload, 0)
            return
        if len(payload) % 6:
            raise ProtocolError(Code.FRAME_SIZE_ERROR, "settings cut short")
        for key, value in struct.iter_unpack(">HI", payload):
            if key == _SETTING_WINDOW:
                if value > _LARGEST_WINDOW:
                    raise ProtocolError(Code.FLOW_CONTROL_ERROR, "window too large")
                for state in self._streams.values():
                    state.window += value - self._peer_window
                self._peer_window = value
            elif key == _SETTING_FRAME:
                if not _FRAME_LIMIT <= value < 1 << 24:
                    raise ProtocolError(Code.PROTOCOL_ERROR, "no such frame size")
                self._peer_frame = min(value, 1 << 16)
        self._frame(_Type.SETTINGS, _ACK, 0, b"")
        self._resume()

    def _take_window(self, stream: int, payload: bytes) -> None:
        self._sized(payload, 4)
        more = int.from_bytes(payload, "big") & 0x7FFFFFFF
        if stream == 0:
            self._window += more
            if not more or self._window > _LARGEST_WINDOW:
                raise ProtocolError(Code.FLOW_CONTROL_ERROR, "window out of bounds")
            self._resume()
            return
        self._known(stream)
        state = self._streams.get(stream)
        if state is not None:
            state.window += more
            if not more or state.window > _LARGEST_WINDOW:
                raise ProtocolError(Code.FLOW_CONTROL_ERROR, "window out of bounds")
            self._send(stream, state)

    def _known(self, stream: int) -> None:
        """Refuse frames for streams that nobody has opened."""
        # Refused streams lie above `_last` once goodbye was said; what follows on them is of no interest.
        top = self._next - 1 if self._is_client else _LARGEST_WINDOW if self._is_leaving else self._last
        if stream % 2 == 0 or stream > top:
            raise ProtocolError(Code.PROTOCOL_ERROR, "a frame for no stream")

    def _on_connection(self, stream: int) -> None:
        if stream != 0:
            raise ProtocolError(Code.PROTOCOL_ERROR, "a frame of the connection on a stream")

    def _sized(self, payload: bytes, size: int) -> None:
        if len(payload) != size:
            raise ProtocolError(Code.FRAME_SIZE_ERROR, "a frame of the wrong size")

    # Sending.

    def _queue(self, stream: int, state: _Stream, body: bytes, trailers: bytes | None) -> None:
        state.unsent, state.last_block, state.is_sending = memoryview(body), trailers, True
        self._send(stream, state)

    def _send(self, stream: int, state: _Stream) -> None:
        """As much as the windows allow; the rest when they open."""
        if not state.is_sending:
            return
        while state.unsent:
            size = min(len(state.unsent), state.window, self._window, self._peer_frame)
            if size <= 0:
                return
            part, state.unsent = state.unsent[:size], state.unsent[size:]
            state.window -= size
            self._window -= size
            ends = not state.unsent and state.last_block is None
            self._frame(_Type.DATA, _END_STREAM if ends else 0, stream, part)
        state.is_sending = False
        if state.last_block is not None:
            self._headers(stream, state.last_block, ends=True)
        if not self._is_client:
            self._close(stream)

    def _resume(self) -> None:
        for stream, state in list(self._streams.items()):
            self._send(stream, state)

    def _close(self, stream: int) -> None:
        """Our side has ended. A peer that has not is told to stop."""
        self._abandoned = max(0, self._abandoned - 1)
        state = self._streams.pop(stream, None)
        if state is not None and not state.is_ended:
            self._frame(_Type.RST_STREAM, 0, stream, struct.pack(">I", Code.NO_ERROR))

    def _headers(self, stream: int, block: bytes, *, ends: bool) -> None:
        flags = _END_STREAM if ends else 0
        if len(block) <= _FRAME_LIMIT:
            self._frame(_Type.HEADERS, flags | _END_HEADERS, stream, block)
            return
        self._frame(_Type.HEADERS, flags, stream, block[:_FRAME_LIMIT])
        for at in range(_FRAME_LIMIT, len(block), _FRAME_LIMIT):
            part = block[at : at + _FRAME_LIMIT]
            is_last = at + _FRAME_LIMIT >= len(block)
            self._frame(_Type.CONTINUATION, _END_HEADERS if is_last else 0, stream, part)

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes | memoryview) -> None:
        self._out += struct.pack(">IBI", len(payload) << 8 | kind, flags, stream)
        self._out += payload


def _unpadded(flags: int, payload: bytes) -> bytes:
    if not flags & _PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ProtocolError(Code.PROTOCOL_ERROR, "more padding than frame")
    return payload[1 : len(payload) - payload[0]]
