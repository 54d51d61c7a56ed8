"""HPACK (RFC 7541): header lists as HTTP/2 writes them.

Reading knows everything a peer may use. Writing uses literals without indexing, so it needs no state and a block can
be made once and sent for ever.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from functools import lru_cache

Header = tuple[str, str]


class HpackError(Exception):
    """A block that cannot be read; the connection is lost, for its state is."""


# RFC 7541, appendix A.
_STATIC: tuple[Header, ...] = (
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"),
    (":scheme", "http"), (":scheme", "https"), (":status", "200"), (":status", "204"), (":status", "206"),
    (":status", "304"), (":status", "400"), (":status", "404"), (":status", "500"),
    ("accept-charset", ""), ("accept-encoding", "gzip, deflate"),
    *((name, "") for name in (
        "accept-language", "accept-ranges", "accept", "access-control-allow-origin", "age", "allow", "authorization",
        "cache-control", "content-disposition", "content-encoding", "content-language", "content-length",
        "content-location", "content-range", "content-type", "cookie", "date", "etag", "expect", "expires", "from",
        "host", "if-match", "if-modified-since", "if-none-match", "if-range", "if-unmodified-since", "last-modified",
        "link", "location", "max-forwards", "proxy-authenticate", "proxy-authorization", "range", "referer",
        "refresh", "retry-after", "server", "set-cookie", "strict-transport-security", "transfer-encoding",
        "user-agent", "vary", "via", "www-authenticate",
    )),
)  # fmt: skip

# RFC 7541, appendix B: the length in bits of each byte's code and of the end mark's, as base-32 digits.
# The code is canonical, so lengths say it all: codes of one length follow each other in the order of their symbols.
_LENGTHS = (
    "dnsssssssoussussssssssusssssssss6aacd68baa8b8666555666666678f6cad6777777777777777777777787"
    "8djde6f56565666577666567655677777fbedskmkkmmmnmnnnnnonoomnonnnnlmnmnnomlkmmnnlnmmolmnnllml"
    "nmnnkmmmnmmnqqkjmnmpqqqrrqopjlqrrqrollqqsrrrkoklmllnmmppooqnqrqqrrrrrsrrrrrqu"
)
_EOS = 256


def _codes() -> dict[tuple[int, int], int]:
    """Symbol by (length in bits, code)."""
    lengths = [int(digit, 32) for digit in _LENGTHS]
    codes = {}
    code, before = 0, 0
    for length, symbol in sorted((length, symbol) for symbol, length in enumerate(lengths)):
        code <<= length - before
        before = length
        codes[length, code] = symbol
        code += 1
    return codes


_CODES = _codes()
_LONGEST = 30


@lru_cache(maxsize=64)
def _huffman(data: bytes) -> bytes:
    """Decoded. Raises HpackError for padding of eight bits or more, or not of ones, and for the end mark."""
    out = bytearray()
    code, length = 0, 0
    for byte in data:
        for shift in range(7, -1, -1):
            code = code << 1 | (byte >> shift & 1)
            length += 1
            symbol = _CODES.get((length, code))
            if symbol is not None:
                if symbol == _EOS:
                    raise HpackError("end mark inside a string")
                out.append(symbol)
                code, length = 0, 0
            elif length >= _LONGEST:
                raise HpackError("no such code")
    if length > 7 or code != (1 << length) - 1:
        raise HpackError("padding is not the end mark's beginning")
    return bytes(out)


class Decoder:
    """Header blocks of one connection, in the order they came.

    table_limit   what our settings allow the peer's table to hold, in the RFC's way of counting
    list_limit    bytes that one decoded header list may have, counted the same way
    """

    def __init__(self, table_limit: int = 4096, list_limit: int = 16384) -> None:
        self._limit = self._allowed = table_limit
        self._list_limit = list_limit
        self._table: deque[Header] = deque()
        self._size = 0

    def decode(self, block: bytes) -> list[Header]:
        """Raises HpackError."""
        headers: list[Header] = []
        total, at, end = 0, 0, len(block)
        try:
            while at < end:
                first = block[at]
                if first & 0x80:
                    index, at = _integer(block, at, 7)
                    header = self._at(index)
                elif first & 0xE0 == 0x20:
                    if headers:
                        raise HpackError("table size changed inside a block")
                    limit, at = _integer(block, at, 5)
                    if limit > self._allowed:
                        raise HpackError("table larger than allowed")
                    self._limit = limit
                    self._evict()
                    continue
                else:
                    is_kept = bool(first & 0x40)
                    index, at = _integer(block, at, 6 if is_kept else 4)
                    if index:
                        name = self._at(index)[0]
                    else:
                        name, at = _string(block, at)
                    value, at = _string(block, at)
                    header = (name, value)
                    if is_kept:
                        self._keep(header)
                total += len(header[0]) + len(header[1]) + 32
                if total > self._list_limit:
                    raise HpackError("header list too long")
                headers.append(header)
        except IndexError:
            raise HpackError("block ends early") from None
        return headers

    def _at(self, index: int) -> Header:
        if 1 <= index <= len(_STATIC):
            return _STATIC[index - 1]
        place = index - len(_STATIC) - 1
        if index == 0 or place >= len(self._table):
            raise HpackError("no such index")
        return self._table[place]

    def _keep(self, header: Header) -> None:
        self._table.appendleft(header)
        self._size += len(header[0]) + len(header[1]) + 32
        self._evict()

    def _evict(self) -> None:
        while self._size > self._limit:
            name, value = self._table.pop()
            self._size -= len(name) + len(value) + 32


def _integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    full = (1 << bits) - 1
    value = block[at] & full
    at += 1
    if value < full:
        return value, at
    shift = 0
    while True:
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, at
        if shift > 28:
            raise HpackError("number too large")


def _string(block: bytes, at: int) -> tuple[str, int]:
    is_huffman = block[at] & 0x80
    length, at = _integer(block, at, 7)
    raw = block[at : at + length]
    if len(raw) < length:
        raise HpackError("block ends early")
    # Latin-1 keeps every byte; what must be ASCII is looked at where it matters.
    return (_huffman(raw) if is_huffman else raw).decode("latin-1"), at + length


_STATIC_INDEX = {header: index for index, header in reversed(list(enumerate(_STATIC, 1)))}
_STATIC_NAME = {name: index for index, (name, _) in reversed(list(enumerate(_STATIC, 1)))}


def encode(headers: Iterable[Header]) -> bytes:
    """A block that any peer reads whatever came before it."""
    out = bytearray()
    for name, value in headers:
        index = _STATIC_INDEX.get((name, value))
        if index is not None:
            out.append(0x80 | index)
            continue
        out += _number(_STATIC_NAME.get(name, 0), 4)
        if name not in _STATIC_NAME:
            out += _literal(name)
        out += _literal(value)
    return bytes(out)


def _literal(text: str) -> bytes:
    raw = text.encode("latin-1")
    return _number(len(raw), 7) + raw


def _number(value: int, bits: int) -> bytes:
    full = (1 << bits) - 1
    if value < full:
        return bytes((value,))
    out = bytearray((full,))
    value -= full
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
