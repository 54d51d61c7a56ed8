"""The demo's plot: one node from discovery to a clean end, every sentence of it checked while it is told."""

from __future__ import annotations

import time
from typing import Any

from nvdra import cdi
from nvdra.kube import HttpKube, access
from nvdra.programs.demo import container, scheduler
from nvdra.programs.demo.actors import DRIVER, RECORD, Actors, shown_ids
from nvdra.programs.demo.page import NotTrue, Page, seconds
from nvdra.programs.demo.scheduler import Wish, attribute
from nvdra.programs.demo.stage import Stage
from nvdra.testing.kubelet import Kubelet, PluginError

_COLUMNS = (*(f"resource.kubernetes.io/{name}" for name in ("numaNode", "pciBusID", "pcieRoot")), "uuid")


class Story:
    """Eight steps on one stage; `tell` raises NotTrue at the first claim that does not hold."""

    def __init__(self, stage: Stage, page: Page, kubelet: Kubelet, actors: Actors) -> None:
        self._stage = stage
        self._page = page
        self._kubelet = kubelet
        self._actors = actors

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
            plugin = await self._actors.registered()
            await self._actors.published()
            took = time.perf_counter() - began
            # From here on only claims make the plugin read claims.
            await stage.until("the first sweep", lambda: b"Cleanup: perform for" in stage.log.read_bytes())
            page.line(
                f"process {pid} is registered with kubelet ({plugin.version.partition('.')[0]}); "
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
                    for device in self._actors.devices
                ],
            )

    async def _allocated(self) -> None:
        page = self._page
        wishes = [Wish("one-gpu", 1), Wish("two-gpus", 2)]
        if picked := scheduler.telling(self._actors.devices):
            wishes.append(Wish("picked-gpu", 1, picked))
        with page.step("The scheduler allocates claims from what is published"):
            for wish in wishes:
                claim = await self._actors.allocate(wish)
                asked = f"{wish.count} GPU{'s' if wish.count > 1 else ''}"
                if wish.selector is not None:
                    asked += f" where {wish.selector.cel(DRIVER)}"
                if claim is None:
                    page.pair(wish.name, f"{asked}: pending, the node has too few GPUs")
                    continue
                for name in claim.devices:
                    device = self._actors.device(name)
                    is_met = wish.selector is None or wish.selector.is_met(device)
                    page.must(is_met, f"{wish.name} was given {name}, which is not what it asked for")
                page.pair(wish.name, f"{asked} → {page.paint(' '.join(claim.devices), 'bold')}")
            names = [name for claim in self._actors.claims for name in claim.devices]
            page.must(len(set(names)) == len(names) > 0, f"a GPU was given away twice: {', '.join(names)}")

    async def _prepared(self) -> None:
        page, stage = self._page, self._stage
        with page.step("kubelet prepares them, each with one call on the plugin's socket"):
            stage.root.count_calls()
            before = stage.api_calls().get("get resourceclaims", 0)
            async with self._actors.socket() as socket:
                for claim in self._actors.claims:
                    began = time.perf_counter()
                    claim.answer = await socket.prepare_bytes([claim.ref])
                    took = time.perf_counter() - began
                    told = socket.told(claim.answer)[claim.ref.uid]
                    self._actors.check_answer(claim, told)
                    page.pair(claim.wish.name, f"{seconds(took):>7}  {shown_ids(told)}")
            gets = stage.api_calls().get("get resourceclaims", 0) - before
            asked = len(self._actors.claims)
            page.must(
                gets == asked, f"{asked} prepare calls should read {asked} claims from the API server, not {gets}"
            )
            nvml = stage.root.calls().keys() - {"nvmlShutdown"}  # the lease of the first scan runs out on its own
            page.must(not nvml, f"preparing whole GPUs should need no NVML, but it was called: {', '.join(nvml)}")
            page.line(page.paint("each call: 1 read of the claim from the API server, 0 calls into NVML", "dim"))

    async def _inside(self) -> None:
        page, stage = self._page, self._stage
        claim = max(self._actors.claims, key=lambda each: len(each.devices))
        with page.step(f"A container that uses {claim.wish.name} gets"):
            document = self._actors.document(claim)
            edits = container.edits_for(
                document, (cdi.GPU_CLAIMS.device_name(claim.ref.uid, name) for name in claim.devices)
            )
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
            gpus = [attribute(self._actors.device(name), "uuid") for name in claim.devices]
            page.must(
                sorted(uuids) == sorted(gpus),
                f"nvidia-smi in the container should see {sorted(gpus)}, not {sorted(uuids)}",
            )
            page.pair("nvidia-smi -L", f"sees {len(uuids)} of {len(self._actors.devices)} GPUs, those of the claim:")
            for uuid in sorted(uuids):
                page.pair("", uuid)

    # ── 5 and 6: what could go wrong ───────────────────────────────────────────────────────────────────────────

    async def _again(self) -> None:
        page = self._page
        with page.step("kubelet asks again, as it does after every hiccup"):
            before = self._actors.written()
            took = await self._actors.same_answers()
            page.must(self._actors.written() == before, "asking again should write nothing, but files changed")
            page.line(
                f"{len(self._actors.claims)} times the same bytes, at most {seconds(took)} each; nothing was written"
            )

    async def _killed(self) -> None:
        page, stage = self._page, self._stage
        if not self._actors.free():
            await self._actors.unprepare(self._actors.claims[0])
            await self._actors.delete(self._actors.claims[0])
        with page.step("The plugin is killed in the middle of a prepare, and starts again"):
            status = await stage.stop_plugin()
            page.must(status == 0, f"the plugin should end with exit status 0 at SIGTERM, not {status}")
            stage.start_plugin(killed_before=RECORD)
            await self._actors.registered()
            claim = await self._actors.allocate(Wish("late-gpu", 1))
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
                cdi.GPU_CLAIMS.file_name(claim.ref.uid) in stage.cdi_files()
                and claim.ref.uid not in self._actors.record().entries,
                "the kill should have come after the CDI file and before the record",
            )
            page.line("SIGKILL struck after the CDI file was in place and before the record was")
            began = time.perf_counter()
            stage.start_plugin()
            await self._actors.registered()
            async with self._actors.socket() as socket:
                claim.answer = await socket.prepare_bytes([claim.ref])
                told = socket.told(claim.answer)[claim.ref.uid]
            took = time.perf_counter() - began
            self._actors.check_answer(claim, told)
            await stage.until("what the kill left behind to go", lambda: not stage.leftovers())
            await self._actors.same_answers()
            self._actors.check_record()
            page.line(f"{seconds(took)} after the new start {claim.wish.name} is prepared: …-{told.devices[0].device}")
            count = len(self._actors.claims)
            page.line(f"record and CDI folder agree on {count} claims; earlier answers are the same bytes")

    # ── 7 and 8: the end ───────────────────────────────────────────────────────────────────────────────────────

    async def _unprepared(self) -> None:
        page, stage = self._page, self._stage
        with page.step("The pods end while the API server is cut off: kubelet unprepares"):
            stage.cut_api_server()
            ended = list(self._actors.claims)
            took = [await self._actors.unprepare(claim) for claim in ended]
            stage.heal_api_server()
            for claim in ended:
                await self._actors.delete(claim)
            page.line(f"{len(ended)} claims, at most {seconds(max(took))} each, with nobody to ask")

    async def _clean(self) -> None:
        page, stage = self._page, self._stage
        with page.step("The node is clean"):
            files = stage.cdi_files()
            page.must(not files, f"CDI files are left: {', '.join(files)}")
            held = self._actors.record().entries
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
            page.line("no CDI file, no claim in the record, no temporary file, no socket, no process")


def _shown(value: Any) -> str:
    return "-" if value is None else str(value)


async def tell(stage: Stage, page: Page) -> None:
    """Bring the players on the stage and play. Raises NotTrue."""
    await stage.start_api_server()
    async with (
        HttpKube(access(str(stage.kubeconfig), {}), qps=1000.0, burst=1000, user_agent="demo") as kube,
        Kubelet(str(stage.registrar), deadline_s=20.0) as kubelet,
    ):
        await Story(stage, page, kubelet, Actors(stage, page, kube, kubelet)).tell()
