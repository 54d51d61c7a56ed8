"""Two instances side by side: kubelet calls the one it registered last, and that one alone publishes."""

# ruff: noqa: ASYNC220, ASYNC240
from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from nvdra.kubelet import HealthService, Plugin, socket_paths
from nvdra.kubelet.succession import MEET
from nvdra.testing.kubelet import DraClient, Kubelet, PluginError
from tests.unit.kubelet.doors import DRIVER, Driver, build, claim, until

OLD, NEW = "11111111-aaaa", "22222222-bbbb"


@dataclass
class Instance:
    """A plugin with names of its own, and what it was told of its place, in order."""

    folder: str
    uid: str
    driver: Driver = field(default_factory=Driver)
    told: list[tuple[bool, bool]] = field(default_factory=list)

    def __post_init__(self) -> None:
        paths = socket_paths(DRIVER, f"{self.folder}/reg", f"{self.folder}/plugins", self.uid)
        self.plugin: Plugin = build(paths, self.driver, on_change=self._note)

    def _note(self) -> None:
        self.told.append((self.plugin.is_registered, self.plugin.is_current))

    @property
    def place(self) -> tuple[bool, bool]:
        """Whether it is registered, whether what the node has is its to publish."""
        return self.plugin.is_registered, self.plugin.is_current


@pytest.fixture
def make(folder: str) -> Callable[[str], Instance]:
    os.makedirs(f"{folder}/reg")
    return lambda uid: Instance(folder, uid)


@pytest.fixture
async def kubelet(folder: str, make: Any) -> AsyncIterator[Kubelet]:
    async with Kubelet(f"{folder}/reg") as kubelet:
        yield kubelet


async def test_the_later_one_takes_over_once_it_is_registered(
    kubelet: Kubelet, make: Callable[[str], Instance]
) -> None:
    old, new = make(OLD), make(NEW)
    await old.plugin.start()
    await until(lambda: old.place == (True, True))
    await new.plugin.start()
    await until(lambda: new.place == (True, True))
    await until(lambda: old.place == (False, False))
    assert old.told == [(False, False)]
    assert (await kubelet.prepare(DRIVER, [claim("u1")]))["u1"].error == ""
    assert (old.driver.prepared, new.driver.prepared) == ([], [["u1"]])

    await old.plugin.stop()
    assert new.place == (True, True)
    assert os.listdir(kubelet.registrar_dir) == [f"{DRIVER}-{NEW}-reg.sock"]
    await new.plugin.stop()


async def test_until_then_the_earlier_one_publishes_and_is_not_ended(
    folder: str, make: Callable[[str], Instance]
) -> None:
    """Without a kubelet nobody registers anybody."""
    old, new = make(OLD), make(NEW)
    await old.plugin.start()
    assert (old.place, old.plugin.is_awaited) == ((False, True), False)
    await new.plugin.start()
    assert (new.place, new.plugin.is_awaited) == ((False, False), True)
    health = HealthService(paths=new.plugin.paths, port=0, host="127.0.0.1", is_awaited=lambda: new.plugin.is_awaited)
    await health.start()
    assert await _status(health) == "NOT_SERVING"
    async with Kubelet(f"{folder}/reg") as kubelet:
        await kubelet.happened("registered", times=2)
        await until(lambda: not new.plugin.is_awaited)
        assert await _status(health) == "SERVING"
        # Whoever kubelet happened to register last: one of the two it is.
        await until(lambda: sorted((old.place, new.place)) == [(False, False), (True, True)])
    await health.stop()
    await new.plugin.stop()
    await old.plugin.stop()


async def test_when_the_later_one_dies_the_earlier_comes_forward(
    kubelet: Kubelet, folder: str, make: Callable[[str], Instance]
) -> None:
    old = make(OLD)
    await old.plugin.start()
    await until(lambda: old.place == (True, True))
    new = subprocess.Popen([sys.executable, "-m", __name__, folder, NEW])
    await until(lambda: old.place == (False, False))
    new.send_signal(signal.SIGKILL)
    new.wait()
    await until(lambda: old.place == (True, True))
    assert old.told == [(False, False), (True, True)]
    await old.plugin.stop()


async def test_after_a_restart_of_kubelet_the_last_one_registered_counts(
    folder: str, make: Callable[[str], Instance]
) -> None:
    old, new = make(OLD), make(NEW)
    async with Kubelet(f"{folder}/reg") as kubelet:
        await old.plugin.start()
        await kubelet.registered(DRIVER)
        await new.plugin.start()
        await until(lambda: (old.place, new.place) == ((False, False), (True, True)))
    # This one registers the later instance first: its socket is shown to it alone.
    hidden = f"{folder}/away"
    os.rename(old.plugin.paths.registration, hidden)
    async with Kubelet(f"{folder}/reg") as kubelet:
        await kubelet.happened("registered")
        os.rename(hidden, old.plugin.paths.registration)
        await kubelet.happened("registered", times=2)
        await until(lambda: (old.place, new.place) == ((True, True), (False, False)))
        assert kubelet.plugins[DRIVER].endpoint == old.plugin.paths.dra
        # What kubelet calls now goes first, as in an update that went on meanwhile.
        await old.plugin.stop()
        await until(lambda: new.place == (True, True))
    await new.plugin.stop()


async def test_the_earlier_one_finishes_what_it_has_before_kubelet_misses_it(
    kubelet: Kubelet, make: Callable[[str], Instance]
) -> None:
    old, new = make(OLD), make(NEW)
    old.driver.gate = asyncio.Event()
    await old.plugin.start()
    await kubelet.registered(DRIVER)
    running = asyncio.create_task(kubelet.prepare(DRIVER, [claim("u1")]))
    await until(lambda: old.driver.prepared)
    await new.plugin.start()
    await until(lambda: not old.plugin.is_current)
    stopping = asyncio.create_task(old.plugin.stop())
    client = DraClient(old.plugin.paths.dra)
    assert (await client.prepare([])) == {}
    assert os.path.exists(old.plugin.paths.registration)
    old.driver.gate.set()
    # Kubelet would have cut it off: it closes its connection when the registration vanishes.
    assert (await running)["u1"].error == ""
    await stopping
    with pytest.raises(PluginError):
        await client.prepare([])
    await client.close()
    await new.plugin.stop()


async def test_a_kubelet_that_was_restarted_and_refuses_has_it_registered_no_more(
    folder: str, make: Callable[[str], Instance]
) -> None:
    one = make(OLD)
    await one.plugin.start()
    async with Kubelet(f"{folder}/reg"):
        await until(lambda: one.place == (True, True))
    async with Kubelet(f"{folder}/reg", verdict=lambda info: "not today"):
        await until(lambda: one.told)
        assert one.told[0] == (False, True)
    await one.plugin.stop()


async def test_a_registration_that_came_earlier_is_no_news(kubelet: Kubelet, make: Callable[[str], Instance]) -> None:
    plugin = make(OLD).plugin
    await plugin.start()
    await until(lambda: plugin.is_registered)
    late = json.dumps({"pod": "other", "registration": f"{kubelet.registrar_dir}/x-reg.sock", "registered_ns": 1})
    answer = json.loads(_meet(plugin, late.encode()))
    assert answer["registration"] == plugin.paths.registration
    assert plugin.is_current
    await plugin.stop()
    assert not plugin.is_registered


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"pod": "a", "registration": "b", "registered_ns": "c"}'])
async def test_gibberish_is_refused(make: Callable[[str], Instance], content: bytes) -> None:
    plugin = make(OLD).plugin
    await plugin.start()
    with pytest.raises(grpc.RpcError) as refused:
        _meet(plugin, content)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert plugin.is_current
    await plugin.stop()


def _meet(plugin: Plugin, content: bytes) -> bytes:
    with grpc.insecure_channel(f"unix:{plugin.paths.registration}") as channel:
        answer: bytes = channel.unary_unary(MEET)(content, timeout=30)
    return answer


async def _status(health: HealthService) -> str:
    from nvdra.kubelet.proto.grpc.health.v1 import health_pb2 as pb

    async with grpc.aio.insecure_channel(f"127.0.0.1:{health.port}") as channel:
        call: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
        answer = await call(b"", timeout=30)
    return pb.HealthCheckResponse.ServingStatus.Name(pb.HealthCheckResponse.FromString(answer).status)


async def _serve(folder: str, uid: str) -> None:
    await Instance(folder, uid).plugin.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:]))
