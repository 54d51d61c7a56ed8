"""An API server in memory: the `Kube` port with what clients must cope with.

Resource versions, conflicts, history that is forgotten (410), bookmarks, finalizers, owners whose dependents go with
them, generated names, field and label selectors, the limits of ResourceSlices, and faults on demand. Objects keep their
very bytes except for `metadata`, as the real server keeps them.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

from nvdra.kube import from_wire, members, to_wire
from nvdra.ports import ApiError, Clock, Event, Page, Propagation, Resource
from nvdra.slices import slice_problems
from nvdra.testing.apply import Path, applied, changed, fields, merged, text
from nvdra.testing.objects import (
    REASONS,
    Happened,
    Kind,
    Stored,
    all_kinds,
    api_version,
    at_path,
    away,
    conflict,
    expired,
    invalid,
    loaded,
    qualified,
    seen,
)
from nvdra.testing.selectors import field_matcher, label_matcher
from nvdra.testing.watches import Watch

FOREGROUND = "foregroundDeletion"
_NAME_LIMIT = 63
_RANDOM = 5
_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
_PAGE = 500  # objects of a LIST at a time
_READ = ("apiVersion", "kind", "metadata")
_OWN_METADATA = ("uid", "creationTimestamp", "deletionTimestamp", "generation", "generateName")


@dataclass(slots=True)
class _Fault:
    times: int
    verb: str
    plural: str
    error: ApiError


Objects = dict[tuple[str, str], dict[tuple[str, str], Stored]]  # by group and plural, then namespace and name


class FakeKube:
    """One API server. Everything is at hand for a test: `calls`, faults, history, the objects themselves.

    versions        of resource.k8s.io that are served, the preferred one first
    keep_events     how far back a watch may start
    drops           device fields that a disabled feature makes the server forget, for instance "taints"
    """

    def __init__(
        self,
        *,
        versions: Sequence[str] = ("v1",),
        server_version: str = "v1.37.2",
        clock: Clock | None = None,
        keep_events: int = 1000,
        drops: Iterable[str] = (),
        kinds: Iterable[Kind] = (),
        seed: int = 0,
    ) -> None:
        self.kinds: dict[tuple[str, str], Kind] = {}
        self.serve(versions)
        for kind in kinds:
            self.kinds[kind.group, kind.plural] = kind
        self.git_version = server_version
        self.drops = frozenset(drops)
        self.calls: Counter[tuple[str, str]] = Counter()
        self.is_away = False
        self.delay_s = 0.0
        self._clock = clock
        self._faults: list[_Fault] = []
        self._objects: Objects = {}
        self._heard: Objects | None = None  # what cached reads show, where that is not the same
        self._revision = 1
        self._history: deque[Happened] = deque(maxlen=keep_events)
        self._forgotten = 0
        self._watches: set[Watch] = set()
        self._random = random.Random(seed)

    # Faults and other doors for tests

    def serve(self, versions: Sequence[str]) -> None:
        """Serve resource.k8s.io in these versions from now on."""
        self.kinds |= {(kind.group, kind.plural): kind for kind in all_kinds(tuple(versions))}

    def fail(
        self,
        status: int,
        *,
        times: int = 1,
        verb: str = "",
        plural: str = "",
        reason: str = "",
        message: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        """The next calls (of that verb, on that kind, if given) get this answer. Verbs as in `calls`."""
        reason = reason or REASONS.get(status, "")
        error = ApiError(status, reason, message or f"fault on demand: {status} {reason}".strip(), retry_after_s)
        self._faults.append(_Fault(times, verb, plural, error))

    def heal(self) -> None:
        """No faults from now on."""
        self._faults.clear()
        self.is_away = False
        self.delay_s = 0.0
        self._heard = None

    def lag(self) -> None:
        """Cached reads show what is here now, whatever comes; `heal` ends it."""
        self._heard = {kind: dict(kept) for kind, kept in self._objects.items()}

    def go_away(self) -> None:
        """No answers from now on, running watches break; `heal` brings it back."""
        self.is_away = True
        self.end_watches(away())

    def compact(self) -> None:
        """Forget the past: a watch that starts before now gets 410."""
        self._history.clear()
        self._forgotten = self._revision

    def end_watches(self, error: ApiError | None = None) -> None:
        """End all running watches, with an error or as the server does after some minutes."""
        for watch in list(self._watches):
            watch.end(error)

    def send(self, event: Event) -> None:
        """Put an event into each running watch, whatever it says."""
        for watch in self._watches:
            watch.put(event)

    def bookmark(self) -> None:
        """Send each running watch a bookmark."""
        for watch in self._watches:
            thing: dict[str, Any] = {"kind": watch.kind.kind, "apiVersion": api_version(watch.kind, watch.version)}
            thing["metadata"] = {"resourceVersion": str(self._revision), "creationTimestamp": None}
            watch.put(Event("BOOKMARK", orjson.dumps(thing)))

    def objects(self, plural: str, version: str = "v1") -> list[dict[str, Any]]:
        """All objects of a kind, decoded, in the order of their names."""
        kind = next(kind for kind in self.kinds.values() if kind.plural == plural)
        kept = self._objects.get((kind.group, plural), {})
        return [orjson.loads(self._render(kind, version, kept[key])) for key in sorted(kept)]

    @property
    def revision(self) -> int:
        return self._revision

    # The port

    async def discover(self, group: str) -> tuple[str, ...]:
        await self._enter("discover", group)
        return self.versions(group)

    def versions(self, group: str) -> tuple[str, ...]:
        found: dict[str, None] = {}
        for kind in self.kinds.values():
            if kind.group == group:
                found |= dict.fromkeys(kind.versions)
        return tuple(found)

    async def server_version(self) -> str:
        await self._enter("version", "")
        return self.git_version

    async def get(
        self, resource: Resource, name: str, namespace: str = "", *, timeout_s: float = 30.0, cached: bool = False
    ) -> bytes:
        kind = await self._enter_kind("get", resource, timeout_s)
        stored = self._find(kind, namespace, name, self._heard if cached else None)
        return self._render(kind, resource.version, stored)

    async def list(
        self, resource: Resource, namespace: str = "", *, field_selector: str = "", label_selector: str = ""
    ) -> Page:
        kind = await self._enter_kind("list", resource)
        chosen = self._chosen(kind, namespace, field_selector, label_selector)
        return Page(tuple(self._render(kind, resource.version, each) for each in chosen), str(self._revision))

    async def pages(
        self, resource: Resource, namespace: str = "", *, field_selector: str = "", label_selector: str = ""
    ) -> AsyncIterator[Page]:
        page = await self.list(resource, namespace, field_selector=field_selector, label_selector=label_selector)
        for start in range(0, len(page.items) or 1, _PAGE):
            yield Page(page.items[start : start + _PAGE], page.resource_version)

    async def create(self, resource: Resource, body: bytes, namespace: str = "") -> bytes:
        kind = await self._enter_kind("create", resource)
        return self._add(kind, resource.version, self._accept(kind, resource.version, body), namespace)

    def _add(self, kind: Kind, version: str, sent: Stored, namespace: str) -> bytes:
        metadata = sent.metadata
        if kind.namespaced:
            metadata["namespace"] = namespace
        if kind.has_status:
            sent.parts["status"] = b"{}"
        if not metadata.get("name"):
            if not metadata.get("generateName"):
                raise invalid(kind, "", "metadata.name: Required value: name or generateName is required")
            metadata["name"] = self._generate(metadata["generateName"])
        key = (metadata.get("namespace", ""), metadata["name"])
        kept = self._objects.setdefault((kind.group, kind.plural), {})
        if key in kept:
            text = f'{qualified(kind)} "{key[1]}" already exists'
            raise ApiError(409, "AlreadyExists", text, about=(kind.plural, key[1]))
        metadata["uid"] = str(uuid.UUID(int=self._random.getrandbits(128), version=4))
        metadata["creationTimestamp"] = self._timestamp()
        metadata["generation"] = 1
        metadata.pop("resourceVersion", None)
        metadata.pop("deletionTimestamp", None)
        self._check(kind, version, sent)
        kept[key] = sent
        self._happen("ADDED", kind, sent, None)
        return self._render(kind, version, sent)

    async def update(
        self, resource: Resource, name: str, body: bytes, namespace: str = "", *, subresource: str = ""
    ) -> bytes:
        kind = await self._enter_kind("update", resource)
        old = self._find(kind, namespace, name)
        sent = self._accept(kind, resource.version, body)
        if sent.metadata.get("name") != name:
            raise ApiError(400, "BadRequest", "the name of the object does not match the name on the URL")
        return self._write(kind, resource.version, old, sent, subresource)

    async def patch(
        self, resource: Resource, name: str, body: bytes, namespace: str = "", *, subresource: str = ""
    ) -> bytes:
        kind = await self._enter_kind("patch", resource)
        old = self._find(kind, namespace, name)
        patch = _object(body)
        made = merged(self._decoded(old, resource.version, patch), patch)
        return self._write(kind, resource.version, old, self._with(old, resource.version, patch, made), subresource)

    async def apply(
        self,
        resource: Resource,
        name: str,
        body: bytes,
        namespace: str = "",
        *,
        manager: str,
        force: bool = False,
        subresource: str = "",
    ) -> bytes:
        kind = await self._enter_kind("patch", resource)
        wanted = _object(body)
        if (wanted.get("apiVersion"), wanted.get("kind")) != (api_version(kind, resource.version), kind.kind):
            raise ApiError(400, "BadRequest", "an apply names the apiVersion and the kind of its object")
        key = f"{manager}/{subresource}"
        old = self._objects.get((kind.group, kind.plural), {}).get((namespace, name))
        if old is None and subresource:
            self._find(kind, namespace, name)
        if old is None:
            wanted["metadata"] = {**wanted.get("metadata", {}), "name": name}
            sent = self._accept(kind, resource.version, orjson.dumps(wanted))
            sent.managers = {key: set(fields(kind.plural, wanted))}
            return self._add(kind, resource.version, sent, namespace)
        mine = fields(kind.plural, wanted)
        names = {path[0] for paths in (mine, *old.managers.values()) for path in paths if isinstance(path[0], str)}
        live = self._decoded(old, resource.version, names)
        had = fields(kind.plural, live)
        others = {other: paths for other, paths in (old.managers or {"": set(had)}).items() if other != key}
        taken = {path: other for other, paths in others.items() for path in paths if _differs(path, had, mine)}
        if taken and not force:
            causes = sorted(f'conflict with "{other.split("/")[0]}": {text(path)}' for path, other in taken.items())
            raise conflict(kind, name, f"Apply failed with {len(taken)} conflict(s): {'; '.join(causes)}")
        others = {other: paths - taken.keys() for other, paths in others.items()}
        left = old.managers.get(key, set()) - mine.keys() - set().union(*others.values())
        sent = self._with(old, resource.version, names, applied(kind.plural, live, wanted, left))
        return self._write(kind, resource.version, old, sent, subresource, {**others, key: set(mine)})

    def _write(
        self,
        kind: Kind,
        version: str,
        old: Stored,
        sent: Stored,
        subresource: str,
        managers: dict[str, set[Path]] | None = None,
    ) -> bytes:
        """Store what was sent in the place of `old`. managers: who applied what, if this is an apply."""
        name = old.metadata["name"]
        self._precondition(kind, old, sent.metadata.get("uid", ""), sent.metadata.get("resourceVersion", ""))
        old_parts = self._parts(old, version)
        if subresource == "status":
            sent.parts = {**old_parts, "status": sent.parts.get("status", b"{}")}
            kept_metadata = dict(old.metadata)
        else:
            if kind.has_status:
                sent.parts.pop("status", None)
                if "status" in old_parts:
                    sent.parts["status"] = old_parts["status"]
            kept_metadata = {**sent.metadata, **{k: old.metadata[k] for k in _OWN_METADATA if k in old.metadata}}
        sent.metadata = kept_metadata
        sent.metadata["resourceVersion"] = old.metadata["resourceVersion"]
        self._check(kind, version, sent, old)
        specs = sent.parts.get("spec"), old_parts.get("spec")
        is_same_spec = specs[0] == specs[1] or loaded(specs[0]) == loaded(specs[1])
        if is_same_spec and sent.metadata == old.metadata and sent.parts == old_parts:
            old.managers = old.managers if managers is None else managers
            return self._render(kind, version, old)
        sent.managers = self._managers(kind, version, old, sent) if managers is None else managers
        if not is_same_spec:
            sent.metadata["generation"] = old.metadata.get("generation", 1) + 1
        key = (old.metadata.get("namespace", ""), name)
        if sent.metadata.get("deletionTimestamp") and not sent.metadata.get("finalizers"):
            self._remove(kind, key, sent)
        else:
            self._objects[kind.group, kind.plural][key] = sent
            self._happen("MODIFIED", kind, sent, old)
        return self._render(kind, version, sent)

    def _managers(self, kind: Kind, version: str, old: Stored, sent: Stored) -> dict[str, set[Path]]:
        """Who has which fields after a write that is no apply: what it changed is nobody else's any more."""
        if not old.managers:
            return {}
        before = self._parts(old, version)
        names = {name for name in before.keys() | sent.parts.keys() if before.get(name) != sent.parts.get(name)}
        both = (self._decoded(each, version, names) for each in (old, sent))
        news = changed(kind.plural, *both)
        kept = {manager: paths - news for manager, paths in old.managers.items()}
        return {**kept, "": kept.get("", set()) | news}

    def _decoded(self, stored: Stored, version: str, names: Iterable[str]) -> dict[str, Any]:
        """The metadata and the parts of these names: what is opaque elsewhere may hold what no parser takes."""
        parts = self._parts(stored, version)
        return {"metadata": stored.metadata, **{name: loaded(parts[name]) for name in names if name in parts}}

    def _with(self, old: Stored, version: str, names: Iterable[str], made: Mapping[str, Any]) -> Stored:
        """The object with these parts, and the metadata, as they were made."""
        parts = {name: raw for name, raw in self._parts(old, version).items() if name not in names}
        parts |= {name: orjson.dumps(made[name]) for name in names if name in made and name not in _READ}
        return Stored(version, made["metadata"], parts)

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str = "",
        *,
        uid: str = "",
        resource_version: str = "",
        propagation: Propagation = "",
    ) -> None:
        kind = await self._enter_kind("delete", resource)
        self._precondition(kind, self._find(kind, namespace, name), uid, resource_version)
        self._delete(kind, (namespace, name), propagation)

    async def delete_all(
        self, resource: Resource, namespace: str = "", *, field_selector: str = "", label_selector: str = ""
    ) -> None:
        """DeleteCollection: how kubelet wipes the slices of its node."""
        kind = await self._enter_kind("deletecollection", resource)
        for stored in self._chosen(kind, namespace, field_selector, label_selector):
            self._delete(kind, (stored.metadata.get("namespace", ""), stored.metadata["name"]))

    async def watch(
        self,
        resource: Resource,
        namespace: str = "",
        *,
        resource_version: str,
        field_selector: str = "",
        label_selector: str = "",
    ) -> AsyncIterator[Event]:
        kind = await self._enter_kind("watch", resource)
        fields = field_matcher(kind.plural, field_selector, self._minor())
        watch = Watch(self._render, kind, resource.version, namespace, fields, label_matcher(label_selector))
        start = int(resource_version or 0)
        oldest = self._history[0].revision if self._history else self._revision + 1
        is_full = len(self._history) == self._history.maxlen
        if start and (start < self._forgotten or (is_full and start < oldest - 1)):
            raise expired(start, self._forgotten or oldest)
        for happened in [each for each in self._history if each.revision > start]:
            watch.tell(happened)
        self._watches.add(watch)
        try:
            async for event in watch:
                yield event
        finally:
            self._watches.discard(watch)

    # What happens inside

    async def _enter(self, verb: str, plural: str, timeout_s: float = 30.0) -> None:
        self.calls[verb, plural] += 1
        if self.delay_s:
            await self._sleep(min(self.delay_s, timeout_s))
            if self.delay_s > timeout_s:
                raise ApiError(0, "Timeout", f"the API server did not answer within {timeout_s:g} s")
        if self.is_away:
            raise away()
        for fault in self._faults:
            if fault.verb in ("", verb) and fault.plural in ("", plural):
                fault.times -= 1
                if fault.times <= 0:
                    self._faults.remove(fault)
                raise fault.error

    async def _enter_kind(self, verb: str, resource: Resource, timeout_s: float = 30.0) -> Kind:
        await self._enter(verb, resource.plural, timeout_s)
        kind = self.kinds.get((resource.group, resource.plural))
        if kind is None or resource.version not in kind.versions:
            raise ApiError(404, "NotFound", "the server could not find the requested resource")
        return kind

    async def _sleep(self, seconds: float) -> None:
        await (self._clock.sleep(seconds) if self._clock is not None else asyncio.sleep(seconds))

    def _timestamp(self) -> str:
        now = datetime.now(UTC) if self._clock is None else datetime.fromtimestamp(self._clock.wall(), UTC)
        return now.strftime("%Y-%m-%dT%H:%M:%SZ")

    def _minor(self) -> int:
        return int(self.git_version.split(".")[1])

    def _generate(self, prefix: str) -> str:
        tail = "".join(self._random.choices(_LETTERS, k=_RANDOM))
        return prefix[: _NAME_LIMIT - _RANDOM] + tail

    def _find(self, kind: Kind, namespace: str, name: str, among: Objects | None = None) -> Stored:
        stored = (self._objects if among is None else among).get((kind.group, kind.plural), {}).get((namespace, name))
        if stored is None:
            raise ApiError(404, "NotFound", f'{qualified(kind)} "{name}" not found', about=(kind.plural, name))
        return stored

    def _chosen(self, kind: Kind, namespace: str, field_selector: str, label_selector: str) -> Sequence[Stored]:
        fields = field_matcher(kind.plural, field_selector, self._minor())
        labels = label_matcher(label_selector)
        kept = self._objects.get((kind.group, kind.plural), {})
        return [
            kept[key]
            for key in sorted(kept)
            if (not namespace or key[0] == namespace) and labels(kept[key].metadata)
            if not field_selector or fields(seen(kept[key]))
        ]

    def _accept(self, kind: Kind, version: str, body: bytes) -> Stored:
        try:
            # As the real server: what is opaque may hold what no parser takes.
            parts = members(body)
            thing: dict[str, Any] = {key: orjson.loads(parts[key]) for key in _READ if key in parts}
        except ValueError as error:
            raise ApiError(400, "BadRequest", f"the object provided is unrecognized: {error}") from None
        expected = api_version(kind, version)
        if thing.get("apiVersion", expected) != expected or thing.get("kind", kind.kind) != kind.kind:
            text = f"the object is {thing.get('apiVersion')} {thing.get('kind')}, not {expected} {kind.kind}"
            raise ApiError(400, "BadRequest", text)
        metadata = {key: value for key, value in (thing.get("metadata") or {}).items() if value is not None}
        for key in ("apiVersion", "kind", "metadata"):
            parts.pop(key, None)
        if self.drops and kind.plural == "resourceslices" and "spec" in parts:
            whole = {**thing, "spec": orjson.loads(parts["spec"])}
            parts["spec"] = orjson.dumps(self._forget(from_wire(whole, version), version))
        return Stored(version, metadata, parts)

    def _forget(self, thing: dict[str, Any], version: str) -> Any:
        spec = {key: value for key, value in thing["spec"].items() if key not in self.drops}
        if "devices" in spec:
            spec["devices"] = [{k: v for k, v in each.items() if k not in self.drops} for each in spec["devices"]]
        return to_wire({**thing, "spec": spec}, version)["spec"]

    def _check(self, kind: Kind, version: str, sent: Stored, old: Stored | None = None) -> None:
        if kind.plural != "resourceslices":
            return
        name = sent.metadata["name"]
        spec = from_wire({"spec": loaded(sent.parts.get("spec")) or {}}, version)["spec"]
        problems = slice_problems(spec, self._minor())
        if old is not None:
            was = from_wire({"spec": loaded(old.parts.get("spec")) or {}}, old.version)["spec"]
            for path in (("driver",), ("nodeName",), ("pool", "name")):
                if at_path(was, path) != at_path(spec, path):
                    problems = (*problems, f"spec.{'.'.join(path)}: Invalid value: field is immutable")
        if problems:
            raise invalid(kind, name, ", ".join(problems))

    def _precondition(self, kind: Kind, stored: Stored, uid: str, resource_version: str) -> None:
        name = stored.metadata["name"]
        if uid and uid != stored.metadata["uid"]:
            cause = (
                f'Operation cannot be fulfilled on {qualified(kind)} "{name}": Precondition failed: '
                f"UID in precondition: {uid}, UID in object meta: {stored.metadata['uid']}"
            )
            raise conflict(kind, name, cause)
        if resource_version and resource_version != stored.metadata["resourceVersion"]:
            cause = (
                f'Operation cannot be fulfilled on {qualified(kind)} "{name}": the object has been modified; '
                "please apply your changes to the latest version and try again"
            )
            raise conflict(kind, name, cause)

    def _delete(self, kind: Kind, key: tuple[str, str], propagation: Propagation = "") -> None:
        old = self._objects[kind.group, kind.plural][key]
        if propagation == "Foreground" and self._dependents(old.metadata["uid"]):
            # The real server's finalizer: the object goes with the last of its dependents.
            kept = (*(old.metadata.get("finalizers") or ()), FOREGROUND)
            old = Stored(old.version, {**old.metadata, "finalizers": list(kept)}, old.parts)
            self._objects[kind.group, kind.plural][key] = old
            self._mark_deleted(kind, key, old)
            self.collect_garbage(old.metadata["uid"])
            return
        if not old.metadata.get("finalizers"):
            self._remove(kind, key, Stored(old.version, dict(old.metadata), old.parts))
        else:
            self._mark_deleted(kind, key, old)

    def _mark_deleted(self, kind: Kind, key: tuple[str, str], old: Stored) -> None:
        if "deletionTimestamp" not in old.metadata:
            marked = Stored(old.version, {**old.metadata, "deletionTimestamp": self._timestamp()}, old.parts)
            marked.managers = old.managers
            self._objects[kind.group, kind.plural][key] = marked
            self._happen("MODIFIED", kind, marked, old)

    def _dependents(self, uid: str) -> bool:
        everything = [stored for kept in self._objects.values() for stored in kept.values()]
        return any(uid in _owners(stored) for stored in everything)

    def _remove(self, kind: Kind, key: tuple[str, str], last: Stored) -> None:
        old = self._objects[kind.group, kind.plural].pop(key)
        self._happen("DELETED", kind, last, old)
        self.collect_garbage(last.metadata["uid"])
        self._end_foreground(_owners(last))

    def _end_foreground(self, owners: Set[str]) -> None:
        """Owners that waited for their dependents go with the last one."""
        for (group, plural), kept in list(self._objects.items()):
            for key, stored in list(kept.items()):
                waiting = stored.metadata.get("finalizers") or ()
                is_waiting = stored.metadata["uid"] in owners and FOREGROUND in waiting
                if is_waiting and not self._dependents(stored.metadata["uid"]):
                    self._remove(self.kinds[group, plural], key, stored)

    def collect_garbage(self, owner_uid: str = "") -> None:
        """Delete objects all of whose owners are gone; with a uid, only those that it owned."""
        alive = {stored.metadata["uid"] for kept in self._objects.values() for stored in kept.values()}
        for (group, plural), kept in list(self._objects.items()):
            for key, stored in list(kept.items()):
                owners = _owners(stored)
                is_chosen = owner_uid in owners if owner_uid else bool(owners)
                if is_chosen and not (owners - {owner_uid}) & alive and key in kept:
                    self._delete(self.kinds[group, plural], key)

    def _happen(
        self, type: Literal["ADDED", "MODIFIED", "DELETED"], kind: Kind, stored: Stored, before: Stored | None
    ) -> None:
        self._revision += 1
        stored.metadata["resourceVersion"] = str(self._revision)
        stored.cached.clear()
        happened = Happened(self._revision, kind, type, stored, before)
        self._history.append(happened)
        for watch in self._watches:
            watch.tell(happened)

    def _parts(self, stored: Stored, version: str) -> dict[str, bytes]:
        if stored.version == version:
            return stored.parts
        spec = loaded(stored.parts.get("spec"))
        if spec is None:
            return stored.parts
        shaped = to_wire(from_wire({"spec": spec}, stored.version), version)["spec"]
        return {**stored.parts, "spec": orjson.dumps(shaped)}

    def _render(self, kind: Kind, version: str, stored: Stored) -> bytes:
        found = stored.cached.get(version)
        if found is None:
            thing: dict[str, Any] = {"kind": kind.kind, "apiVersion": api_version(kind, version)}
            thing["metadata"] = stored.metadata
            thing |= {key: orjson.Fragment(raw) for key, raw in self._parts(stored, version).items()}
            found = stored.cached[version] = orjson.dumps(thing)
        return found


def _owners(stored: Stored) -> frozenset[str]:
    """UIDs of the objects that it depends on."""
    return frozenset(owner.get("uid", "") for owner in stored.metadata.get("ownerReferences") or ())


def _object(body: bytes) -> dict[str, Any]:
    """The object that a patch holds. Raises ApiError."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, "BadRequest", f"error decoding patch: {error}") from None
    if not isinstance(found, dict):
        raise ApiError(400, "BadRequest", "a patch is an object")
    return found


def _differs(path: Path, had: Mapping[Path, Any], wanted: Mapping[Path, Any]) -> bool:
    return path in wanted and had.get(path) != wanted[path]
