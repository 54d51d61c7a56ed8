"""What we ask of the gRPC library by names that it does not promise."""

from __future__ import annotations

import os
import subprocess
import sys

PROGRAM = """
import os
import nvdra.kubelet.transport, grpc
grpc.insecure_channel("unix:/nowhere").close()
print(os.environ["GRPC_EXPERIMENTS"])
"""


def _run(**environment: str) -> tuple[str, str]:
    """What the library is asked for, and what it says of that."""
    plain = {name: value for name, value in os.environ.items() if name != "GRPC_EXPERIMENTS"}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=plain | environment, capture_output=True, text=True, check=True, timeout=60
    )
    return ran.stdout.strip(), ran.stderr


def test_the_library_still_knows_what_we_switch_off() -> None:
    asked, said = _run()
    assert asked == "-event_engine_listener"
    assert "experiment" not in said


def test_who_sets_it_is_left_to_it() -> None:
    asked, said = _run(GRPC_EXPERIMENTS="-nothing")
    assert asked == "-nothing"
    assert "Unknown experiment: nothing" in said
