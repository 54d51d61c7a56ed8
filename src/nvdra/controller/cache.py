"""Objects of one kind, followed by a watch and indexed by the UID of their ComputeDomain."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Generic, TypeVar

from nvdra import telemetry
from nvdra.kube import Change, Watcher, document
from nvdra.ports import ApiError, Clock, Kube, Resource

T = TypeVar("T")


class Cache(Generic[T]):
    """One kind in one namespace, or in all.

    key         the domain's UID of an object
    on_change   called with the UID of the domain that an object belongs to, or belonged to
    on_filled   called after the first complete list
    """

    def __init__(
        self,
        kube: Kube,
        clock: Clock,
        resource: Callable[[], Awaitable[Resource]],
        shape: Callable[[Mapping[str, Any]], T],
        key: Callable[[T], str],
        *,
        on_change: Callable[[str], None],
        on_filled: Callable[[], None],
        name: str,
        namespace: str = "",
        label_selector: str = "",
        is_gone: Callable[[ApiError], bool] = lambda _: False,
    ) -> None:
        self.namespace = namespace
        self._name = name
        self._key = key
        self._shape = shape
        self._on_change = on_change
        self._on_filled = on_filled
        self._keys: dict[str, str] = {}
        self._by_key: dict[str, dict[str, T]] = {}
        self._is_announced = False
        self._watcher: Watcher[T] = Watcher(
            kube,
            clock,
            resource,
            lambda thing, _resource: shape(thing),
            namespace=namespace,
            label_selector=label_selector,
            on_change=self._changed,
            on_failure=self._failed,
            is_gone=is_gone,
        )

    @property
    def is_filled(self) -> bool:
        return self._watcher.store.is_filled

    async def run(self) -> None:
        """Never returns; cancel it."""
        # DROP-IN: tests of the Go driver look for this text and this caller.
        telemetry.info(3, "Listing and watching", at="reflector.go:446", type=self._name, namespace=self.namespace)
        await self._watcher.run()

    def of(self, uid: str) -> list[T]:
        """The objects of a domain."""
        return list(self._by_key.get(uid, {}).values())

    def keys(self) -> list[str]:
        """The UIDs of the domains that have objects here."""
        return list(self._by_key)

    def put(self, raw: bytes) -> T:
        """Take over the API server's answer to an own write, which the watch will only confirm."""
        self._watcher.store.put(raw)
        return self._shape(document(raw))

    def drop(self, object_uid: str) -> None:
        """Forget an object that is known to be gone."""
        self._watcher.store.drop(object_uid)

    def _changed(self, change: Change[T]) -> None:
        if change.kind == "listed":
            if not self._is_announced:
                self._is_announced = True
                # DROP-IN: tests of the Go driver look for this text and this caller.
                telemetry.info(2, "Caches populated", at="reflector.go:430", type=self._name, namespace=self.namespace)
                self._on_filled()
            return
        old = self._keys.pop(change.uid, None)
        if old is not None:
            of_old = self._by_key[old]
            del of_old[change.uid]
            if not of_old:
                del self._by_key[old]
        if change.value is None:
            return
        key = self._key(change.value)
        if change.kind == "put":
            self._keys[change.uid] = key
            self._by_key.setdefault(key, {})[change.uid] = change.value
        for uid in {key, old} - {None, ""}:
            self._on_change(str(uid))

    def _failed(self, error: ApiError, pause_s: float) -> None:
        telemetry.warning(
            "Could not follow API objects", type=self._name, cause=str(error), retry_in_s=round(pause_s, 1)
        )
