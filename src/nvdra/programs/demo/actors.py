"""Who acts in the demo beside the plugin: the scheduler's and kubelet's parts, and looks at what they lead to."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from nvdra import cdi, checkpoint
from nvdra.api import ClaimRef
from nvdra.kube import HttpKube
from nvdra.ports import Resource
from nvdra.programs.demo import scheduler
from nvdra.programs.demo.page import NotTrue, Page
from nvdra.programs.demo.scheduler import Device, Wish, attribute
from nvdra.programs.demo.stage import NODE, PATIENCE_S, Stage
from nvdra.testing.kubelet import DraClient, Kubelet, Registered, Told

DRIVER = "gpu.nvidia.com"
NAMESPACE = "demo"
RECORD = "checkpoint.json"
_CLAIMS = Resource("resource.k8s.io", "v1", "resourceclaims", namespaced=True)
_SLICES = Resource("resource.k8s.io", "v1", "resourceslices", namespaced=False)


@dataclass(slots=True)
class Allocated:
    """A claim with devices, and the bytes of the first answer about it."""

    wish: Wish
    ref: ClaimRef
    devices: list[str]
    answer: bytes = b""


class Actors:
    """Scheduler and kubelet on one stage, and what they know.

    devices  as published
    claims   allocated and not yet deleted
    Checks are counted on the page; what does not hold raises NotTrue.
    """

    def __init__(self, stage: Stage, page: Page, kube: HttpKube, kubelet: Kubelet) -> None:
        self._stage = stage
        self._page = page
        self._kube = kube
        self._kubelet = kubelet
        self._starts = 0
        self.devices: list[Device] = []
        self.claims: list[Allocated] = []

    async def registered(self) -> Registered:
        """The plugin as kubelet keeps it, once the one just started is registered."""
        self._starts += 1
        event = f"registered {DRIVER}"
        kubelet = self._kubelet
        await self._stage.until(
            "the plugin to register with kubelet",
            lambda: sum(one == event for one in kubelet.history) >= self._starts and DRIVER in kubelet.plugins,
        )
        return kubelet.plugins[DRIVER]

    async def published(self) -> None:
        """Know the node's devices once its pool is complete, and check them against what the node has."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            page = await self._kube.list(_SLICES, field_selector=f"spec.driver={DRIVER}")
            slices = [json.loads(item) for item in page.items]
            if slices and len(slices) == slices[0]["spec"]["pool"]["resourceSliceCount"]:
                break
            self._stage.must_run("it to publish")
            if time.monotonic() > deadline:
                raise NotTrue(f"waited {PATIENCE_S:.0f} s for a complete pool, there are {len(slices)} slices")
            await asyncio.sleep(0.005)
        self.devices = [device for one in slices for device in one["spec"]["devices"]]
        self._check_devices()

    async def allocate(self, wish: Wish) -> Allocated | None:
        taken = [name for claim in self.claims for name in claim.devices]
        names = scheduler.allocate(wish, self.devices, taken)
        body = json.dumps(wish.claim(NAMESPACE, DRIVER)).encode()
        claim = json.loads(await self._kube.create(_CLAIMS, body, NAMESPACE))
        if names is None:
            return None
        claim["status"] = scheduler.status(DRIVER, NODE, names, f"pod-of-{wish.name}")
        await self._kube.update(_CLAIMS, wish.name, json.dumps(claim).encode(), NAMESPACE, subresource="status")
        allocated = Allocated(wish, ClaimRef(NAMESPACE, wish.name, claim["metadata"]["uid"]), names)
        self.claims.append(allocated)
        return allocated

    async def unprepare(self, claim: Allocated) -> float:
        """How long it took until nothing of the claim was left on the node."""
        began = time.perf_counter()
        error = (await self._kubelet.unprepare(DRIVER, [claim.ref]))[claim.ref.uid]
        took = time.perf_counter() - began
        self._page.must(not error, f"{claim.wish.name} was not unprepared: {error}")
        gone = cdi.GPU_CLAIMS.file_name(claim.ref.uid) not in self._stage.cdi_files()
        self._page.must(
            gone and claim.ref.uid not in self.record().entries, f"{claim.wish.name} is unprepared and not gone"
        )
        return took

    async def delete(self, claim: Allocated) -> None:
        await self._kube.delete(_CLAIMS, claim.ref.name, NAMESPACE)
        self.claims.remove(claim)

    async def same_answers(self) -> float:
        """Ask about every claim again: the bytes must be those of the first answer. The longest time it took."""
        longest = 0.0
        async with self.socket() as socket:
            for claim in self.claims:
                began = time.perf_counter()
                answer = await socket.prepare_bytes([claim.ref])
                longest = max(longest, time.perf_counter() - began)
                self._page.must(
                    answer == claim.answer, f"the second answer for {claim.wish.name} differs from the first"
                )
        return longest

    @asynccontextmanager
    async def socket(self) -> AsyncIterator[DraClient]:
        """A connection as kubelet keeps one: already made when a claim comes."""
        plugin = self._kubelet.plugins[DRIVER]
        client = DraClient(plugin.endpoint, plugin.version, deadline_s=20.0)
        try:
            await client.prepare([])
            yield client
        finally:
            await client.close()

    def device(self, name: str) -> Device:
        return next(device for device in self.devices if device["name"] == name)

    def free(self) -> bool:
        taken = [name for claim in self.claims for name in claim.devices]
        return scheduler.allocate(Wish("", 1), self.devices, taken) is not None

    def document(self, claim: Allocated) -> cdi.Document:
        path = self._stage.cdi_root / cdi.GPU_CLAIMS.file_name(claim.ref.uid)
        if not path.exists():
            raise NotTrue(f"{claim.wish.name} is answered as prepared, but its CDI file {path.name} is not there")
        return cdi.parse(path.read_bytes())

    def record(self) -> checkpoint.Record:
        return checkpoint.decode((self._stage.plugin_dir / RECORD).read_bytes())

    def check_record(self) -> None:
        record = self.record()
        completed = {uid for uid, entry in record.entries.items() if entry.state == "PrepareCompleted"}
        wanted = {claim.ref.uid for claim in self.claims}
        files = {cdi.GPU_CLAIMS.claim_uid(name) for name in self._stage.cdi_files()}
        self._page.must(completed == record.entries.keys() == wanted, f"the record holds {sorted(completed)}")
        self._page.must(files == wanted, f"the CDI folder holds files of {sorted(map(str, files))}")

    def written(self) -> list[tuple[str, int, int]]:
        """Every file a prepare could write, by name, inode and time."""
        paths = [*self._stage.cdi_root.iterdir(), self._stage.plugin_dir / RECORD]
        return sorted((path.name, path.stat().st_ino, path.stat().st_mtime_ns) for path in paths)

    def check_answer(self, claim: Allocated, told: Told) -> None:
        must = self._page.must
        must(not told.error, f"{claim.wish.name} was not prepared: {told.error}")
        names = [device.device for device in told.devices]
        must(sorted(names) == sorted(claim.devices), f"{claim.wish.name} has {claim.devices}, the answer names {names}")
        ids = [one for device in told.devices for one in device.cdi_ids]
        wanted = [cdi.GPU_CLAIMS.device_id(claim.ref.uid, name) for name in names]
        must(ids == wanted, f"the answer for {claim.wish.name} should name {wanted}, not {ids}")
        document = self.document(claim)
        must(
            {device.name for device in document.devices} == {one.partition("=")[2] for one in ids},
            f"the CDI file of {claim.wish.name} does not hold the devices that kubelet was told of",
        )

    def _check_devices(self) -> None:
        must = self._page.must
        found = {device["name"]: device for device in self.devices}
        for gpu in self._stage.portrait.gpus:
            name = f"gpu-{gpu.minor}"
            must(name in found, f"{name} should be published, but only {', '.join(found)} are")
            for key, value in (
                ("uuid", gpu.uuid),
                ("productName", gpu.name),
                ("resource.kubernetes.io/pciBusID", gpu.pci_bus_id.lower()[-12:]),
            ):
                seen = attribute(found[name], key)
                must(seen == value, f"{name} is published with {key} {seen!r}, the node has {value!r}")
        must(len(found) == len(self._stage.portrait.gpus), f"more is published than the node has: {', '.join(found)}")


def shown_ids(told: Told) -> str:
    """CDI devices of an answer, the claim's UID in them cut short."""
    ids = [one for device in told.devices for one in device.cdi_ids]
    kind, _, name = ids[0].partition("=")
    uid = len(name) - len(f"-{told.devices[0].device}")
    return " ".join([f"{kind}={name[:8]}…{name[uid:]}", *(f"…-{device.device}" for device in told.devices[1:])])
