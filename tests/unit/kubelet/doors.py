"""A plugin with a scripted driver behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nvdra.api import ClaimRef
from nvdra.checkpoint import PreparedDevice, PreparedGpu
from nvdra.kubelet import Failure, Plugin, RetryPolicy, SocketPaths
from tests.waiting import until as until

DRIVER = "gpu.nvidia.com"


def claim(uid: str, name: str = "claim", namespace: str = "default") -> ClaimRef:
    return ClaimRef(namespace=namespace, name=name, uid=uid)


def device(uid: str, name: str = "gpu-0", requests: tuple[str, ...] = ("gpu",), **more: Any) -> PreparedDevice:
    cdi_ids = (f"k8s.{DRIVER}/claim={uid}-{name}",)
    return PreparedDevice(
        info=PreparedGpu("GPU-0"), requests=requests, pool="node-a", device=name, cdi_ids=cdi_ids, **more
    )


@dataclass
class Driver:
    """Answers from a script: by UID, else one device. `gate` holds work back until it is set."""

    script: dict[str, Any] = field(default_factory=dict)
    gate: asyncio.Event | None = None
    prepared: list[list[str]] = field(default_factory=list)
    unprepared: list[list[str]] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    registrations: int = 0
    _work: set[asyncio.Task[Any]] = field(default_factory=set)

    async def prepare(self, refs: Sequence[ClaimRef]) -> Mapping[str, Any]:
        self.prepared.append([ref.uid for ref in refs])
        return await self._owned(self._answer(refs, lambda uid: (device(uid),)))

    async def unprepare(self, refs: Sequence[ClaimRef]) -> Mapping[str, Any]:
        self.unprepared.append([ref.uid for ref in refs])
        return await self._owned(self._answer(refs, lambda uid: None))

    async def _owned(self, work: Coroutine[Any, Any, Mapping[str, Any]]) -> Mapping[str, Any]:
        """Done whether the caller waits for it or not."""
        task = asyncio.create_task(work)
        self._work.add(task)
        return await asyncio.shield(task)

    async def _answer(self, refs: Sequence[ClaimRef], plain: Callable[[str], Any]) -> Mapping[str, Any]:
        if self.gate is not None:
            await self.gate.wait()
        answers = {}
        for ref in refs:
            answer = self.script.get(ref.uid, plain(ref.uid))
            if isinstance(answer, Exception):
                raise answer
            if answer != "missing":
                answers[ref.uid] = answer
            self.finished.append(ref.uid)
        answers["never-asked-for"] = Failure("of no interest")
        return answers

    def registered(self) -> None:
        self.registrations += 1


def build(paths: SocketPaths, driver: Driver, **more: Any) -> Plugin:
    more.setdefault("retry_policy", RetryPolicy(answer_s=0.05, repeat_s=0.05, at_most_s=0.2))
    return Plugin(
        driver=DRIVER,
        paths=paths,
        prepare=driver.prepare,
        unprepare=driver.unprepare,
        on_registered=driver.registered,
        **more,
    )
