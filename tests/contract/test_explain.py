"""nvdra claim explain: verdicts, causes and changes that help, from dumps; bad input ends with one clear line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.contract import explained as e
from tests.contract.picture import GUIDE, svg

PROGRAM = [sys.executable, "-c", "import sys; from nvdra import cli; sys.exit(cli.start('nvdra', sys.argv[1:]))"]

Json = dict[str, Any]


class Dump:
    """Runs the command on a dump."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "cluster.json"

    def ask(self, *argv: str, content: bytes | None = None, objects: list[Json] | None = None) -> tuple[int, str, str]:
        if objects is not None:
            content = json.dumps(e.cluster(*objects)).encode()
        if content is not None:
            self.path.write_bytes(content)
        ran = subprocess.run(
            [*PROGRAM, "claim", "explain", "--from", str(self.path), *argv],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "COLUMNS": "100"},
        )
        assert "Traceback" not in ran.stderr, ran.stderr
        return ran.returncode, ran.stdout, ran.stderr

    def explain(self, name: str, *objects: Json, status: int = 1) -> Json:
        code, out, err = self.ask("--output", "json", name, objects=list(objects))
        assert code == status, err
        found: Json = json.loads(out)
        return found


@pytest.fixture
def dump(tmp_path: Path) -> Dump:
    return Dump(tmp_path)


def _codes(found: Json) -> set[str]:
    return {cause["code"] for cause in found["causes"]}


def _cause(found: Json, code: str) -> Json:
    one: Json = next(cause for cause in found["causes"] if cause["code"] == code)
    return one


def _help(found: Json) -> dict[str, str]:
    return {one["kind"]: one["change"] for one in found["relaxations"]}


def _node(*devices: Json, **more: Any) -> list[Json]:
    return [e.node("n1"), e.device_class(), e.slice_of("n1", list(devices), **more)]


def test_a_claim_that_fits_says_where(dump: Dump) -> None:
    found = dump.explain("ml/want", *_node(e.gpu(0)), e.claim("want"), status=0)
    assert found["fits"] == ["n1"]
    _, out, _ = dump.ask("ml/want")
    assert "fits now on n1; the scheduler has not tried since the last change" in out


def test_devices_in_use_name_their_claim_and_pod_and_its_end_helps(dump: Dump) -> None:
    found = dump.explain("ml/want", *_node(e.gpu(0)), e.claim("old", held=[("n1", "gpu-0")]), e.claim("want"))
    assert _cause(found, "device.in-use")["holders"] == ["ml/old (pod old-pod)"]
    assert _help(found) == {"release": "end claim ml/old (pod old-pod)"}


def test_a_selector_that_is_false_shows_the_values_it_saw(dump: Dump) -> None:
    wanted = "device.attributes['gpu.nvidia.com'].productName == 'NVIDIA B200'"
    found = dump.explain("ml/want", *_node(e.gpu(0)), e.claim("want", selectors=[{"cel": {"expression": wanted}}]))
    cause = _cause(found, "cel.request-false")
    assert cause["values"] == ['productName="NVIDIA H200"']
    assert wanted in cause["text"]
    assert "drop-selector" in _help(found)


def test_too_many_devices_ask_for_fewer(dump: Dump) -> None:
    found = dump.explain("ml/want", *_node(e.gpu(0), e.gpu(1)), e.claim("want", count=4))
    assert _help(found)["count"] == "ask for 2 instead of 4 devices in request gpu of claim want"


def test_a_taint_names_its_rule_and_a_toleration_helps(dump: Dump) -> None:
    rule = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "DeviceTaintRule",
        "metadata": {"name": "maintenance"},
        "spec": {
            "deviceSelector": {"pool": "n1"},
            "taint": {"key": "repair", "value": "rack-4", "effect": "NoSchedule"},
        },
    }
    found = dump.explain("ml/want", *_node(e.gpu(0)), rule, e.claim("want"))
    assert "taint repair=rack-4:NoSchedule of DeviceTaintRule maintenance" in _cause(found, "taint")["text"]
    assert _help(found) == {"tolerate": "tolerate the taint repair=rack-4:NoSchedule"}


def test_a_constraint_that_no_two_devices_meet_can_be_dropped(dump: Dump) -> None:
    constraint = {"matchAttribute": "resource.kubernetes.io/pcieRoot"}
    found = dump.explain("ml/want", *_node(e.gpu(0), e.gpu(2)), e.claim("want", count=2, constraints=[constraint]))
    assert "constraint.mismatch" in _codes(found)
    assert "drop-constraint" in _help(found)


def test_counters_that_are_short_name_who_draws_on_them(dump: Dump) -> None:
    def part(name: str, slices: int) -> Json:
        consumed = [{"counterSet": "gpu-0", "counters": {"memory": {"value": str(slices)}}}]
        return {"name": name, "consumesCounters": consumed, "attributes": {"type": {"string": name}}}

    counters = [{"name": "gpu-0", "counters": {"memory": {"value": "8"}}}]
    pool = {"resourceSliceCount": 2}
    objects = [
        e.node("n1"),
        e.device_class(),
        e.slice_of("n1", [part("whole", 8), part("half", 4)], pool=pool),
        {**e.slice_of("n1", [], pool=pool, sharedCounters=counters), "metadata": {"name": "n1-1"}},
        e.claim("old", held=[("n1", "half")]),
        e.claim("want", selectors=[{"cel": {"expression": "device.attributes['gpu.nvidia.com'].type == 'whole'"}}]),
    ]
    cause = _cause(dump.explain("ml/want", *objects), "counters.short")
    assert "counter memory is short: 8 needed, 4 left" in cause["text"]
    assert cause["holders"] == ["half (ml/old (pod old-pod))"]


def test_pools_that_are_incomplete_or_invalid_are_named(dump: Dump) -> None:
    incomplete = dump.explain("ml/want", *_node(e.gpu(0), pool={"resourceSliceCount": 2}), e.claim("want"))
    assert "1 of 2 slices" in _cause(incomplete, "pool.incomplete")["text"]
    invalid = dump.explain("ml/want", *_node(e.gpu(0), e.gpu(0)), e.claim("want"))
    assert "duplicate device name gpu-0" in _cause(invalid, "pool.invalid")["text"]


def test_errors_that_end_the_attempt_have_a_code(dump: Dump) -> None:
    broken = "device.attributes['gpu.nvidia.com'].missing == 1"
    found = dump.explain("ml/want", *_node(e.gpu(0)), e.claim("want", selectors=[{"cel": {"expression": broken}}]))
    assert [one["code"] for one in found["errors"]] == ["cel.runtime"]
    found = dump.explain("ml/want", e.node("n1"), e.slice_of("n1", [e.gpu(0)]), e.claim("want"))
    assert [one["code"] for one in found["errors"]] == ["class.missing"]


def test_a_pod_stands_for_its_claims(dump: Dump) -> None:
    objects = [*_node(e.gpu(0)), e.claim("one"), e.claim("two"), e.pod("both", "one", "two")]
    found = dump.explain("ml/both", *objects)
    assert found["claims"] == ["ml/one", "ml/two"]
    assert "taken by an earlier request of the same pod" in _cause(found, "device.in-use")["text"]
    assert dump.ask("--all")[0] == 0, "each claim alone fits"


def test_functions_the_engine_lacks_are_no_verdict(dump: Dump) -> None:
    unknown = "timestamp('2024-01-01T00:00:00Z').getHours('Europe/Berlin') == 1"
    found = dump.explain(
        "ml/want", *_node(e.gpu(0)), e.claim("want", selectors=[{"cel": {"expression": unknown}}]), status=3
    )
    assert found["nodes"][0]["verdict"] == "unknown"


_V1 = "resource.k8s.io/v1"
_BAD_COUNTERS = {"name": "c", "counters": {"m": {"value": "1x"}}}
_POOL = {"driver": "d", "pool": {"name": "p"}}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"items": [', "EOF while parsing"),
        ("[]", "an object of the Kubernetes API"),
        ("\x00", "expected value"),
        ({"kind": "ResourceSlice", "apiVersion": f"{_V1}beta1"}, "this reads resource.k8s.io/v1"),
        ({"kind": "ResourceClaim", "apiVersion": _V1, "spec": {"future": 1}}, "unknown field `future`"),
        (
            {"kind": "ResourceSlice", "apiVersion": _V1, "spec": {**_POOL, "sharedCounters": [_BAD_COUNTERS]}},
            "ResourceSlice x: quantity",
        ),
    ],
)  # fmt: skip
def test_files_that_cannot_be_used_are_explained(dump: Dump, content: str | Json, said: str) -> None:
    text = content if isinstance(content, str) else json.dumps({"metadata": {"name": "x"}, **content})
    code, _, err = dump.ask("ml/want", content=text.encode())
    assert code == 3
    assert said in err
    assert err.startswith(f"Error: {dump.path}: ")


_FOREIGN = {
    "half a surrogate pair": rb'{"a":"\ud800"}',
    "deep": b"[" * 5000 + b"]" * 5000,
    "a number without end": b"1" * 5000,
    "a number out of range": b"1e999999",
}


@pytest.mark.parametrize("text", _FOREIGN.values(), ids=list(_FOREIGN))
def test_parameters_of_other_drivers_keep_no_claim_from_its_explanation(dump: Dump, text: bytes) -> None:
    odd = e.claim("odd")
    odd["spec"]["devices"]["config"] = [{"opaque": {"driver": "other.example", "parameters": "PARAMETERS"}}]
    whole = json.dumps(e.cluster(*_node(e.gpu(0)), odd, e.claim("want"))).encode()
    for name in ("ml/odd", "ml/want"):
        code, out, err = dump.ask("--output", "json", name, content=whole.replace(b'"PARAMETERS"', text))
        assert err == ""
        assert json.loads(out)["claims"] == [name]
        assert code == 0


def test_bytes_that_are_no_text_are_named_and_keep_no_claim_from_its_explanation(dump: Dump) -> None:
    odd = e.claim("odd")
    odd["spec"]["devices"]["config"] = [{"opaque": {"driver": "other.example", "parameters": {"a": "BYTES"}}}]
    whole = json.dumps(e.cluster(*_node(e.gpu(0)), odd, e.claim("want"))).encode()
    for name in ("ml/odd", "ml/want"):
        code, out, err = dump.ask("--output", "json", name, content=whole.replace(b"BYTES", b"\xff\xfe"))
        assert err.startswith("Note: ResourceClaim odd has bytes that are not UTF-8"), err
        assert json.loads(out)["claims"] == [name]
        assert code == 0


def test_a_name_that_is_not_there_gets_a_suggestion(dump: Dump) -> None:
    code, _, err = dump.ask("ml/wnat", objects=[*_node(e.gpu(0)), e.claim("want")])
    assert code == 3
    assert "there is no claim and no pod ml/wnat; did you mean ml/want?" in err


@pytest.mark.parametrize(
    ("argv", "status", "said"),
    [
        ((), 2, "give one NAMESPACE/NAME"),
        (("want",), 2, "'want' is not NAMESPACE/NAME"),
        (("ml/want", "--output", "yaml"), 2, "must be one of text, json"),
        (("ml/want", "--release", "1.30"), 3, "no profile for Kubernetes 1.30"),
        (("ml/want", "--allocator-features", "Future=true"), 3, "feature Future is not known"),
        (("ml/want", "--allocator-features", "Future"), 2, "invalid syntax"),
        (("ml/want", "--node", "n9"), 3, "there is no node n9"),
    ],
)
def test_wrong_command_lines_are_explained(dump: Dump, argv: tuple[str, ...], status: int, said: str) -> None:
    code, _, err = dump.ask(*argv, objects=[*_node(e.gpu(0)), e.claim("want")])
    assert (code, said in err) == (status, True), err


def test_a_search_without_end_is_cut_off(dump: Dump) -> None:
    devices = [e.gpu(i, product=f"p{i % 2}") for i in range(40)]
    constraint = {"matchAttribute": "gpu.nvidia.com/productName"}
    found = dump.explain("ml/want", *_node(*devices), e.claim("want", count=21, constraints=[constraint]))
    assert found["nodes"][0]["verdict"] == "would time out in the scheduler after 10 s"


def test_a_file_that_is_not_there_is_named(dump: Dump) -> None:
    code, _, err = dump.ask("ml/want")
    assert code == 3
    assert str(dump.path) in err


def test_the_guide_shows_what_the_command_prints(dump: Dump) -> None:
    _, out, _ = dump.ask("ml/eval", content=json.dumps(e.example()).encode())
    assert out in (GUIDE / "pending-claims.md").read_text(encoding="utf-8"), out
    assert (GUIDE / "pending-claim.svg").read_text(encoding="utf-8") == svg("nvdra claim explain ml/eval", out)


def test_kubectl_finds_it_as_a_plugin(dump: Dump) -> None:
    code, out, _ = dump.ask("-n", "ml", "want", objects=[*_node(e.gpu(0)), e.claim("want")])
    assert code == 0
    program = PROGRAM[2].replace("'nvdra'", "'kubectl-nvdra'")
    command = [*PROGRAM[:2], program, "explain", "--from", str(dump.path), "--namespace", "ml", "want"]
    assert subprocess.run(command, capture_output=True, text=True, timeout=60).stdout == out


@pytest.mark.parametrize(
    ("release", "patch", "variant"),
    [("1.34", "1.34.13", "experimental"), ("1.35", "1.35.10", "incubating"), ("1.36", "1.36.6", "incubating")],
)
def test_an_earlier_release_answers_by_its_own_rules(dump: Dump, release: str, patch: str, variant: str) -> None:
    broken = "device.attributes['gpu.nvidia.com'].missing == 1"
    objects = [*_node(e.gpu(0)), e.claim("want", selectors=[{"cel": {"expression": broken}}])]
    _, out, _ = dump.ask("ml/want", "--release", release, "--output", "json", objects=objects)
    found = json.loads(out)
    assert found["profile"] == {"release": release, "patch": patch, "variant": variant}
    assert "on device" not in found["errors"][0]["error"]


def test_devices_without_a_common_compatibility_group_are_not_for_one_gpu(dump: Dump) -> None:
    def part(name: str, group: str) -> Json:
        counters = {"memory": {"value": "1"}}
        consumed = [{"counterSet": "gpu-0", "counters": counters, "compatibilityGroups": [group]}]
        return {"name": name, "consumesCounters": consumed, "attributes": {"type": {"string": name}}}

    counters = [{"name": "gpu-0", "counters": {"memory": {"value": "8"}}}]
    pool = {"resourceSliceCount": 2}
    objects = [
        e.node("n1"),
        e.device_class(),
        e.slice_of("n1", [part("graphics", "g"), part("compute", "c")], pool=pool),
        {**e.slice_of("n1", [], pool=pool, sharedCounters=counters), "metadata": {"name": "n1-1"}},
        e.claim("old", held=[("n1", "graphics")]),
        e.claim("want", selectors=[{"cel": {"expression": "device.attributes['gpu.nvidia.com'].type == 'compute'"}}]),
    ]
    gate = ("--allocator-features", "CompatibilityGroups=true")
    _, out, _ = dump.ask(*gate, "--output", "json", "ml/want", objects=objects)
    cause = _cause(json.loads(out), "counters.groups")
    assert "counter set gpu-0" in cause["text"]
    assert cause["holders"] == ["graphics (ml/old (pod old-pod))"]
    # With the gate off the scheduler ignores such slices, and the pool is incomplete.
    _, out, _ = dump.ask("--output", "json", "ml/want", objects=objects)
    assert _codes(json.loads(out)) == {"pool.incomplete"}
