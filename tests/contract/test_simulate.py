"""nvdra simulate: pods of a trace on a fleet, by kube-scheduler's allocator, with the same answer for the same seed."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from nvdra import cli
from nvdra.allocation import POLICIES
from nvdra.api import gates
from nvdra.gpu.shares import NOT_SHARED
from nvdra.programs.people.forecast_slices import portraits
from nvdra.programs.people.simulate_claims import generated
from nvdra.programs.people.simulate_fleet import of_types, wanted
from nvdra.programs.people.simulate_run import Scenario, prepared
from nvdra.programs.people.simulate_trace import from_entries

Json = dict[str, Any]
PROGRAM = [sys.executable, "-c", "import sys; from nvdra import cli; sys.exit(cli.start('nvdra', sys.argv[1:]))"]
DYNAMIC = "--feature-gates=DynamicMIG=true"
HEAD = "arrival,duration,claims\n"


def simulate(capsys: pytest.CaptureFixture[str], *argv: str, status: int = 0) -> tuple[str, str]:
    """Returns what the command prints, and its errors."""
    found = cli.start("nvdra", ["simulate", *argv])
    out, err = capsys.readouterr()
    assert found == status, err
    assert "Traceback" not in err
    return out, err


def only_run(text: str) -> Json:
    (scenario,) = json.loads(text)["scenarios"]
    (run,) = scenario["runs"]
    return dict(run)


def trace(folder: Path, *rows: str, head: str = HEAD) -> str:
    path = folder / "trace.csv"
    path.write_text(head + "".join(f"{row}\n" for row in rows), encoding="utf-8")
    return f"--trace={path}"


def placed(fleet: str, policy: str, pods: Sequence[str], seed: int = 1) -> list[tuple[str, list[str]]]:
    """Node and devices of each pod; all arrive at once and stay."""
    types = of_types([(wanted(fleet), gates.parse("DynamicMIG=true"), NOT_SHARED)], 37)
    made = from_entries((0.0, 1e6, claims) for claims in pods)
    run = prepared(Scenario("", types, policy, "1.37", (), 0), made, seed)
    while run.advance(100):
        pass
    return [(node, devices) for _, node, _, devices in run.placements()]


def test_pods_wait_until_devices_come_back(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out, _ = simulate(capsys, "--nodes=1xh200x1", trace(tmp_path, "0,100,gpu", "10,50,gpu", "20,10,gpu"), "-o=json")
    run = only_run(out)
    assert run["pods"] == {"all": 3, "arrived": 3, "placed": 3, "delayed": 2, "waiting": 0, "never": 0}
    assert run["wait"]["max"] == 130  # 20 to 150
    assert run["wait"]["p50"] == 90  # 10 to 100
    assert run["refused"] == {"device.in-use": 2}
    assert run["means"]["gpus"] == 1
    assert run["time"] == 160


def test_a_small_pod_passes_a_large_one_that_waits(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = ("0,100,gpu:6", "1,10,gpu:4", "2,10,gpu:2")
    out, _ = simulate(capsys, "--nodes=1xh100x8", trace(tmp_path, *rows), "-o=json")
    waits = {one["claims"]: one["wait"]["max"] for one in only_run(out)["templates"]}
    assert waits == {"gpu:6": 0, "gpu:4": 99, "gpu:2": 0}


def test_pods_of_one_kind_are_served_in_their_order(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = ("0,100,gpu:8", "1,10,gpu:8", "2,10,gpu:4", "3,10,gpu:8")
    out, _ = simulate(capsys, "--nodes=1xh100x8", trace(tmp_path, *rows), "-o=json")
    # At 100 the first that waits gets all; at 110 the pod with four is older than the last, which follows at 120.
    assert only_run(out)["wait"]["max"] == 117
    assert only_run(out)["time"] == 130


def test_partitions_fill_a_gpu_and_a_whole_gpu_waits_for_them(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rows = (*["0,100,mig:1g.18gb"] * 8, "1,10,gpu")
    out, _ = simulate(capsys, "--nodes=1xh200x1", DYNAMIC, trace(tmp_path, *rows), "-o=json")
    run = only_run(out)
    assert run["pods"]["delayed"] == 2
    assert run["refused"] == {"device.in-use": 1, "counters.short": 1}
    assert run["wait"]["max"] == 199  # the eighth partition first, then the whole GPU


def test_what_no_node_can_ever_serve_does_not_wait(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out, _ = simulate(capsys, "--nodes=2xh200x1", trace(tmp_path, "0,1,mig:1g", "0,1,gpu:2", "0,1,gpu"), "-o=json")
    run = only_run(out)
    assert run["pods"]["never"] == 2
    assert run["pods"]["waiting"] == 0
    assert sum(run["never"].values()) == 2


def test_an_alternative_serves_where_the_first_choice_is_not(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out, _ = simulate(capsys, "--nodes=1xh200x1", trace(tmp_path, "0,1,mig:1g|gpu"), "-o=json")
    assert only_run(out)["pods"]["placed"] == 1


def test_shares_fill_the_memory_of_a_gpu(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    shared = ("--feature-gates=ConsumableShares=true", "--consumable-shares=memory")
    out, _ = simulate(capsys, "--nodes=1xh200x1", *shared, trace(tmp_path, *["0,10,share:60Gi"] * 3), "-o=json")
    run = only_run(out)
    assert run["pods"]["delayed"] == 1  # 141 GB hold two
    assert run["refused"] == {"capacity.exhausted": 1}


def test_no_two_pods_ever_have_the_same_part_of_a_gpu() -> None:
    types = of_types([(wanted("3xh100x8"), gates.parse("DynamicMIG=true"), NOT_SHARED)], 37)
    pods = generated("mixed", 600, 40, 5)
    run = prepared(Scenario("", types, "scheduler", "1.37", (), 0), from_entries(pods), 5)
    while run.advance(100):
        pass
    slices = json.loads(types.groups[0].slices)
    parts = {
        device["name"]: {
            (used["counterSet"], name)
            for used in device["consumesCounters"]
            for name in used["counters"]
            if name.startswith("memory-slice")
        }
        for body in slices
        for device in body["spec"].get("devices", ())
    }
    events = [
        (time, order, node, devices)
        for number, node, start, devices in run.placements()
        for time, order in ((start, 1), (start + pods[number][1], 0))
    ]
    held: dict[str, set[tuple[str, str]]] = {name: set() for name in types.names}
    for _, begins, node, devices in sorted(events):
        for device in devices:
            if begins:
                assert not held[node] & parts[device]
                held[node] |= parts[device]
            else:
                held[node] -= parts[device]
    assert not any(held.values())
    assert len(events) > 1000


def test_packing_fills_a_node_and_spreading_takes_the_emptiest() -> None:
    packed = {node for node, _ in placed("4xh100x8", "packing", ["gpu"] * 8)}
    spread = {node for node, _ in placed("4xh100x8", "spreading", ["gpu"] * 4)}
    assert (len(packed), len(spread)) == (1, 4)


def test_devices_are_the_first_that_fit_as_the_scheduler_takes_them() -> None:
    found = placed("1xh100x8", "scheduler", ["gpu", "mig:3g.40gb", "gpu:2"])
    assert found[0][1] == ["gpu-0"]
    assert found[1][1][0].startswith("gpu-1-mig-3g40gb")
    assert found[2][1] == ["gpu-2", "gpu-3"]


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_seed_gives_the_same_answer(policy: str, capsys: pytest.CaptureFixture[str]) -> None:
    common = ("--nodes=30xh100x8", DYNAMIC, "--mix=mixed", "--pods=400", "--rate=300", f"--policy={policy}", "-o=json")
    first, _ = simulate(capsys, *common, "--seed=7")
    again, _ = simulate(capsys, *common, "--seed=7", "--threads=1")
    other, _ = simulate(capsys, *common, "--seed=8")
    assert first == again
    assert first != other


def test_everything_comes_back_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = simulate(
        capsys, "--nodes=3xh100x8", DYNAMIC, "--mix=mixed", "--pods=500", "--rate=100", "-o=json", "--seed=3"
    )
    run = only_run(out)
    assert run["pods"]["placed"] + run["pods"]["never"] == 500
    assert run["pods"]["waiting"] == 0
    assert all(0 <= share <= 1 for name in ("gpus", "memory", "fragmentation") for share in run["series"][name])
    assert len(run["series"]["time"]) == len(run["series"]["running"])


def test_scenarios_are_compared_over_the_same_pods(capsys: pytest.CaptureFixture[str]) -> None:
    common = ("--nodes=4xh100x8", "--mix=notebooks", "--pods=300", "--rate=40", "--seed=1", "--seed=2")
    compare = ("--compare=--nodes 4xh100x8@DynamicMIG=true", "--compare=--policy packing")
    out, _ = simulate(capsys, *common, *compare, "-o=json")
    found = json.loads(out)["scenarios"]
    assert [one["label"] for one in found] == ["A", "B", "C"]
    assert [one["policy"] for one in found] == ["scheduler", "scheduler", "packing"]
    assert [[run["seed"] for run in one["runs"]] for one in found] == [[1, 2]] * 3
    without, with_mig = (sum(run["wait"]["mean"] for run in one["runs"]) for one in found[:2])
    assert with_mig < without
    text, _ = simulate(capsys, *common, *compare)
    assert "B is A with --nodes 4xh100x8@DynamicMIG=true" in text
    assert re.search(r"^pods placed +300 +300 +300$", text, re.MULTILINE)


def test_a_generated_trace_can_be_written_and_read_again(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "week.csv"
    made, _ = simulate(
        capsys, "--nodes=2xh100x8", DYNAMIC, "--mix=mixed", "--pods=50", f"--write-trace={path}", "-o=json"
    )
    read, _ = simulate(capsys, "--nodes=2xh100x8", DYNAMIC, f"--trace={path}", "-o=json")
    assert len(path.read_text().splitlines()) == 51
    assert only_run(read)["pods"] == only_run(made)["pods"]


def test_a_json_trace_has_claims_of_its_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    request = {"name": "g", "exactly": {"deviceClassName": "gpu.nvidia.com", "count": 2}}
    constraint = {"matchAttribute": "resource.kubernetes.io/numaNode"}
    path = tmp_path / "trace.json"
    pods = [{"arrival": 0, "duration": "1h", "claims": ["near"], "name": "a", "node": "h100x8-1"}]
    pods += [{"arrival": "1m", "claims": "gpu"}]
    claims = {"near": {"devices": {"requests": [request], "constraints": [constraint]}}}
    path.write_text(json.dumps({"claims": claims, "pods": pods}))
    out, _ = simulate(capsys, "--nodes=2xh100x8", f"--trace={path}", "-o=json")
    run = only_run(out)
    assert run["pods"]["placed"] == 2
    assert run["time"] == 3600


@pytest.mark.parametrize("portrait", portraits())
def test_every_type_of_node_can_be_simulated(portrait: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out, _ = simulate(capsys, f"--nodes=2x{portrait}", trace(tmp_path, "0,1,gpu", "0,1,gpu"), "-o=json")
    assert only_run(out)["pods"]["placed"] == 2


BAD_TRACES = [
    (("5,1,gpu", "4,1,gpu"), HEAD, "line 3: arrival 4 is before 5"),
    (("-1,1,gpu",), HEAD, "line 2: arrival -1 is negative"),
    (("0,-1,gpu",), HEAD, "line 2: duration -1 is negative"),
    (("0,soon,gpu",), HEAD, "line 2: duration 'soon' is neither seconds nor a duration"),
    (("nan,1,gpu",), HEAD, "line 2: arrival nan is not finite"),
    (("0,1,tpu",), HEAD, "line 2: 'tpu' is no claim"),
    (("0,1,gpu:99",), HEAD, "a claim has 1 to 32 devices"),
    (("0,1,",), HEAD, "line 2 has no claims"),
    (("0,1",), HEAD, "line 2 does not have 3 columns"),
    ((), HEAD, "it has no pods"),
    (("0,1",), "arrival,duration\n", "the first line lacks claims"),
    (("0,1,gpu,x",), "arrival,duration,claims,colour\n", "unknown column colour"),
    (("0,9,gpu,a", "5,9,gpu,a"), "arrival,duration,claims,name\n", "line 3: pod a arrives at 5 and overlaps line 2"),
    (("0,1,gpu,n9",), "arrival,duration,claims,node\n", "the trace wants node n9, which the fleet does not have"),
]


@pytest.mark.parametrize(("rows", "head", "text"), BAD_TRACES)
def test_a_bad_trace_is_named_with_its_line(
    rows: tuple[str, ...], head: str, text: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out, err = simulate(capsys, "--nodes=1xh200x1", trace(tmp_path, *rows, head=head), status=3)
    assert text in err
    assert err.count("\n") == 1
    assert not out


@pytest.mark.parametrize(
    ("argv", "status", "text"),
    [
        (("--mix=mixed",), 2, "give the fleet"),
        (("--nodes=1xh200x1",), 2, "give the pods"),
        (("--nodes=0xh200x1", "--mix=mixed"), 2, "must be 1 to 1000000 nodes"),
        (("--nodes=h200x1", "--mix=mixed"), 2, "must be COUNTxTYPE"),
        (("--nodes=1xh300x8", "--mix=mixed"), 3, "no portrait 'h300x8'"),
        (("--nodes=1xh200x1@NoSuch=true", "--mix=mixed"), 2, "unrecognized feature gate: NoSuch"),
        (("--nodes=1xh200x1", "--mix=mixed", "--feature-gates=NoSuch=true"), 2, "unrecognized feature gate: NoSuch"),
        (("--nodes=1xh200x1", "--mix=mixed", "--policy=fair"), 2, "must be one of scheduler, packing, spreading"),
        (("--nodes=1xh200x1", "--mix=mixed", "--seed=4", "--seed=4"), 2, "seed 4 is given twice"),
        (("--nodes=1xh200x1", "--mix=mixed", "--seed=-4"), 2, "seed -4 is not between"),
        (("--nodes=1xh200x1", "--mix=mixed", "--compare="), 2, "--compare ''"),
        (("--nodes=1xh200x1", "--mix=mixed", "--compare=--trace x"), 2, "flag provided but not defined: -trace"),
        (("--nodes=1xh200x1", "--mix=mixed", "--rate=0"), 2, "must be at least 0.001"),
        (("--nodes=1xh200x1", "--mix=mixed", "--trace=x.csv"), 2, "exclude each other"),
        (("--nodes=1xh200x1", "--trace=/nowhere/x.csv"), 3, "/nowhere/x.csv"),
        (("--nodes=1xh200x1", "--dump=x.json", "--mix=mixed"), 2, "exclude each other"),
        (("--dump=/nowhere/x.json", "--mix=mixed"), 3, "/nowhere/x.json"),
        (("--nodes=1xh200x1", "--mix=mixed", "--allocator-features=Teleport=true"), 3, "feature Teleport is not known"),
        (("--nodes=1xh200x1", "--mix=mixed", "--plot=x.pdf"), 2, "must end in .svg or .png"),
        (("--replay",), 2, "--replay needs --dump FILE"),
    ],
)
def test_bad_input_ends_with_one_clear_line(
    argv: tuple[str, ...], status: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, err = simulate(capsys, *argv, status=status)
    assert text in err
    assert err.count("\n") == 1


def test_a_claim_that_fails_everywhere_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    selector = {"cel": {"expression": "device.attributes['gpu.nvidia.com'].nosuch == 'x'"}}
    exactly = {"deviceClassName": "gpu.nvidia.com", "selectors": [selector]}
    path = tmp_path / "trace.json"
    claims = {"odd": {"devices": {"requests": [{"name": "g", "exactly": exactly}]}}}
    path.write_text(json.dumps({"claims": claims, "pods": [{"arrival": 0, "claims": "odd"}]}))
    text, _ = simulate(capsys, "--nodes=1xh200x1", f"--trace={path}")
    assert "no such key: nosuch" in text
    path.write_text(json.dumps({"claims": {"odd": {"devices": {}}}, "pods": [{"arrival": 0, "claims": "odd"}]}))
    _, err = simulate(capsys, "--nodes=1xh200x1", f"--trace={path}", status=3)
    assert "claims 'odd' of the trace: claim odd-0 has no request" in err


def test_ctrl_c_gives_partial_results_and_says_so() -> None:
    argv = ("--nodes=3000xh100x8", DYNAMIC, "--mix=mixed", "--pods=400000", "--rate=3000", "--progress", "--threads=1")
    with subprocess.Popen(
        [*PROGRAM, "simulate", *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stderr is not None
        shown = ""
        while not re.search(r"[1-9][0-9,]* of 400,000 pods", shown):
            letter = child.stderr.read(1)
            assert letter, shown
            shown += letter
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "PARTIAL results of 1 of 1 runs" in out
    assert "PARTIAL results" in err
    assert "Traceback" not in err
