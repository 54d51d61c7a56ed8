"""What v0.4.1 of the Go driver left of MPS claims, against what this driver makes of the same claims."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nvdra import cdi, claims
from nvdra.api import gates
from nvdra.api.claim import Claim, decode_claim
from nvdra.checkpoint import Checkpoint, PreparedGroup
from nvdra.checkpoint import decode as decode_checkpoint
from nvdra.checkpoint import encode as encode_checkpoint
from nvdra.gpu import Inventory, from_scan
from nvdra.gpu.driver import GpuDriver
from nvdra.gpu.mps import StartMpsDaemon
from nvdra.gpu.mps_deployment import MpsPods, deployment, is_as_wanted
from nvdra.gpu.sharing import Sharing
from tests.unit.gpu.scans import gpu_scan, node_scan

RECORDED = Path(__file__).parents[2] / "golden" / "mps"
FOLDER = "/var/lib/kubelet/plugins/gpu.nvidia.com/mps"
DRIVER = GpuDriver(gates.parse("MPSSupport=true"), Sharing(mps_folder=FOLDER))
CLAIMS = [decode_claim(json.dumps(each).encode()) for each in json.loads((RECORDED / "claims.json").read_text())]


def checkpoint() -> Checkpoint:
    return decode_checkpoint((RECORDED / "checkpoint.json").read_bytes())


def node() -> Inventory:
    """The recorded GPUs."""
    devices = {d.device: d.uuid for entry in checkpoint().entries.values() for d in claims.answers(entry)}
    scans = [
        gpu_scan(minor, uuid=devices[f"gpu-{minor}"], cuda_compute_capability=(9, 0)) for minor in range(len(devices))
    ]
    return from_scan(node_scan(*scans), {})


def daemon(one: Claim) -> StartMpsDaemon:
    needed = claims.plan(DRIVER, one, node(), Checkpoint("boot"), pool="node-a", has_file=True)
    assert isinstance(needed, claims.NeedsSteps)
    (step,) = needed.steps.apply
    assert isinstance(step, StartMpsDaemon)
    return step


def test_the_checkpoint_is_written_again_byte_for_byte() -> None:
    assert encode_checkpoint(checkpoint()) == (RECORDED / "checkpoint.json").read_bytes()


@pytest.mark.parametrize("one", CLAIMS, ids=lambda one: one.ref.name)
def test_the_same_claim_has_the_same_daemon(one: Claim) -> None:
    (group,) = checkpoint().entries[one.ref.uid].prepared  # type: ignore[misc]
    assert isinstance(group, PreparedGroup)
    assert daemon(one).id == group.mps_daemon_id


@pytest.mark.parametrize("one", CLAIMS, ids=lambda one: one.ref.name)
def test_the_deployment_has_what_the_go_drivers_has(one: Claim) -> None:
    stored = json.loads((RECORDED / "deployments.json").read_text())
    theirs = next(each for each in stored if one.ref.uid in each["metadata"]["name"])
    pods = MpsPods("node-a", "default", "image:1", FOLDER, driver_root="/run/nvidia/driver")
    ours = deployment(daemon(one), pods, shm_in_root=False)
    spec = ours["spec"]["template"]["spec"]
    changed: dict[str, Any] = {}
    for key in ("args", "startupProbe"):
        changed[key] = spec["containers"][0].pop(key)
    del ours["apiVersion"], ours["kind"]  # items of a list do not say theirs
    changed |= {"strategy": ours["spec"].pop("strategy"), "grace": spec.pop("terminationGracePeriodSeconds")}
    del spec["automountServiceAccountToken"]
    (container,) = theirs["spec"]["template"]["spec"]["containers"]
    container["env"] = [each for each in container["env"] if each["name"] != "FEATURE_GATES"]
    spec["volumes"].sort(key=lambda volume: volume["name"])
    theirs["spec"]["template"]["spec"]["volumes"].sort(key=lambda volume: volume["name"])
    assert is_as_wanted(theirs, ours)
    assert container["startupProbe"]["exec"] == changed["startupProbe"]["exec"]


@pytest.mark.parametrize("one", CLAIMS, ids=lambda one: one.ref.name)
def test_containers_get_the_same(one: Claim) -> None:
    entry = checkpoint().entries[one.ref.uid]
    sealed = claims.restored(DRIVER, one.ref, entry, node())
    assert isinstance(sealed, claims.Sealed)
    (path,) = RECORDED.glob(f"cdi/*{one.ref.uid}.yaml")
    recorded = {device.name: device.edits for device in cdi.parse(path.read_bytes()).devices}
    assert {name: (each.added.env, set(each.added.mounts)) for name, each in sealed.cdi_devices.items()} == {
        name: (edits.env, set(edits.mounts)) for name, edits in recorded.items()
    }
