"""The doctor on claims: what the record says, who holds its locks, whether the CDI folder agrees with it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping

from nvdra import cdi, checkpoint, claims
from nvdra.checkpoint import Record
from nvdra.gpu import Inventory, overlapping
from nvdra.gpu.partitions import unmanaged_partitions
from nvdra.gpu.withheld import withdrawn
from nvdra.host import gone, is_temporary, meant_for
from nvdra.node.record_file import QUARANTINED
from nvdra.programs.people.finding import Finding
from nvdra.programs.people.paper import counted
from nvdra.programs.people.place import Place

# A batch holds the locks for milliseconds; whoever holds them longer than this is stuck.
_STUCK_S = 0.5


def look(here: Place, inventory: Inventory) -> Iterator[Finding]:
    record: Record | None = None
    try:
        record = here.record()
    except (OSError, checkpoint.Unreadable) as error:
        is_denied = isinstance(error, PermissionError)
        cause = error.strerror if isinstance(error, OSError) else error
        next_step = (
            "run it as root" if is_denied else "nvdra checkpoint show tells more; the plugin sets it aside at its start"
        )
        yield Finding("record", "problem", f"{here.record_path} cannot be read: {cause}", next_step)
    else:
        yield from _record(here, record, inventory)
    yield _locks(here)
    yield from _folder(here, record)


def _record(here: Place, record: Record | None, inventory: Inventory) -> Iterator[Finding]:
    quarantine = f"{here.plugin_dir}/{QUARANTINED}"
    if here.host.resolve(quarantine) is not None:
        text = f"a former record lies aside as {quarantine}: its claims are being made up from the API server"
        yield Finding("record", "warning", text, "if it stays, the plugin cannot reach the API server: see its log")
    if record is None:
        yield Finding("record", "warning", f"there is no {here.record_path}", "the plugin makes it when it starts")
        return
    booted = checkpoint.boot(record, here.host.boot_id())
    count = counted(len(record.entries), "claim")
    if booted.what == "invalidated":
        text = f"{count} of another boot ({booted.stored}): no plugin has started since"
        yield Finding("record", "warning", text, "the plugin forgets them when it starts")
        return
    yield Finding("record", "ok", f"{count} in {here.record_path}")
    for uid, entry in record.entries.items():
        if entry.state == "PrepareStarted":
            text = f"claim {uid} was begun and not finished"
            yield Finding(
                "record", "warning", text, "kubelet asks again while a pod wants it; else the plugin lets it go"
            )
    beside_unknown: set[str] = set()  # told with the partition that keeps them back
    for unknown in unmanaged_partitions(inventory, record):
        beside_unknown |= overlapping(inventory, unknown.gpu.pci_bus_id, unknown.start, unknown.size)
    for name in sorted(withdrawn(inventory, record) - beside_unknown):
        text = f"{name} is held back: a claim holds its GPU under another name"
        yield Finding("record", "warning", text, "delete the pods of that claim (nvdra devices names it)")


def _locks(here: Place) -> Finding:
    """Locks that somebody holds and does not give back. Read off the kernel's list: taking them would be a change."""
    deadline = time.monotonic() + _STUCK_S
    held = held_locks(here)
    while held and time.monotonic() < deadline:
        time.sleep(0.05)
        now = held_locks(here)
        held = {path: holder for path, holder in now.items() if path in held}
    if not held:
        return Finding("locks", "ok", "nobody holds them")
    text = ", ".join(f"{path} is held by {holder}" for path, holder in held.items())
    return Finding("locks", "warning", text, "if it stays so, that process hangs: SIGUSR2 makes a plugin tell where")


def held_locks(here: Place) -> dict[str, str]:
    """Lock files of the plugin that are held now, and by whom."""
    paths = [f"{here.plugin_dir}/pu.lock", f"{here.plugin_dir}/cp.lock"]
    with contextlib.suppress(OSError):
        paths += [f"{here.plugin_dir}/.locks/{name}" for name in here.host.list(f"{here.plugin_dir}/.locks")]
    holders: dict[tuple[int, int, int], str] = {}
    for line in here.host.read("/proc/locks").decode(errors="replace").splitlines():
        words = line.split()
        if len(words) >= 6 and words[1] == "FLOCK":  # who waits has "->" there
            major, minor, inode = words[5].split(":")
            holders[(int(major, 16), int(minor, 16), int(inode))] = words[4]
    held: dict[str, str] = {}
    for path in paths:
        with contextlib.suppress(OSError):
            status = here.host.stat(path)
            pid = holders.get((os.major(status.dev), os.minor(status.dev), status.ino))
            if pid is not None:
                held[path] = _process(here, pid)
    return held


def _process(here: Place, pid: str) -> str:
    if not pid.isdigit() or pid == "0":
        return "a process outside of this container"
    try:
        name = here.host.read(f"/proc/{pid}/comm").decode(errors="replace").strip()
    except OSError:
        return f"process {pid}"
    return f"process {pid} ({name})"


def _folder(here: Place, record: Record | None) -> Iterator[Finding]:
    try:
        names = here.host.list(here.cdi_root)
    except OSError as error:
        next_step = "the plugin makes it when it starts; give another by --cdi-root"
        yield Finding("CDI folder", "warning", f"{here.cdi_root}: {error.strerror}", next_step)
        return
    files = {uid: name for name in names if (uid := cdi.GPU_CLAIMS.claim_uid(name)) is not None}
    before = list(_file_findings(here, files, record))
    yield from before
    wrong = bool(before)
    if record is not None:
        # A claim may have come or gone between the two looks: only what is wrong in both records is wrong.
        again = _record_again(here) or record
        orphans = set(claims.orphans(files, record)) & set(claims.orphans(files, again))
        for uid in sorted(orphans):
            text = f"{here.cdi_root}/{files[uid]} is of a claim that the record does not know"
            yield Finding("CDI folder", "warning", text, "the plugin removes it when it starts")
        lost = _lost(record, files) & _lost(again, files)
        for uid in sorted(lost):
            text = f"the file of claim {uid} is lost: containers that use it cannot start"
            yield Finding("CDI folder", "problem", text, "the plugin writes it again within a minute")
        wrong = wrong or bool(orphans or lost)
    # The CDI folder is shared with other drivers: there only what was to become one of our files counts.
    left = [f"{here.cdi_root}/{name}" for name in names if cdi.GPU_CLAIMS.claim_uid(meant_for(name) or "") is not None]
    left += [f"{here.plugin_dir}/{name}" for name in _listed(here) if is_temporary(name)]
    if left:
        text = f"left behind by a writer that was killed: {', '.join(left)}"
        yield Finding("CDI folder", "warning", text, "the plugin removes them when it starts")
    if not wrong and not left:
        told = counted(len(files), "file")
        yield Finding("CDI folder", "ok", f"{told} in {here.cdi_root}, as the record says" if record else told)


def _file_findings(here: Place, files: Mapping[str, str], record: Record | None) -> Iterator[Finding]:
    """Files that cannot be read, or name what is no longer there."""
    for uid, name in sorted(files.items()):
        try:
            document = cdi.parse(here.host.read(f"{here.cdi_root}/{name}"))
        except (OSError, ValueError) as error:
            yield Finding("CDI folder", "problem", f"{here.cdi_root}/{name} cannot be read: {error}", "delete its pod")
            continue
        lost = gone(here.host, here.root, here.host_root, document)
        if lost:
            entry = record.entries.get(uid) if record is not None else None
            who = f"{entry.namespace}/{entry.name} ({uid})" if entry is not None and entry.name else uid
            text = f"claim {who} names driver files that are gone, or device nodes made anew: {_some(lost)}"
            next_step = "its containers run on with what is gone; the plugin writes the file anew: restart the pod"
            yield Finding("CDI folder", "warning", text, next_step)


def _some(paths: list[str]) -> str:
    return ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")


def _lost(record: Record, files: Mapping[str, str]) -> set[str]:
    return {
        uid
        for uid, entry in record.entries.items()
        if entry.state == "PrepareCompleted" and uid not in files and any(one.cdi_ids for one in claims.answers(entry))
    }


def _record_again(here: Place) -> Record | None:
    try:
        return here.record()
    except (OSError, checkpoint.Unreadable):
        return None


def _listed(here: Place) -> list[str]:
    try:
        return here.host.list(here.plugin_dir)
    except OSError:
        return []
