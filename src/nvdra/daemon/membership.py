"""The daemon's place among the members: joined, kept with its status, given back at the end.

A controller of this project assigns indices and statuses (it says so on the pod): then the daemon waits two seconds for
its entry, and corrects its status only after two seconds. Under the Go controller the daemon writes at once.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from nvdra import telemetry
from nvdra.api.compute_domain import ASSIGNED_ANNOTATION, READY, Member
from nvdra.api.objects import mapping, text
from nvdra.daemon.identity import Identity
from nvdra.daemon.roster import Roster, Seen
from nvdra.domains.membership import CliqueFull, join, leave, with_status
from nvdra.domains.pods import DaemonPod, daemon_pod
from nvdra.kube import Watcher, document
from nvdra.ports import ApiError, Clock, Kube, Resource

PODS = Resource("", "v1", "pods", namespaced=True)
ASSIGNED_S = 2.0  # how long a controller that assigns has for each change
RETRY_FIRST_S, RETRY_LIMIT_S = 0.005, 6.0


class Membership:
    """One daemon among the members.

    own_ready   whether IMEX says that it is ready; None: not known yet
    push        called with the members and the domain's wanted number of nodes, once the daemon is one of them and
                after each change
    """

    def __init__(
        self,
        kube: Kube,
        clock: Clock,
        me: Identity,
        roster: Roster,
        own_ready: Callable[[], bool | None],
        push: Callable[[Sequence[Member], int], None],
    ) -> None:
        self._kube = kube
        self._clock = clock
        self._me = me
        self._roster = roster
        self._own_ready = own_ready
        self._push = push
        self._changed = asyncio.Event()
        self._last_index: int | None = None
        self._wants_since: tuple[str, float] | None = None
        self._failures = 0
        self._members = self._watcher(roster.resource, roster.namespace, roster.name)
        self._pods = self._watcher(PODS, me.pod_namespace, me.pod_name)

    def nudge(self) -> None:
        """IMEX's readiness changed."""
        self._changed.set()

    async def run(self) -> None:
        """Join, and keep the entry true for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._members.run(), name="members")
            group.create_task(self._pods.run(), name="own pod")
            while True:
                self._changed.clear()
                pause_s = await self._step()
                await self._wait(pause_s)

    async def leave(self) -> None:
        """Remove the entry: made again until it is done. Bound the call from outside."""
        me, failures = self._me, 0
        while True:
            try:
                seen = await self._read()
                if seen is None or (members := leave(seen.members, me.node, me.ip)) == seen.members:
                    return
                await self._roster.write(seen, members)
            except ApiError as error:
                failures += 1
                telemetry.info(2, "The entry of this daemon cannot be removed yet", cause=error.message)
                await self._clock.sleep(_pause_s(failures, error))
                continue
            # DROP-IN: tests of the Go driver look for this text.
            telemetry.info(
                0,
                f"Successfully removed daemon with IP {me.ip} from {self._roster.kind} {self._roster.name} "
                f"(from ComputeDomain {me.namespace}/{me.name})",
            )
            return

    # ── one step ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _step(self) -> float | None:
        """Do what is due. Seconds until the next look; None: until something changes."""
        if not (self._members.store.is_filled and self._pods.store.is_filled):
            return None
        seen, me = self._seen(), self._me
        members = () if seen is None else seen.members
        mine = next(
            (each for each in members if (each.node, each.ip, each.clique) == (me.node, me.ip, me.clique)), None
        )
        if seen is not None and mine is not None:
            self._last_index = mine.index
            self._push(members, seen.wanted_nodes)
            is_ready = self._is_ready()
            if is_ready is None or is_ready == (mine.status == READY):
                self._wants_since = None
                return None
            return await self._write_when_due(f"ready={is_ready}", seen, with_status(members, me.node, me.ip, is_ready))
        try:
            wanted = self._joined(members)
        except CliqueFull as full:
            telemetry.warning("This daemon cannot join", cause=str(full))
            return RETRY_LIMIT_S
        return await self._write_when_due("join", seen, wanted)

    def _joined(self, members: Sequence[Member]) -> tuple[Member, ...]:
        """The members with this daemon; after its clique was deleted, with the index it had."""
        me = self._me
        wanted = join(members, me.node, me.ip, me.clique, me.limit)
        taken = {each.index for each in wanted if each.clique == me.clique and each.node != me.node}
        if self._last_index is None or self._last_index in taken:
            return wanted
        return tuple(replace(each, index=self._last_index) if each.node == me.node else each for each in wanted)

    async def _write_when_due(self, what: str, seen: Seen | None, members: Sequence[Member]) -> float | None:
        if self._wants_since is None or self._wants_since[0] != what:
            self._wants_since = what, self._clock.now()
        left_s = self._wants_since[1] + (ASSIGNED_S if self._is_assigned() else 0.0) - self._clock.now()
        if left_s > 0:
            return left_s
        try:
            await self._roster.write(seen, members)
        except ApiError as error:
            self._failures += 1
            level = 4 if error.status == 409 else 0
            telemetry.info(level, "The members could not be written, trying again", cause=error.message)
            return _pause_s(self._failures, error)
        self._failures = 0
        self._log_written(what, seen, members)
        return 1.0  # the watch brings what was written, or another writer's

    def _log_written(self, what: str, seen: Seen | None, members: Sequence[Member]) -> None:
        roster, mine = self._roster, next(each for each in members if each.node == self._me.node)
        # DROP-IN: the texts are the Go driver's.
        if what != "join":
            telemetry.info(1, f"Successfully updated status in {roster.kind} {roster.name}", status=mine.status)
        elif seen is None:
            telemetry.info(0, f"Successfully created {roster.kind} '{roster.name}'", index=mine.index)
        else:
            telemetry.info(
                0, f"Successfully inserted/updated daemon info in {roster.kind} {roster.name} (myDaemon: {mine})"
            )

    def _is_ready(self) -> bool | None:
        """Whether the entry should be Ready; None: nothing is known of the pod."""
        pod = self._pod()
        if not self._is_assigned() and (own := self._own_ready()) is not None:
            return own  # earlier than kubelet's probe, by the same question
        return None if pod is None else pod.is_ready

    def _is_assigned(self) -> bool:
        annotations = (mapping(mapping(pod, "metadata"), "annotations") for pod in self._pods.store.values())
        return any(text(each, ASSIGNED_ANNOTATION) for each in annotations)

    def _pod(self) -> DaemonPod | None:
        pods = [daemon_pod(pod) for pod in self._pods.store.values()]
        return next((pod for pod in pods if not self._me.pod_uid or pod.meta.uid == self._me.pod_uid), None)

    def _seen(self) -> Seen | None:
        return next((seen for thing in self._members.store.values() if (seen := self._roster.seen(thing))), None)

    async def _read(self) -> Seen | None:
        roster = self._roster
        try:
            return roster.seen(document(await self._kube.get(roster.resource, roster.name, roster.namespace)))
        except ApiError as error:
            if error.is_missing(roster.resource.plural, roster.name):
                return None
            raise

    async def _wait(self, pause_s: float | None) -> None:
        if pause_s is None:
            await self._changed.wait()
            return
        try:
            async with self._clock.deadline(pause_s):
                await self._changed.wait()
        except TimeoutError:
            return

    def _watcher(self, resource: Resource, namespace: str, name: str) -> Watcher[dict[str, Any]]:
        async def find() -> Resource:
            return resource

        def on_failure(error: ApiError, pause_s: float) -> None:
            telemetry.info(
                1, "A watch failed, trying again", kind=resource.plural, cause=error.message, pause_s=pause_s
            )

        return Watcher(
            self._kube,
            self._clock,
            find,
            lambda thing, _resource: thing,
            namespace=namespace,
            field_selector=f"metadata.name={name}",
            on_change=lambda _change: self._changed.set(),
            on_failure=on_failure,
        )


def _pause_s(failures: int, error: ApiError) -> float:
    """Short and random: daemons of one clique meet in one object."""
    if error.retry_after_s is not None:
        return error.retry_after_s * random.uniform(1.0, 1.25)
    return min(RETRY_FIRST_S * 2.0 ** min(failures, 16), RETRY_LIMIT_S) * random.uniform(0.5, 1.5)
