"""What is made of the Go driver's claims is what the Go driver made of them, byte for byte."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from nvdra import cdi, claims
from nvdra.api import Claim, ClaimRef, decode_claim
from nvdra.checkpoint import DOMAIN, Checkpoint, Entry, decode, encode
from nvdra.domains.devices import CapabilityNode, DomainNode, DomainRef, published
from nvdra.domains.driver import DomainDriver, domain_fact

GOLDEN = Path(__file__).parents[2] / "golden" / "domains"
CLIQUE = "7b1f0f52-3f0c-4c5e-9d7e-2c9b1f6a8e01.32766"
DRIVER = DomainDriver(frozenset(("drv",)), "/var/lib/kubelet/plugins/compute-domain.nvidia.com/domains")
NODE = DomainNode(CLIQUE, "", 235, CapabilityNode(234, 3, 0o400))
BARE = cdi.Common(cdi.Edits(), "/root", "/run/nvidia/driver")


def given(mode: str) -> list[Claim]:
    found = [
        decode_claim(json.dumps(thing).encode()) for thing in json.loads((GOLDEN / mode / "claims.json").read_text())
    ]
    return sorted(found, key=lambda claim: claim.ref.uid)


def sealed(claim: Claim, checkpoint: Checkpoint) -> claims.Sealed:
    plan = claims.plan(DRIVER, claim, NODE, checkpoint, pool="node-a", has_file=False)
    assert isinstance(plan, claims.NeedsSteps)
    (group,) = plan.groups
    ref = DomainRef("dom", "default", CLIQUE)
    return claims.seal(DRIVER, plan.completed({domain_fact(group.config.domain_id): ref}))


@pytest.mark.parametrize("mode", ["single", "all"])
def test_prepared_claims_give_the_same_checkpoint_and_files(mode: str) -> None:
    stored = (GOLDEN / mode / "checkpoint.json").read_bytes()
    boot_id = decode(stored, DOMAIN).boot_id
    entries: dict[str, Entry] = {}
    for claim in given(mode):
        made = sealed(claim, Checkpoint(boot_id, entries))
        entries[claim.ref.uid] = made.entry
        devices = [(name, device.added) for name, device in made.cdi_devices.items()]
        content = cdi.render_claim(DRIVER.cdi, BARE, devices)
        path = GOLDEN / mode / "cdi" / DRIVER.cdi.file_name(claim.ref.uid)
        if path.exists():
            assert content.decode() == path.read_text()
        else:
            digest = path.with_name(f"{path.name}.sha256").read_text().strip()
            assert hashlib.sha256(content).hexdigest() == digest
    assert encode(Checkpoint(boot_id, entries), DOMAIN) == stored


@pytest.mark.parametrize("mode", ["single", "all"])
def test_the_go_drivers_checkpoint_is_read_and_its_files_rendered_again(mode: str) -> None:
    checkpoint = decode((GOLDEN / mode / "checkpoint.json").read_bytes(), DOMAIN)
    for claim in given(mode):
        entry = checkpoint.entries[claim.ref.uid]
        (domain,) = {group.domain for group in entry.prepared}  # type: ignore[union-attr]
        node = DomainNode(CLIQUE, "", 235, NODE.fabric_node, {domain: DomainRef("dom", "default", CLIQUE)})
        again = claims.restored(DRIVER, claim.ref, entry, node)
        assert isinstance(again, claims.Sealed)
        assert again.cdi_devices == sealed(claim, checkpoint_without(checkpoint, claim.ref.uid)).cdi_devices


def checkpoint_without(checkpoint: Checkpoint, uid: str) -> Checkpoint:
    return Checkpoint(checkpoint.boot_id, {key: entry for key, entry in checkpoint.entries.items() if key != uid})


def test_a_waiting_claim_gives_the_same_checkpoint() -> None:
    stored = (GOLDEN / "single" / "checkpoint-started.json").read_bytes()
    (channel,) = [claim for claim in given("single") if claim.ref.name == "chan"]
    plan = claims.plan(DRIVER, channel, NODE, Checkpoint(""), pool="node-a", has_file=False)
    assert isinstance(plan, claims.NeedsSteps)
    # The recording was made in a run of its own, so its claim has another UID only.
    (uid,) = decode(stored, DOMAIN).entries
    entries = {uid: plan.started}
    assert encode(Checkpoint(decode(stored, DOMAIN).boot_id, entries), DOMAIN) == stored


def test_an_aborted_claim_gives_the_same_checkpoint() -> None:
    stored = (GOLDEN / "single" / "checkpoint-aborted.json").read_bytes()
    checkpoint = decode(stored, DOMAIN)
    ((uid, aborted),) = checkpoint.entries.items()
    started = Entry("PrepareStarted", aborted.status, (), aborted.name, aborted.namespace)
    ref = claims_ref(aborted, uid)
    release = claims.unprepare(DRIVER, ref, NODE, Checkpoint("", {uid: started}), given_up_at=aborted.aborted_at)
    assert isinstance(release, claims.TearDownFirst)
    remains = claims.remains(DRIVER, ref, started, aborted.aborted_at)
    assert remains is not None
    assert encode(Checkpoint(checkpoint.boot_id, {uid: remains}), DOMAIN) == stored


def claims_ref(entry: Entry, uid: str) -> ClaimRef:
    return ClaimRef(entry.namespace, entry.name, uid)


def test_the_same_devices_are_published() -> None:
    (stored,) = json.loads((GOLDEN / "single" / "slices.json").read_text())
    theirs = {device["name"]: device["attributes"] for device in stored["spec"]["devices"]}
    assert {device["name"]: device["attributes"] for device in published(with_daemon=True)} == theirs
