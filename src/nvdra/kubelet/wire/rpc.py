"""gRPC's own conventions on top of HTTP/2: statuses, one framed message a direction, deadlines as text. Pure."""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping
from enum import IntEnum
from typing import TypeAlias

from nvdra.kubelet.wire import hpack

Metadata: TypeAlias = Mapping[str, str]

# What gRPC's own servers take if nobody says otherwise.
MESSAGE_LIMIT = 4 << 20
# Peers bound header lists, some at 8 KiB; a text is cut before it costs the whole answer.
_TEXT_LIMIT = 2048


class Status(IntEnum):
    """gRPC's status codes."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class RpcError(Exception):
    """A gRPC status other than OK. `status` is its name: "UNAVAILABLE", "NOT_FOUND", …"""

    def __init__(self, status: str, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status
        self.text = text


ANSWER = hpack.encode([(":status", "200"), ("content-type", "application/grpc")])
ALL_WELL = hpack.encode([("grpc-status", "0")])
_UNITS_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


def failed(status: str, text: str) -> bytes:
    """The one header block of an answer that is a failure."""
    return hpack.encode(
        [
            (":status", "200"),
            ("content-type", "application/grpc"),
            ("grpc-status", str(int(Status[status]))),
            ("grpc-message", urllib.parse.quote(text[:_TEXT_LIMIT], safe=" !\"#$&'()*+,/:;<=>?@[\\]^`{|}")),
        ]
    )


def framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


def unframed(body: bytes) -> bytes:
    """The one message in a body. Raises RpcError."""
    if len(body) < 5 or int.from_bytes(body[1:5], "big") != len(body) - 5:
        raise RpcError("INTERNAL", "not exactly one message")
    if body[0]:
        raise RpcError("UNIMPLEMENTED", "compressed messages are not understood")
    return body[5:]


def timeout_s(text: str | None) -> float | None:
    """`grpc-timeout`: up to eight digits and a unit. None if there is none; what is malformed counts as none."""
    if not text or text[-1] not in _UNITS_S or not text[:-1].isdecimal() or len(text) > 9:
        return None
    return int(text[:-1]) * _UNITS_S[text[-1]]


def timeout_text(seconds: float) -> str:
    milliseconds = max(1, round(seconds * 1000))
    return f"{milliseconds}m" if milliseconds < 10**8 else f"{min(round(seconds), 10**8 - 1)}S"


def check(told: Metadata) -> None:
    """Headers and trailers of an answer, together. Raises RpcError unless all is well."""
    if told.get(":status") != "200" or "grpc-status" not in told:
        raise RpcError("UNKNOWN", f"not an answer of gRPC (HTTP status {told.get(':status')})")
    code = told["grpc-status"]
    if code != "0":
        name = Status(int(code)).name if code.isdecimal() and int(code) <= 16 else "UNKNOWN"
        raise RpcError(name, urllib.parse.unquote(told.get("grpc-message", "")))
