"""Compiles the library and the stand-ins for programs, and puts them into the wheel (or, editable, the package)."""

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


def _replace(source: Path, target: Path) -> None:
    """Puts a file in place at once: an editable install may be in use meanwhile."""
    new = target.with_name(target.name + ".new")
    shutil.copy2(source, new)
    new.replace(target)


class NativeBuildHook(BuildHookInterface):
    """The wheel fits any Python 3 of this platform: nothing in it links against Python."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        native = Path(self.root) / "python/nvdra_mock_nvml/native"
        native.mkdir(exist_ok=True)
        _replace(self._compiled("--lib") / "libnvdra_mock_nvml.so", native / "libnvidia-ml.so.1")
        # Static, so that it runs in containers that have no loader.
        for name in ("nvidia-smi", "nvidia-cuda-mps-control", "nvidia-imex", "nvidia-imex-ctl"):
            program = self._compiled("--bin", name, rustc=("-C", "target-feature=+crt-static"))
            _replace(program / name, native / name)
        source = Path(self.root) / "fabric/nvfm.c"
        built = native / "libnvfm.so.new"
        subprocess.run(
            ["cc", "-O2", "-s", "-Wall", "-Wextra", "-shared", "-fPIC", "-o", str(built), str(source)], check=True
        )
        built.replace(native / "libnvfm.so")
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"
        build_data["artifacts"] += [f"python/nvdra_mock_nvml/native/{file.name}" for file in native.iterdir()]

    def _compiled(self, *what: str, rustc: tuple[str, ...] = ()) -> Path:
        """The folder with what cargo made. The static program has a folder of its own: one flag less to rebuild for."""
        target = Path(self.root) / "target" / ("static" if rustc else "shared")
        command = ["cargo", "rustc", "--quiet", "--release", *what, "--target-dir", str(target), "--"]
        strip = ("-C", "strip=symbols")
        subprocess.run(
            [*command, *strip, *rustc], cwd=self.root, check=True, env={**os.environ, "CARGO_TERM_COLOR": "never"}
        )
        return target / "release"
