"""nvdra doctor, partitions: finds unmanaged partitions and leftovers of half-prepared claims."""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass

from nvdra import claims
from nvdra.api import ClaimRef
from nvdra.checkpoint import Checkpoint, Entry, Unreadable, boot
from nvdra.gpu import Gpu, Inventory, MigName, overlapping
from nvdra.gpu.extents import partitions
from nvdra.node.gpu.stuck_modes import NAME
from nvdra.programs.people.doctor_claims import held_locks
from nvdra.programs.people.finding import Finding
from nvdra.programs.people.local_node import LocalNode
from nvdra.programs.people.paper import counted
from nvdra.programs.people.partitions import Divided, Partition, divided, in_words

CHECK = "partitions"


@dataclass(frozen=True, slots=True)
class Leftover:
    """Effects of a half-prepared claim on GPUs that no process works on now."""

    claim: ClaimRef
    entry: Entry
    what: str

    @property
    def who(self) -> str:
        return f"{self.claim.namespace}/{self.claim.name}" if self.claim.name else self.claim.uid

    @property
    def text(self) -> str:
        return f"claim {self.who} was begun, and nobody works on it: {self.what}"


def look(here: LocalNode, inventory: Inventory) -> Iterator[Finding]:
    checkpoint = readable_checkpoint(here)
    gpus = divided(inventory, checkpoint)
    findings = list(_wrong(here, inventory, checkpoint, gpus))
    yield from findings
    parts = [part for gpu in gpus for part in gpu.partitions]
    if parts and not findings:
        held = sum(part.state == "held" for part in parts)
        yield Finding(CHECK, "ok", f"{counted(len(parts), 'partition')}, {held} of them held by claims")


def _wrong(
    here: LocalNode, inventory: Inventory, checkpoint: Checkpoint | None, gpus: list[Divided]
) -> Iterator[Finding]:
    for gpu in gpus:
        for part in gpu.partitions:
            yield from _odd(inventory, gpu.gpu, part)
        can_toggle = gpu.gpu.partitioning is not None and gpu.gpu.partitioning.can_toggle
        if gpu.is_on and not gpu.partitions and can_toggle:
            text = f"MIG mode of {gpu.gpu.name} is on with no partition on it"
            yield Finding(CHECK, "warning", text, "the plugin turns it off when it starts, or with its next partition")
    for address, stuck in inventory.stuck.items():
        gpu_name = inventory.gpus[address].name
        next_step = f"reset the GPU, remove {here.plugin_dir}/{NAME} and restart the plugin; or reboot the node"
        yield Finding(CHECK, "warning", f"{gpu_name} is offered only as it stands: {stuck}", next_step)
    if checkpoint is None:
        return
    for leftover in leftovers(here, inventory, checkpoint):
        yield Finding(CHECK, "warning", leftover.text, "nvdra doctor --fix rolls it back; so does a running plugin")
    if not inventory.unread:
        yield from _lost(inventory, checkpoint)


def _odd(inventory: Inventory, gpu: Gpu, part: Partition) -> Iterator[Finding]:
    instance = part.instance
    where = f"GPU instance {instance.gi_id} of {gpu.name} ({part.profile}, memory {in_words(instance)})"
    smi = f"nvidia-smi mig -i {gpu.uuid} -gi {instance.gi_id}"
    if part.state == "unmanaged":
        names = overlapping(inventory, gpu.pci_bus_id, instance.start, instance.size)
        text = f"{where}: nobody here made it; {counted(len(names), 'device')} that overlap it are not offered"
        by_hand = f"{smi} -dci, then -dgi" if instance.compute else f"{smi} -dgi"
        next_step = f"remove it if it is not needed ({by_hand}), or start the plugin with --destroy-unknown-mig"
        yield Finding(CHECK, "warning", text, next_step)
    elif part.state == "half made" and not part.holders:
        text = f"{where} has no compute instance, so it is no MIG device"
        yield Finding(CHECK, "warning", text, f"{smi} -cci makes one, -dgi takes it away")


def leftovers(here: LocalNode, inventory: Inventory, checkpoint: Checkpoint) -> Iterator[Leftover]:
    """Leftovers of this boot's half-prepared claims, on GPUs whose lock no process holds."""
    if boot(checkpoint, here.host.boot_id()).what == "invalidated":
        return
    in_work = {path.rpartition("/")[2] for path in held_locks(here)}
    for uid, entry in checkpoint.entries.items():
        if entry.state != "PrepareStarted":
            continue
        placements = partitions(entry, inventory)
        left = [text for name, address in placements if (text := _left(inventory, name, address, in_work))]
        if left:
            yield Leftover(ClaimRef(entry.namespace, entry.name, uid), entry, "; ".join(left))


def _left(inventory: Inventory, name: MigName, address: str, in_work: Set[str]) -> str:
    """The state of a half-made partition on its GPU; "" if it is not there, or a process works on the GPU."""
    gpu = inventory.gpus.get(address)
    if gpu is None or gpu.partitioning is None or in_work & {address, gpu.uuid}:
        return ""
    now = inventory.partitions.get(address)
    if now is None or not now.is_on:
        return ""
    for instance in now.instances:
        if (instance.profile_id, instance.start) == (name.profile_id, name.start):
            return f"{name} stands{'' if instance.compute else ' half made'}"
    return "" if now.instances else f"MIG mode of {gpu.name} is on for it"


def _lost(inventory: Inventory, checkpoint: Checkpoint) -> Iterator[Finding]:
    live = {compute.uuid for now in inventory.partitions.values() for each in now.instances for compute in each.compute}
    for uid, entry in checkpoint.entries.items():
        if entry.state != "PrepareCompleted":
            continue
        for device in claims.answers(entry):
            if device.mig is not None and device.uuid not in live:
                who = f"{entry.namespace}/{entry.name}" if entry.name else uid
                text = f"{device.device} ({device.uuid}), which claim {who} holds, is gone: somebody took it away"
                yield Finding(CHECK, "problem", text, "delete the claim's pods: they have no GPU any more")


def readable_checkpoint(here: LocalNode) -> Checkpoint | None:
    """The checkpoint; empty if there is none, None if it cannot be read (another finding reports that)."""
    try:
        return here.checkpoint() or Checkpoint("")
    except (OSError, Unreadable):
        return None
