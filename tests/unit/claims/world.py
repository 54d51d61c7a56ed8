"""A small node and claims against it, for the tests of this folder."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from nvdra import claims
from nvdra.api import gates
from nvdra.api.claim import Claim, decode_claim
from nvdra.checkpoint import (
    Checkpoint,
    Entry,
    Info,
    PreparedDevice,
    PreparedGpu,
    PreparedGroup,
    PreparedVfio,
    UnplacedMig,
    Unsupported,
)
from nvdra.claims import NeedsSteps, Plan, Ready, Release, Sealed
from nvdra.gpu import GpuScan, Inventory, MigDevice, from_scan
from nvdra.gpu.driver import GpuDriver
from nvdra.gpu.steps import CreatePartition
from tests.unit.gpu.scans import h200_scan, inventory, node_scan

POOL = "node-a"
OURS = "gpu.nvidia.com"
DRIVER = GpuDriver(gates.defaults())


def claim_of(document: dict[str, Any]) -> Claim:
    """The claim that the API server would send."""
    return decode_claim(json.dumps(document).encode())


def claim(
    uid: str, *devices: str | dict[str, Any], config: list[dict[str, Any]] | None = None, name: str = "", **status: Any
) -> Claim:
    """A claim for devices of this node: names, or results with more in them."""
    results = []
    for index, device in enumerate(devices):
        more = {"device": device} if isinstance(device, str) else device
        results.append({"request": f"r{index}", "driver": OURS, "pool": POOL, **more})
    allocation: dict[str, Any] = {"devices": {"results": results}}
    if config is not None:
        allocation["devices"]["config"] = config
    return claim_of(
        {
            "metadata": {"namespace": "ns", "name": name or f"claim-{uid}", "uid": uid},
            "status": {"allocation": allocation, **status},
        }
    )


def gpu_config(parameters: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """An entry of `allocation.devices.config` with a GpuConfig."""
    fields = {"apiVersion": "resource.nvidia.com/v1beta1", "kind": "GpuConfig", **(parameters or {})}
    return {"source": "FromClaim", "opaque": {"driver": OURS, "parameters": fields}, **more}


def plan(one: Claim, checkpoint: Checkpoint | None = None, **more: Any) -> Plan:
    """The plan for a claim on a node of eight GPUs with nothing prepared, unless said otherwise."""
    values: dict[str, Any] = {"pool": POOL, "has_file": True, **more}
    seen = values.pop("inventory", None) or inventory()
    on = values.pop("gates", None) or gates.defaults()
    return claims.plan(GpuDriver(on), one, seen, checkpoint or Checkpoint("boot"), **values)


def release(one: Claim, checkpoint: Checkpoint, **more: Any) -> Release:
    """What letting go of a claim takes on a node of eight GPUs, unless said otherwise."""
    seen = more.get("inventory") or inventory()
    return claims.unprepare(GpuDriver(more.get("gates") or gates.defaults()), one.ref, seen, checkpoint)


def sealed(one: Claim, checkpoint: Checkpoint | None = None, **more: Any) -> Sealed:
    """What a claim leaves behind; it must be free to be prepared."""
    ready = plan(one, checkpoint, **more)
    assert isinstance(ready, Ready), ready
    return claims.seal(GpuDriver(more.get("gates") or gates.defaults()), ready)


def prepared(*some: Claim, **more: Any) -> Checkpoint:
    """The checkpoint after these claims were prepared, one after the other."""
    entries: dict[str, Entry] = {}
    for one in some:
        entries[one.ref.uid] = sealed(one, Checkpoint("boot", dict(entries)), **more).entry
    return Checkpoint("boot", entries)


def started(one: Claim) -> Entry:
    """The entry of a claim that was begun and not completed."""
    return Entry("PrepareStarted", one.status, (), one.ref.name, one.ref.namespace)


def unsupported(one: Claim, kind: str, uuid: str = "foreign") -> Entry:
    """A completed entry that another release wrote for devices this one does not build."""
    devices = _devices(one, UnplacedMig(uuid) if kind == "mig" else PreparedGpu(uuid))
    names = tuple(device.device for device in devices)
    return Entry("PrepareCompleted", one.status, Unsupported(b"[]", frozenset((kind,)), names, devices))


def passed_through(one: Claim, uuid: str) -> Entry:
    """A completed entry of an early release, which recorded no PCI address of a passed-through GPU."""
    return Entry("PrepareCompleted", one.status, (PreparedGroup(_devices(one, PreparedVfio(uuid))),))


def _devices(one: Claim, info: Info) -> tuple[PreparedDevice, ...]:
    return tuple(
        PreparedDevice(info, (r.request,), r.pool, r.device, (f"k8s.gpu.nvidia.com/claim={one.ref.uid}-{r.device}",))
        for r in one.results
    )


# --- GPUs that are partitioned on demand ---

DYNAMIC = gates.parse("DynamicMIG=true")


def h200s(*gpus: GpuScan, dynamic: bool = True, **more: Any) -> Inventory:
    """A node of these GPUs, or of one H200 in one piece."""
    return from_scan(node_scan(*(gpus or (h200_scan(),)), **more), {}, dynamic_mig=dynamic)


def partition(text: str, profile_id: int, start: int, minor: int = 0) -> str:
    """The name of a partition: `partition("1g18gb", 19, 0)`."""
    return f"gpu-{minor}-mig-{text}-{profile_id}-{start}"


def mig_plan(one: Claim, checkpoint: Checkpoint | None = None, **more: Any) -> Plan:
    """The plan for a claim on a node of one H200 that is partitioned on demand, unless said otherwise."""
    return plan(one, checkpoint, **{"inventory": h200s(), "gates": DYNAMIC, **more})


def administered(checkpoint: Checkpoint, *some: Claim) -> Checkpoint:
    """The checkpoint with these claims' entries as the Go driver's v0.4.1 writes them for administrators."""
    entries = {one.ref.uid: replace(checkpoint.entries[one.ref.uid], status=claim_of_admin(one).status) for one in some}
    return Checkpoint(checkpoint.boot_id, {**checkpoint.entries, **entries})


def claim_of_admin(one: Claim) -> Claim:
    """The same claim with every result for an administrator."""
    return claim(one.ref.uid, *({"device": result.device, "adminAccess": True} for result in one.results))


def mig_release(one: Claim, checkpoint: Checkpoint, **more: Any) -> Release:
    return release(one, checkpoint, **{"inventory": h200s(), "gates": DYNAMIC, **more})


def carried_out(found: Plan) -> Sealed:
    """What a claim leaves behind once its steps are done."""
    driver = GpuDriver(DYNAMIC)
    if isinstance(found, Ready):
        return claims.seal(driver, found)
    assert isinstance(found, NeedsSteps), found
    made = {
        step.device: MigDevice(
            step.gpu,
            step.spec.profile,
            step.start,
            step.spec.size,
            gi_id=step.start + 1,
            ci_id=0,
            uuid=f"MIG-{step.profile_id}-{step.start}",
        )
        for step in found.steps.apply
        if isinstance(step, CreatePartition) and step.spec is not None
    }
    return claims.seal(driver, found.completed(made))


def mig_prepared(*some: Claim, **more: Any) -> Checkpoint:
    """The checkpoint after these claims were prepared on that node, one after the other."""
    entries: dict[str, Entry] = {}
    for one in some:
        entries[one.ref.uid] = carried_out(mig_plan(one, Checkpoint("boot", dict(entries)), **more)).entry
    return Checkpoint("boot", entries)
