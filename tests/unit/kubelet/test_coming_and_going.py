"""Start and stop: whose sockets they are, what is left over, who waits for whom."""

# ruff: noqa: ASYNC230, ASYNC240
from __future__ import annotations

import asyncio
import os
import socket

import pytest

from nvdra.kubelet import SocketPathError, SocketPaths
from nvdra.testing.kubelet import DraClient, Kubelet, PluginError
from tests.unit.kubelet.doors import DRIVER, Driver, build, claim, until


async def test_a_stop_deregisters_refuses_drains_and_then_lets_go(paths: SocketPaths, driver: Driver) -> None:
    driver.gate = asyncio.Event()
    plugin = build(paths, driver)
    await plugin.start()
    client, late = DraClient(paths.dra), DraClient(paths.dra)
    running = asyncio.create_task(client.prepare([claim("u1")]))
    await until(lambda: driver.prepared)
    await late.prepare([])

    stopping = asyncio.create_task(plugin.stop(grace_s=30))
    await until(lambda: not os.path.exists(paths.registration))
    assert os.path.exists(paths.dra)
    with pytest.raises(PluginError, match="UNAVAILABLE"):
        await late.prepare([claim("u2")])
    assert not stopping.done()

    driver.gate.set()
    assert (await running)["u1"].error == ""
    await stopping
    assert not os.path.exists(paths.dra)
    assert driver.finished == ["u1"]
    await client.close()
    await late.close()


async def test_a_drain_has_an_end(paths: SocketPaths, driver: Driver) -> None:
    driver.gate = asyncio.Event()
    plugin = build(paths, driver)
    await plugin.start()
    client = DraClient(paths.dra)
    running = asyncio.create_task(client.prepare([claim("u1")]))
    await until(lambda: driver.prepared)
    await plugin.stop(grace_s=0.1)
    with pytest.raises(PluginError):
        await running
    driver.gate.set()
    await until(lambda: driver.finished)
    await client.close()


async def test_a_successors_sockets_are_left_alone(paths: SocketPaths, driver: Driver) -> None:
    plugin = build(paths, driver)
    await plugin.start()
    strangers = []
    for path in (paths.registration, paths.dra):
        stranger = socket.socket(socket.AF_UNIX)
        stranger.bind(f"{path}.new")
        stranger.listen()
        os.rename(f"{path}.new", path)
        strangers.append(stranger)
    await plugin.stop()
    assert os.path.exists(paths.registration)
    assert os.path.exists(paths.dra)
    for stranger in strangers:
        stranger.close()


async def test_sockets_of_killed_instances_are_swept_and_nothing_else(paths: SocketPaths, driver: Driver) -> None:
    registrar, plugin_dir = os.path.dirname(paths.registration), os.path.dirname(paths.dra)
    os.makedirs(plugin_dir)
    stale = [paths.registration, paths.dra, f"{registrar}/{DRIVER}-0a-reg.sock", f"{plugin_dir}/dra-0a.sock"]
    stale += [f"{registrar}/.{DRIVER}-beef", f"{plugin_dir}/.s-beef"]
    others = [f"{registrar}/other.example.com-reg.sock", f"{registrar}/compute-domain.nvidia.com-reg.sock"]
    for path in stale + others:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(path)
    live_path = f"{registrar}/{DRIVER}-1b-reg.sock"
    with open(f"{plugin_dir}/dra-notes.sock", "w") as file:
        file.write("not a socket")
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(live_path)
        live.listen()
        plugin = build(paths, driver)
        await plugin.start()
        assert sorted(os.listdir(registrar)) == sorted(
            [os.path.basename(p) for p in (*others, live_path, paths.registration)]
        )
        assert sorted(os.listdir(plugin_dir)) == ["dra-notes.sock", "dra.sock"]
        async with Kubelet(registrar) as kubelet:
            await kubelet.registered(DRIVER)
        await plugin.stop(grace_s=0)


async def test_an_instance_stands_by_while_another_serves(paths: SocketPaths, driver: Driver) -> None:
    old, new_driver = build(paths, driver), Driver()
    await old.start()
    new = build(paths, new_driver)
    starting = asyncio.create_task(new.start())
    await until(lambda: new.standing_by_for)
    assert new.standing_by_for == paths.registration
    client = DraClient(paths.dra)
    assert (await client.prepare([claim("u1")]))["u1"].error == ""
    await old.stop()
    await starting
    assert new.is_serving
    assert new.standing_by_for == ""
    fresh = DraClient(paths.dra)
    assert (await fresh.prepare([claim("u2")]))["u2"].error == ""
    assert (driver.prepared, new_driver.prepared) == ([["u1"]], [["u2"]])
    await new.stop(grace_s=0)
    await client.close()
    await fresh.close()


async def test_who_stands_by_says_for_whom_and_does_not_wait_for_running_calls(
    paths: SocketPaths, driver: Driver, capfd: pytest.CaptureFixture[str]
) -> None:
    old, new = build(paths, driver), build(paths, Driver())
    driver.gate = asyncio.Event()
    await old.start()
    client = DraClient(paths.dra)
    running = asyncio.create_task(client.prepare([claim("u1")]))
    await until(lambda: driver.prepared)
    starting = asyncio.create_task(new.start())
    await until(lambda: f"standing by for pod {socket.gethostname()}," in capfd.readouterr().err)
    stopping = asyncio.create_task(old.stop(grace_s=30))
    await starting
    assert new.is_serving
    assert not stopping.done()
    async with Kubelet(os.path.dirname(paths.registration)) as kubelet:
        assert (await kubelet.registered(DRIVER)).endpoint == paths.dra
        assert (await kubelet.prepare(DRIVER, [claim("u2")]))["u2"].error == ""
    driver.gate.set()
    assert (await running)["u1"].error == ""
    await stopping
    assert os.path.exists(paths.registration)
    assert os.path.exists(paths.dra)
    await new.stop(grace_s=0)
    await client.close()


async def test_one_that_does_not_say_who_it_is_is_waited_for_too(
    paths: SocketPaths, driver: Driver, capfd: pytest.CaptureFixture[str]
) -> None:
    """The Go driver's, for instance."""
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.bind(paths.registration)
        stranger.listen()
        plugin = build(paths, driver)
        starting = asyncio.create_task(plugin.start())
        await until(lambda: plugin.standing_by_for)
    os.unlink(paths.registration)
    await starting
    assert "standing by for pod unknown" in capfd.readouterr().err
    await plugin.stop(grace_s=0)


async def test_an_instance_that_stands_by_can_be_stopped(paths: SocketPaths, driver: Driver) -> None:
    old = build(paths, driver)
    await old.start()
    new = build(paths, Driver())
    starting = asyncio.create_task(new.start())
    await until(lambda: new.standing_by_for)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await new.stop()
    assert os.path.exists(paths.registration)
    assert os.path.exists(paths.dra)
    await old.stop(grace_s=0)


async def test_a_failed_start_leaves_nothing(paths: SocketPaths, driver: Driver) -> None:
    os.rmdir(os.path.dirname(paths.registration))
    plugin = build(paths, driver)
    with pytest.raises(SocketPathError, match=r"cannot listen on unix:.*/reg/.*: No such file .* mounted"):
        await plugin.start()
    assert os.listdir(os.path.dirname(paths.dra)) == []
    assert not plugin.is_serving
