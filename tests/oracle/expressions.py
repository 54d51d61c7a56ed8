# ruff: noqa: E501
"""Random CEL: selectors for allocation cases, and wider expressions for the environment itself."""

from __future__ import annotations

import random

from . import libraries
from .processes import Json

_SELECTORS = (
    'device.driver == "a.example"',
    'device.driver == "a.example" && device.attributes["a.example"].x >= 2',
    '"x" in device.attributes["a.example"] && device.attributes["a.example"].x == 1',
    'device.attributes[device.driver].?s.orValue("") == "one"',
    'has(device.attributes["a.example"].flag)',
    'device.attributes["other.example"].?root.orValue("") == "r1"',
    'device.capacity[device.driver].?mem.hasValue()',
    'device.capacity["a.example"].?mem.orValue(quantity("0")).compareTo(quantity("4")) >= 0',
    "device.attributes[device.driver].exists(k, k == 'x')",
    "device.attributes[device.driver].?v.orValue(semver('0.1.0')) != semver('1.0.0')",
    "device.allowMultipleAllocations",
    "!device.allowMultipleAllocations",
    'device.attributes[device.driver].?l.optMap(l, l.includes(1)).orValue(true)',
    "true",
    "true",
    "false",
)  # fmt: skip
_BROKEN = (
    'device.attributes["a.example"].v.isGreaterThan(semver("1.1.0"))',
    'device.capacity["a.example"].mem.compareTo(quantity("4")) >= 0',
    "device.name == 'x'",
    "device.driver == 5",
    "device.attributes['a.example'].x.foo",
    "1 +",
    "size(device.driver) > 'a'",
)


def selector(rng: random.Random) -> str:
    """Returns a selector; seldom one that fails."""
    if rng.random() < 0.02:
        return rng.choice(_BROKEN)
    return rng.choice(_SELECTORS)


class Expressions:
    """Grows expressions from a grammar, types mixed up now and then."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.variables: list[str] = []

    def pick(self, *options: str) -> str:
        return self.rng.choice(options)

    def of(self, kind: str, depth: int) -> str:
        """Returns an expression of about that kind."""
        if self.rng.random() < 0.02:
            kind = self.pick("bool", "int", "string", "list", "any", "quantity", "semver", "optional", "entry")
        return str(getattr(self, f"_{kind}")(depth))

    def _any(self, depth: int) -> str:
        domain = self.pick('"a.example"', '"other.example"', "device.driver", '"none"')
        name = self.pick("x", "s", "flag", "v", "l", "root", "missing")
        options = [f"device.attributes[{domain}].{name}", f'device.attributes[{domain}]["{name}"]']
        if self.variables:
            options += [self.rng.choice(self.variables)] * 3
        return self.rng.choice(options)

    def _bool(self, depth: int) -> str:
        if depth <= 0:
            return self.pick("true", "false", "device.allowMultipleAllocations", self._any(0))
        b, i, s, q, v = (
            lambda kind=k: self.of(kind, depth - 1) for k in ("bool", "int", "string", "quantity", "semver")
        )
        kind = self.rng.randrange(23)
        if kind >= 19:
            return libraries.boolean(self, depth - 1)
        if kind == 0:
            return f"({b()} && {b()})"
        if kind == 1:
            return f"({b()} || {b()})"
        if kind == 2:
            return f"!{b()}"
        if kind == 3:
            return f"({i()} {self.pick('<', '<=', '>', '>=', '==', '!=')} {i()})"
        if kind == 4:
            return f"({s()} {self.pick('==', '!=', '<', '>=')} {s()})"
        if kind == 5:
            return f"({b()} ? {b()} : {b()})"
        if kind == 6:
            return f"{s()}.{self.pick('startsWith', 'endsWith', 'contains', 'matches')}({s()})"
        if kind == 7:
            return f"{self.pick(chr(34) + 'x' + chr(34), s())} in device.attributes[{self.pick(chr(34) + 'a.example' + chr(34), s())}]"
        if kind == 8:
            return f"has(device.attributes[{s()}].{self.pick('x', 's', 'missing')})"
        if kind == 9:
            return f"{self.of('any', 0)} {self.pick('==', '!=')} {self.of(self.pick('any', 'int', 'string', 'bool'), depth - 1)}"
        if kind == 10:
            return self._macro(depth)
        if kind == 11:
            return f"{q()}.{self.pick('isGreaterThan', 'isLessThan')}({q()})"
        if kind == 12:
            return f"{v()}.{self.pick('isGreaterThan', 'isLessThan')}({v()})"
        if kind == 13:
            return f"{self.of('optional', depth - 1)}.{self.pick('hasValue()', 'orValue(' + b() + ')')}"
        if kind == 14:
            return f"{self.of('any', 0)} in {self.of('list', depth - 1)}"
        if kind == 15:
            return f"sets.{self.pick('contains', 'equivalent', 'intersects')}({self.of('list', depth - 1)}, {self.of('list', depth - 1)})"
        if kind == 16:
            return f"{self.of('any', 0)}.includes({self.of(self.pick('int', 'string', 'any'), 0)})"
        if kind == 17:
            return f"{self.pick('isQuantity', 'isSemver')}({s()})"
        return f"({self.of('any', 0)} {self.pick('<', '<=', '>', '>=')} {self.of(self.pick('int', 'string', 'any'), depth - 1)})"

    def _macro(self, depth: int) -> str:
        name = f"i{len(self.variables)}"
        source = self.pick("list", "list", "entry", "any")
        collection = self.of(source, depth - 1)
        if self.rng.random() < 0.2:
            value = self.of(self.pick("int", "string", "any", "map"), depth - 1)
            self.variables.append(name)
            body = self.of("bool", depth - 1)
            self.variables.pop()
            return f"cel.bind({name}, {value}, {body})"
        two = self.rng.random() < 0.3
        self.variables.append(name)
        if two:
            self.variables.append(f"{name}v")
        body = self.of("bool", depth - 1)
        if two:
            self.variables.pop()
        self.variables.pop()
        names = f"{name}, {name}v" if two else name
        return f"{collection}.{self.pick('all', 'exists', 'exists_one')}({names}, {body})"

    def _int(self, depth: int) -> str:
        if depth <= 0:
            return self.pick("0", "1", "2", "3", "-1", self._any(0))
        i, s = (lambda kind=k: self.of(kind, depth - 1) for k in ("int", "string"))
        kind = self.rng.randrange(11)
        if kind >= 9:
            return libraries.integer(self, depth - 1)
        if kind == 0:
            return f"({i()} {self.pick('+', '-', '*', '/', '%')} {i()})"
        if kind == 1:
            return f"size({self.of(self.pick('string', 'list', 'map', 'any'), depth - 1)})"
        if kind == 2:
            offset = self.pick("", "", f", {i()}")
            return f"{s()}.{self.pick('indexOf', 'lastIndexOf')}({s()}{offset})"
        if kind == 3:
            return f"{self.of('list', depth - 1)}.{self.pick('sum', 'min', 'max')}()"
        if kind == 4:
            return f"{self.of('semver', depth - 1)}.{self.pick('major', 'minor', 'patch')}()"
        if kind == 5:
            return f"{self.of('quantity', depth - 1)}.{self.pick('compareTo(' + self.of('quantity', depth - 1) + ')', 'asInteger()')}"
        if kind == 6:
            return f"int({self.of(self.pick('string', 'any', 'int'), depth - 1)})"
        if kind == 7:
            return f"({self.of('bool', depth - 1)} ? {i()} : {i()})"
        return self.of("any", 0)

    def _string(self, depth: int) -> str:
        if depth <= 0:
            return self.pick(
                '"a.example"', '"one"', '"two"', '""', '"x"', "device.driver", '"1.2.0"', '"1Gi"', self._any(0)
            )
        s, i = (lambda kind=k: self.of(kind, depth - 1) for k in ("string", "int"))
        kind = self.rng.randrange(10)
        if kind >= 8:
            return libraries.string(self, depth - 1)
        if kind == 0:
            return f"({s()} + {s()})"
        if kind == 1:
            return f"{s()}.{self.pick('lowerAscii()', 'upperAscii()', 'trim()')}"
        if kind == 2:
            return f"{s()}.{self.pick('substring', 'charAt')}({i()})"
        if kind == 3:
            return f"{s()}.replace({s()}, {s()})"
        if kind == 4:
            return f"{self.of('list', depth - 1)}.join({s()})"
        if kind == 5:
            return f"string({self.of(self.pick('int', 'bool', 'any', 'string'), depth - 1)})"
        if kind == 6:
            return f"{self.of('optional', depth - 1)}.orValue({s()})"
        return f"{s()}.find({self.pick(s(), chr(34) + '[a-z]+' + chr(34))})"

    def _list(self, depth: int) -> str:
        if depth <= 0:
            return self.pick("[]", "[1, 2, 3]", '["one", "two"]', f"[{self._any(0)}]", self._any(0))
        kind = self.rng.randrange(9)
        name = f"m{len(self.variables)}"
        if kind == 0:
            return f"({self.of('list', depth - 1)} + {self.of('list', depth - 1)})"
        if kind in (1, 2):
            collection = self.of(self.pick("list", "entry"), depth - 1)
            self.variables.append(name)
            macro = self.pick("map", "filter")
            body = self.of("bool" if macro == "filter" else self.pick("int", "string", "any"), depth - 1)
            self.variables.pop()
            return f"{collection}.{macro}({name}, {body})"
        if kind == 3:
            return f"{self.of('string', depth - 1)}.split({self.pick(chr(34) + '.' + chr(34), self.of('string', 0))})"
        if kind == 4:
            return f"[{self.of('int', depth - 1)}, {self.of('int', depth - 1)}]"
        if kind == 5:
            return f"{self.of('list', depth - 1)}.{self.pick('reverse()', 'distinct()', 'sort()', 'slice(0, 1)')}"
        if kind == 6:
            return f"lists.range({self.of('int', 0)})"
        if kind == 7:
            collection = self.of("list", depth - 1)
            self.variables += [name, f"{name}v"]
            body = self.of("int", depth - 1)
            del self.variables[-2:]
            return f"{collection}.transformList({name}, {name}v, {body})"
        return f"[{self.of('string', depth - 1)}]"

    def _map(self, depth: int) -> str:
        return self.pick(
            "device.attributes", 'device.attributes["a.example"]', "device.capacity", '{"a": 1, "b": 2}', "{}"
        )

    def _entry(self, depth: int) -> str:
        """A map of one entry at most: the order of more is random."""
        return self.pick('{"a": 1}', "device.capacity", "{}")

    def _quantity(self, depth: int) -> str:
        plain = self.pick('quantity("1Gi")', 'quantity("4")', 'quantity("1500m")', f"quantity({self.of('string', 0)})")
        capacity = f"device.capacity[{self.pick(chr(34) + 'a.example' + chr(34), 'device.driver')}].{self.pick('mem', 'cores')}"
        if depth > 0 and self.rng.random() < 0.3:
            return f"{self.of('quantity', depth - 1)}.{self.pick('add', 'sub')}({self.of(self.pick('quantity', 'int'), depth - 1)})"
        return self.pick(plain, capacity, capacity)

    def _semver(self, depth: int) -> str:
        text = self.pick('"1.1.0"', '"v1.2"', '"1.0.0-rc.1"', self.of("string", 0))
        return self.pick(f"semver({text})", f"semver({text}, true)", 'device.attributes["a.example"].v')

    def _optional(self, depth: int) -> str:
        domain = self.pick('"a.example"', "device.driver", '"none"')
        plain = self.pick(
            f"device.attributes[{domain}].?{self.pick('x', 's', 'missing')}",
            f'device.attributes[?{domain}][?"{self.pick("x", "s", "missing")}"]',
            f"device.capacity[{domain}].?mem",
            "optional.none()",
            f"optional.of({self.of(self.pick('int', 'string', 'any'), 0)})",
            f"{self.of('list', 0)}.{self.pick('first()', 'last()')}",
        )
        if depth > 0 and self.rng.random() < 0.3:
            name = f"o{len(self.variables)}"
            self.variables.append(name)
            body = self.of(self.pick("int", "string", "bool"), depth - 1)
            self.variables.pop()
            return f"{plain}.optMap({name}, {body})"
        if depth > 0 and self.rng.random() < 0.3:
            return f"{plain}.or({self.of('optional', depth - 1)})"
        return plain


def cel_case(seed: int) -> Json:
    """Returns one expression with devices to evaluate it on."""
    rng = random.Random(seed)
    devices: list[Json] = []
    for driver in ("a.example", "b.example"):
        attributes: Json = {}
        for name, value in (
            ("x", {"int": rng.choice((0, 1, 2))}),
            ("s", {"string": rng.choice(("one", "two", "", "a.example"))}),
            ("flag", {"bool": rng.random() < 0.5}),
            ("v", {"version": rng.choice(("1.0.0", "1.2.0", "1.1.0-rc.1"))}),
            (
                "l",
                rng.choice(
                    (
                        {"ints": [1, 2]},
                        {"strings": ["one", "x"]},
                        {"bools": [True]},
                        {"versions": ["1.1.0"]},
                        {"ints": []},
                    )
                ),
            ),
            ("other.example/root", {"string": "r1"}),
        ):
            if rng.random() < 0.8:
                attributes[name] = value
        capacity = {
            name: {"value": rng.choice(("4", "1Gi", "1500m", "0.5Gi", "0"))}
            for name in ("mem", "cores")
            if rng.random() < 0.7
        }
        devices.append(
            {
                "driver": driver,
                "attributes": attributes,
                "capacity": capacity,
                "allowMultipleAllocations": rng.random() < 0.3,
            }
        )
    expression = Expressions(rng).of("bool", rng.choice((1, 2, 2, 3)))
    features = {"ConsumableCapacity": True, "ListTypeAttributes": rng.random() < 0.5}
    return {
        "id": f"cel-{seed}",
        "kind": "cel",
        "env": "stored",
        "features": features,
        "expression": expression,
        "devices": devices,
    }
