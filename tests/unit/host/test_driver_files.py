"""What containers get of a driver: against the recordings, and against roots that are odd."""

from __future__ import annotations

from pathlib import Path

import pytest

from nvdra import cdi
from nvdra.host import DriverRoot, driver_root, gpu_files, look_up
from nvdra.testing.host import FakeHost
from tests.unit.host.recorded_root import RECORDINGS, ROOT, VERSION, lay_out

HOOK = "/usr/bin/nvidia-cdi-hook"
RECORDED = sorted(RECORDINGS.glob("*/cdi/*.yaml"))


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


@pytest.fixture
def root(host: FakeHost) -> DriverRoot:
    lay_out(host)
    return driver_root(host, ROOT, {})


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.parent.parent.name)
def test_a_claims_document_equals_the_recorded_one(host: FakeHost, root: DriverRoot, path: Path) -> None:
    recorded = cdi.parse(path.read_bytes())
    uid = cdi.claim_uid(path.name)
    assert uid is not None
    devices = [device.name.removeprefix(f"{uid}-") for device in recorded.devices]

    files = look_up(host, root, VERSION, environ={}, kernel_release="6.1.0")
    common = cdi.common_edits(files, HOOK)
    gpus = [(name, cdi.gpu_edits(gpu_files(host, root, int(name.removeprefix("gpu-")), ""), HOOK)) for name in devices]
    document = cdi.simplify(cdi.claim_document(uid, gpus, common))
    document = cdi.transform_root(document, ROOT, "/run/nvidia/driver")

    # Some recordings mount one library twice over itself, by an accident of their caches.
    assert cdi.render(document) == cdi.render(cdi.simplify(recorded))
    assert files.missing == ()
