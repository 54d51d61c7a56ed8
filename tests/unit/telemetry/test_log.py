"""Log lines, by the forms that people and tests search for."""

from __future__ import annotations

import io
import json
import logging
import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvdra import telemetry
from nvdra.telemetry import log

HEADER = re.compile(r"^([IWE])(\d{2})(\d{2}) (\d{2}):(\d{2}):(\d{2})\.(\d{6}) +(\d+) ([a-z_]+\.py):(\d+)\] (.*)$", re.S)


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    yield stream
    telemetry.set_up()


def test_a_line_has_klogs_header_with_the_callers_place(out: io.StringIO) -> None:
    telemetry.set_up(stream=out)
    telemetry.info(0, "identified fabric clique")
    found = HEADER.match(out.getvalue())
    assert found is not None
    severity, month, day, *_, pid, file, line, text = found.groups()
    assert (severity, file, text) == ("I", "test_log.py", "identified fabric clique\n")
    assert 1 <= int(month) <= 12
    assert 1 <= int(day) <= 31
    assert int(pid) == os.getpid()
    with open(__file__) as source:
        assert 'telemetry.info(0, "identified' in source.read().splitlines()[int(line) - 1]
    # The process id is seven wide, as klog's.
    assert re.match(r"^.{21} {1,7}\d+ ", out.getvalue())


def test_severities(out: io.StringIO) -> None:
    telemetry.set_up(stream=out)
    telemetry.info(0, "a")
    telemetry.warning("b")
    telemetry.error("c")
    telemetry.error("d", ValueError("why"))
    assert [line[0] for line in out.getvalue().splitlines()] == ["I", "W", "E", "E"]
    assert out.getvalue().endswith('] "d" err="why"\n')


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ({}, "text"),
        ({"claim": "ns/name:uid"}, '"text" claim="ns/name:uid"'),
        ({"n": 3, "f": 0.5, "yes": True, "no": False, "none": None}, '"text" n=3 f=0.5 yes=true no=false none=<nil>'),
        ({"devices": ["gpu-0", "gpu-1"]}, '"text" devices=["gpu-0","gpu-1"]'),
        ({"m": {"a": 1}, "s": {"b", "a"}}, '"text" m={"a":1} s=["a","b"]'),
        ({"q": 'say "x"\t\\'}, r'"text" q="say \"x\"\t\\"'),
        ({"bell": "\a\x00é\u200b"}, r'"text" bell="\x07\x00é\u200b"'),
        ({"diff": "one\ntwo\n"}, '"text" diff=<\n\tone\n\ttwo\n >'),
        ({"path": ValueError("odd")}, '"text" path="odd"'),
    ],
)
def test_values_look_as_in_klog(out: io.StringIO, values: dict[str, Any], shown: str) -> None:
    telemetry.set_up(stream=out)
    telemetry.info(0, "text", **values)
    assert out.getvalue().partition("] ")[2] == f"{shown}\n"


def test_verbosity(out: io.StringIO) -> None:
    telemetry.set_up(stream=out, verbosity=4)
    for level in range(8):
        telemetry.info(level, str(level))
        assert telemetry.enabled(level) == (level <= 4)
    assert [line[-1] for line in out.getvalue().splitlines()] == list("01234")


@pytest.mark.parametrize(
    ("vmodule", "shown"),
    [("test_log=6", True), ("test_*=6", True), ("*/telemetry/test_log=6", True), ("other=9,test_log=5", False),
     ("log=6", False), ("test_log=6,test_*=0", True), ("test_*=0,test_log=6", False), ("test_log.go=6", True)],
)  # fmt: skip
def test_vmodule_gives_files_their_own_level(out: io.StringIO, vmodule: str, shown: bool) -> None:
    telemetry.set_up(stream=out, verbosity=1, vmodule=vmodule)
    for _ in range(2):
        telemetry.info(6, "deep")
    assert telemetry.enabled(6) is shown
    assert out.getvalue().count("deep") == (2 if shown else 0)


def test_a_source_name_of_the_contract_can_be_shown_and_matched(out: io.StringIO) -> None:
    telemetry.set_up(stream=out, vmodule="round_trippers=6")
    telemetry.info(6, "Response", at="round_trippers.go:632", verb="GET")
    telemetry.info(6, "Response", verb="GET")
    assert len(out.getvalue().splitlines()) == 1
    assert out.getvalue().endswith(' round_trippers.go:632] "Response" verb="GET"\n')


def test_json_lines(out: io.StringIO) -> None:
    telemetry.set_up(stream=out, logging_format="json", verbosity=2)
    telemetry.info(2, "Caches populated", type="claims", n=3, obj=ValueError("x"), msg_="m")
    telemetry.info(3, "not this")
    telemetry.warning("careful")
    telemetry.error("failed", OSError(2, "No such file"), path="/x")
    records = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [list(r)[:3] for r in records] == [["ts", "caller", "msg"]] * 3
    assert all(re.fullmatch(r"test_log\.py:\d+", r["caller"]) for r in records)
    assert all(1.7e12 < r["ts"] < 1e13 for r in records)
    assert records[0].items() >= {"msg": "Caches populated", "v": 2, "type": "claims", "n": 3, "obj": "x"}.items()
    assert "v" not in records[1]
    assert "err" not in records[1]
    assert records[2].items() >= {"msg": "failed", "err": "[Errno 2] No such file", "path": "/x"}.items()


def test_a_value_cannot_take_the_place_of_the_records_own_key(out: io.StringIO) -> None:
    telemetry.set_up(stream=out, logging_format="json")
    telemetry.info(0, "text", ts="forged", caller="forged")
    record = json.loads(out.getvalue())
    assert record["ts"] != "forged"
    assert record["caller"] != "forged"
    assert record["ts_"] == record["caller_"] == "forged"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"logging_format": "xml"}, "xml"),
        ({"vmodule": "no-level"}, "pattern=N"),
        ({"vmodule": "a=b"}, "pattern=N"),
        ({"vmodule": "a=1", "logging_format": "json"}, "only supported for text"),
    ],
)
def test_bad_settings_are_named(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        telemetry.set_up(**arguments)


def test_what_libraries_log_comes_out_in_the_same_form(out: io.StringIO) -> None:
    telemetry.set_up(stream=out)
    logging.getLogger("asyncio").warning("slow %s", "callback")
    logging.getLogger("asyncio").debug("not this")
    try:
        raise KeyError("gone")
    except KeyError:
        logging.getLogger("aiohttp").exception("request failed")
    lines = out.getvalue().splitlines()
    assert re.match(r"^W.* test_log\.py:\d+\] slow callback$", lines[0])
    assert re.match(r"^E.* test_log\.py:\d+\] request failed$", lines[1])
    assert lines[-1] == "KeyError: 'gone'"


class _Broken:
    def __str__(self) -> str:
        raise RuntimeError("cannot be shown")


def test_logging_never_raises(out: io.StringIO) -> None:
    telemetry.set_up(stream=out)
    telemetry.info(0, "text", value=_Broken())
    out.close()
    telemetry.info(0, "nowhere to go")
    telemetry.flush()


@given(st.text(), st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.text(), max_size=4))
def test_any_text_gives_one_json_line_and_parseable_quotes(msg: str, values: dict[str, str]) -> None:
    line = log.json_line("info", 0, 1e9, "x.py:1", msg, None, dict(values))
    record = json.loads(line)
    assert line.count("\n") == 1
    assert record["msg"] == msg
    assert log.text_line("info", 1e9, "x.py:1", msg, None, {"k": msg.replace("\n", "")}).count("\n") == 1


def test_the_start_up_dump_holds_what_tests_look_for() -> None:
    text = telemetry.startup_dump(
        commit="",
        gates={"MPSSupport": False, "AllAlpha": False, "ComputeDomainCliques": True},
        flags=telemetry.Struct(
            "main.Flags",
            {
                "node_name": "node-a",
                "additional_namespaces": ["a", "b"],
                "healthcheck_port": -1,
                "qps": 5.0,
                "empty": "",
                "nothing": [],
                "logging": telemetry.Struct("v1.LoggingConfiguration", {"Verbosity": 6, "json": False}),
            },
        ),
    )
    assert text == (
        "\nCommit: unknown\n\n"
        'Feature gates: map[string]bool{"AllAlpha":false, "ComputeDomainCliques":true, "MPSSupport":false}\n\n'
        "Flags: (*main.Flags)({\n"
        '  nodeName: (string) (len=6) "node-a",\n'
        "  additionalNamespaces: ([]string) (len=2) {\n"
        '    (string) (len=1) "a",\n'
        '    (string) (len=1) "b"\n'
        "  },\n"
        "  healthcheckPort: (int) -1,\n"
        "  qps: (float32) 5,\n"
        '  empty: (string) "",\n'
        "  nothing: ([]string) (len=0) {},\n"
        "  logging: (v1.LoggingConfiguration) {\n"
        "    Verbosity: (int) 6,\n"
        "    json: (bool) false\n"
        "  }\n"
        "})\n"
    )
