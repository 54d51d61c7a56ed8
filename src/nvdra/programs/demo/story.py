"""The demo's plot: one node from discovery to a clean end, every sentence of it checked while it is told."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from nvdra import cdi, checkpoint
from nvdra.api import ClaimRef
from nvdra.kube import HttpKube, access
from nvdra.ports import Resource
from nvdra.programs.demo import container, scheduler
from nvdra.programs.demo.page import NotTrue, Page, seconds
from nvdra.programs.demo.scheduler import Device, Wish, attribute
from nvdra.programs.demo.stage import NODE, PATIENCE_S, Stage
from nvdra.testing.kubelet import DraClient, Kubelet, PluginError, Told

DRIVER = "gpu.nvidia.com"
NAMESPACE = "demo"
RECORD = "checkpoint.json"
_COLUMNS = (*(f"resource.kubernetes.io/{name}" for name in ("numaNode", "pciBusID", "pcieRoot")), "uuid")
_CLAIMS = Resource("resource.k8s.io", "v1", "resourceclaims", namespaced=True)
_SLICES = Resource("resource.k8s.io", "v1", "resourceslices", namespaced=False)


@dataclass(slots=True)
class Allocated:
    """A claim with devices, and the bytes of the first answer about it."""

    wish: Wish
    ref: ClaimRef
    devices: list[str]
    answer: bytes = b""


class Story:
    """Eight steps on one stage; `tell` raises NotTrue at the first claim that does not hold."""

    def __init__(self, stage: Stage, page: Page, kube: HttpKube, kubelet: Kubelet) -> None:
        self._stage = stage
        self._page = page
        self._kube = kube
        self._kubelet = kubelet
        self._devices: list[Device] = []
        self._claims: list[Allocated] = []
        self._starts = 0

    async def tell(self) -> None:
        await self._published()
        await self._allocated()
        await self._prepared()
        await self._inside()
        await self._again()
        await self._killed()
        await self._unprepared()
        await self._clean()

    # ── 1 to 4: the usual way ──────────────────────────────────────────────────────────────────────────────────

    async def _published(self) -> None:
        page, stage = self._page, self._stage
        with page.step("The plugin starts, finds the GPUs, publishes them"):
            began = time.perf_counter()
            pid = stage.start_plugin()
            plugin = await self._registered()
            slices = await self._slices()
            took = time.perf_counter() - began
            self._devices = [device for one in slices for device in one["spec"]["devices"]]
            self._check_devices()
            # From here on only claims make the plugin read claims.
            await stage.until("the first sweep", lambda: b"Cleanup: perform for" in stage.log.read_bytes())
            page.line(
                f"process {pid} is registered as {DRIVER} (kubelet chose {plugin.version.partition('.')[0]}), "
                f"all published {seconds(took)} after exec"
            )
            page.table(
                ["DEVICE", "MEMORY", "NUMA", "PCI", "PCIE ROOT", "UUID"],
                [
                    [
                        device["name"],
                        device["capacity"]["memory"]["value"],
                        *(_shown(attribute(device, name)) for name in _COLUMNS),
                    ]
                    for device in self._devices
                ],
            )

    def _check_devices(self) -> None:
        must = self._page.must
        found = {device["name"]: device for device in self._devices}
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

    async def _allocated(self) -> None:
        page = self._page
        wishes = [Wish("one-gpu", 1), Wish("two-gpus", 2)]
        if picked := scheduler.telling(self._devices):
            wishes.append(Wish("picked-gpu", 1, picked))
        with page.step("The scheduler allocates claims from what is published"):
            for wish in wishes:
                claim = await self._allocate(wish)
                asked = f"{wish.count} GPU{'s' if wish.count > 1 else ''}"
                if wish.selector is not None:
                    asked += f" where {wish.selector.cel(DRIVER)}"
                if claim is None:
                    page.pair(wish.name, f"{asked}: pending, the node has too few GPUs")
                    continue
                for name in claim.devices:
                    device = self._device(name)
                    is_met = wish.selector is None or wish.selector.is_met(device)
                    page.must(is_met, f"{wish.name} was given {name}, which is not what it asked for")
                page.pair(wish.name, f"{asked} → {page.paint(' '.join(claim.devices), 'bold')}")
            names = [name for claim in self._claims for name in claim.devices]
            page.must(len(set(names)) == len(names) > 0, f"a GPU was given away twice: {', '.join(names)}")

    async def _prepared(self) -> None:
        page, stage = self._page, self._stage
        with page.step("kubelet prepares them, each with one call on the plugin's socket"):
            stage.root.count_calls()
            before = stage.api_calls().get("get resourceclaims", 0)
            async with self._socket() as socket:
                for claim in self._claims:
                    began = time.perf_counter()
                    claim.answer = await socket.prepare_bytes([claim.ref])
                    took = time.perf_counter() - began
                    told = socket.told(claim.answer)[claim.ref.uid]
                    self._check_answer(claim, told)
                    page.pair(claim.wish.name, f"{seconds(took):>7}  {_shown_ids(told)}")
            gets = stage.api_calls().get("get resourceclaims", 0) - before
            asked = len(self._claims)
            page.must(
                gets == asked, f"{asked} prepare calls should read {asked} claims from the API server, not {gets}"
            )
            nvml = stage.root.calls().keys() - {"nvmlShutdown"}  # the lease of the first scan runs out on its own
            page.must(not nvml, f"preparing whole GPUs should need no NVML, but it was called: {', '.join(nvml)}")
            page.line(page.paint("each call: 1 read of the claim from the API server, 0 calls into NVML", "dim"))

    def _check_answer(self, claim: Allocated, told: Told) -> None:
        must = self._page.must
        must(not told.error, f"{claim.wish.name} was not prepared: {told.error}")
        names = [device.device for device in told.devices]
        must(sorted(names) == sorted(claim.devices), f"{claim.wish.name} has {claim.devices}, the answer names {names}")
        ids = [one for device in told.devices for one in device.cdi_ids]
        wanted = [cdi.device_id(claim.ref.uid, name) for name in names]
        must(ids == wanted, f"the answer for {claim.wish.name} should name {wanted}, not {ids}")
        document = self._document(claim)
        must(
            {device.name for device in document.devices} == {one.partition("=")[2] for one in ids},
            f"the CDI file of {claim.wish.name} does not hold the devices that kubelet was told of",
        )

    async def _inside(self) -> None:
        page, stage = self._page, self._stage
        claim = max(self._claims, key=lambda each: len(each.devices))
        with page.step(f"A container that uses {claim.wish.name} gets"):
            document = self._document(claim)
            edits = container.edits_for(document, (cdi.device_name(claim.ref.uid, name) for name in claim.devices))
            absent = container.missing(edits)
            page.must(not absent, f"the CDI file names what this node does not have: {', '.join(absent)}")
            nodes = [node.path for node in edits.device_nodes]
            wanted = {f"/dev/nvidia{name.removeprefix('gpu-')}" for name in claim.devices}
            seen = {path for path in nodes if path.removeprefix("/dev/nvidia").isdigit()}
            page.must(seen == wanted, f"the container should get {sorted(wanted)}, the CDI file gives {sorted(seen)}")
            counts = container.kinds(edits.mounts)
            page.must("libraries" in counts and "programs" in counts, f"driver files are missing: only {counts}")
            page.must(bool(edits.hooks), "no hook would make the loader know the driver's libraries")
            page.pair("device nodes", " ".join(nodes))
            page.pair("mounts", ", ".join(f"{count} {kind}" for kind, count in counts.items()))
            page.pair("environment", " ".join(edits.env))
            page.pair("hooks", ", ".join(dict.fromkeys(hook.args[1] for hook in edits.hooks)))
            folder = stage.folder / "container"
            container.build(folder, edits)
            uuids = await container.visible(folder)
            gpus = [attribute(self._device(name), "uuid") for name in claim.devices]
            page.must(
                sorted(uuids) == sorted(gpus),
                f"nvidia-smi in the container should see {sorted(gpus)}, not {sorted(uuids)}",
            )
            page.pair("nvidia-smi -L", f"sees {len(uuids)} of {len(self._devices)} GPUs, those of the claim:")
            for uuid in sorted(uuids):
                page.pair("", uuid)

    # ── 5 and 6: what could go wrong ───────────────────────────────────────────────────────────────────────────

    async def _again(self) -> None:
        page = self._page
        with page.step("kubelet asks again, as it does after every hiccup"):
            before = self._written()
            took = await self._same_answers()
            page.must(self._written() == before, "asking again should write nothing, but files changed")
            page.line(f"{len(self._claims)} times the same bytes, at most {seconds(took)} each; nothing was written")

    async def _killed(self) -> None:
        page, stage = self._page, self._stage
        if not self._free():
            await self._unprepare(self._claims[0])
            await self._delete(self._claims[0])
        with page.step("The plugin is killed in the middle of a prepare, and starts again"):
            status = await stage.stop_plugin()
            page.must(status == 0, f"the plugin should end with exit status 0 at SIGTERM, not {status}")
            stage.start_plugin(killed_before=RECORD)
            await self._registered()
            claim = await self._allocate(Wish("late-gpu", 1))
            if claim is None:
                raise NotTrue("no GPU is left for one more claim")
            stage.trap.touch()
            try:
                await self._kubelet.prepare(DRIVER, [claim.ref])
            except PluginError as error:
                page.line(f"kubelet's call for {claim.wish.name} ends with {error.status}: the plugin is gone")
            else:
                raise NotTrue("a plugin that is killed cannot answer, but this one did")
            status = await stage.plugin_ended()
            page.must(status == -9, f"the plugin should have been killed by SIGKILL, its status is {status}")
            stage.trap.unlink()
            page.must(
                cdi.file_name(claim.ref.uid) in stage.cdi_files() and claim.ref.uid not in self._record().entries,
                "the kill should have come after the CDI file and before the record",
            )
            page.line("SIGKILL struck after the CDI file was in place and before the record was")
            began = time.perf_counter()
            stage.start_plugin()
            await self._registered()
            async with self._socket() as socket:
                claim.answer = await socket.prepare_bytes([claim.ref])
                told = socket.told(claim.answer)[claim.ref.uid]
            took = time.perf_counter() - began
            self._check_answer(claim, told)
            await stage.until("what the kill left behind to go", lambda: not stage.leftovers())
            await self._same_answers()
            self._check_record()
            page.line(f"{seconds(took)} after the new start {claim.wish.name} is prepared: {_shown_ids(told)}")
            page.line(
                f"record and CDI folder agree on {len(self._claims)} claims; answers of before are the same bytes"
            )

    # ── 7 and 8: the end ───────────────────────────────────────────────────────────────────────────────────────

    async def _unprepared(self) -> None:
        page, stage = self._page, self._stage
        with page.step("The pods end while the API server is cut off: kubelet unprepares"):
            stage.cut_api_server()
            ended = list(self._claims)
            took = [await self._unprepare(claim) for claim in ended]
            stage.heal_api_server()
            for claim in ended:
                await self._delete(claim)
            page.line(f"{len(ended)} claims, at most {seconds(max(took))} each; nothing was asked of the API server")

    async def _clean(self) -> None:
        page, stage = self._page, self._stage
        with page.step("The node is clean"):
            files = stage.cdi_files()
            page.must(not files, f"CDI files are left: {', '.join(files)}")
            held = self._record().entries
            page.must(not held, f"claims are left in the record: {', '.join(held)}")
            left = stage.leftovers()
            page.must(not left, f"temporary files are left: {', '.join(left)}")
            status = await stage.stop_plugin()
            page.must(status == 0, f"the plugin should end with exit status 0 at SIGTERM, not {status}")
            sockets = [
                path.name
                for path in (stage.registrar / f"{DRIVER}-reg.sock", stage.plugin_dir / "dra.sock")
                if path.exists()
            ]
            page.must(not sockets, f"sockets are left: {', '.join(sockets)}")
            page.line("no CDI file, no claim in the record, no temporary file; the plugin ended and took its sockets")

    # ── on the way ─────────────────────────────────────────────────────────────────────────────────────────────

    async def _registered(self) -> Any:
        """The plugin as kubelet keeps it, once the one just started is registered."""
        self._starts += 1
        event = f"registered {DRIVER}"
        kubelet = self._kubelet
        await self._stage.until(
            "the plugin to register with kubelet",
            lambda: sum(one == event for one in kubelet.history) >= self._starts and DRIVER in kubelet.plugins,
        )
        return kubelet.plugins[DRIVER]

    async def _slices(self) -> list[dict[str, Any]]:
        """The node's slices, once its pool is complete."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            page = await self._kube.list(_SLICES, field_selector=f"spec.driver={DRIVER}")
            slices = [json.loads(item) for item in page.items]
            if slices and len(slices) == slices[0]["spec"]["pool"]["resourceSliceCount"]:
                return slices
            if time.monotonic() > deadline:
                raise NotTrue(f"waited {PATIENCE_S:.0f} s for a complete pool, there are {len(slices)} slices")
            await asyncio.sleep(0.005)

    async def _allocate(self, wish: Wish) -> Allocated | None:
        taken = [name for claim in self._claims for name in claim.devices]
        names = scheduler.allocate(wish, self._devices, taken)
        body = json.dumps(wish.claim(NAMESPACE, DRIVER)).encode()
        claim = json.loads(await self._kube.create(_CLAIMS, body, NAMESPACE))
        if names is None:
            return None
        claim["status"] = scheduler.status(DRIVER, NODE, names, f"pod-of-{wish.name}")
        await self._kube.update(_CLAIMS, wish.name, json.dumps(claim).encode(), NAMESPACE, subresource="status")
        allocated = Allocated(wish, ClaimRef(NAMESPACE, wish.name, claim["metadata"]["uid"]), names)
        self._claims.append(allocated)
        return allocated

    async def _unprepare(self, claim: Allocated) -> float:
        """How long it took until nothing of the claim was left on the node."""
        began = time.perf_counter()
        error = (await self._kubelet.unprepare(DRIVER, [claim.ref]))[claim.ref.uid]
        took = time.perf_counter() - began
        self._page.must(not error, f"{claim.wish.name} was not unprepared: {error}")
        gone = cdi.file_name(claim.ref.uid) not in self._stage.cdi_files()
        self._page.must(
            gone and claim.ref.uid not in self._record().entries, f"{claim.wish.name} is unprepared and not gone"
        )
        return took

    async def _delete(self, claim: Allocated) -> None:
        await self._kube.delete(_CLAIMS, claim.ref.name, NAMESPACE)
        self._claims.remove(claim)

    async def _same_answers(self) -> float:
        """Ask about every claim again: the bytes must be those of the first answer. The longest time it took."""
        longest = 0.0
        async with self._socket() as socket:
            for claim in self._claims:
                began = time.perf_counter()
                answer = await socket.prepare_bytes([claim.ref])
                longest = max(longest, time.perf_counter() - began)
                self._page.must(
                    answer == claim.answer, f"the second answer for {claim.wish.name} differs from the first"
                )
        return longest

    @asynccontextmanager
    async def _socket(self) -> AsyncIterator[DraClient]:
        """A connection as kubelet keeps one: already made when a claim comes."""
        plugin = self._kubelet.plugins[DRIVER]
        client = DraClient(plugin.endpoint, plugin.version, deadline_s=20.0)
        try:
            await client.prepare([])
            yield client
        finally:
            await client.close()

    def _device(self, name: str) -> Device:
        return next(device for device in self._devices if device["name"] == name)

    def _free(self) -> bool:
        taken = [name for claim in self._claims for name in claim.devices]
        return scheduler.allocate(Wish("", 1), self._devices, taken) is not None

    def _document(self, claim: Allocated) -> cdi.Document:
        path = self._stage.cdi_root / cdi.file_name(claim.ref.uid)
        if not path.exists():
            raise NotTrue(f"{claim.wish.name} is answered as prepared, but its CDI file {path.name} is not there")
        return cdi.parse(path.read_bytes())

    def _record(self) -> checkpoint.Record:
        return checkpoint.decode((self._stage.plugin_dir / RECORD).read_bytes())

    def _check_record(self) -> None:
        record = self._record()
        completed = {uid for uid, entry in record.entries.items() if entry.state == "PrepareCompleted"}
        wanted = {claim.ref.uid for claim in self._claims}
        files = {cdi.claim_uid(name) for name in self._stage.cdi_files()}
        self._page.must(completed == record.entries.keys() == wanted, f"the record holds {sorted(completed)}")
        self._page.must(files == wanted, f"the CDI folder holds files of {sorted(map(str, files))}")

    def _written(self) -> list[tuple[str, int, int]]:
        """Every file a prepare could write, by name, inode and time."""
        paths = [*self._stage.cdi_root.iterdir(), self._stage.plugin_dir / RECORD]
        return sorted((path.name, path.stat().st_ino, path.stat().st_mtime_ns) for path in paths)


def _shown(value: Any) -> str:
    return "-" if value is None else str(value)


def _shown_ids(told: Told) -> str:
    """CDI devices of an answer, the claim's UID in them cut short."""
    ids = [one for device in told.devices for one in device.cdi_ids]
    kind, _, name = ids[0].partition("=")
    uid = len(name) - len(f"-{told.devices[0].device}")
    return " ".join([f"{kind}={name[:8]}…{name[uid:]}", *(f"…-{device.device}" for device in told.devices[1:])])


async def tell(stage: Stage, page: Page) -> None:
    """Bring the players on the stage and play. Raises NotTrue."""
    await stage.start_api_server()
    environ: dict[str, str] = {}
    async with (
        HttpKube(access(str(stage.kubeconfig), environ), qps=1000.0, burst=1000, user_agent="demo") as kube,
        Kubelet(str(stage.registrar), deadline_s=20.0) as kubelet,
    ):
        await Story(stage, page, kube, kubelet).tell()
