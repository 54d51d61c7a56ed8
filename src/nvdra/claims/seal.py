"""What a prepared claim leaves behind: its entry, the devices of its CDI file, the answers for kubelet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nvdra.api.claim import Result
from nvdra.checkpoint import Entry, Info, PreparedDevice, PreparedGpu, PreparedGroup, PreparedMig
from nvdra.claims.entries import answers
from nvdra.claims.outcome import Concrete, Group, Needs, Ready, Sealed
from nvdra.devices import Device, MigDevice, MigSpec

CDI_KIND = "k8s.gpu.nvidia.com/claim"


def seal(ready: Ready) -> Sealed:
    """What a claim leaves behind once everything it needs is done.

    Groups are in the order of their first result, so that the same claim gives the same bytes everywhere.
    Two results on one device give one CDI device and an answer each.
    """
    claim = ready.claim
    prepared = tuple(
        PreparedGroup(tuple(_prepared(claim.ref.uid, result, device) for result, device in group.members))
        for group in ready.groups
    )
    entry = Entry(
        state="PrepareCompleted",
        status=claim.status,
        prepared=prepared,
        # DROP-IN: better. The Go driver drops both here; with them a completed entry can be checked with one GET.
        name=claim.ref.name,
        namespace=claim.ref.namespace,
    )
    named = {cdi_name(claim.ref.uid, device.name): device for group in ready.groups for _, device in group.members}
    return Sealed(entry, dict(sorted(named.items())), answers(entry))


def made(groups: Iterable[Group[Device]], partitions: Mapping[str, MigDevice]) -> tuple[Group[Concrete], ...]:
    """The groups with each partition to be made replaced by the one that was.

    partitions   by device name
    """

    def concrete(device: Device) -> Concrete:
        return partitions[device.name] if isinstance(device, MigSpec) else device

    return tuple(
        Group(group.config, tuple((result, concrete(device)) for result, device in group.members)) for group in groups
    )


def complete(needs: Needs, created: Mapping[str, MigDevice]) -> Ready:
    """What is to be sealed once the steps are done; `created` holds what they made, by device name."""
    return Ready(needs.claim, made(needs.groups, {**needs.shared, **created}))


def _prepared(uid: str, result: Result, device: Concrete) -> PreparedDevice:
    info: Info = PreparedGpu(device.uuid)
    if isinstance(device, MigDevice):
        info = PreparedMig(device.uuid, device.parent.minor, device.parent.uuid, device.gi_id, device.ci_id)
    return PreparedDevice(
        info=info,
        requests=(result.request,),
        pool=result.pool,
        device=result.device,
        cdi_ids=(f"{CDI_KIND}={cdi_name(uid, result.device)}",),
        share_id=result.share_id,
    )


def cdi_name(uid: str, device: str) -> str:
    return f"{uid}-{device}"
