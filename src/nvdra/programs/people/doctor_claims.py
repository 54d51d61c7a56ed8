"""nvdra doctor, claims: checks the checkpoint, the holders of its locks, and the CDI folder."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping

from nvdra import cdi, claims
from nvdra.checkpoint import Checkpoint, Unreadable, boot
from nvdra.gpu import Inventory, overlapping
from nvdra.gpu.partitions import unmanaged_partitions
from nvdra.gpu.unpublished import withdrawn
from nvdra.host import gone, is_temporary, meant_for
from nvdra.node.checkpoint_file import QUARANTINED
from nvdra.programs.people.finding import Finding
from nvdra.programs.people.local_node import LocalNode
from nvdra.programs.people.paper import counted

# A batch holds the locks for milliseconds; a process that holds them longer than this hangs.
_STUCK_S = 0.5


def look(here: LocalNode, inventory: Inventory) -> Iterator[Finding]:
    checkpoint: Checkpoint | None = None
    try:
        checkpoint = here.checkpoint()
    except (OSError, Unreadable) as error:
        is_denied = isinstance(error, PermissionError)
        cause = error.strerror if isinstance(error, OSError) else error
        next_step = (
            "run it as root" if is_denied else "nvdra checkpoint show tells more; the plugin sets it aside at its start"
        )
        yield Finding("checkpoint", "problem", f"{here.checkpoint_path} cannot be read: {cause}", next_step)
    else:
        yield from _checkpoint(here, checkpoint, inventory)
    yield _locks(here)
    yield from _folder(here, checkpoint)


def _checkpoint(here: LocalNode, checkpoint: Checkpoint | None, inventory: Inventory) -> Iterator[Finding]:
    quarantine = f"{here.plugin_dir}/{QUARANTINED}"
    if here.host.resolve(quarantine) is not None:
        text = f"a former checkpoint lies aside as {quarantine}: its claims are being restored from the API server"
        yield Finding("checkpoint", "warning", text, "if it stays, the plugin cannot reach the API server: see its log")
    if checkpoint is None:
        yield Finding(
            "checkpoint", "warning", f"there is no {here.checkpoint_path}", "the plugin makes it when it starts"
        )
        return
    booted = boot(checkpoint, here.host.boot_id())
    count = counted(len(checkpoint.entries), "claim")
    if booted.what == "invalidated":
        text = f"{count} of another boot ({booted.stored}): no plugin has started since"
        yield Finding("checkpoint", "warning", text, "the plugin forgets them when it starts")
        return
    yield Finding("checkpoint", "ok", f"{count} in {here.checkpoint_path}")
    for uid, entry in checkpoint.entries.items():
        if entry.state == "PrepareStarted":
            text = f"claim {uid} was begun and not finished"
            yield Finding(
                "checkpoint", "warning", text, "kubelet asks again while a pod wants it; else the plugin lets it go"
            )
    beside_unmanaged: set[str] = set()  # reported with the partition that overlaps them
    for unmanaged in unmanaged_partitions(inventory, checkpoint):
        beside_unmanaged |= overlapping(inventory, unmanaged.gpu.pci_bus_id, unmanaged.start, unmanaged.size)
    for name in sorted(withdrawn(inventory, checkpoint) - beside_unmanaged):
        text = f"{name} is held back: a claim holds its GPU under another name"
        yield Finding("checkpoint", "warning", text, "delete the pods of that claim (nvdra devices names it)")


def _locks(here: LocalNode) -> Finding:
    """Locks that a process holds for too long. Read from the kernel's list, because taking them would be a change."""
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


def held_locks(here: LocalNode) -> dict[str, str]:
    """Lock files of the plugin that are held now, each with its holder."""
    paths = [f"{here.plugin_dir}/pu.lock", f"{here.plugin_dir}/cp.lock"]
    with contextlib.suppress(OSError):
        paths += [f"{here.plugin_dir}/.locks/{name}" for name in here.host.list(f"{here.plugin_dir}/.locks")]
    holders: dict[tuple[int, int, int], str] = {}
    for line in here.host.read("/proc/locks").decode(errors="replace").splitlines():
        words = line.split()
        if len(words) >= 6 and words[1] == "FLOCK":  # a waiting process has "->" there
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


def _process(here: LocalNode, pid: str) -> str:
    if not pid.isdigit() or pid == "0":
        return "a process outside of this container"
    try:
        name = here.host.read(f"/proc/{pid}/comm").decode(errors="replace").strip()
    except OSError:
        return f"process {pid}"
    return f"process {pid} ({name})"


def _folder(here: LocalNode, checkpoint: Checkpoint | None) -> Iterator[Finding]:
    try:
        names = here.host.list(here.cdi_root)
    except OSError as error:
        next_step = "the plugin makes it when it starts; give another by --cdi-root"
        yield Finding("CDI folder", "warning", f"{here.cdi_root}: {error.strerror}", next_step)
        return
    files = {uid: name for name in names if (uid := cdi.GPU_CLAIMS.claim_uid(name)) is not None}
    before = list(_file_findings(here, files, checkpoint))
    yield from before
    wrong = bool(before)
    if checkpoint is not None:
        # A claim may have come or gone between the two reads: only a fault in both checkpoints is a finding.
        again = _checkpoint_again(here) or checkpoint
        orphans = set(claims.orphans(files, checkpoint)) & set(claims.orphans(files, again))
        for uid in sorted(orphans):
            text = f"{here.cdi_root}/{files[uid]} is of a claim that the checkpoint does not know"
            yield Finding("CDI folder", "warning", text, "the plugin removes it when it starts")
        lost = _lost(checkpoint, files) & _lost(again, files)
        for uid in sorted(lost):
            text = f"the file of claim {uid} is lost: containers that use it cannot start"
            yield Finding("CDI folder", "problem", text, "the plugin writes it again within a minute")
        wrong = wrong or bool(orphans or lost)
    # The CDI folder is shared with other drivers: only temporary names of this driver's files count.
    left = [f"{here.cdi_root}/{name}" for name in names if cdi.GPU_CLAIMS.claim_uid(meant_for(name) or "") is not None]
    left += [f"{here.plugin_dir}/{name}" for name in _listed(here) if is_temporary(name)]
    if left:
        text = f"left behind by a writer that was killed: {', '.join(left)}"
        yield Finding("CDI folder", "warning", text, "the plugin removes them when it starts")
    if not wrong and not left:
        told = counted(len(files), "file")
        yield Finding("CDI folder", "ok", f"{told} in {here.cdi_root}, as the checkpoint says" if checkpoint else told)


def _file_findings(here: LocalNode, files: Mapping[str, str], checkpoint: Checkpoint | None) -> Iterator[Finding]:
    """CDI files that cannot be read, or that name missing files."""
    for uid, name in sorted(files.items()):
        try:
            document = cdi.parse(here.host.read(f"{here.cdi_root}/{name}"))
        except (OSError, ValueError) as error:
            yield Finding("CDI folder", "problem", f"{here.cdi_root}/{name} cannot be read: {error}", "delete its pod")
            continue
        lost = gone(here.host, here.root, here.host_root, document)
        if lost:
            entry = checkpoint.entries.get(uid) if checkpoint is not None else None
            who = f"{entry.namespace}/{entry.name} ({uid})" if entry is not None and entry.name else uid
            text = f"claim {who} names driver files that are gone, or device nodes made anew: {_some(lost)}"
            next_step = "its containers run on with what is gone; the plugin writes the file anew: restart the pod"
            yield Finding("CDI folder", "warning", text, next_step)


def _some(paths: list[str]) -> str:
    return ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")


def _lost(checkpoint: Checkpoint, files: Mapping[str, str]) -> set[str]:
    return {
        uid
        for uid, entry in checkpoint.entries.items()
        if entry.state == "PrepareCompleted" and uid not in files and any(one.cdi_ids for one in claims.answers(entry))
    }


def _checkpoint_again(here: LocalNode) -> Checkpoint | None:
    try:
        return here.checkpoint()
    except (OSError, Unreadable):
        return None


def _listed(here: LocalNode) -> list[str]:
    try:
        return here.host.list(here.plugin_dir)
    except OSError:
        return []
