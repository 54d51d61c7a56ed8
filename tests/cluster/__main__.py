"""The one way in, since everything runs in namespaces of its own.

`python -m tests.cluster [pytest arguments]` runs the cluster tests,
`python -m tests.cluster up [--kubernetes 1.32]` keeps a cluster up, `python -m tests.cluster build` only builds.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from tests.cluster.harness import driver, driver_image, packages, programs, seclusion

REPOSITORY = Path(__file__).resolve().parents[2]
KEPT_LOGS = REPOSITORY / "build" / "cluster-logs"


def main(arguments: list[str]) -> int:
    """The exit status of what was asked for."""
    packages.install_missing()
    programs.built(*programs.ALL)
    if arguments[:1] == ["build"]:
        return 0
    if arguments[:1] == ["up"]:
        command = [sys.executable, "-m", "tests.cluster.harness.up", *arguments[1:]]
    else:
        paths = [] if any(argument.startswith("tests/") for argument in arguments) else ["tests/cluster"]
        command = [sys.executable, "-m", "pytest", *arguments, *paths]
        if _needs_image(arguments):
            _, archive = driver_image.built()
            os.environ[driver_image.GIVEN] = str(archive)
    with seclusion.scratch() as folder:
        status = seclusion.run(command, folder)
        shutil.rmtree(KEPT_LOGS, ignore_errors=True)
        if status:
            kept = _keep_logs(folder)
            print(f"The components' logs are kept in {kept}", file=sys.stderr)
    return status


def _needs_image(arguments: list[str]) -> bool:
    """Not where another program takes the plugin's place, unless scenarios named after the image are asked for."""
    return driver.PROGRAM not in os.environ or any("image" in argument for argument in arguments)


def _keep_logs(folder: Path) -> Path:
    for logs in folder.glob("*/logs"):
        shutil.copytree(logs, KEPT_LOGS / logs.parent.name, dirs_exist_ok=True)
    return KEPT_LOGS


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (packages.PackagesMissing, programs.BuildFailed) as stopped:
        sys.exit(f"Error: {stopped}")
