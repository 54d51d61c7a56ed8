"""gpu-kubelet-plugin up to where it needs a node: what it says of itself, and what it refuses to start with."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from nvdra import __version__

PROGRAM = "gpu-kubelet-plugin"
REQUIRED = {"NODE_NAME": "n", "IMAGE_NAME": "i"}


def run(*argv: str, name: str = PROGRAM, **environ: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys; from nvdra import cli; sys.exit(cli.start({name!r}, sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", code, *argv],
        env={"PATH": os.environ["PATH"], **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_version() -> None:
    done = run("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{PROGRAM} version v{__version__}\ncommit: unknown\n"


def test_version_names_the_commit_it_was_built_from() -> None:
    assert run("--version", NVDRA_COMMIT="abc").stdout.endswith("\ncommit: abc\n")


def test_help() -> None:
    done = run("--help")
    assert (done.returncode, done.stderr) == (0, "")
    said = " ".join(done.stdout.split())
    assert "--container-driver-root VALUE" in said
    assert "DynamicMIG=true|false (ALPHA - default=false)" in said


@pytest.mark.parametrize(
    ("argv", "environ", "text"),
    [
        ([], {}, 'Required flags "node-name, image-name" not set'),
        ([], {**REQUIRED, "NODE_NAME": ""}, 'Required flag "node-name" not set'),
        *(
            (
                ["--node-name", name],
                REQUIRED,
                f'invalid value "{name}" for flag -node-name: '
                "a node's name has letters, digits, '-' and '.', as `kubectl get nodes` shows it",
            )
            for name in ("", "a/b", "a b", "a-")
        ),
        (["a", "b"], REQUIRED, "arguments not supported: [a b]"),
        (
            ["--log-json-split-stream=true"],
            REQUIRED,
            "--log-json-split-stream: Forbidden: Feature LoggingAlphaOptions is disabled: "
            "add LoggingAlphaOptions=true to --feature-gates (FEATURE_GATES)",
        ),
        (
            ["--log-text-info-buffer-size=64Ki"],
            REQUIRED,
            "--log-text-info-buffer-size: Forbidden: Feature LoggingAlphaOptions is disabled: "
            "add LoggingAlphaOptions=true to --feature-gates (FEATURE_GATES)",
        ),
        (
            ["--log-json-info-buffer-size=much"],
            REQUIRED,
            'invalid value "much" for flag -log-json-info-buffer-size: quantities must match the regular expression '
            "'^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        (["--logging-format=xml"], REQUIRED, 'unsupported log format "xml": use "text" or "json"'),
        (
            ["--feature-gates=Foo=true"],
            REQUIRED,
            'invalid value "Foo=true" for flag -feature-gates: unrecognized feature gate: Foo',
        ),
        (
            ["--feature-gates=DynamicMIG=true,MPSSupport=true"],
            REQUIRED,
            "feature gate validation failed: feature gate DynamicMIG is currently mutually exclusive with MPSSupport",
        ),
        (
            ["--consumable-shares=memory"],
            REQUIRED,
            "invalid CLI flags: --consumable-shares requires feature gate ConsumableShares to be enabled",
        ),
    ],
)
def test_refusals_are_one_line(argv: list[str], environ: dict[str, str], text: str) -> None:
    done = run(*argv, **environ)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"Error: {text}\n")


def test_a_name_that_is_no_program() -> None:
    done = run(name="gpu-plugin")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: no program is named 'gpu-plugin'; there are gpu-kubelet-plugin, ")


def test_information_can_go_to_standard_output() -> None:
    """Errors stay on standard error: this one ends the start."""
    split = ("--feature-gates=LoggingAlphaOptions=true", "--log-text-split-stream=true", "--kubeconfig=/nowhere")
    folders = [f"--{name}=/proc/none" for name in ("cdi-root", "kubelet-plugins-directory-path")]
    done = run(*split, *folders, **REQUIRED)
    assert done.returncode == 1
    assert "Feature gates: map[string]bool" in done.stdout
    assert "Feature gates" not in done.stderr
    assert done.stderr.startswith("Error: cannot create /proc/none")
