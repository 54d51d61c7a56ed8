"""The checkpoint in plain Python: slow, short, and made from the contract's layout rather than from the Rust code."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from nvdra.checkpoint import (
    Checkpoint,
    DomainGroup,
    Entry,
    Group,
    PreparedChannel,
    PreparedDaemon,
    PreparedDevice,
    PreparedGpu,
    PreparedMig,
    PreparedVfio,
    Unsupported,
)


def text(value: Any) -> str:
    """JSON as Go writes it: compact, keys as they come, HTML characters and line separators escaped."""
    written = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        written = written.replace(character, f"\\u{ord(character):04x}")
    return written


def checksum(content: bytes) -> int:
    value = 0x811C9DC5
    for byte in ("([]uint8)[" + " ".join(map(str, content)) + "]").encode():
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value


def encode(checkpoint: Checkpoint) -> bytes:
    first: dict[str, str] = {}
    second: dict[str, str] = {}
    for uid, entry in sorted(checkpoint.entries.items(), key=lambda item: item[0].encode()):
        body = f'"status":{(entry.status or b"{}").decode()}'
        if entry.prepared:
            body += f',"preparedDevices":{_prepared(entry)}'
        if entry.state == "PrepareCompleted":
            first[uid] = "{" + body + "}"
        tail = "".join(f',"{key}":{text(getattr(entry, key))}' for key in ("name", "namespace") if getattr(entry, key))
        if entry.aborted_at is not None:
            tail += f',"abortedAt":"{datetime.fromtimestamp(entry.aborted_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}"'
        tail += f",{entry.unknown.decode()}" if entry.unknown else ""
        second[uid] = f'{{"checkpointState":"{entry.state}",{body}{tail}}}'
    v1 = "{" + _claims(first) + "}"
    rest = ("," + _claims(second) if second else "") + (
        f',"nodeBootID":{text(checkpoint.boot_id)}' if checkpoint.boot_id else ""
    )
    outer = checksum(f'{{"checksum":0,"v1":{v1}}}'.encode())
    inner = checksum(f'{{"checksum":0{rest}}}'.encode())
    return f'{{"checksum":{outer},"v1":{v1},"v2":{{"checksum":{inner}{rest}}}}}'.encode()


def _claims(texts: dict[str, str]) -> str:
    if not texts:
        return ""
    return '"preparedClaims":{' + ",".join(f"{text(uid)}:{body}" for uid, body in texts.items()) + "}"


def _prepared(entry: Entry) -> str:
    if isinstance(entry.prepared, Unsupported):
        return entry.prepared.prepared_devices.decode()
    return "[" + ",".join(_group(group) for group in entry.prepared) + "]"


def _group(group: Group) -> str:
    if group.verbatim:
        return group.verbatim.decode()
    state: dict[str, Any]
    if isinstance(group, DomainGroup):
        state = {"Type": group.config_type, "ComputeDomain": group.domain}
    else:
        state = {"mpsControlDaemonID": group.mps_daemon_id}
        if group.time_slice_applied is not None:
            state["timeSliceApplied"] = group.time_slice_applied
    return text({"devices": [_device(device) for device in group.devices], "configState": state})


def _device(device: PreparedDevice) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "Requests": device.requests,
        "PoolName": device.pool,
        "DeviceName": device.device,
        "CDIDeviceIDs": device.cdi_ids,
    }
    if device.share_id is not None:
        answer["ShareID"] = device.share_id
    if device.metadata:
        answer["Metadata"] = json.loads(device.metadata)
    match device.info:
        case PreparedGpu(uuid):
            return {"gpu": {"info": {"uuid": uuid}, "device": answer}, "mig": None}
        case PreparedVfio(uuid, address):
            info = {"uuid": uuid} | ({"pciBusID": address} if address else {})
            return {"gpu": None, "mig": None, "vfio": {"info": info, "device": answer}}
        case PreparedChannel(number):
            return {"channel": {"info": {"id": number}, "device": answer}, "daemon": None}
        case PreparedDaemon(number):
            return {"channel": None, "daemon": {"info": {"id": number}, "device": answer}}
        case PreparedMig(uuid, minor, parent, gi_id, ci_id, address):
            concrete: dict[str, Any] = {"parentMinor": minor, "giId": gi_id, "ciId": ci_id}
            concrete |= {"migUUID": uuid, "parentUUID": parent} | ({"parentPCIBusID": address} if address else {})
            return {"gpu": None, "mig": {"concrete": concrete, "device": answer}}
        case other:
            raise AssertionError(f"only read, never written: {other}")
