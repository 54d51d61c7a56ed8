"""Registration over real sockets, with the stand-in for kubelet on the other side."""

from __future__ import annotations

import asyncio
import os
import stat

import grpc
import pytest

from nvdra.kubelet import Plugin, RetryPolicy, SocketPathError, SocketPaths, socket_paths
from nvdra.kubelet.proto.pluginregistration.v1 import api_pb2 as pb
from nvdra.testing.kubelet import Kubelet, Registered
from tests.unit.kubelet.doors import DRIVER, Driver, build, claim, until


def registry(paths: SocketPaths) -> str:
    return os.path.dirname(paths.registration)


@pytest.mark.parametrize(
    ("known", "chosen"),
    [
        (("v1.DRAPlugin", "v1beta1.DRAPlugin"), "v1.DRAPlugin"),
        (("v1beta1.DRAPlugin", "v1.DRAPlugin"), "v1.DRAPlugin"),
        (("v1beta1.DRAPlugin",), "v1beta1.DRAPlugin"),
    ],
)
async def test_kubelet_registers_the_first_version_it_knows(
    paths: SocketPaths, driver: Driver, known: tuple[str, ...], chosen: str
) -> None:
    plugin = build(paths, driver)
    async with Kubelet(registry(paths), known=known) as kubelet:
        await plugin.start()
        assert await kubelet.registered(DRIVER) == Registered(DRIVER, paths.dra, chosen, paths.registration)
        assert (await kubelet.prepare(DRIVER, [claim("u1")]))["u1"].error == ""
        assert await kubelet.unprepare(DRIVER, [claim("u1")]) == {"u1": ""}
        assert plugin.registration.is_registered
        await plugin.stop()
        await kubelet.happened("deregistered")


async def test_nothing_of_ours_is_left_after_a_stop(paths: SocketPaths, plugin: Plugin) -> None:
    assert os.listdir(registry(paths)) == [f"{DRIVER}-reg.sock"]
    assert os.listdir(os.path.dirname(paths.dra)) == ["dra.sock"]
    assert stat.S_IMODE(os.stat(os.path.dirname(paths.dra)).st_mode) & 0o777 == 0o750
    await plugin.stop()
    assert os.listdir(registry(paths)) == []
    assert os.listdir(os.path.dirname(paths.dra)) == []


async def test_a_restarted_kubelet_is_noticed(paths: SocketPaths, plugin: Plugin, driver: Driver) -> None:
    for times in (1, 2, 3):
        async with Kubelet(registry(paths)) as kubelet:
            await kubelet.registered(DRIVER)
            await until(lambda times=times: driver.registrations == times)
    assert driver.registrations == 3


async def test_a_refused_registration_is_offered_again_until_it_succeeds(
    paths: SocketPaths, plugin: Plugin, driver: Driver
) -> None:
    reasons = ["third", "second", "first"]
    async with Kubelet(registry(paths), verdict=lambda info: reasons.pop() if reasons else "") as kubelet:
        await kubelet.registered(DRIVER)
        assert kubelet.history == [
            *(f"refused {DRIVER}: {why}" for why in ("first", "second", "third")),
            f"registered {DRIVER}",
        ]
    assert driver.registrations == 1


async def test_after_success_the_socket_is_left_in_peace(paths: SocketPaths, plugin: Plugin) -> None:
    async with Kubelet(registry(paths)) as kubelet:
        await kubelet.registered(DRIVER)
        await until(lambda: plugin.registration.is_registered)
        ctime = os.lstat(paths.registration).st_ctime_ns
        await asyncio.sleep(0.3)  # several times what a silent kubelet is given
        assert os.lstat(paths.registration).st_ctime_ns == ctime
        assert kubelet.history == [f"registered {DRIVER}"]


async def test_a_silent_kubelet_sees_the_socket_appear_again(paths: SocketPaths, driver: Driver) -> None:
    plugin = build(paths, driver, retry_policy=RetryPolicy(answer_s=0.2, repeat_s=0.05, at_most_s=0.2))
    await plugin.start()
    # Asked before anybody watches, so only the second announcement can reach the watcher below.
    _ask(paths)
    kubelet = Kubelet(registry(paths), tick_s=3600)
    await kubelet.start()
    await until(lambda: kubelet.appearances[paths.registration] > 1)
    await kubelet.stop()
    await plugin.stop(grace_s=0)


async def test_our_own_probe_is_not_taken_for_kubelet(paths: SocketPaths, plugin: Plugin) -> None:
    ctime = os.lstat(paths.registration).st_ctime_ns
    with grpc.insecure_channel(f"unix:{paths.registration}") as channel:
        get_info = channel.unary_unary("/pluginregistration.Registration/GetInfo")
        assert get_info(b"", timeout=30, metadata=(("nvdra-probe", "1"),))
    await asyncio.sleep(0.3)
    assert os.lstat(paths.registration).st_ctime_ns == ctime


async def test_get_info_is_answered_while_the_loop_is_blocked(paths: SocketPaths, plugin: Plugin) -> None:
    # This thread is the loop's: a blocking call here ends only if the answer comes from elsewhere.
    info = _ask(paths)
    assert (info.type, info.name, info.endpoint, list(info.supported_versions)) == (
        "DRAPlugin",
        DRIVER,
        paths.dra,
        ["v1.DRAPlugin", "v1beta1.DRAPlugin"],
    )


async def test_a_refusal_is_answered_with_its_reason(paths: SocketPaths, plugin: Plugin) -> None:
    with grpc.insecure_channel(f"unix:{paths.registration}") as channel:
        notify = channel.unary_unary("/pluginregistration.Registration/NotifyRegistrationStatus")
        status = pb.RegistrationStatus(plugin_registered=False, error="wrong name").SerializeToString()
        with pytest.raises(grpc.RpcError) as refused:
            notify(status, timeout=30)
    assert "wrong name" in refused.value.details()


@pytest.mark.parametrize(("registrar", "plugins"), [("r" * 100, "p"), ("r", "p" * 100)])
def test_a_path_the_kernel_refuses_is_refused_at_once_and_by_name(registrar: str, plugins: str) -> None:
    with pytest.raises(SocketPathError) as refused:
        socket_paths(DRIVER, f"/{registrar}", f"/{plugins}")
    text = str(refused.value)
    assert "107" in text
    assert ("--kubelet-registrar-directory-path" in text) == (len(registrar) > 1)
    assert ("--kubelet-plugins-directory-path" in text) == (len(plugins) > 1)


async def test_the_longest_path_allowed_can_be_bound(folder: str, driver: Driver) -> None:
    registrar = f"{folder}/{'r' * (107 - len(folder) - 1 - len(f'/{DRIVER}-reg.sock'))}"
    plugins = f"{folder}/{'p' * (107 - len(folder) - 1 - len(f'/{DRIVER}/dra.sock'))}"
    os.makedirs(registrar)
    paths = socket_paths(DRIVER, registrar, plugins)
    assert (len(paths.registration), len(paths.dra)) == (107, 107)
    plugin = build(paths, driver)
    await plugin.start()
    async with Kubelet(registrar) as kubelet:
        await kubelet.registered(DRIVER)
    await plugin.stop(grace_s=0)


def _ask(paths: SocketPaths) -> pb.PluginInfo:
    with grpc.insecure_channel(f"unix:{paths.registration}") as channel:
        get_info = channel.unary_unary("/pluginregistration.Registration/GetInfo")
        return pb.PluginInfo.FromString(get_info(b"", timeout=30))
