"""Device metadata: the files that containers get beside their devices, and when they come and go."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nvdra import cdi
from nvdra.api import ClaimRef
from nvdra.api import gates as feature_gates
from nvdra.checkpoint import Checkpoint, Entry, PreparedGroup
from nvdra.claims import metadata
from nvdra.gpu import published
from nvdra.node.checkpoint_writer import Change
from tests.folders import contents
from tests.unit.node.vfio_world import VfioWorld, gpu_address
from tests.unit.node.world import CLAIMS, DRIVER, POOL, C, P, World

GATES = "PassthroughSupport=true,DeviceMetadata=true"
FOLDER = f"{P}/dra-device-metadata"
IN_CONTAINER = "/var/run/kubernetes.io/dra-device-attributes"
ATTRIBUTES = {"type": {"string": "vfio"}, "resource.kubernetes.io/numaNode": {"int": 1}}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    made.gates = GATES
    made.start()
    yield made
    await made.stop()


def path(ref: ClaimRef, request: str) -> str:
    return f"{FOLDER}/{ref.namespace}_{ref.name}/{request}/metadata.json"


def cdi_path(ref: ClaimRef, request: str) -> str:
    return f"{C}/{DRIVER}_metadata_{ref.uid}_{request}.json"


def documents(world: World, ref: ClaimRef, request: str) -> list[dict[str, Any]]:
    text, found = world.host.read(path(ref, request)).decode(), []
    while text:
        one, end = json.JSONDecoder().raw_decode(text)
        assert text[end] == "\n"
        text = text[end + 1 :]
        found.append(one)
    return found


def mount(world: World, ref: ClaimRef, request: str) -> cdi.Mount:
    content = world.host.read(cdi_path(ref, request))
    (device,) = cdi.parse(content).devices
    assert json.loads(content)["cdiVersion"] == "0.5.0"
    assert json.loads(content)["kind"] == f"{DRIVER}/metadata"
    assert device.name == f"{ref.uid}_{request}"
    (found,) = device.edits.mounts
    return found


def left(world: World) -> list[str]:
    """Everything of metadata on the disk, folders too."""
    folder = world.folder / FOLDER.strip("/")
    return [*(name for name in contents(world.folder / "cdi") if "metadata" in name), *map(str, folder.glob("**/*"))]


async def ids(world: World, ref: ClaimRef) -> list[tuple[str, ...]]:
    answer = (await world.prepare(ref))[ref.uid]
    assert isinstance(answer, tuple), answer
    return [device.cdi_ids for device in answer]


async def from_template(world: World, name: str, pod_claim: str) -> ClaimRef:
    annotations = {"resource.kubernetes.io/pod-claim-name": pod_claim}
    body = {"metadata": {"name": name, "namespace": "ns", "annotations": annotations}, "spec": {"devices": {}}}
    made = json.loads(await world.kube.create(CLAIMS, json.dumps(body).encode(), "ns"))
    ref = ClaimRef("ns", name, made["metadata"]["uid"])
    await world.allocate(ref, "gpu-0")
    return ref


async def test_each_request_gets_its_file(world: World) -> None:
    ref = await world.claim(
        "vm", "gpu-0", {"device": "gpu-2", "request": "big/h100"}, {"device": "gpu-1", "request": "big/h100"}
    )
    own = [f"k8s.{DRIVER}/claim={ref.uid}-gpu-{minor}" for minor in (0, 2, 1)]
    into = f"{DRIVER}/metadata={ref.uid}_"
    # The first device of each request brings the file in.
    expected = [(own[0], f"{into}r0"), (own[1], f"{into}big"), (own[2],)]
    assert await ids(world, ref) == expected
    assert await ids(world, ref) == expected  # asked again
    assert documents(world, ref, "big") == [
        {
            "kind": "DeviceMetadata",
            "apiVersion": f"metadata.resource.k8s.io/{version}",
            "metadata": {"name": "vm", "namespace": "ns", "uid": ref.uid, "generation": 1},
            "requests": [
                {
                    "name": "big/h100",
                    "devices": [{"driver": DRIVER, "pool": POOL, "name": name} for name in ("gpu-2", "gpu-1")],
                }
            ],
        }
        for version in ("v1beta1", "v1alpha1")
    ]
    assert world.host.read(path(ref, "r0")).startswith(b'{\n  "kind": "DeviceMetadata",\n  "apiVersion": ')
    assert mount(world, ref, "big") == cdi.Mount(
        path(ref, "big"), f"{IN_CONTAINER}/resourceclaims/vm/big/{DRIVER}-metadata.json", ("ro", "bind")
    )
    for file in (path(ref, "big"), cdi_path(ref, "big")):
        assert world.host.stat(file).mode == 0o644
    for folder in (FOLDER, f"{FOLDER}/ns_vm", f"{FOLDER}/ns_vm/big"):
        assert world.host.stat(folder).mode == 0o755
    # The checkpoint stays as the Go driver has it.
    assert [answer.cdi_ids for group in _groups(world, ref) for answer in group.devices] == [(name,) for name in own]


def _groups(world: World, ref: ClaimRef) -> tuple[PreparedGroup, ...]:
    prepared = world.checkpoint().entries[ref.uid].prepared
    assert isinstance(prepared, tuple)
    return tuple(group for group in prepared if isinstance(group, PreparedGroup))


async def test_a_claim_made_from_a_template_is_found_under_the_pods_name_for_it(world: World) -> None:
    ref = await from_template(world, "pod-a-gpu-x7d2f", "gpu")
    await world.prepared(ref)
    assert documents(world, ref, "r0")[0]["podClaimName"] == "gpu"
    assert mount(world, ref, "r0").container_path == (
        f"{IN_CONTAINER}/resourceclaimtemplates/gpu/r0/{DRIVER}-metadata.json"
    )


async def test_attributes_of_the_entry_are_in_the_file(world: World) -> None:
    ref = await world.claim("a", "gpu-0")
    await world.prepared(ref)

    def with_attributes(checkpoint: Checkpoint) -> Change[None]:
        entry = checkpoint.entries[ref.uid]
        (group,) = _groups(world, ref)
        devices = tuple(replace(one, metadata=metadata.encode(ATTRIBUTES)) for one in group.devices)
        changed = Entry(entry.state, entry.status, (replace(group, devices=devices),), entry.name, entry.namespace)
        return Change(None, entries={ref.uid: changed})

    await world.checkpoint_writer.submit(with_attributes)
    await world.timely(world.sweep.files())
    (device,) = documents(world, ref, "r0")[0]["requests"][0]["devices"]
    assert list(device["attributes"].items()) == sorted(ATTRIBUTES.items())
    assert (
        metadata.encode({"x": {"string": "a<b"}}) == b'{"Attributes":{"x":{"string":"a\\u003cb"}},"NetworkData":null}'
    )


async def test_a_virtual_machine_is_told_its_gpu(tmp_path: Path) -> None:
    node = VfioWorld(tmp_path)
    node.gates = GATES
    node.start()
    ref = await node.claim("vm", "gpu-vfio-1")
    await node.prepared(ref)
    (device,) = documents(node, ref, "r0")[0]["requests"][0]["devices"]
    attributes = device["attributes"]
    assert attributes["resource.kubernetes.io/pciBusID"] == {"string": gpu_address(1)}
    assert attributes["iommuGroup"] == {"int": 11}
    slices = published(node.inventory.devices["gpu-vfio-1"], feature_gates.parse(GATES))["attributes"]
    assert attributes == slices | {"iommuGroup": {"int": 11}}
    whole = node.host.read(path(ref, "r0"))
    shutil.rmtree(node.folder / FOLDER.strip("/"))
    await node.restart()  # the attributes are in the checkpoint: the GPU has left NVML
    await node.warm()
    await node.timely(node.sweep.files())
    assert node.host.read(path(ref, "r0")) == whole
    await node.released(ref)
    assert left(node) == []
    await node.stop()


async def test_unprepare_leaves_nothing(world: World) -> None:
    ref, other = await world.claim("a", "gpu-0", "gpu-1"), await world.claim("b", "gpu-2")
    await world.prepared(ref, other)
    whole = left(world)
    await world.released(ref)
    assert left(world) == [name for name in whole if ref.uid not in name and "ns_a" not in name]
    await world.released(other)
    assert left(world) == []


async def test_files_of_a_successor_of_the_same_name_stay(world: World) -> None:
    first = await world.claim("a", "gpu-0")
    await world.prepared(first)
    await world.delete(first)
    second = await world.claim("a", "gpu-1")
    await world.prepared(second)
    whole = world.host.read(path(second, "r0"))
    assert second.uid.encode() in whole
    await world.timely(world.sweep.files())  # the first one's entry does not claim the file back
    await world.released(first)
    assert world.host.read(path(second, "r0")) == whole
    assert not world.host.exists(cdi_path(first, "r0"))
    await world.released(second)
    assert left(world) == []


@pytest.mark.parametrize("template", [False, True])
@pytest.mark.parametrize("lost", ["metadata", "cdi", "both", "torn"])
@pytest.mark.parametrize("how", ["sweep", "asked"])
async def test_lost_files_are_written_again(world: World, template: bool, lost: str, how: str) -> None:
    ref = await (from_template(world, "a", "gpu") if template else world.claim("a", "gpu-0"))
    await world.prepared(ref)
    whole = world.files()
    if lost in ("metadata", "both"):
        shutil.rmtree(world.folder / f"{FOLDER}/ns_a".strip("/"))
    if lost in ("cdi", "both"):
        (world.folder / cdi_path(ref, "r0").strip("/")).unlink()
    if lost == "torn":
        world.host.write(path(ref, "r0"), world.host.read(path(ref, "r0"))[:40])
    await world.restart()
    await world.warm()
    if how == "sweep":
        await world.timely(world.sweep.files())
    else:
        await world.prepared(ref)
    assert world.files() == whole


async def test_a_lost_name_waits_for_the_api_server(world: World) -> None:
    ref = await from_template(world, "a", "gpu")
    await world.prepared(ref)
    whole = world.files()
    shutil.rmtree(world.folder / FOLDER.strip("/"))
    (world.folder / cdi_path(ref, "r0").strip("/")).unlink()
    world.kube.fail(503, times=99, plural="resourceclaims")
    await world.timely(world.sweep.files())
    assert left(world) == []
    assert f"the device metadata of claim {ref} is lost" in await world.refused(ref)
    world.kube.heal()
    await world.timely(world.sweep.files())
    assert world.files() == whole


async def test_leftovers_of_killed_programs_are_swept(world: World) -> None:
    ref = await world.claim("a", "gpu-0")
    await world.prepared(ref)
    whole = world.files()
    for litter in (
        f"{C}/{DRIVER}_metadata_gone_r0.json",
        f"{C}/{DRIVER}_metadata_gone_r0.json.77.tmp",
        f"{cdi_path(ref, 'r0')}.78.tmp",
        f"{FOLDER}/ns_gone/r0/metadata.json",
        f"{FOLDER}/ns_gone/r1/.79",
        f"{FOLDER}/ns_a/r0/.80",
    ):
        world.host.write(litter, "x")
    others = ["other.example.com_metadata_gone_r0.json", "k8s.other.example.com-claim_x.yaml"]
    for name in others:
        world.host.write(f"{C}/{name}", "theirs")
    await world.timely(world.sweep.leftovers())
    assert world.files() == whole | {f"{C}/{name}": b"theirs" for name in others}
    assert not world.host.exists(f"{FOLDER}/ns_gone")


async def test_a_file_that_cannot_be_written_costs_only_its_claim(world: World) -> None:
    ref, other = await world.claim("a", "gpu-0"), await world.claim("b", "gpu-1")
    world.host.refuse("rename", f"{FOLDER}/ns_a", errno.ENOSPC)
    answers = await world.prepare(ref, other)
    failure = answers[ref.uid]
    assert not isinstance(failure, tuple)
    assert f"{path(ref, 'r0')}: No space left on device" in failure.error
    assert isinstance(answers[other.uid], tuple)
    assert world.state(ref) == ""
    world.host.forgive()
    await world.prepared(ref)


async def test_without_the_gate_files_of_a_former_run_go_with_their_claim(world: World) -> None:
    ref = await world.claim("a", "gpu-0")
    await world.prepared(ref)
    world.gates = ""
    await world.restart()
    await world.warm()
    assert all(not name.startswith(f"{DRIVER}/metadata") for names in await ids(world, ref) for name in names)
    await world.timely(world.sweep.leftovers())
    assert world.host.exists(path(ref, "r0"))  # containers of the claim may start again
    await world.released(ref)
    assert left(world) == []


async def test_with_the_gate_on_prepare_costs_no_more_calls_or_syncs(world: World) -> None:
    ref = await world.claim("a", "gpu-0")
    await world.warm()
    world.since_now()
    await world.prepared(ref)
    assert len(world.effects("fsync")) == 1
    assert world.kube.calls[("get", "resourceclaims")] == 1
    assert not {verb for verb, _ in world.kube.calls} - {"discover", "get"}
