"""compute-domain.nvidia.com as the neutral frame sees it: an implementation of `nvdra.claims.Driver`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nvdra.api.claim import Claim, ClaimRef, OpaqueConfig, Result
from nvdra.api.compute_domain import ALL, DRIVER
from nvdra.api.configs import ComputeDomainChannelConfig, ComputeDomainDaemonConfig
from nvdra.cdi import DOMAIN_CLAIMS, ClaimKind, Edits
from nvdra.checkpoint import (
    DOMAIN,
    Checkpoint,
    DomainGroup,
    Entry,
    PreparedChannel,
    PreparedDaemon,
    PreparedDevice,
    Schema,
)
from nvdra.claims import Allocation, Facts, Group, Missing, NodeDevice, Refuse, Step, Steps, Teardown, answers
from nvdra.domains.claim_configs import domains_of, groups, restored
from nvdra.domains.devices import Channel, DomainNode, DomainRef, device_type, parse_name
from nvdra.domains.edits import channel_edits, daemon_edits
from nvdra.domains.steps import AskHost, DomainStep, JoinDomain, LayFolder

DEVICE_TYPES = ("channel", "daemon", "unknown")
EVERY_DEVICE = "k8s.compute-domain.nvidia.com/device=all"

# Facts: the node as it was when the claim was prepared, and the domain of its daemon.
_NODE = "node"
_HAS_CHANNEL = "has channel"


def domain_fact(domain: str) -> str:
    """The name of the fact that tells about a domain."""
    return f"domain {domain}"


@dataclass(frozen=True, slots=True)
class DomainDriver:
    """Rules of compute-domain.nvidia.com. Its view of the node is a `DomainNode`.

    namespaces        those in which daemon claims are accepted: the driver's, and of other installations
    folder            of all domains, on the host
    is_host_managed   the host runs IMEX: no daemons, no label
    """

    namespaces: frozenset[str]
    folder: str
    is_host_managed: bool = False

    @property
    def name(self) -> str:
        return DRIVER

    @property
    def cdi(self) -> ClaimKind:
        return DOMAIN_CLAIMS

    @property
    def schema(self) -> Schema:
        return DOMAIN

    @property
    def device_types(self) -> tuple[str, ...]:
        return DEVICE_TYPES

    @property
    def has_steps(self) -> bool:
        return True

    @property
    def on_abandoned(self) -> Literal["forget", "abort"]:
        return "abort"

    @property
    def resumes(self) -> bool:
        return True

    # ── prepare ────────────────────────────────────────────────────────────────────────────────────────────────

    def resolve(self, result: Result, node: DomainNode) -> NodeDevice | Missing:
        device = parse_name(result.device)
        if device is None:
            return Missing(result.device, f"requested device is not allocatable: {result.device}")
        return Missing(result.device, node.unready) if node.unready else device

    def forbids(self, result: Result, node: DomainNode) -> str:
        if self.is_host_managed and device_type(result.device) == "daemon":
            return "ComputeDomain daemon claims are not supported when imex.mode=hostManaged"
        return ""

    def group(self, members: Sequence[tuple[Result, NodeDevice]], configs: Sequence[OpaqueConfig]) -> tuple[Group, ...]:
        return groups(members, configs)

    def conflict(self, result: Result, other: Entry, node: DomainNode) -> bool:
        return False  # names say all

    def share_refused(self, claim: Claim, result: Result, uid: str, other: Entry) -> str | None:
        return None

    def overlaps(self, result: Result, other: Entry, node: DomainNode) -> bool:
        return False

    def same_extent(self, device: str, other: str, node: DomainNode) -> bool:
        return False

    def steps(
        self, claim: ClaimRef, groups: Sequence[Group], node: DomainNode, checkpoint: Checkpoint
    ) -> Steps | Refuse:
        needed: list[DomainStep] = []
        for group in groups:
            domain = group.config.domain_id
            if isinstance(group.config, ComputeDomainDaemonConfig):
                if claim.namespace not in self.namespaces:
                    return Refuse(
                        f"prepare devices failed: daemon claims are accepted only in the driver's namespace "
                        f"({', '.join(sorted(self.namespaces))}), not in {claim.namespace}",
                        permanent=True,
                    )
                needed.append(LayFolder(domain, node.clique))
            elif self.is_host_managed:
                needed.append(AskHost(domain, claim.namespace, bool(node.clique)))
            else:
                needed.append(JoinDomain(domain, claim.namespace))
        others = [entry for uid, entry in checkpoint.entries.items() if uid != claim.uid]
        shared = tuple(step for step in needed if step.has_rollback and _is_needed(step, others))
        return Steps(tuple(needed), shared, {_NODE: node, _HAS_CHANNEL: bool(node.clique)})

    # ── unprepare ──────────────────────────────────────────────────────────────────────────────────────────────

    def teardown(self, claim: ClaimRef, entry: Entry, node: DomainNode, checkpoint: Checkpoint) -> Teardown | Refuse:
        if self.is_host_managed:
            return Teardown()
        steps = [JoinDomain(domain) for domain in sorted(domains_of(entry, "channel"))]
        others = [other for uid, other in checkpoint.entries.items() if uid != claim.uid]
        shared = tuple(step for step in steps if _is_needed(step, others))
        return Teardown(tuple(step for step in steps if step not in shared), shared)

    def needs(self, step: Step, entry: Entry) -> bool:
        return isinstance(step, JoinDomain) and step.domain in domains_of(entry, "channel")

    # ── seal ───────────────────────────────────────────────────────────────────────────────────────────────────

    def prepared(self, claim: ClaimRef, group: Group, facts: Facts) -> DomainGroup:
        ((result, device),) = group.members
        own = self.cdi.device_id(claim.uid, result.device)
        if isinstance(device, Channel):
            ids = (own,) if facts[_HAS_CHANNEL] else ()
            return _group(PreparedChannel(device.number), result, ids, "channel", group.config.domain_id)
        return _group(PreparedDaemon(0), result, (EVERY_DEVICE, own), "daemon", group.config.domain_id)

    def concrete(self, device: NodeDevice, facts: Facts) -> NodeDevice:
        return device

    def edits(self, group: Group, result: Result, facts: Facts) -> Edits:
        node: DomainNode = facts[_NODE]
        domain = group.config.domain_id
        if isinstance(group.config, ComputeDomainChannelConfig):
            number = int(result.device.rpartition("-")[2])
            takes_all = group.config.allocation_mode == ALL and not self.is_host_managed
            return channel_edits(node.channel_major, None if takes_all else self._channel(number))
        ref: DomainRef = facts[domain_fact(domain)]
        return daemon_edits(domain, ref, f"{self.folder}/{domain}", node.fabric_node)

    def has_common_edits(self, group: Group) -> bool:
        return False

    def restore(
        self, claim: ClaimRef, given: Allocation, entry: Entry | None, node: DomainNode
    ) -> tuple[tuple[Group, ...], Facts] | Missing:
        made: list[Group] = []
        facts: dict[str, Any] = {_NODE: node, _HAS_CHANNEL: bool(node.clique)}
        has_ids = {device.device: bool(device.cdi_ids) for device in answers(entry)} if entry is not None else {}
        for result, device, config in restored(given.results, given.configs, entry):
            made.append(Group(config, ((result, device),)))
            if isinstance(config, ComputeDomainDaemonConfig):
                ref = node.domains.get(config.domain_id)
                if ref is None:
                    return Missing(result.device, f"ComputeDomain {config.domain_id} has not been looked up yet")
                facts[domain_fact(config.domain_id)] = ref
            elif has_ids.get(result.device, facts[_HAS_CHANNEL]) and not node.channel_major:
                return Missing(result.device, "the kernel module has no IMEX channels now")
        return tuple(made), facts

    def changed(self, device: PreparedDevice, node: DomainNode) -> str:
        return ""

    def device_type(self, device: str) -> str:
        return device_type(device)

    def _channel(self, number: int) -> int:
        # DROP-IN: a driver-managed domain has channel 0, whichever was allocated.
        return number if self.is_host_managed else 0


def _is_needed(step: DomainStep, entries: Sequence[Entry]) -> bool:
    return any(entry.state != "PrepareAborted" and step.domain in domains_of(entry, "channel") for entry in entries)


def _group(
    info: PreparedChannel | PreparedDaemon, result: Result, ids: tuple[str, ...], kind: str, domain: str
) -> DomainGroup:
    device = PreparedDevice(info, (result.request,), result.pool, result.device, ids, result.share_id)
    return DomainGroup((device,), kind, domain)
