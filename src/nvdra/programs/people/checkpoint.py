"""nvdra checkpoint show: the plugin's checkpoint for people, or why it cannot be read."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from nvdra import claims
from nvdra.checkpoint import Booted, Checkpoint, Corrupt, Entry, PreparedMig, Unreadable, Unsupported, boot
from nvdra.checkpoint import decode as decode_checkpoint
from nvdra.gpu.extents import DRIVER
from nvdra.programs.flags import Flag
from nvdra.programs.people.local_node import open_local_node
from nvdra.programs.people.paper import as_json, counted, table

_ABOUT = """\
The claims that this node has prepared or begun to prepare, from the plugin's checkpoint on disk. Checkpoints of the Go
driver and of other releases can be read too. For a file that cannot be read, the cause is shown, and where the file
differs from a well-formed one.

Exit status: 0, or 1 if there is no checkpoint or it cannot be read."""

_FILE = Flag(("file",), (), "", "this file instead of the plugin's checkpoint.json")


def main(argv: Sequence[str]) -> int:
    here, values, _ = open_local_node("checkpoint show", _ABOUT, argv, os.environ, more=(_FILE,))
    path = str(values["file"]) or here.checkpoint_path
    try:
        content = here.host.read(path)
    except FileNotFoundError:
        return _failed(
            here.output, path, "there is no such file: no plugin has run on this node yet, or it runs elsewhere"
        )
    except OSError as error:
        return _failed(here.output, path, str(error.strerror))
    try:
        checkpoint = decode_checkpoint(content)
    except Unreadable as error:
        diff = error.diff if isinstance(error, Corrupt) else ""
        return _failed(here.output, path, _explained(error), diff)
    booted = boot(checkpoint, here.host.boot_id())
    if here.output == "json":
        print(as_json(_json(path, booted, checkpoint)), end="")
    else:
        _print(path, booted, checkpoint)
    return 0


def _explained(error: Unreadable) -> str:
    """Why the file cannot be read, and what the plugin will do about it."""
    what = str(error)
    if isinstance(error, Corrupt):
        what += (
            ": it differs from what a release writes"
            if error.diff
            else ": its text is well formed, but its checksum is of another text, so it was changed by something else"
        )
    return f"{what} (the plugin keeps such a file aside and restores its claims from the API server)"


def _failed(output: str, path: str, reason: str, diff: str = "") -> int:
    if output == "json":
        print(as_json({"path": path, "error": reason, "diff": diff}), end="")
    print(f"Error: {path}: {reason}", file=sys.stderr)
    if diff and output != "json":
        print(f"\nfrom the file to what a release would write of it:\n{diff}", end="")
    return 1


def _boot(booted: Booted) -> str:
    match booted.what:
        case "kept":
            return "written in this boot"
        case "injected":
            return "names no boot: the plugin will take it for this one"
        case "invalidated":
            return (
                f"written in another boot ({booted.stored}, this one is {booted.current}): "
                "the plugin will start with an empty checkpoint"
            )


def _print(path: str, booted: Booted, checkpoint: Checkpoint) -> None:
    print(f"{path}: {counted(len(checkpoint.entries), 'claim')}\n{_boot(booted)}")
    if checkpoint.left_out:
        print(f"keys that this release does not know and would drop: {', '.join(checkpoint.left_out)}")
    if checkpoint.entries:
        rows = [
            [
                f"{entry.namespace}/{entry.name}" if entry.name else "-",
                uid,
                _state(entry),
                ", ".join(device["device"] for device in _devices(entry)) or "-",
            ]
            for uid, entry in checkpoint.entries.items()
        ]
        print(f"\n{table(['CLAIM', 'UID', 'STATE', 'DEVICES'], rows)}", end="")


def _state(entry: Entry) -> str:
    state = "prepared"
    if entry.state == "PrepareStarted":
        state = "being let go" if entry.prepared else "begun"
    if isinstance(entry.prepared, Unsupported):
        state += f" ({', '.join(sorted(entry.prepared.kinds))}, by another release)"
    return state


def _devices(entry: Entry) -> list[dict[str, Any]]:
    """The claim's devices: those in kubelet's answer, or those allocated if there was no answer yet."""
    answers = claims.answers(entry)
    if not answers:
        return [
            {"device": result.device, "pool": result.pool, "requests": [result.request]}
            for result in claims.allocation(entry.status, DRIVER).results
        ]
    return [
        {
            "device": one.device,
            "pool": one.pool,
            "requests": list(one.requests),
            "uuid": one.uuid,
            "cdiDeviceIDs": list(one.cdi_ids),
            **({"shareID": one.share_id} if one.share_id is not None else {}),
            **({"mig": _placement(one.mig)} if one.mig is not None else {}),
        }
        for one in answers
    ]


def _placement(mig: PreparedMig) -> dict[str, Any]:
    return {"parentMinor": mig.parent_minor, "parentUUID": mig.parent_uuid, "giId": mig.gi_id, "ciId": mig.ci_id}


def _json(path: str, booted: Booted, checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "path": path,
        "nodeBootID": booted.stored,
        "currentBootID": booted.current,
        "boot": booted.what,
        "unknownKeys": list(checkpoint.left_out),
        "claims": [
            {
                "uid": uid,
                "namespace": entry.namespace,
                "name": entry.name,
                "state": entry.state,
                "kinds": sorted(entry.prepared.kinds) if isinstance(entry.prepared, Unsupported) else [],
                "devices": _devices(entry),
            }
            for uid, entry in checkpoint.entries.items()
        ],
    }
