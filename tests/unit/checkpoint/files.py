"""Checkpoint files of any content, truly signed: what the tests of this room read."""

from __future__ import annotations

import json
from typing import Any

from nvdra.checkpoint import Entry, PreparedDevice, PreparedGpu, PreparedGroup
from tests.twins import checkpoint as twin

BOOT = "11111111-2222-3333-4444-555555555555"
STATUS = (
    b'{"allocation":{"devices":{"results":[{"request":"gpu","driver":"gpu.nvidia.com","pool":"node-a","device":"gpu-0"}'
    b']}},"reservedFor":[{"resource":"pods","name":"p","uid":"u1"}]}'
)
DEVICE = PreparedDevice(PreparedGpu("GPU-0"), ("gpu",), "node-a", "gpu-0", ("k8s.gpu.nvidia.com/claim=c1-gpu-0",))
ENTRY = Entry("PrepareCompleted", STATUS, (PreparedGroup((DEVICE,)),))


def signed(v1: dict[str, Any] | None, v2: dict[str, Any] | None) -> bytes:
    """A file with true checksums over whatever it holds."""
    root: dict[str, Any] = {}
    if v1 is not None:
        root["v1"] = v1
    outer = twin.checksum(twin.text({"checksum": 0, **root}).encode())
    if v2 is not None:
        root["v2"] = {"checksum": twin.checksum(twin.text({"checksum": 0, **v2}).encode()), **v2}
    return twin.text({"checksum": outer, **root}).encode()


def mirrored(v2: dict[str, Any]) -> bytes:
    """A file whose first section says what its second one does, as writers have it."""
    claims = {
        uid: {key: claim[key] for key in ("status", "preparedDevices")} for uid, claim in v2["preparedClaims"].items()
    }
    return signed({"preparedClaims": claims}, v2)


def second(prepared: Any = None, **more: Any) -> dict[str, Any]:
    """A V2 section with one completed entry, "c1"."""
    entry = {"checkpointState": "PrepareCompleted", "status": json.loads(STATUS)}
    if prepared is not None:
        entry["preparedDevices"] = prepared
    return {"preparedClaims": {"c1": entry | more}, "nodeBootID": BOOT}


def group(*devices: dict[str, Any], **state: Any) -> dict[str, Any]:
    return {"devices": list(devices), "configState": {"mpsControlDaemonID": ""} | state}


def answer(**more: Any) -> dict[str, Any]:
    """A device as answered to kubelet."""
    told = {"Requests": ["gpu"], "PoolName": "node-a", "DeviceName": "gpu-0", "CDIDeviceIDs": [DEVICE.cdi_ids[0]]}
    return told | more


def gpu(**more: Any) -> dict[str, Any]:
    return {"gpu": {"info": {"uuid": "GPU-0"}, "device": answer(**more)}, "mig": None}


def mig(**checkpoint: Any) -> dict[str, Any]:
    return {"gpu": None, "mig": checkpoint | {"device": answer(DeviceName="gpu-1-mig-1g12gb-19-0")}}
