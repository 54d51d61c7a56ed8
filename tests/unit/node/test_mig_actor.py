"""The MIG actor on GPUs with state, run by the step runner: what it makes, what is left where it fails, upkeep."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from nvdra.checkpoint import Checkpoint
from nvdra.gpu import Gpu, GpuScan, Inventory, MigDevice, MigSpec, Partitions, StuckMode, from_scan
from nvdra.gpu.partitions import unmanaged_partitions
from nvdra.gpu.steps import CreatePartition, LeaveMigMode, create_partition
from nvdra.node.gpu.actors.mig import MigActor
from nvdra.node.locks import FOLDER, ResourceLocks
from nvdra.node.steps import StepFailed, StepJournal, StepRunner
from nvdra.nvml import IN_USE, DriverAbsent, DriverChanged, NvmlHung
from nvdra.testing.host import FakeHost
from tests.unit.gpu.scans import instance, node_scan
from tests.unit.node.gpus import Gpus, refusal
from tests.unit.node.mig_world import AT_ONE, AT_ZERO, ONE, ZERO, card, until

P = "/plugins/gpu.nvidia.com"


class Bench:
    """Two GPUs, their locks, the actor and its runner, and what it told."""

    def __init__(self, folder: Path, *scans: GpuScan, never_toggles: bool = False) -> None:
        scans = scans or (card(0), card(1))
        self.gpus = Gpus(*scans)
        self.inventory: Inventory = from_scan(node_scan(*scans), {}, dynamic_mig=True, never_toggles=never_toggles)
        self.folder = folder
        self.host = FakeHost(folder)
        (folder / f"{P}/{FOLDER}".strip("/")).mkdir(parents=True)
        self.locks = ResourceLocks(self.host, P)
        self.told: dict[str, Partitions] = {}
        self.stuck: dict[str, StuckMode] = {}
        self.actor = MigActor(self.gpus, self._changed, self._note)
        actors = {CreatePartition.kind: self.actor, LeaveMigMode.kind: self.actor}
        self.runner = StepRunner(self.locks, actors)

    def _changed(self, address: str, partitions: Partitions) -> None:
        self.told[address] = partitions

    async def _note(self, address: str, stuck: StuckMode) -> None:
        self.stuck[address] = stuck

    def step(self, spec: MigSpec) -> CreatePartition:
        return create_partition(spec)

    def spec(self, profile_id: int, start: int, minor: int = 0) -> MigSpec:
        specs = (device for device in self.inventory.devices.values() if isinstance(device, MigSpec))
        wanted = (minor, profile_id, start)
        return next(each for each in specs if (each.parent.minor, each.profile.profile_id, each.start) == wanted)

    def take(self, claim: str, *gpus: str) -> None:
        assert self.locks.try_take(claim, gpus)
        self.locks.begin(claim, gpus)

    async def make(self, claim: str, *specs: MigSpec) -> list[str]:
        """Take the GPUs, make the partitions; their UUIDs."""
        self.take(claim, *{spec.parent.pci_bus_id for spec in specs})
        made = await self.runner.apply(claim, [create_partition(spec) for spec in specs])
        return [made[spec.name].uuid for spec in specs]

    async def roll_back(self, claim: str, *steps: CreatePartition) -> None:
        await self.runner.roll_back(claim, steps)

    def journal(self, gpu: Gpu) -> StepJournal:
        return StepJournal(self.locks, "upkeep", LeaveMigMode(gpu))

    async def fails(self, work: Awaitable[object]) -> StepFailed:
        with pytest.raises(StepFailed) as failed:
            await work
        return failed.value

    def state(self) -> dict[str, Partitions]:
        """What stands, by PCI address."""
        return {AT_ZERO: self.gpus.partitions(ZERO), AT_ONE: self.gpus.partitions(ONE)}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def verbs(calls: Iterable[tuple[str, int]], minor: int) -> list[str]:
    return [verb for verb, of in calls if of == minor]


# --- making ---


async def test_a_partition_is_made_and_told_with_its_identity(bench: Bench) -> None:
    spec = bench.spec(9, 4)
    bench.take("c1", AT_ZERO)
    made = (await bench.runner.apply("c1", [create_partition(spec)]))[spec.name]
    assert (made.parent, made.start, made.size, made.gi_id, made.ci_id) == (spec.parent, 4, 4, 1, 0)
    assert bench.told == {AT_ZERO: bench.gpus.partitions(ZERO)}
    assert bench.told[AT_ZERO].is_on
    assert [(seen.profile_id, seen.start, seen.compute[0].uuid) for seen in bench.told[AT_ZERO].instances] == [
        (9, 4, made.uuid)
    ]
    assert verbs(bench.gpus.calls, 0) == ["set_mig_mode", "create_gpu_instance", "create_compute_instance"]


async def test_the_mode_is_changed_for_the_first_partition_alone(bench: Bench) -> None:
    await bench.make("c1", bench.spec(19, 0), bench.spec(19, 1))
    assert verbs(bench.gpus.calls, 0).count("set_mig_mode") == 1
    bench.gpus.calls.clear()
    await bench.make("c2", bench.spec(19, 2))
    assert "set_mig_mode" not in verbs(bench.gpus.calls, 0)


async def test_different_gpus_are_worked_on_side_by_side(bench: Bench) -> None:
    bench.gpus.met["create_gpu_instance"] = asyncio.Barrier(2)
    assert len(set(await bench.make("c1", bench.spec(19, 0), bench.spec(19, 0, minor=1)))) == 2


async def test_claims_on_different_gpus_do_not_wait_for_each_other(bench: Bench) -> None:
    bench.gpus.met["create_compute_instance"] = asyncio.Barrier(2)
    await asyncio.gather(bench.make("c1", bench.spec(19, 0)), bench.make("c2", bench.spec(19, 0, minor=1)))


async def test_claims_on_one_gpu_go_in_the_order_they_came(bench: Bench) -> None:
    gate = bench.gpus.held["create_gpu_instance"] = asyncio.Event()
    work = [asyncio.create_task(bench.make(f"c{start}", bench.spec(19, start))) for start in (3, 1, 2)]
    await asyncio.sleep(0.01)
    assert verbs(bench.gpus.calls, 0) == ["set_mig_mode", "create_gpu_instance"]
    gate.set()
    await asyncio.gather(*work)
    assert [gi.start for gi in sorted(bench.told[AT_ZERO].instances, key=lambda gi: gi.gi_id)] == [3, 1, 2]


async def test_a_gpu_wanted_whole_has_its_mode_turned_off(tmp_path: Path) -> None:
    bench = Bench(tmp_path, card(0, mig_mode=(1, 1)), card(1))
    bench.take("c1", AT_ZERO)
    assert await bench.runner.apply("c1", [LeaveMigMode(bench.inventory.gpus[AT_ZERO])]) == {}
    assert bench.told == {AT_ZERO: Partitions()}


async def test_a_gpu_wanted_whole_that_is_partitioned_meanwhile_is_left_alone(bench: Bench) -> None:
    bench.gpus.put(ZERO, instance(14, 2, 2))
    bench.take("c1", AT_ZERO)
    failed = await bench.fails(bench.runner.apply("c1", [LeaveMigMode(bench.inventory.gpus[AT_ZERO])]))
    assert str(failed) == (
        f"gpu-0 ({ZERO}) is wanted whole and GPU instance 3 (profile 14 at memory slice 2) is on it: "
        "nvidia-smi mig -lgi lists what is there; kubelet will ask again"
    )
    assert bench.gpus.calls == []


async def test_a_placement_taken_meanwhile_is_refused(bench: Bench) -> None:
    bench.gpus.put(ZERO, instance(14, 2, 2))
    failed = await bench.fails(bench.make("c1", bench.spec(19, 3)))
    assert str(failed) == (
        "error creating MIG device: gpu-0-mig-1g18gb-19-3 overlaps GPU instance 3 (profile 14 at memory slice 2): "
        "nvidia-smi mig -lgi lists what is there; kubelet will ask again"
    )
    assert failed.is_rolled_back
    assert bench.gpus.placements(ZERO) == [(14, 2)]


# --- failures ---

CALLS = ("mig", "set_mig_mode", "create_gpu_instance", "create_compute_instance")


@pytest.mark.parametrize("on", [0, 1])
@pytest.mark.parametrize("verb", CALLS)
async def test_whichever_call_fails_nothing_is_left_on_any_gpu(bench: Bench, verb: str, on: int) -> None:
    before = bench.state()
    bench.gpus.refuse(verb, (ZERO, ONE)[on], refusal(3, "Not Supported"))
    failed = await bench.fails(bench.make("c1", bench.spec(19, 0), bench.spec(14, 2), bench.spec(19, 0, minor=1)))
    assert failed.is_rolled_back
    assert str(failed).endswith(": Not Supported")
    assert bench.state() == before
    assert bench.told == before


@pytest.mark.parametrize(
    ("verb", "text"),
    [
        ("mig", "error creating MIG device: "),
        ("set_mig_mode", f"error enabling MIG mode for device gpu-0-{ZERO}: "),
        (
            "create_gpu_instance",
            "error creating MIG device: error creating GPU instance for 'gpu-0-mig-1g18gb-19-0': ",
        ),
        ("create_compute_instance", "error creating MIG device: error creating Compute instance for '1g.18gb': "),
    ],
)
@pytest.mark.parametrize(
    "error",
    [
        refusal(15, "GPU is lost"),
        NvmlHung("nvmlDeviceCreateGpuInstanceWithPlacement", 10.0, "the GPU is not used"),
        DriverAbsent("no driver is loaded"),
        DriverChanged("another driver is loaded"),
    ],
)
async def test_a_failure_says_what_was_being_done_to_what_and_why(
    bench: Bench, verb: str, text: str, error: Exception
) -> None:
    bench.gpus.refuse(verb, ZERO, error)
    failed = await bench.fails(bench.make("c1", bench.spec(19, 0)))
    assert str(failed) == text + (getattr(error, "text", "") or str(error))


async def test_what_stands_for_others_stays_when_a_claim_fails(bench: Bench) -> None:
    await bench.make("c1", bench.spec(19, 0))
    bench.locks.give_back("c1", is_done=True)
    before = bench.state()
    bench.gpus.refuse("create_compute_instance", ZERO, refusal(3, "Not Supported"), after=1)
    failed = await bench.fails(bench.make("c2", bench.spec(19, 1), bench.spec(19, 2)))
    assert failed.is_rolled_back
    assert bench.state() == before


async def test_it_is_rolled_back_in_reverse_of_how_it_was_made(bench: Bench) -> None:
    bench.gpus.refuse("create_compute_instance", ZERO, refusal(3, "Not Supported"), after=1)
    await bench.fails(bench.make("c1", bench.spec(19, 1), bench.spec(19, 0)))
    made = ["create_gpu_instance", "create_compute_instance"]
    assert verbs(bench.gpus.calls, 0) == [
        *("set_mig_mode", *made, *made),
        *("destroy_gpu_instance", "destroy_compute_instance", "destroy_gpu_instance", "set_mig_mode"),
    ]


async def test_what_cannot_be_taken_back_is_said_and_left_for_later(bench: Bench) -> None:
    bench.gpus.refuse("create_compute_instance", ZERO, refusal(3, "Not Supported"))
    bench.gpus.refuse("destroy_gpu_instance", ZERO, refusal(999, "Unknown Error"))
    failed = await bench.fails(bench.make("c1", bench.spec(19, 0), bench.spec(19, 0, minor=1)))
    assert not failed.is_rolled_back
    assert str(failed) == (
        "error creating MIG device: error creating Compute instance for '1g.18gb': Not Supported; and the "
        "rollback failed: error deleting MIG device gpu-0-mig-1g18gb-19-0: "
        "error destroying GPU Instance: Unknown Error"
    )
    assert bench.gpus.placements(ZERO) == [(19, 0)]
    assert bench.gpus.partitions(ONE) == Partitions()  # the other GPU's is taken back all the same
    await bench.roll_back("c1", create_partition(bench.spec(19, 0)))
    assert bench.gpus.partitions(ZERO) == Partitions()


async def test_where_the_lock_s_file_cannot_be_written_nothing_is_made(bench: Bench) -> None:
    bench.take("c1", AT_ZERO)
    bench.host.refuse("append", f"{P}/{FOLDER}", errno.ENOSPC)
    failed = await bench.fails(bench.runner.apply("c1", [create_partition(bench.spec(19, 0))]))
    assert failed.is_rolled_back
    assert str(failed) == (
        f"error creating MIG device: error writing lock file ({P}/{FOLDER}/{AT_ZERO}): No space left on device"
    )
    assert bench.gpus.calls == []


# --- rollback ---


async def test_what_was_made_is_taken_away_and_the_mode_with_the_last(bench: Bench) -> None:
    uuids = await bench.make("c1", bench.spec(19, 0), bench.spec(19, 1))
    bench.gpus.calls.clear()
    first, second = (
        replace(create_partition(bench.spec(19, start)), uuid=uuid) for start, uuid in zip((0, 1), uuids, strict=True)
    )
    await bench.roll_back("c1", first)
    assert bench.gpus.partitions(ZERO).is_on
    assert verbs(bench.gpus.calls, 0) == ["destroy_compute_instance", "destroy_gpu_instance"]
    await bench.roll_back("c1", second)
    assert bench.told[AT_ZERO] == bench.gpus.partitions(ZERO) == Partitions()


async def test_where_the_mode_cannot_be_changed_it_stays(tmp_path: Path) -> None:
    bench = Bench(tmp_path, card(0, mig_mode=(1, 1)), card(1), never_toggles=True)
    await bench.make("c1", bench.spec(19, 0))
    await bench.roll_back("c1", create_partition(bench.spec(19, 0)))
    assert "set_mig_mode" not in verbs(bench.gpus.calls, 0)
    assert bench.told[AT_ZERO] == Partitions(is_on=True)


async def test_the_mode_stays_for_a_claim_that_is_about_to_need_it(bench: Bench) -> None:
    await bench.make("c1", bench.spec(19, 0))
    bench.take("c2", AT_ZERO)
    await bench.roll_back("c1", create_partition(bench.spec(19, 0)))
    assert bench.gpus.partitions(ZERO) == Partitions(is_on=True)
    await bench.roll_back("c2", create_partition(bench.spec(19, 1)))
    bench.locks.give_back("c1", is_done=True)
    await bench.roll_back("c2", create_partition(bench.spec(19, 1)))
    assert bench.gpus.partitions(ZERO) == Partitions()


async def test_the_mode_does_not_stay_for_a_claim_that_wanted_the_gpu_whole_and_failed(bench: Bench) -> None:
    await bench.make("c1", bench.spec(19, 0))
    bench.take("c2", AT_ZERO)
    await bench.fails(bench.runner.apply("c2", [LeaveMigMode(bench.inventory.gpus[AT_ZERO])]))
    # It is not out of work before the checkpoint says so.
    await bench.roll_back("c1", create_partition(bench.spec(19, 0)))
    assert bench.gpus.partitions(ZERO) == Partitions()


@pytest.mark.parametrize("compute", [None, 0])
async def test_leftovers_of_a_claim_are_found_by_placement_half_or_whole(bench: Bench, compute: int | None) -> None:
    """An entry without any line is another program's: its places alone count."""
    bench.gpus.put(ZERO, instance(19, 3, 1, compute=compute), instance(19, 4, 1))
    assert bench.locks.try_take("c1", [AT_ZERO])
    await bench.roll_back("c1", create_partition(bench.spec(19, 3)), create_partition(bench.spec(19, 5)))
    assert bench.gpus.placements(ZERO) == [(19, 4)]


async def test_a_placement_that_the_claim_never_touched_is_unmanaged(bench: Bench) -> None:
    bench.take("c1", AT_ZERO)
    bench.gpus.put(ZERO, instance(19, 3, 1))
    await bench.roll_back("c1", create_partition(bench.spec(19, 3)))
    assert bench.gpus.placements(ZERO) == [(19, 3)]
    bench.locks.touch("c1", create_partition(bench.spec(19, 3)))
    await bench.roll_back("c1", create_partition(bench.spec(19, 3)))
    assert bench.gpus.partitions(ZERO) == Partitions()


async def test_a_partition_recreated_at_the_claim_s_placement_is_unmanaged(bench: Bench) -> None:
    bench.gpus.put(ZERO, instance(19, 3, 1))
    assert bench.locks.try_take("c1", [AT_ZERO])
    await bench.roll_back("c1", replace(create_partition(bench.spec(19, 3)), uuid="MIG-former"))
    assert bench.gpus.placements(ZERO) == [(19, 3)]
    await bench.roll_back("c1", replace(create_partition(bench.spec(19, 3)), uuid="MIG-19-3"))
    assert bench.gpus.placements(ZERO) == []


async def test_rolled_back_twice_is_rolled_back_once(bench: Bench) -> None:
    await bench.make("c1", bench.spec(19, 0))
    for _ in range(2):
        await bench.roll_back("c1", create_partition(bench.spec(19, 0)))
    assert bench.gpus.partitions(ZERO) == Partitions()


async def test_who_keeps_a_partition_in_use_is_named_and_it_is_taken_away_later(bench: Bench) -> None:
    await bench.make("c1", bench.spec(19, 0))
    bench.gpus.enter(ZERO, 1, 4711, 4712)
    steps = [create_partition(bench.spec(19, 0))]
    assert str(await bench.fails(bench.roll_back("c1", *steps))) == (
        "error deleting MIG device gpu-0-mig-1g18gb-19-0: error destroying Compute Instance: In use by another client "
        "(process 4711, 4712 is in it)"
    )
    bench.gpus.refuse("processes", ZERO, refusal(4, "Insufficient Permissions"))
    assert str(await bench.fails(bench.roll_back("c1", *steps))).endswith("In use by another client")
    bench.gpus.enter(ZERO, 1)
    bench.gpus.refuse("destroy_gpu_instance", ZERO, refusal(IN_USE))
    assert str(await bench.fails(bench.roll_back("c1", *steps))).endswith(
        "error destroying GPU Instance: In use by another client"
    )
    assert bench.told[AT_ZERO].instances[0].compute == ()  # told as it is now, half taken away
    await bench.roll_back("c1", *steps)
    assert bench.gpus.partitions(ZERO) == Partitions()


async def test_one_gpu_that_refuses_keeps_no_other_from_being_rolled_back(bench: Bench) -> None:
    await bench.make("c1", bench.spec(19, 0), bench.spec(19, 0, minor=1))
    bench.gpus.refuse("destroy_compute_instance", ZERO, refusal(15, "GPU is lost"))
    steps = [create_partition(bench.spec(19, 0, minor)) for minor in (0, 1)]
    assert "gpu-0-mig" in str(await bench.fails(bench.roll_back("c1", *steps)))
    assert bench.gpus.partitions(ONE) == Partitions()


async def test_a_gpu_that_cannot_be_read_after_its_partition_went_is_tried_again(bench: Bench) -> None:
    await bench.make("c1", bench.spec(19, 0))
    steps = [create_partition(bench.spec(19, 0))]
    bench.gpus.refuse("mig", ZERO, refusal(15, "GPU is lost"), after=1)
    assert str(await bench.fails(bench.roll_back("c1", *steps))) == f"gpu-0 ({ZERO}) cannot be read: GPU is lost"
    await bench.roll_back("c1", *steps)
    assert bench.told[AT_ZERO] == Partitions()


async def test_a_mode_that_does_not_go_off_fails_the_rollback(bench: Bench) -> None:
    await bench.make("c1", bench.spec(19, 0))
    bench.gpus.refuse("set_mig_mode", ZERO, refusal(IN_USE))
    assert str(await bench.fails(bench.roll_back("c1", create_partition(bench.spec(19, 0))))) == (
        f"error disabling MIG mode for device gpu-0-{ZERO}: In use by another client"
    )
    assert bench.told[AT_ZERO] == Partitions(is_on=True)


# --- calls that hang ---

CHANGES = (
    *("set_mig_mode", "create_gpu_instance", "create_compute_instance"),
    *("destroy_compute_instance", "destroy_gpu_instance"),
)


@pytest.mark.parametrize("verb", ["mig", *CHANGES])
async def test_a_call_that_hangs_is_waited_for_and_its_gpu_kept(bench: Bench, verb: str) -> None:
    spec = bench.spec(19, 0)
    is_making = not verb.startswith("destroy")
    if not is_making:
        await bench.make("c1", spec)
    returns = bench.gpus.hang(verb, ZERO)
    work = asyncio.create_task(bench.make("c1", spec) if is_making else bench.roll_back("c1", create_partition(spec)))
    await until(lambda: bench.runner.waiting("c1"))
    reason = bench.runner.waiting("c1")
    assert reason.endswith(f": {verb} has not answered for 30 s: {ZERO} is left alone until it does")
    before = list(bench.gpus.calls)
    await asyncio.sleep(0.01)
    assert not work.done()
    assert bench.gpus.calls == before  # nothing is rolled back: nobody knows what the call will have done
    returns.set()
    await work
    assert bench.runner.waiting("c1") == ""
    assert bench.gpus.placements(ZERO) == ([(19, 0)] if is_making else [])
    assert bench.told[AT_ZERO] == bench.gpus.partitions(ZERO)


@pytest.mark.parametrize("verb", CHANGES[:3])
async def test_a_call_that_hangs_and_is_refused_then_fails_its_step(bench: Bench, verb: str) -> None:
    before = bench.state()
    returns = bench.gpus.hang(verb, ZERO)
    work = asyncio.create_task(bench.make("c1", bench.spec(19, 0)))
    await until(lambda: bench.runner.waiting("c1"))
    bench.gpus.refuse(verb, ZERO, refusal(15, "GPU is lost"))
    returns.set()
    failed = await bench.fails(work)
    assert str(failed).endswith(": GPU is lost")
    assert failed.is_rolled_back
    assert bench.state() == before
    assert bench.runner.waiting("c1") == ""


async def test_the_gpu_stays_locked_until_a_hung_call_returns_even_without_a_waiter(bench: Bench) -> None:
    returns = bench.gpus.hang("create_gpu_instance", ZERO)
    work = asyncio.create_task(bench.make("c1", bench.spec(19, 0)))
    await until(lambda: bench.runner.waiting("c1"))
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    bench.locks.give_back("c1", is_done=False)
    other = FakeHost(bench.folder)
    theirs = ResourceLocks(other, P)
    assert not theirs.try_take("c2", [AT_ZERO])
    returns.set()
    await until(lambda: bench.gpus.placements(ZERO))
    await asyncio.sleep(0)
    assert theirs.try_take("c2", [AT_ZERO])
    # And it can be known what the call may have done.
    assert theirs.touched("c1", create_partition(bench.spec(19, 0)))
    other.close()


async def test_while_another_s_call_hangs_a_call_fails_at_once(bench: Bench) -> None:
    returns = bench.gpus.hang("mig", ZERO)
    scan = bench.gpus.mig(ZERO)
    with pytest.raises(NvmlHung):
        await scan
    failed = await bench.fails(bench.make("c1", bench.spec(19, 0)))
    assert str(failed) == (
        f"error creating MIG device: mig has not answered for 30 s: {ZERO} is left alone until it does"
    )
    assert failed.is_rolled_back
    assert bench.gpus.calls == []
    returns.set()


# --- what no claim speaks of ---


async def test_a_partition_of_nobody_is_destroyed_if_it_is_still_the_one_that_was_seen(bench: Bench) -> None:
    seen = from_scan(node_scan(card(0, instance(19, 3, 1, gi_id=7))), {}, dynamic_mig=True)
    (partition,) = unmanaged_partitions(seen, Checkpoint("boot"))
    assert bench.locks.try_take("upkeep", [AT_ZERO])
    # The number was given again to another one.
    bench.gpus.put(ZERO, instance(14, 0, 2, gi_id=7))
    await bench.actor.destroy(partition, bench.journal(partition.gpu))
    assert bench.gpus.placements(ZERO) == [(14, 0)]
    bench.gpus.put(ZERO, instance(19, 3, 1, gi_id=7), instance(14, 0, 2))
    await bench.actor.destroy(partition, bench.journal(partition.gpu))
    assert bench.gpus.placements(ZERO) == [(14, 0)]
    assert bench.told[AT_ZERO] == bench.gpus.partitions(ZERO)


async def test_a_mode_left_on_with_nothing_to_show_for_it_is_turned_off(tmp_path: Path) -> None:
    bench = Bench(tmp_path, card(0, mig_mode=(1, 1)), card(1, instance(19, 3, 1)))
    for address, gpu in bench.inventory.gpus.items():
        assert bench.locks.try_take("upkeep", [address])
        await bench.actor.leave_empty_mode(gpu, bench.journal(gpu))
        bench.locks.give_back("upkeep", is_done=True)
    assert bench.state() == {AT_ZERO: Partitions(), AT_ONE: bench.gpus.partitions(ONE)}
    assert bench.gpus.calls == [("set_mig_mode", 0)]


def test_a_partition_s_step_names_its_placement_whether_it_exists_or_not(bench: Bench) -> None:
    spec = bench.spec(9, 4)
    made = MigDevice(spec.parent, spec.profile, spec.start, spec.size, 3, 0, "MIG-made")
    step = create_partition(spec)
    assert step == CreatePartition(spec.parent, spec.name, 9, 4, spec)
    assert create_partition(made, made.uuid) == replace(step, uuid="MIG-made")
    assert (step.kind, step.key, step.resources) == ("partition", "9@4", {AT_ZERO})
