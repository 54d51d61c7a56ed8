"""Writes slices, one API call each, and interprets the server's answers.

`slices.changes` decided the writes. This module carries them out, and keeps for the next decision which fields the
server dropped, refused or changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from nvdra import telemetry
from nvdra.kube import ResourceApi, Store, document, from_wire, to_wire
from nvdra.ports import ApiError, Resource
from nvdra.slices import Changes, Create, Delete, Dropped, Pool, SliceSpec, Update, dropped, minor_version, owned

SLICES = "resourceslices"
PARTITIONABLE = "DRAPartitionableDevices"
_NODES = Resource("", "v1", "nodes", namespaced=False)


@dataclass(frozen=True, slots=True)
class Notice:
    """An event of publication, for logs and counters.

    wrote      slices were created, updated or deleted
    failed     slices could not be written; `retry_s` says when they are tried again
    dropped    the server dropped fields of a slice
    left_out   devices were not published, because the server would not accept or not count them
    """

    kind: Literal["wrote", "failed", "dropped", "left_out"]
    text: str
    values: Mapping[str, Any] = field(default_factory=dict)


def log(notice: Notice) -> None:
    """The notice as a log line."""
    if notice.kind == "wrote":
        telemetry.info(1, notice.text, **notice.values)
    else:
        telemetry.warning(notice.text, **notice.values)


class Unpublished(Exception):
    """A write that failed.

    retry_at_once   the cause is settled, so the write can be tried again at once
    retry_after_s   the time that the server asked for
    """

    def __init__(self, text: str, *, retry_at_once: bool = False, retry_after_s: float | None = None) -> None:
        super().__init__(text)
        self.retry_at_once = retry_at_once
        self.retry_after_s = retry_after_s


class SliceWrites:
    """Writes one pool's slices, and keeps what is known of the server.

    kept          by index: the fields of a slice that the server dropped; see `slices.changes`
    keeps_count   whether the server keeps counters, as far as is known
    """

    def __init__(
        self,
        api: ResourceApi,
        pool: Pool,
        store: Callable[[], Store[dict[str, Any]]],
        notice: Callable[[Notice], None],
    ) -> None:
        self._api = api
        self._pool = pool
        self._store = store
        self._notice = notice
        self._minor: int | None = None  # of the server's version, once it was asked
        self._reported: dict[int, Dropped] = {}
        self._node_uid = ""
        self._node_lock = asyncio.Lock()
        self._writing = False
        self._deleting: set[str] = set()
        self.kept: dict[int, Dropped] = {}
        self.keeps_count = True

    def is_own(self, uid: str) -> bool:
        """Whether the change of this slice that the store reports comes from this program's own write."""
        return self._writing or uid in self._deleting

    def forget_version(self) -> None:
        """Drop the server's version: the server may be another release now."""
        self._minor = None

    def forget_server(self) -> bool:
        """Drop all that is known of the server, which may have other features now. Whether anything was known."""
        was_known = bool(self.kept) or self._minor is not None
        self.kept.clear()
        self._minor, self.keeps_count = None, True
        return was_known

    def forget_owner(self) -> None:
        """Drop the node's UID: slices are deleted with their node, and a new node of that name has another UID."""
        self._node_uid = ""

    async def carry_out(self, plan: Changes, specs: Sequence[SliceSpec]) -> None:
        """Carry out the plan. Raises Unpublished if a write failed; the other writes are done all the same."""
        uid = await self._owner() if plan.creates else ""
        slices = await self._resource()
        await _together(
            *(self._update(slices, update, specs[update.index]) for update in plan.updates),
            *(self._create(slices, create, specs[create.index], uid) for create in plan.creates),
            *(self._delete(slices, delete) for delete in plan.surplus),
        )
        await _together(*(self._delete(slices, delete) for delete in plan.outdated))
        values = {
            "pool": self._pool.node_name,
            "generation": plan.generation,
            "devices": sum(len(spec.devices) for spec in specs),
            "created": len(plan.creates),
            "updated": len(plan.updates),
            "deleted": len(plan.surplus) + len(plan.outdated),
        }
        self._notice(Notice("wrote", "Published devices", values))

    async def server_minor(self) -> int:
        """The server's minor version, asked once. Raises Unpublished."""
        if self._minor is None:
            try:
                self._minor = minor_version(await self._api.kube.server_version())
            except ApiError as error:
                text = f"the API server's version, on which counters and taints depend: {error.message}"
                raise Unpublished(text, retry_after_s=error.retry_after_s) from None
        return self._minor

    async def _resource(self) -> Resource:
        try:
            return await self._api.resource(SLICES)
        except ApiError as error:
            raise self._failure(error, "resource.k8s.io") from None

    async def _update(self, slices: Resource, update: Update, spec: SliceSpec) -> None:
        body = orjson.dumps(to_wire(update.body, slices.version))
        try:
            answer = await self._api.kube.update(slices, update.name, body)
            kept = from_wire(document(answer), slices.version)
        except ApiError as error:
            raise await self._settle(slices, update.name, update.body["metadata"]["uid"], error) from None
        self._take(update.index, spec, answer, kept)

    async def _create(self, slices: Resource, create: Create, spec: SliceSpec, node_uid: str) -> None:
        body = orjson.dumps(to_wire(owned(create, self._pool, node_uid), slices.version))
        try:
            answer = await self._api.kube.create(slices, body)
            kept = from_wire(document(answer), slices.version)
        except ApiError as error:
            is_taken = error.status == 409  # the random name exists; the next try has another name
            raise self._failure(error, "a new ResourceSlice", retry_at_once=is_taken) from None
        self._take(create.index, spec, answer, kept)

    async def _delete(self, slices: Resource, delete: Delete) -> None:
        self._deleting.add(delete.uid)
        try:
            await self._api.kube.delete(slices, delete.name, uid=delete.uid, resource_version=delete.resource_version)
        except ApiError as error:
            if not error.is_missing(SLICES, delete.name):
                raise await self._settle(slices, delete.name, delete.uid, error) from None
        finally:
            self._deleting.discard(delete.uid)
        self._own(self._store().drop, delete.uid)

    def _take(self, index: int, spec: SliceSpec, answer: bytes, kept: Mapping[str, Any]) -> None:
        self._own(self._store().put, answer)
        lost = dropped(spec, kept)
        if lost is None:
            self.kept.pop(index, None)
            self._reported.pop(index, None)
            return
        self.kept[index] = lost
        if self._reported.get(index) != lost:
            self._reported[index] = lost
            gates = ", ".join(lost.gates)
            text = "The API server dropped fields of a slice; the rest is published. Feature gates may be off"
            self._notice(Notice("dropped", text, {"pool": self._pool.node_name, "slice": index, "gates": gates}))
        if PARTITIONABLE in lost.gates:
            self.keeps_count = False

    async def _settle(self, slices: Resource, name: str, uid: str, error: ApiError) -> Unpublished:
        """The error of a refused write, after the store got the object's current state."""
        if error.is_missing(SLICES, name):
            self._node_uid = ""
            self._own(self._store().drop, uid)
            return self._failure(error, name, retry_at_once=True)
        if error.status != 409:
            return self._failure(error, name)
        try:
            self._own(self._store().put, await self._api.kube.get(slices, name))
        except ApiError as second:
            if not second.is_missing(SLICES, name):
                return self._failure(second, name)
            self._own(self._store().drop, uid)
        return self._failure(error, name, retry_at_once=True)

    def _failure(self, error: ApiError, what: str, *, retry_at_once: bool = False) -> Unpublished:
        if error.status in (400, 422):
            self._minor = None  # the server may be another release with other rules
        retry_at_once = retry_at_once or self._api.forget(error)
        return Unpublished(f"{what}: {error.message}", retry_at_once=retry_at_once, retry_after_s=error.retry_after_s)

    def _own(self, act: Callable[[Any], object], value: Any) -> None:
        """Update the store after a write of this program, so that the change is not taken for another writer's."""
        self._writing = True
        try:
            act(value)
        finally:
            self._writing = False

    async def read_ahead(self) -> None:
        """Read the node's UID, the owner of new slices, while the slices are being listed."""
        try:
            await self._owner()
        except Unpublished:
            return

    async def _owner(self) -> str:
        async with self._node_lock:
            if not self._node_uid:
                name = self._pool.node_name
                try:
                    node = document(await self._api.kube.get(_NODES, name))
                    uid = node["metadata"]["uid"]
                except ApiError as error:
                    text = f'Node "{name}", which owns the slices, cannot be read: {error.message}'
                    raise Unpublished(text, retry_after_s=error.retry_after_s) from None
                except (KeyError, TypeError):
                    uid = None
                if not uid or not isinstance(uid, str):
                    raise Unpublished(f'Node "{name}", which owns the slices, came without a UID')
                self._node_uid = uid
            return self._node_uid


async def _together(*writes: Coroutine[Any, Any, None]) -> None:
    """Run all writes to their end. Raises the gravest failure: unexpected errors before those that can retry."""
    failures: Sequence[Any] = await asyncio.gather(*writes, return_exceptions=True)
    failures = [failure for failure in failures if failure is not None]
    for failure in failures:
        if not isinstance(failure, Unpublished):
            raise failure
    if failures:
        raise min(failures, key=lambda failure: failure.retry_at_once)
