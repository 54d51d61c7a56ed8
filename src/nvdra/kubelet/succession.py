"""Which of a driver's instances on this node kubelet calls: the one it registered last.

During a rolling update two instances run side by side. An instance tells the others when kubelet has registered it. An
instance that learns of a later registration than its own stops publishing, but still answers calls. When the later
instance is gone, it publishes again.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass, replace
from typing import Any

from nvdra import telemetry
from nvdra.kubelet.paths import registrations
from nvdra.kubelet.sockets import Life, gone, probe
from nvdra.kubelet.transport import Client, Metadata, RpcError

# A method on the registration socket. The Go driver and other drivers do not implement it.
MEET = "/nvdra.Instance/Meet"
TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Introduction:
    """The content of a Meet message.

    pod            its pod's name, for people
    registration   path of its registration socket
    registered_ns  when kubelet last registered it, by CLOCK_MONOTONIC, which all processes of a node share; 0: not yet
    """

    pod: str
    registration: str
    registered_ns: int

    def content(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def read(cls, content: bytes) -> Introduction:
        """Raises ValueError."""
        try:
            told = json.loads(content)
            return cls(str(told["pod"]), str(told["registration"]), int(told["registered_ns"]))
        except (KeyError, TypeError, OverflowError, RecursionError) as error:
            raise ValueError(f"not an introduction: {error!r}") from None


class Succession:
    """The order of this driver's instances on the node, and this instance's position.

    on_change   called on the loop when a later instance appears, or the last later instance is gone
    """

    def __init__(self, *, driver: str, registrar_dir: str, registration: str, on_change: Callable[[], None]) -> None:
        self._driver = driver
        self._registrar_dir = registrar_dir
        self._me = Introduction(socket.gethostname(), registration, 0)
        self._on_change = on_change
        self._ahead: dict[str, asyncio.Task[None]] = {}  # by registration socket: waits until that one is gone
        self._calls: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def is_current(self) -> bool:
        """Whether no later instance is known: kubelet calls this one, or will once it is registered."""
        return not self._ahead

    @property
    def is_awaited(self) -> bool:
        """Whether another instance serves and kubelet has never registered this one."""
        return bool(self._ahead) and not self._me.registered_ns

    def start(self) -> None:
        """Find other instances; they count as later until kubelet registers this instance."""
        self._loop = asyncio.get_running_loop()
        for path in self._others():
            self._follow(path)

    async def stop(self) -> None:
        tasks = [*self._ahead.values(), *self._calls]
        self._ahead.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def registered(self, at_ns: int) -> None:
        """Record that kubelet registered this instance, which is the latest now, and tell the others."""
        self._me = replace(self._me, registered_ns=at_ns)
        for task in self._ahead.values():
            task.cancel()
        self._ahead.clear()
        for path in self._others():
            self._start(self._tell(path))

    def answer(self, request: bytes, _metadata: Metadata) -> bytes:
        """Answer another instance's Meet message. Runs on the registration server's threads."""
        try:
            other = Introduction.read(request)
        except ValueError as error:
            raise RpcError("INVALID_ARGUMENT", str(error)) from None
        if other.registered_ns > self._me.registered_ns and self._loop is not None:
            self._loop.call_soon_threadsafe(self._stand_back, other)
        return self._me.content()

    async def pod_at(self, registration: str) -> str:
        """The name of the pod that serves there; "" if it does not answer."""
        other = await self._meet(registration)
        return "" if other is None else other.pod

    def _others(self) -> list[str]:
        mine = self._me.registration
        found = registrations(self._driver, self._registrar_dir)
        return [path for path in found if path != mine and probe(path) is Life.LIVE]

    async def _tell(self, registration: str) -> None:
        other = await self._meet(registration)
        pod = "unknown" if other is None else other.pod
        telemetry.info(1, f"Kubelet calls this instance from now on, no longer pod {pod}", path=registration)

    async def _meet(self, registration: str) -> Introduction | None:
        client = Client(f"unix:{registration}")
        try:
            return Introduction.read(await client.call(MEET, self._me.content(), timeout_s=TIMEOUT_S))
        except (RpcError, ValueError) as error:
            telemetry.info(4, "Another instance does not introduce itself", path=registration, cause=str(error))
            return None
        finally:
            await client.close()

    def _stand_back(self, other: Introduction) -> None:
        if other.registered_ns <= self._me.registered_ns or other.registration in self._ahead:
            return
        telemetry.info(0, f"Kubelet calls pod {other.pod} from now on; leaving publication to it")
        was_current = self.is_current
        self._follow(other.registration)
        if was_current:
            self._on_change()

    def _follow(self, registration: str) -> None:
        self._ahead[registration] = asyncio.get_running_loop().create_task(
            self._until_gone(registration), name=f"follow {registration}"
        )

    async def _until_gone(self, registration: str) -> None:
        await gone(registration)
        del self._ahead[registration]
        if self.is_current:
            telemetry.info(0, "The instance ahead is gone, taking over", path=registration)
            self._on_change()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
