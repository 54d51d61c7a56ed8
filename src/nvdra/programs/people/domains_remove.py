"""nvdra domains remove: the end of ComputeDomains and of everything they left, with or without a controller."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from nvdra.api import gates
from nvdra.api.compute_domain import DOMAIN_LABEL
from nvdra.api.objects import Meta, meta_of
from nvdra.controller import deletion
from nvdra.controller.caches import Caches
from nvdra.controller.context import Context
from nvdra.controller.events import Events
from nvdra.controller.patches import Waiting
from nvdra.controller.settings import CLIQUES, DAEMON_SETS, DOMAINS, Settings
from nvdra.domains.templates import DaemonSettings
from nvdra.kube import ConfigError, Followed, HttpKube, ResourceApi, access, document, until
from nvdra.node.clock import LoopClock
from nvdra.ports import ApiError, Kube, Resource
from nvdra.programs.flags import KUBE, Flag, UsageError, boolean, duration_s, parse_words
from nvdra.programs.people.paper import counted

_ABOUT = """\
Deletes ComputeDomains and waits for the controller to remove their objects. What is left after --wait, because no
controller runs any more, is removed here: claim templates, DaemonSets, cliques, node labels, finalizers. With --all,
this includes what domains left that no longer exist. For an uninstall: run it before helm uninstall.

Workloads of a domain lose their IMEX daemons: first delete the pods that use it.

Exit status: 0 if nothing is left, 1 if something is, 2 if the command line is wrong, 3 if the API server cannot be
asked."""

_FLAGS = (
    Flag(("all",), (), False, "every ComputeDomain of the cluster, and what others left", boolean),
    Flag(("yes", "y"), (), False, "do not ask", boolean),
    Flag(("wait",), (), 30.0, "how long the controller has time to do it, 30s", duration_s),
    KUBE[0],
)
_TRIES = 5


def main(argv: Sequence[str]) -> int:
    usage = "nvdra domains remove [OPTIONS] (--all | NAMESPACE/NAME...)"
    values, words = parse_words("nvdra domains remove", _ABOUT, _FLAGS, argv, os.environ, usage=usage)
    if bool(words) == bool(values["all"]):
        raise UsageError("give the NAMESPACE/NAME of each ComputeDomain, or --all")
    if odd := [word for word in words if word.count("/") != 1]:
        raise UsageError(f"{odd[0]!r} is not NAMESPACE/NAME")
    try:
        return asyncio.run(_run(words, str(values["kubeconfig"]), float(values["wait"]), is_agreed=bool(values["yes"])))
    except (ConfigError, ApiError) as error:
        print(f"Error: ComputeDomains cannot be removed: {error}", file=sys.stderr)
        return 3


async def _run(names: Sequence[str], kubeconfig: str, wait_s: float, *, is_agreed: bool) -> int:
    async with HttpKube(access(kubeconfig, os.environ), user_agent="nvdra-domains-remove") as kube:
        found = [meta_of(document(each)) for each in (await kube.list(DOMAINS)).items]
        missing = sorted(set(names) - {str(meta) for meta in found})
        if missing:
            print(f"Error: there is no ComputeDomain {', '.join(missing)}", file=sys.stderr)
            return 1
        chosen = [meta for meta in found if not names or str(meta) in names]
        print(f"ComputeDomains to remove: {', '.join(sorted(str(meta) for meta in chosen)) or 'none'}")
        if chosen and not is_agreed and not _agreed("Delete them? Their workloads lose their IMEX daemons."):
            return 1
        left = await remove(kube, chosen, wait_s, with_orphans=not names)
    for each in left:
        print(f"left: {each}", file=sys.stderr)
    print("nothing is left" if not left else f"{counted(len(left), 'thing')} could not be removed")
    return int(bool(left))


async def remove(kube: Kube, domains: Sequence[Meta], wait_s: float, *, with_orphans: bool) -> list[str]:
    """Remove the domains, and return what could not be removed."""
    clock = LoopClock()
    for meta in domains:
        with suppress(ApiError):  # what is gone already is fine; what cannot be deleted is told at the end
            await kube.delete(DOMAINS, meta.name, meta.namespace, uid=meta.uid)
    uids = {meta.uid for meta in domains}

    def are_gone(objects: object) -> bool | None:
        there = {each["metadata"]["uid"] for each in objects["computedomains"]}  # type: ignore[index]
        return True if not uids & there else None

    with suppress(TimeoutError):
        async with clock.deadline(wait_s):
            await until(kube, clock, "", [Followed(DOMAINS)], are_gone)
    return await _Rest(kube, clock).remove(uids, with_orphans=with_orphans)


@dataclass(frozen=True, slots=True)
class _Rest:
    """What is left of domains, removed by the controller's own steps."""

    kube: Kube
    clock: LoopClock

    async def remove(self, uids: set[str], *, with_orphans: bool) -> list[str]:
        api = ResourceApi(self.kube)
        spaces = await self._namespaces()
        settings = Settings(DaemonSettings(spaces[0], "", gates.defaults().values), tuple(spaces[1:]))
        caches = Caches(api, self.clock, settings, lambda _uid: None)
        events = Events(self.kube, self.clock, "nvdra")
        context = Context(api, self.clock, settings, caches, events, lambda _uid, _s: None, lambda: False)
        following = asyncio.create_task(caches.run())
        try:
            async with self.clock.deadline(30.0):
                await caches.filled()
            chosen = sorted(caches.uids() - {""} if with_orphans else uids)
            return [text for uid in chosen if (text := await self._one(context, uid, is_orphan=uid not in uids))]
        except TimeoutError:
            return ["what the API server did not list within 30 s"]
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def _one(self, context: Context, uid: str, *, is_orphan: bool) -> str:
        """Remove what is left of one domain; a text if that is not possible."""
        domain = context.caches.domain(uid)
        if is_orphan and domain is not None:
            return ""  # made after the question was asked
        cause = ""
        for attempt in range(_TRIES):
            if domain is not None and not domain.meta.is_deleting:
                return f"ComputeDomain {domain.meta}: it could not be deleted"
            try:
                if domain is not None:
                    await deletion.end(context, domain)
                else:
                    await deletion.end_orphans(context, uid)
            except (ApiError, Waiting) as error:
                cause = str(error)
                await self.clock.sleep(0.2 * 2**attempt)
            else:
                return ""
            domain = context.caches.domain(uid)
        return f"of the ComputeDomain {domain.meta if domain is not None else uid}: {cause}"

    async def _namespaces(self) -> list[str]:
        """Every namespace that has daemons or cliques."""
        found: dict[str, None] = {}
        for resource, selector in ((DAEMON_SETS, DOMAIN_LABEL), (CLIQUES, "")):
            found |= dict.fromkeys([meta.namespace for meta in await self._metas(resource, selector)])
        return list(found) or ["default"]

    async def _metas(self, resource: Resource, selector: str) -> list[Meta]:
        return [meta_of(document(each)) for each in (await self.kube.list(resource, label_selector=selector)).items]


def _agreed(question: str) -> bool:
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False
