"""Flags, their variables and defaults: who wins, and the texts of what cannot be used."""

from __future__ import annotations

import pytest

from nvdra.api.quantity import Quantity
from nvdra.programs.flags import (
    GATES,
    KUBE,
    LOGGING,
    Flag,
    UsageError,
    boolean,
    duration_s,
    integer,
    parse,
    parse_words,
)

FLAGS = (
    Flag(("node-name",), ("NODE_NAME",), "", "whose", required=True),
    Flag(("image-name",), ("IMAGE_NAME",), "", "what", required=True),
    Flag(("driver-root", "host_driver-root"), ("DRIVER_ROOT", "HOST_DRIVER_ROOT"), "/", "where"),
    Flag(("port",), ("PORT",), -1, "which", integer),
    Flag(("labelled",), ("LABELLED",), False, "whether", boolean),
    *KUBE,
    *GATES,
    *LOGGING,
)
ENOUGH = ["--node-name", "n", "--image-name", "i"]


def values(*argv: str, **environ: str) -> dict[str, object]:
    return parse("program", "about", FLAGS, [*ENOUGH, *argv], environ)


def refusal(*argv: str, **environ: str) -> str:
    with pytest.raises(UsageError) as refused:
        parse("program", "about", FLAGS, argv, environ)
    return str(refused.value)


def test_defaults() -> None:
    assert values() == {
        "node_name": "n",
        "image_name": "i",
        "driver_root": "/",
        "port": -1,
        "labelled": False,
        "kubeconfig": "",
        "kube_api_qps": 50.0,
        "kube_api_burst": 100,
        "feature_gates": "",
        "v": 0,
        "vmodule": "",
        "logging_format": "text",
        "log_flush_frequency": 5.0,
        "log_text_split_stream": False,
        "log_text_info_buffer_size": Quantity(0),
        "log_json_split_stream": False,
        "log_json_info_buffer_size": Quantity(0),
    }


def test_a_flag_wins_over_its_variable_and_that_over_the_default() -> None:
    assert values(PORT="8")["port"] == 8
    assert values("--port", "9", PORT="8")["port"] == 9


@pytest.mark.parametrize("argv", [["--port", "9"], ["--port=9"]])
def test_a_value_follows_or_is_joined(argv: list[str]) -> None:
    assert values(*argv)["port"] == 9


@pytest.mark.parametrize("argv", [["-v", "6"], ["-v=6"], ["--v", "6"], ["--v=6"], ["-v6"]])
def test_verbosity_in_every_form(argv: list[str]) -> None:
    assert values(*argv)["v"] == 6


def test_an_alias_is_the_same_flag() -> None:
    assert values("--host_driver-root", "/a")["driver_root"] == "/a"
    assert values(HOST_DRIVER_ROOT="/b")["driver_root"] == "/b"
    assert values(DRIVER_ROOT="/a", HOST_DRIVER_ROOT="/b")["driver_root"] == "/a"


def test_an_empty_variable_is_a_text_and_no_number() -> None:
    assert values(DRIVER_ROOT="")["driver_root"] == ""
    assert values(PORT="")["port"] == -1


def test_a_boolean_flag_needs_no_value() -> None:
    assert values("--labelled")["labelled"] is True
    assert values("--labelled=false", LABELLED="true")["labelled"] is False
    assert values(LABELLED="1")["labelled"] is True


@pytest.mark.parametrize(
    ("argv", "environ", "text"),
    [
        (["--image-name", "i"], {}, 'Required flag "node-name" not set'),
        ([], {}, 'Required flags "node-name, image-name" not set'),
        ([*ENOUGH, "a", "b"], {}, "arguments not supported: [a b]"),
        (["--nod", "n"], {}, "flag provided but not defined: -nod"),
        (["-x=1"], {}, "flag provided but not defined: -x"),
        (["--port", "eight"], {}, 'invalid value "eight" for flag -port: parsing "eight": invalid syntax'),
        (
            [],
            {"NODE_NAME": "n", "IMAGE_NAME": "i", "PORT": "eight"},
            'could not parse "eight" from environment variable "PORT" as value for flag port: '
            'parsing "eight": invalid syntax',
        ),
        (
            ENOUGH,
            {"LABELLED": "maybe"},
            'could not parse "maybe" from environment variable "LABELLED" as value for flag labelled: '
            'parsing "maybe": invalid syntax',
        ),
        (
            [*ENOUGH, "--log-flush-frequency", "5"],
            {},
            'invalid value "5" for flag -log-flush-frequency: time: invalid duration "5"',
        ),
    ],
)
def test_what_cannot_be_used(argv: list[str], environ: dict[str, str], text: str) -> None:
    assert refusal(*argv, **environ) == text


@pytest.mark.parametrize("word", ["1", "t", "T", "TRUE", "true", "True"])
def test_true_in_every_form(word: str) -> None:
    assert boolean(word) is True


@pytest.mark.parametrize("word", ["0", "f", "F", "FALSE", "false", "False"])
def test_false_in_every_form(word: str) -> None:
    assert boolean(word) is False


@pytest.mark.parametrize("word", ["", "yes", "tRUE", "2"])
def test_no_boolean(word: str) -> None:
    with pytest.raises(ValueError, match="invalid syntax"):
        boolean(word)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5s", 5), ("1m30s", 90), ("250ms", 0.25), ("1.5h", 5400), ("0", 0), ("-2s", -2), ("10us", 1e-5), (".5s", 0.5)],
)
def test_durations(text: str, seconds: float) -> None:
    assert duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "5 s", "5sec", "1s5", "--1s"])
def test_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="invalid duration"):
        duration_s(text)


def test_words_beside_flags() -> None:
    flags = [Flag(("output", "o"), (), "text", "how")]
    assert parse_words("program", "", flags, ["gpu-0", "-o", "json", "gpu-1"], {}) == (
        {"output": "json"},
        ["gpu-0", "gpu-1"],
    )


def test_a_flag_that_repeats_keeps_every_value() -> None:
    flags = [Flag(("seed",), (), (), "which", integer, repeats=True)]
    assert parse("program", "", flags, ["--seed=1", "--seed", "2"], {}) == {"seed": (1, 2)}
    assert parse("program", "", flags, [], {}) == {"seed": ()}
    with pytest.raises(UsageError, match='invalid value "x" for flag -seed'):
        parse("program", "", flags, ["--seed=1", "--seed=x"], {})


def test_help_names_every_flag_its_variable_and_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse("program", "What it is for.", FLAGS, ["--help"], {})
    assert ended.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "What it is for." in said
    for flag in FLAGS:
        assert f"--{flag.names[0]} " in said
        assert f"[${', $'.join(flag.variables)}]" in said
    assert "whose [$NODE_NAME] (required)" in said
    assert "which [$PORT] (default: -1)" in said
    assert "whether [$LABELLED] (default: false)" in said


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e400"])
def test_a_rate_is_a_finite_number(text: str) -> None:
    """With nan no call would ever wait in the queue."""
    assert refusal(*ENOUGH, f"--kube-api-qps={text}") == (
        f'invalid value "{text}" for flag -kube-api-qps: parsing "{text}": not a finite number'
    )
