"""Differential tests: `python -m tests.oracle --cases N` compares the engine with the scheduler's own allocator."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from .compare import difference
from .expressions import cel_case
from .processes import ROOT, Answerer, Json, ask
from .shrink import shrink
from .worlds import Worlds

FIXTURES = Path(__file__).parent / "fixtures"
_BATCH = 16
NEWEST = "1.37"
_NEW_FEATURES = ("FractionalCapacityRange", "ListTypeAttributes")


def cases(number: int, seed: int, kinds: list[str]) -> Iterator[Json]:
    """Yields the recorded cases, then random ones."""
    for path in sorted(FIXTURES.glob("*.json")):
        case: Json = json.loads(path.read_text())
        if case["kind"] in kinds:
            yield case
    for index in range(number):
        if "cel" in kinds and ("allocate" not in kinds or index % 2):
            yield cel_case(seed + index)
        else:
            yield Worlds(seed + index).case()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", action="append", choices=("allocate", "cel"), default=None)
    parser.add_argument("--release", default=NEWEST, help="Kubernetes release to compare with")
    parser.add_argument("--oracle", type=Path, default=None, help="else .make/oracle-RELEASE")
    parser.add_argument("--engine", type=Path, default=ROOT / "native/target/quick/examples/answers")
    parser.add_argument("--stop-after", type=int, default=5, help="mismatches after which to stop")
    parser.add_argument("--record", action="store_true", help="write shrunk mismatches as fixtures")
    options = parser.parse_args()
    kinds = options.kind or ["allocate", "cel"]
    seen: Counter[str] = Counter()
    wrong = 0
    begin = time.monotonic()
    program = options.oracle or ROOT / f".make/oracle-{options.release}"
    with Answerer(program) as oracle, Answerer(options.engine) as engine:
        pair = (oracle, engine)
        stream = (_of(case, options.release) for case in cases(options.cases, options.seed, kinds))
        while batch := [case for _, case in zip(range(_BATCH), stream, strict=False)]:
            for case in batch:
                line = json.dumps(case).encode() + b"\n"
                oracle.send(line)
                engine.send(line)
            answers = [(oracle.receive(), engine.receive()) for _ in batch]
            for case, (theirs, ours) in zip(batch, answers, strict=True):
                _count(seen, theirs, ours)
                found = difference(theirs, ours)
                if found is None or (options.release != NEWEST and found.startswith("INPUT")):
                    continue
                wrong += 1
                _report(pair, case, found, options.record)
                if wrong >= options.stop_after:
                    print(f"stopped after {wrong} mismatches", file=sys.stderr)
                    return 1
    seconds = time.monotonic() - begin
    total = sum(seen.values())
    print(f"{total} verdicts, {wrong} mismatches, seed {options.seed}, {seconds:.0f} s: {dict(seen.most_common())}")
    return 1 if wrong else 0


def _of(case: Json, release: str) -> Json:
    """Returns the case for a release: gates that the engine does not know there are off, another takes their place."""
    features = dict(case.get("features") or {})
    if release != NEWEST and case["kind"] == "allocate":
        # Without any of these the variant would be the one that takes pools in random order.
        features["DeviceBindingAndStatus"] = bool(features.get("DeviceBindingAndStatus")) or any(
            features.get(name) for name in _NEW_FEATURES
        )
    if release != NEWEST:
        features |= dict.fromkeys(_NEW_FEATURES, False)
    return {**case, "features": features, "release": release}


def _count(seen: Counter[str], theirs: Json, ours: Json) -> None:
    for node in ours.get("nodes") or []:
        seen[f"node {node['outcome']}"] += 1
    for device in ours.get("devices") or []:
        seen["cel " + next(k for k in ("match", "error", "unsupported") if k in device)] += 1
    for key in ("compileError", "unsupported", "error"):
        if key in ours:
            seen[f"case {key}"] += 1
    if "panic" in json.dumps(theirs):
        seen["oracle panic"] += 1


def _report(pair: tuple[Answerer, Answerer], case: Json, found: str, record: bool) -> None:
    release = case["release"]

    def fails(smaller: Json) -> bool:
        smaller["release"] = release
        again = difference(*ask(pair, smaller))
        return again is not None and not again.startswith("INPUT")

    small = shrink(case, fails)
    print(f"MISMATCH {case['id']}: {difference(*ask(pair, small)) or found}\n  {json.dumps(small)}", file=sys.stderr)
    if record:
        FIXTURES.mkdir(exist_ok=True)
        target = FIXTURES / f"{case['id']}.json"
        target.write_text(json.dumps(small, indent=1) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
