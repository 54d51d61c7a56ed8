"""Random CEL over dates, durations, addresses, URLs and named formats."""

from __future__ import annotations

import random
from typing import Protocol

_TIMES = (
    "2024-02-29T23:59:59Z",
    "2023-01-01T05:30:00.123456789+02:00",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59.9Z",
    "2023-02-29T00:00:00Z",
    "1969-12-31T23:59:60Z",
    "2023-07-14T1:30:45Z",
    "2023-07-14T10:30:45-08:00",
    "2023-07-14",
    "2023-07-14t10:30:45z",
    "2023-07-14T10:30:45,5Z",
    "0000-12-31T23:59:59Z",
    "1900-03-01T00:00:00Z",
    "2000-12-31T12:00:00+24:00",
)
_DURATIONS = (
    "1h30m",
    "-1.5s",
    "0",
    "",
    "1",
    "1d",
    "3723.456s",
    "100ms",
    "+5us",
    "1.s",
    ".5h",
    "2562047h47m16.854775807s",
    "-2562047h47m16.854775808s",
    "9999999h",
    "1h 2m",
    "1ns",
    "0.000000001s",
    "1µs",
)
_ZONES = ("UTC", "", "+02:00", "-08:30", "02:00", "+2:5", "+02:60", "12:00:00", "x:00", "-00:30")
_ADDRESSES = (
    "10.0.0.1",
    "127.0.0.1",
    "::1",
    "fe80::1",
    "fe80::1%eth0",
    "::ffff:1.2.3.4",
    "224.0.0.1",
    "169.254.1.1",
    "255.255.255.255",
    "2001:DB8::0001",
    "2001:db8::1",
    "::",
    "0.0.0.0",
    "1.2.3",
    "01.2.3.4",
    "1:2:3:4:5:6:7::",
    "::1.2.3.4",
    "ff02::1",
    "ff12::1",
    "x",
    "1.2.3.4/8",
    "64:ff9b::1.2.3.4",
)
_NETWORKS = (
    "10.0.0.0/8",
    "10.0.0.1/8",
    "0.0.0.0/0",
    "::/0",
    "fe80::/10",
    "10.0.0.0/33",
    "10.0.0.0/08",
    "10.0.0.0",
    "2001:db8::/32",
    "2001:db8::1/128",
    "::ffff:1.2.3.4/120",
    "10.0.0.0/-1",
    "10.0.0.0/",
    "192.168.1.0/24",
    "192.168.0.0/16",
    "fe80::1%eth0/64",
)
_URLS = (
    "https://example.com:80/path?k1=a&k2=b&k2=c#frag",
    "http://[::1]:8080/x",
    "http://[::1%25eth0]/",
    "/absolute/path",
    "relative",
    "mailto:a@b.c",
    "*",
    "",
    "https://user:pass@host/",
    "http://a b.com/",
    "https:///no-host",
    "http://host:port/",
    "http://host:1:2/",
    "postgres://a:1,b:2/db",
    "://x",
    "1http://x",
    "http://ex%41mple.com/",
    "http://x/%zz",
    "http://x/a%2fb",
    "http://x?",
    "http://x/??",
    "HTTP://X/",
    "//host/path",
    "http://x/a;b?c;d=1&e=%20+f",
    "https://x/é",
    "http://[1.2.3.4]/",
    "http://[::1]x/",
    "a:b:c",
    "http://x/#%zz",
    "http://\\u007f/",
)
_NAMES = (
    "my-name",
    "MyName",
    "a.b",
    "",
    "a--b",
    "-a",
    "a-",
    "my.domain/Name",
    "/x",
    "x/y/z",
    "UPPER_case",
    "a" * 64,
    "a" * 254,
    "a_b",
    "1abc",
    "é",
    "x-",
    "-",
)
_DATA = (
    "aGVsbG8=",
    "aGVsbG8",
    "a===",
    "=",
    "123e4567-e89b-12d3-a456-426614174000",
    "123E4567E89B12D3A456426614174000",
    "2021-01-01",
    "2021-02-30",
    "2021-01-01T00:00:00Z",
    "2021-01-01T24:00:00Z",
    "2021-01-01T00:00:00",
    "2021-01-01t00:00:00.5+01:00",
)
_FORMATS = (
    "dns1123Label",
    "dns1123Subdomain",
    "dns1035Label",
    "qualifiedName",
    "dns1123LabelPrefix",
    "dns1123SubdomainPrefix",
    "dns1035LabelPrefix",
    "labelValue",
    "uri",
    "uuid",
    "byte",
    "date",
    "datetime",
)
_GETTERS = (
    "getFullYear",
    "getMonth",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getHours",
    "getMinutes",
    "getSeconds",
    "getMilliseconds",
)
_PROPERTIES = ("isUnspecified", "isLoopback", "isLinkLocalMulticast", "isLinkLocalUnicast", "isGlobalUnicast")


class Grammar(Protocol):
    rng: random.Random

    def of(self, kind: str, depth: int) -> str: ...

    def pick(self, *options: str) -> str: ...


def _text(g: Grammar, options: tuple[str, ...]) -> str:
    return '"' + g.pick(*options) + '"' if g.rng.random() < 0.95 else g.of("string", 0)


def _maybe_dyn(g: Grammar, expression: str) -> str:
    return f"dyn({expression})" if g.rng.random() < 0.1 else expression


def duration(g: Grammar, depth: int) -> str:
    if depth > 0 and g.rng.random() < 0.4:
        left, right = duration(g, depth - 1), duration(g, depth - 1)
        return g.pick(
            f"({left} + {right})", f"({left} - {right})", f"({timestamp(g, depth - 1)} - {timestamp(g, depth - 1)})"
        )
    return _maybe_dyn(g, f"duration({_text(g, _DURATIONS)})")


def timestamp(g: Grammar, depth: int) -> str:
    if depth > 0 and g.rng.random() < 0.4:
        at, by = timestamp(g, depth - 1), duration(g, depth - 1)
        return g.pick(f"({at} + {by})", f"({by} + {at})", f"({at} - {by})")
    source = _text(g, _TIMES) if g.rng.random() < 0.8 else g.pick("0", "-1", "253402300800", "1700000000")
    return _maybe_dyn(g, f"timestamp({source})")


def address(g: Grammar, depth: int) -> str:
    if depth > 0 and g.rng.random() < 0.2:
        return f"{network(g, depth - 1)}.ip()"
    return _maybe_dyn(g, f"ip({_text(g, _ADDRESSES)})")


def network(g: Grammar, depth: int) -> str:
    if depth > 0 and g.rng.random() < 0.2:
        return f"{network(g, depth - 1)}.masked()"
    return _maybe_dyn(g, f"cidr({_text(g, _NETWORKS)})")


def link(g: Grammar) -> str:
    return _maybe_dyn(g, f"url({_text(g, _URLS)})")


def named(g: Grammar) -> str:
    if g.rng.random() < 0.2:
        return f'format.named("{g.pick(*_FORMATS, "none")}").value()'
    return f"format.{g.pick(*_FORMATS)}()"


def decision(g: Grammar) -> str:
    """A chain over an authorizer, which an attribute never is."""
    start = g.of("any", 0)
    if g.rng.random() < 0.2:
        start += '.serviceAccount("ns", "name")'
    if g.rng.random() < 0.3:
        start += '.path("/x")'
    elif g.rng.random() < 0.7:
        start += g.pick('.group("g").resource("r")', '.resource("r")')
        parts = ('.namespace("n")', '.name("m")', '.subresource("s")', '.fieldSelector("a=b")', '.labelSelector("")')
        start += "".join(part for part in parts if g.rng.random() < 0.3)
    return start if g.rng.random() < 0.1 else f'{start}.check("get")'


def boolean(g: Grammar, depth: int) -> str:
    kind = g.rng.randrange(13)
    if kind == 12:
        asked = g.pick(
            "allowed()", "errored()", "reason().contains('x')", "error().isURL()", "reason() == device.driver"
        )
        return f"{decision(g)}.{asked}"
    if kind == 0:
        make = g.rng.choice((duration, timestamp))
        return f"({make(g, depth)} {g.pick('<', '<=', '>', '>=', '==', '!=')} {make(g, depth)})"
    if kind == 1:
        return f"{address(g, depth)}.{g.pick(*_PROPERTIES)}()"
    if kind == 2:
        return g.pick(
            f"isIP({_text(g, _ADDRESSES)})", f"ip.isCanonical({_text(g, _ADDRESSES)})", f"isCIDR({_text(g, _NETWORKS)})"
        )
    if kind == 3:
        other = address(g, depth) if g.rng.random() < 0.5 else _maybe_dyn(g, _text(g, _ADDRESSES))
        return f"{network(g, depth)}.containsIP({other})"
    if kind == 4:
        other = network(g, depth) if g.rng.random() < 0.5 else _maybe_dyn(g, _text(g, _NETWORKS))
        return f"{network(g, depth)}.containsCIDR({other})"
    if kind == 5:
        return f"isURL({_text(g, _URLS)})"
    if kind == 6:
        return f"{named(g)}.validate({_text(g, _NAMES + _DATA + _URLS)}).hasValue()"
    if kind == 7:
        things = (
            address(g, depth),
            network(g, depth),
            link(g),
            named(g),
            duration(g, 0),
            timestamp(g, 0),
            g.of("any", 0),
        )
        return f"(dyn({g.rng.choice(things)}) {g.pick('==', '!=')} dyn({g.rng.choice(things)}))"
    if kind == 8:
        make = g.rng.choice((duration, timestamp))
        return f"[{make(g, 0)}, {make(g, 0)}, {make(g, depth)}].isSorted()"
    if kind == 9:
        things = (address(g, 0), network(g, 0), link(g), duration(g, 0), timestamp(g, 0))
        one = g.rng.choice(things)
        return g.pick(
            f"({one} in [{one}, {g.rng.choice(things)}])",
            f"(dyn({one}) in [{g.rng.choice(things)}])",
            f"optional.ofNonZeroValue({one}).hasValue()",
        )
    if kind == 10:
        return f"({link(g)} == {link(g)})"
    name = g.pick("google.protobuf.Duration", "google.protobuf.Timestamp", "net.IP", "net.CIDR", "kubernetes.URL")
    things = (address(g, 0), network(g, 0), link(g), named(g), duration(g, 0), timestamp(g, 0))
    return f"(type({g.rng.choice(things)}) == {name})"


def integer(g: Grammar, depth: int) -> str:
    kind = g.rng.randrange(6)
    if kind == 0:
        zone = _text(g, _ZONES) if g.rng.random() < 0.5 else ""
        return f"{timestamp(g, depth)}.{g.pick(*_GETTERS)}({zone})"
    if kind == 1:
        return f"{duration(g, depth)}.{g.pick(*_GETTERS[6:])}()"
    if kind == 2:
        return f"int({g.rng.choice((duration, timestamp))(g, depth)})"
    if kind == 3:
        return f"{address(g, depth)}.family()"
    if kind == 4:
        return f"{network(g, depth)}.prefixLength()"
    return f"size({named(g)}.validate({_text(g, _NAMES + _DATA)}).orValue([]))"


def string(g: Grammar, depth: int) -> str:
    kind = g.rng.randrange(7)
    if kind == 6:
        values = [g.of(g.pick("int", "string", "bool", "any"), 0) for _ in range(g.rng.randrange(4))]
        values = [_maybe_dyn(g, value) for value in values]
        clauses = g.pick("%s", "%d", "%s-%d", "%%%b", "%x", "%X%o", "%", "%.3d", "%q", "a", "%s%s%s", "%.s", "%.")
        return f'"{clauses}".format([{", ".join(values)}])'
    if kind == 0:
        return f"string({g.rng.choice((duration, timestamp, address, network))(g, depth)})"
    if kind == 1:
        return f"{link(g)}.{g.pick('getScheme', 'getHost', 'getHostname', 'getPort', 'getEscapedPath')}()"
    if kind == 2:
        key = g.pick("k1", "k2", "e", "c", "x")
        return f'{link(g)}.getQuery()[?"{key}"].orValue([]).join(",")'
    if kind == 3:
        names = tuple(name for name in _FORMATS if name != "uri")
        return f"format.{g.pick(*names)}().validate({_text(g, _NAMES + _DATA)}).orValue([]).join()"
    if kind == 4:
        most = g.pick(
            f"[{duration(g, 0)}, {duration(g, depth)}].{g.pick('sum', 'min', 'max')}()",
            f"[{timestamp(g, 0)}, {timestamp(g, depth)}].{g.pick('min', 'max')}()",
        )
        return f"string({most})"
    return (
        f"string(type({g.rng.choice((duration, timestamp, address, network))(g, 0)}))"
        if g.rng.random() < 0.1
        else f"string([{duration(g, 0)}, {duration(g, 0)}].sort()[0])"
    )
