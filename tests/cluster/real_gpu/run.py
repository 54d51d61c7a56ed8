"""Runs the scenarios in namespaces of their own; `enter.sh` calls it. The report is `report.md` in the folder given."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from tests.cluster.harness import seclusion


def main(out: Path, arguments: list[str]) -> int:
    """The exit status of the scenarios; the components' logs are in `out` afterwards."""
    with seclusion.scratch() as folder:
        status = seclusion.run([sys.executable, "-m", "tests.cluster.real_gpu.scenarios", str(out), *arguments], folder)
        for logs in folder.glob("*/logs"):
            shutil.make_archive(str(out / "logs"), "xztar", logs)
        return status


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
