"""Kubelet's side of the sockets: finds plugins in the registry, registers them, prepares and unprepares claims.

It speaks to any DRA plugin, in this project or not, and behaves as kubelet does where a plugin could notice:
inotify on the registry, the first known version of the plugin's list, 45 s for a call, a new start when a
socket vanishes and appears again.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import ctypes
import os
import stat
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from nvdra.api import ClaimRef
from nvdra.kubelet.proto.dra.v1 import api_pb2 as v1
from nvdra.kubelet.proto.dra.v1beta1 import api_pb2 as v1beta1
from nvdra.kubelet.proto.pluginregistration.v1 import api_pb2 as registration

DEADLINE_S = 45.0
KNOWN = ("v1.DRAPlugin", "v1beta1.DRAPlugin")

_IN_CREATE, _IN_MOVED_TO, _IN_DELETE = 0x100, 0x80, 0x200
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class AnsweredDevice:
    """One device of an answer, as kubelet reads it."""

    requests: tuple[str, ...]
    pool: str
    device: str
    cdi_ids: tuple[str, ...]
    share_id: str | None = None


@dataclass(frozen=True, slots=True)
class ClaimAnswer:
    """The answer for one claim: devices, or an error."""

    devices: tuple[AnsweredDevice, ...]
    error: str = ""


@dataclass(frozen=True, slots=True)
class Registered:
    """A plugin as kubelet keeps it. `version` is the service chosen, "v1.DRAPlugin"."""

    driver: str
    endpoint: str
    version: str
    socket: str


class PluginError(Exception):
    """A call as a whole failed: `status` is gRPC's name for it."""

    def __init__(self, status: str, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status
        self.text = text


class DraClient:
    """A connection to a DRA plugin's socket, used as kubelet uses it: kept open, one version."""

    def __init__(self, endpoint: str, version: str = "v1.DRAPlugin", deadline_s: float = DEADLINE_S) -> None:
        self.endpoint = endpoint
        self.package = version.partition(".")[0]
        self._messages: Any = v1 if self.package == "v1" else v1beta1
        self._deadline_s = deadline_s
        self._channel = grpc.aio.insecure_channel(
            f"unix:{endpoint}", options=(("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 500))
        )
        service = f"/k8s.io.kubelet.pkg.apis.dra.{self.package}.DRAPlugin/"
        self._calls: dict[str, Any] = {
            name: self._channel.unary_unary(service + name)
            for name in ("NodePrepareResources", "NodeUnprepareResources")
        }

    async def prepare(self, claims: Sequence[ClaimRef]) -> dict[str, ClaimAnswer]:
        """NodePrepareResources; answers by claim UID. Raises PluginError."""
        return self.decode_answers(await self.prepare_bytes(claims))

    async def prepare_bytes(self, claims: Sequence[ClaimRef]) -> bytes:
        """The same, as the bytes that came."""
        return await self._call("NodePrepareResources", claims)

    def decode_answers(self, content: bytes) -> dict[str, ClaimAnswer]:
        """What the bytes of an answer say, by claim UID."""
        answer = self._messages.NodePrepareResourcesResponse.FromString(content)
        decoded: dict[str, ClaimAnswer] = {}
        for uid, entry in answer.claims.items():
            devices = tuple(
                AnsweredDevice(
                    requests=tuple(d.request_names),
                    pool=d.pool_name,
                    device=d.device_name,
                    cdi_ids=tuple(d.cdi_device_ids),
                    share_id=d.share_id if self.package == "v1" and d.HasField("share_id") else None,
                )
                for d in entry.devices
            )
            decoded[uid] = ClaimAnswer(devices, entry.error)
        return decoded

    async def unprepare(self, claims: Sequence[ClaimRef]) -> dict[str, str]:
        """NodeUnprepareResources; errors by claim UID, "" is success. Raises PluginError."""
        answer = self._messages.NodeUnprepareResourcesResponse.FromString(
            await self._call("NodeUnprepareResources", claims)
        )
        return {uid: entry.error for uid, entry in answer.claims.items()}

    async def close(self) -> None:
        await self._channel.close()

    async def _call(self, name: str, claims: Sequence[ClaimRef]) -> bytes:
        request = self._messages.NodePrepareResourcesRequest(
            claims=[self._messages.Claim(namespace=c.namespace, uid=c.uid, name=c.name) for c in claims]
        ).SerializeToString()
        try:
            response: bytes = await self._calls[name](request, timeout=self._deadline_s)
        except grpc.aio.AioRpcError as error:
            raise PluginError(error.code().name, error.details() or "") from None
        return response


class Kubelet:
    """A registry directory under watch, and the plugins found there.

    plugins   by driver the plugin that is called: the one registered last, as a kubelet from 1.33 on keeps several
    known     service names it understands; a kubelet before 1.34 knows v1beta1 alone
    verdict   judges a plugin's info: "" accepts, any other text refuses with it
    tick_s    pause between an event and the work, a second in the real one
    """

    def __init__(
        self,
        registrar_dir: str,
        *,
        known: Sequence[str] = KNOWN,
        verdict: Callable[[registration.PluginInfo], str] = lambda info: "",
        tick_s: float = 0.0,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self.registrar_dir = registrar_dir
        self.plugins: dict[str, Registered] = {}
        self.history: list[str] = []  # "registered <driver>", "refused <driver>: <why>", "deregistered <driver>"
        self._known = tuple(known)
        self._verdict = verdict
        self._tick_s = tick_s
        self._deadline_s = deadline_s
        self._registered: list[tuple[Registered, DraClient]] = []  # in the order of their registration
        self._changed = asyncio.Condition()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.appearances: collections.Counter[str] = collections.Counter()
        self._watch_fd = -1

    async def __aenter__(self) -> Kubelet:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Watch the registry (made if missing), then take up what is there already."""
        os.makedirs(self.registrar_dir, mode=0o755, exist_ok=True)
        self._watch_fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        mask = _IN_CREATE | _IN_MOVED_TO | _IN_DELETE
        if self._watch_fd < 0 or _libc.inotify_add_watch(self._watch_fd, os.fsencode(self.registrar_dir), mask) < 0:
            raise OSError(ctypes.get_errno(), f"cannot watch {self.registrar_dir}")
        asyncio.get_running_loop().add_reader(self._watch_fd, self._read_events)
        for name in sorted(os.listdir(self.registrar_dir)):
            self._appeared(name)

    async def stop(self) -> None:
        """Forget everything, as a kubelet that stops does: plugins are decoded nothing."""
        if self._watch_fd >= 0:
            asyncio.get_running_loop().remove_reader(self._watch_fd)
            os.close(self._watch_fd)
            self._watch_fd = -1
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()
        for _, client in self._registered:
            await client.close()
        self._registered.clear()
        self.plugins.clear()

    async def registered(self, driver: str, *, timeout_s: float = 30.0) -> Registered:
        """The driver's plugin, once it is registered."""
        async with asyncio.timeout(timeout_s), self._changed:
            await self._changed.wait_for(lambda: driver in self.plugins)
        return self.plugins[driver]

    async def happened(self, event: str, *, times: int = 1, timeout_s: float = 30.0) -> None:
        """Wait until the history holds an entry that starts with `event`, `times` times."""
        async with asyncio.timeout(timeout_s), self._changed:
            await self._changed.wait_for(lambda: sum(e.startswith(event) for e in self.history) >= times)

    async def prepare(self, driver: str, claims: Sequence[ClaimRef]) -> dict[str, ClaimAnswer]:
        """NodePrepareResources for all claims of one pod."""
        return await self._client(driver).prepare(claims)

    async def unprepare(self, driver: str, claims: Sequence[ClaimRef]) -> dict[str, str]:
        return await self._client(driver).unprepare(claims)

    def _client(self, driver: str) -> DraClient:
        for plugin, client in reversed(self._registered):
            if plugin.driver == driver:
                return client
        raise PluginError("UNAVAILABLE", f"DRA driver {driver} is not registered")

    def _read_events(self) -> None:
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._watch_fd, 65536)
            at = 0
            while at < len(data):
                _, mask, _, length = struct.unpack_from("iIII", data, at)
                name = data[at + 16 : at + 16 + length].rstrip(b"\0").decode(errors="surrogateescape")
                at += 16 + length
                if mask & _IN_DELETE:
                    self._vanished(name)
                else:
                    self._appeared(name)

    def _appeared(self, name: str) -> None:
        path = os.path.join(self.registrar_dir, name)
        try:
            is_socket = stat.S_ISSOCK(os.lstat(path).st_mode)
        except FileNotFoundError:
            return
        if is_socket and not name.startswith("."):
            self.appearances[path] += 1
            self._start_over(path, self._register(path))

    def _vanished(self, name: str) -> None:
        path = os.path.join(self.registrar_dir, name)
        if path in self._tasks or any(p.socket == path for p, _ in self._registered):
            self._start_over(path, self._deregister(path))

    def _start_over(self, path: str, work: Any) -> None:
        """One task a socket; a new event replaces the one under way."""
        if path in self._tasks:
            self._tasks[path].cancel()
        self._tasks[path] = asyncio.get_running_loop().create_task(work)

    async def _register(self, path: str) -> None:
        await self._deregister(path)
        backoff_s = 0.5
        while True:
            await asyncio.sleep(self._tick_s)
            try:
                await self._offer(path)
                return
            except (grpc.aio.AioRpcError, TimeoutError) as error:
                await self._note(f"failed {os.path.basename(path)}: {error}")
            except _Refused as refused:
                # As kubelet up to 1.35: a plugin refused at this stage is not asked again.
                await self._note(f"refused {refused}")
                return
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, 122.0)

    async def _offer(self, path: str) -> None:
        async with grpc.aio.insecure_channel(
            f"unix:{path}", options=(("grpc.use_local_subchannel_pool", 1),)
        ) as channel:
            get_info: Any = channel.unary_unary(
                "/pluginregistration.Registration/GetInfo",
                response_deserializer=registration.PluginInfo.FromString,
            )
            notify: Any = channel.unary_unary(
                "/pluginregistration.Registration/NotifyRegistrationStatus",
                request_serializer=registration.RegistrationStatus.SerializeToString,
            )
            info = await get_info(b"", timeout=1.0)
            version = next((v for v in info.supported_versions if v in self._known), None)
            why = self._verdict(info) if version is not None else "none of the plugin's versions is supported"
            if version is None or why:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await notify(registration.RegistrationStatus(plugin_registered=False, error=why), timeout=5.0)
                raise _Refused(f"{info.name}: {why}")
            plugin = Registered(info.name, info.endpoint or path, version, path)
            self._registered.append((plugin, DraClient(plugin.endpoint, version, self._deadline_s)))
            await notify(registration.RegistrationStatus(plugin_registered=True), timeout=5.0)
            self.plugins[info.name] = plugin
            await self._note(f"registered {info.name}")

    async def _deregister(self, path: str) -> None:
        for plugin, client in [each for each in self._registered if each[0].socket == path]:
            self._registered.remove((plugin, client))
            # As in kubelet, calls that still run on this connection end with it.
            await client.close()
            left = [other for other, _ in self._registered if other.driver == plugin.driver]
            if left:
                self.plugins[plugin.driver] = left[-1]
            else:
                self.plugins.pop(plugin.driver, None)
            await self._note(f"deregistered {plugin.driver}")

    async def _note(self, event: str) -> None:
        async with self._changed:
            self.history.append(event)
            self._changed.notify_all()


class _Refused(Exception):
    pass
