"""Differential tests: `python -m tests.oracle --cases N` compares the engine with the scheduler's own allocator."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from .compare import difference
from .expressions import cel_case
from .processes import ROOT, Answerer, Json, ask
from .shrink import shrink
from .upstream import upstream_cases
from .worlds import Worlds

FIXTURES = Path(__file__).parent / "fixtures"
_BATCH = 16
NEWEST = "1.37"
_NEW_FEATURES = ("CompatibilityGroups", "FractionalCapacityRange", "ListTypeAttributes")
_LATE_FEATURES = ("ConsumableCapacity", "DeviceBindingAndStatus")
# These take pools in random order.
_UNORDERED = ("1.34", "1.35")
_TRIALS = 100


def _cases(options: argparse.Namespace, kinds: list[str]) -> Iterator[Json]:
    """Yields the recorded cases and those of the release's own tests, if this worker takes them, then random ones."""
    if options.first:
        if options.tables:
            yield from (case for case in upstream_cases(options.release) if case["kind"] in kinds)
        for path in sorted(FIXTURES.glob("*.json")):
            case: Json = json.loads(path.read_text())
            if case["kind"] in kinds:
                yield case
    for seed in range(options.seed, options.seed + options.cases):
        if "cel" in kinds and ("allocate" not in kinds or seed % 2):
            yield cel_case(seed)
        else:
            yield Worlds(seed).case()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", action="append", choices=("allocate", "cel"), default=None)
    parser.add_argument("--release", default=NEWEST, help="Kubernetes release to compare with")
    parser.add_argument("--oracle", type=Path, default=None, help="else .make/oracle-RELEASE")
    parser.add_argument("--engine", type=Path, default=ROOT / "native/target/quick/examples/answers")
    parser.add_argument("--stop-after", type=int, default=5, help="mismatches after which to stop")
    parser.add_argument("--tables", action="store_true", help="also the cases of the release's own tests (needs Go)")
    parser.add_argument("--record", action="store_true", help="write shrunk mismatches as fixtures")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the cases")
    options = parser.parse_args()
    seen: Counter[str] = Counter()
    wrong = 0
    begin = time.monotonic()
    with multiprocessing.Pool(options.workers) as pool:
        for part, mismatches in pool.imap_unordered(_run, _shares(options)):
            seen += part
            wrong += mismatches
    seconds = time.monotonic() - begin
    about = f"{options.release}, seeds {options.seed} to {options.seed + options.cases - 1}, {seconds:.0f} s"
    print(f"{sum(seen.values())} verdicts, {wrong} mismatches, {about}: {dict(seen.most_common())}")
    return 1 if wrong else 0


def _shares(options: argparse.Namespace) -> list[argparse.Namespace]:
    """Returns what each worker does: consecutive seeds; the first also takes the cases that are not random."""
    size = -(-options.cases // options.workers)
    return [
        argparse.Namespace(**{
            **vars(options), "first": index == 0, "seed": options.seed + index * size,
            "cases": max(0, min(size, options.cases - index * size)),
        })
        for index in range(options.workers)
    ]  # fmt: skip


def _run(options: argparse.Namespace) -> tuple[Counter[str], int]:
    """Compares the cases of one worker; returns what was answered and the number of mismatches."""
    kinds = options.kind or ["allocate", "cel"]
    seen: Counter[str] = Counter()
    wrong = 0
    program = options.oracle or ROOT / f".make/oracle-{options.release}"
    with Answerer(program) as oracle, Answerer(options.engine) as engine:
        pair = (oracle, engine)
        stream = (_of(case, options.release) for case in _cases(options, kinds))
        while batch := [case for _, case in zip(range(_BATCH), stream, strict=False)]:
            for case in batch:
                line = json.dumps(case).encode() + b"\n"
                oracle.send(line)
                engine.send(line)
            answers = [(oracle.receive(), engine.receive()) for _ in batch]
            for case, (theirs, ours) in zip(batch, answers, strict=True):
                _count(seen, theirs, ours)
                found = _difference(pair, case, theirs, ours)
                if found is None or (options.release != NEWEST and found.startswith("INPUT")):
                    continue
                wrong += 1
                _report(pair, case, found, options.record)
                if wrong >= options.stop_after:
                    print(f"stopped after {wrong} mismatches", file=sys.stderr)
                    return seen, wrong
    return seen, wrong


def _of(case: Json, release: str) -> Json:
    """Returns the case for a release: gates that the engine does not know there are off, another takes their place."""
    if case["id"].startswith("table-"):
        return {**case, "release": release}
    features = dict(case.get("features") or {})
    if release in _UNORDERED and case["kind"] == "allocate":
        draw = random.Random(case["id"]).random()
        off = {name: False for name in features if draw < 0.15 or (draw < 0.5 and name in _LATE_FEATURES)}
        features |= off | ({} if off else {_LATE_FEATURES[draw < 0.75]: True})
    elif release != NEWEST and case["kind"] == "allocate":
        # Without any of these the variant would be the one that takes pools in random order.
        features["DeviceBindingAndStatus"] = bool(features.get("DeviceBindingAndStatus")) or any(
            features.get(name) for name in _NEW_FEATURES
        )
    if release != NEWEST:
        features |= {name: False for name in _NEW_FEATURES if release in _UNORDERED or name != "ListTypeAttributes"}
    return {**case, "features": features, "release": release}


def _difference(pair: tuple[Answerer, Answerer], case: Json, theirs: Json, ours: Json) -> str | None:
    """Says in what the answers differ; where the oracle's is random, whether the engine's is none of many."""
    found = difference(theirs, ours)
    if case["kind"] == "allocate" and (case["release"] in _UNORDERED or not _is_ordered(case)):
        for _ in range(_TRIALS):
            if found is None or found.startswith("INPUT"):
                break
            found = difference(ask(pair[:1], case)[0], ours)
    return found


def _is_ordered(case: Json) -> bool:
    """Whether the variant for the case takes pools in a fixed order."""
    return any((case.get("features") or {}).get(name) for name in (*_LATE_FEATURES, *_NEW_FEATURES))


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
        again = _difference(pair, smaller, *ask(pair, smaller))
        return again is not None and not again.startswith("INPUT")

    small = shrink(case, fails)
    found = _difference(pair, small, *ask(pair, small)) or found
    print(f"MISMATCH {case['id']}: {found}\n  {json.dumps(small)}", file=sys.stderr)
    if record:
        FIXTURES.mkdir(exist_ok=True)
        target = FIXTURES / f"{case['id']}.json"
        target.write_text(json.dumps(small, indent=1) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
