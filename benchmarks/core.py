"""The native core against plain Python doing the same: its twins, which are held to the same bytes by the unit tests.

Portrait: what one plain GPU claim needs on a node with eight GPUs, as the recordings have it.
"""

from __future__ import annotations

import dataclasses
import json
import timeit
from collections.abc import Callable
from pathlib import Path

from benchmarks.row import THREE_TIMES, Row
from nvdra import cdi
from nvdra.api import decode_claim
from nvdra.checkpoint import Checkpoint, Encoder
from nvdra.checkpoint import decode as decode_checkpoint
from nvdra.checkpoint import encode as encode_checkpoint
from nvdra.gpu.matching import match
from tests.twins import cdi as cdi_twin
from tests.twins import checkpoint as checkpoint_twin
from tests.twins import claim as claim_twin
from tests.twins import matching as matching_twin

RECORDING = Path(__file__).parents[1] / "tests" / "golden" / "recordings" / "v0.4.1-plain"
ROUNDS = 15


def pair_us(ours: Callable[[], object], other: Callable[[], object]) -> tuple[float, float]:
    """Microseconds a call of each, the best of rounds taken in turn, so that both see the same machine."""
    timers = [timeit.Timer(ours), timeit.Timer(other)]
    counts = [max(1, int(0.02 / timer.timeit(1))) for timer in timers]
    best = [float("inf"), float("inf")]
    for _ in range(ROUNDS):
        for index, (timer, count) in enumerate(zip(timers, counts, strict=True)):
            best[index] = min(best[index], timer.timeit(count) / count)
    return best[0] * 1e6, best[1] * 1e6


def _row(question: str, ours: Callable[[], object], other: Callable[[], object], note: str = "") -> Row:
    fast, slow = pair_us(ours, other)
    return Row(question, fast, slow, "µs", f"other: Python; {note}" if note else "other: Python", THREE_TIMES)


def rows() -> list[Row]:
    return [*_cdi(), *_checkpoint(), *_claims()]


def _cdi() -> list[Row]:
    files = sorted((RECORDING / "cdi").glob("*.yaml"))
    document = cdi.simplify(cdi.parse(files[0].read_bytes()))
    version = cdi.minimum_version(document)
    devices = [(device.name, device.edits) for device in document.devices]
    common = cdi.Common(document.edits)
    assert cdi.render_claim(cdi.GPU_CLAIMS, common, devices) == cdi_twin.render(document, version)
    return [
        _row(
            "a claim's CDI file, common part at hand",
            lambda: cdi.render_claim(cdi.GPU_CLAIMS, common, devices),
            lambda: cdi_twin.render(document, version),
            "as a prepare does it",
        ),
        _row(
            "a whole CDI document",
            lambda: cdi.render(document),
            lambda: cdi_twin.render(document, version),
            "validation included, which the twin leaves out",
        ),
    ]


def _checkpoint() -> list[Row]:
    recorded = decode_checkpoint((RECORDING / "checkpoint.json").read_bytes())
    [entry, *_] = (entry for entry in recorded.entries.values() if b'"config"' not in entry.status)
    entries = {f"{number:08x}-9c9b-472a-bbb4-ab445ec1fb39": dataclasses.replace(entry) for number in range(8)}
    checkpoint = Checkpoint(recorded.boot_id, entries)
    encoder = Encoder()
    assert encoder.encode(checkpoint) == checkpoint_twin.encode(checkpoint)
    last = max(entries)

    def with_one_changed() -> bytes:
        changed = {**checkpoint.entries, last: dataclasses.replace(entry)}
        return encoder.encode(Checkpoint(checkpoint.boot_id, changed))

    return [
        _row(
            "a checkpoint of 8 claims, one of them new",
            with_one_changed,
            lambda: checkpoint_twin.encode(checkpoint),
            "as a prepare does it; nearly all of it is the checksum, each bit of which waits for the one before",
        ),
        _row(
            "a checkpoint of 8 claims, all new",
            lambda: encode_checkpoint(checkpoint),
            lambda: checkpoint_twin.encode(checkpoint),
        ),
    ]


def _claims() -> list[Row]:
    claims = json.loads((RECORDING / "claims.json").read_text())
    body = json.dumps(claims["with-config"]).encode()

    def decoded() -> bytes:
        return claim_twin.status(json.loads(body)["status"])

    assert decode_claim(body).status == decoded()
    results = [(f"request-{number}", f"gpu-{number}", "gpu") for number in range(8)]
    configs: list[tuple[tuple[str, ...], str]] = [((), "GpuConfig"), ((), "MigDeviceConfig"), ((), "VfioDeviceConfig")]
    configs += [((f"request-{number}",), "GpuConfig") for number in range(8)]
    assert match(results, configs) == matching_twin.match_configs(results, configs)
    return [
        _row("a claim decoded and projected", lambda: decode_claim(body), decoded),
        _row(
            "8 results matched to 11 configs",
            lambda: match(results, configs),
            lambda: matching_twin.match_configs(results, configs),
        ),
    ]


if __name__ == "__main__":
    for row in rows():
        print(f"{row.question:45} {row.ours:9.1f} {row.other:9.1f} {row.unit}  {row.ratio:6.1f} ×  {row.note}")
