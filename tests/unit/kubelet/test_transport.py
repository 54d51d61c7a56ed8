"""What we ask of the gRPC library by names that it does not promise."""

from __future__ import annotations

import os
import subprocess
import sys


def _complaints(**environment: str) -> str:
    program = "import nvdra.kubelet.transport, grpc; grpc.insecure_channel('unix:/nowhere').close()"
    plain = {name: value for name, value in os.environ.items() if name != "GRPC_EXPERIMENTS"}
    ran = subprocess.run(
        [sys.executable, "-c", program], env=plain | environment, capture_output=True, text=True, check=True, timeout=60
    )
    return ran.stderr


def test_the_library_still_knows_what_we_switch_off() -> None:
    assert "Unknown experiment: nothing" in _complaints(GRPC_EXPERIMENTS="-nothing")
    assert "experiment" not in _complaints()
