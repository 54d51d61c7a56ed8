"""Cases of the scheduler's own tests, exported from its published module when they are needed; none is kept here."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .processes import ROOT, Json

_HERE = Path(__file__).parent
_MODULE = "k8s.io/dynamic-resource-allocation"
_PACKAGES = ("structured", "cel")


def upstream_cases(release: str) -> Iterator[Json]:
    """Yields the cases of the tables in a release's module. Raises CalledProcessError if there is no such module."""
    for package in _PACKAGES:
        target = ROOT / f".make/upstream-{release}-{package}.jsonl"
        if not target.exists():
            _export(release, package, target)
        for line in sorted(target.read_text().splitlines()):
            case: Json = _without_nulls(json.loads(line))
            features = case.get("features", {})
            if "DeviceBinding" in features:
                # 1.34 has one feature for each of two gates; either makes it take another variant.
                both = features.pop("DeviceBinding"), features["DeviceStatus"]
                features |= {"DeviceBindingAndStatus": all(both), "DeviceStatus": any(both)}
            case.setdefault("id", "table-" + hashlib.sha256(line.encode()).hexdigest()[:12])
            yield case


def _without_nulls(value: Any) -> Any:
    """Leaves out what Go writes for empty lists, maps and pointers."""
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_nulls(inner) for inner in value]
    return value


def _export(release: str, package: str, target: Path) -> None:
    """Runs the module's tests of one package in a copy of the module, with a recorder beside them."""
    folder = _HERE / f"v{release}"
    found = subprocess.run(
        ["go", "list", "-m", "-f", "{{.Dir}}", _MODULE], cwd=folder, check=True, capture_output=True, text=True
    )
    module = ROOT / f".make/upstream-{release}"
    if not module.exists():
        shutil.copytree(found.stdout.strip(), module, copy_function=shutil.copyfile)
        for path in (module, *module.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
    shutil.copyfile(_HERE / f"record/{package}_record_test.go", module / package / "zz_record_test.go")
    partial = target.with_suffix(".partial")
    # Cases that pin what other variants count may fail; they are recorded all the same.
    subprocess.run(
        ["go", "test", "-count=1", "-vet=off", "-run", "^TestRecord$", f"./{package}"],
        cwd=module, env={**os.environ, "RECORD_FILE": str(partial)}, check=False, capture_output=True, timeout=900,
    )  # fmt: skip
    if not partial.exists() or not partial.stat().st_size:
        raise SystemExit(
            f"the tests of {_MODULE}/{package} of release {release} wrote no cases; run go test in {module}"
        )
    partial.rename(target)
