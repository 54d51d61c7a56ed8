"""Planning and sealing claims for full GPUs."""

from __future__ import annotations

import pytest

from nvdra import claims
from nvdra.api import gates
from nvdra.checkpoint.record import Entry, Record
from nvdra.claims import Done, Ready, Refuse, Repair, Sealed
from tests.unit.claims import world

EMPTY = world.record()

FOLDERS = ["v0.4.0-plain", "v0.4.1-plain", "main-plain"]


def plan(claim, record=EMPTY, *, inventory=None, has_file=True, **more):
    return claims.plan(
        claim,
        inventory or world.inventory(),
        record,
        gates.defaults(),
        pool=world.POOL,
        has_file=has_file,
        **more,
    )


def sealed(claim, record=EMPTY, **more) -> Sealed:
    ready = plan(claim, record, **more)
    assert isinstance(ready, Ready), ready
    return claims.seal(ready)


def prepared(*prepared_claims) -> Record:
    """The record after each claim was prepared, one after the other."""
    entries: dict[str, Entry] = {}
    for one in prepared_claims:
        entries[one.ref.uid] = sealed(one, Record("boot", dict(entries))).entry
    return Record("boot", entries)


@pytest.mark.parametrize("folder", FOLDERS)
def test_recorded_claims_get_the_recorded_answers(folder):
    wanted = world.recording(folder, "answer.json")["claims"]
    for document in world.recording(folder, "claims.json").values():
        one = world.claim_of(document)
        assert [
            {
                "cdiDeviceIds": list(answer.cdi_ids),
                "deviceName": answer.device,
                "poolName": answer.pool,
                "requestNames": list(answer.requests),
            }
            for answer in sealed(one).answers
        ] == wanted[one.ref.uid]["devices"]


def test_asked_again_it_answers_the_same_and_repairs_a_lost_file():
    one = world.claim("c1", "gpu-1", "gpu-0")
    first = sealed(one)
    record = world.record(c1=first.entry)
    assert plan(one, record) == Done(first.answers)
    assert plan(one, record, has_file=False) == Repair(first)


def test_a_device_of_another_claim_is_refused_by_name_of_the_holder():
    record = prepared(world.claim("c1", "gpu-0"))
    refuse = plan(world.claim("c2", "gpu-1", "gpu-0"), record)
    assert refuse == Refuse(
        "unable to prepare claim c2: requested device gpu-0 is already allocated to different claim c1"
    )
