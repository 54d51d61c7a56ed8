"""A stop ends by its deadline, whatever hangs: well before kubelet would kill the program."""

from __future__ import annotations

import asyncio
import fcntl
import signal
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from tests.contract.plugin_node import PluginNode, plugin_node

GRACE_PERIOD_S = 30.0  # terminationGracePeriodSeconds of the chart


def hold_the_lock(node: PluginNode, stack: ExitStack) -> None:
    """Another instance works on the checkpoint, and does not end."""
    lock = stack.enter_context((node.plugin_dir / "pu.lock").open("a+b"))
    fcntl.flock(lock, fcntl.LOCK_EX)


def hang_nvml(node: PluginNode, stack: ExitStack) -> None:
    """The driver does not answer any more, and a GPU is gone: the plugin looks."""
    node.root.set_faults([{"function": "nvmlDeviceGetName", "hang": True}])
    stack.callback(node.root.clear_faults)
    node.root.remove_gpu(7)


@pytest.mark.parametrize("hang", [hold_the_lock, hang_nvml])
async def test_a_stop_ends_before_the_grace_period_whatever_hangs(
    hang: Callable[[PluginNode, ExitStack], None],
) -> None:
    async with plugin_node() as node:
        await node.start()
        ref = await node.claim("gpu-1")
        with ExitStack() as stack:
            hang(node, stack)
            call = asyncio.create_task(node.prepare(ref))
            await asyncio.wait((call,), timeout=1)  # it is in work now, or done
            assert node.process is not None
            node.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(GRACE_PERIOD_S - 5):
                assert await node.process.wait() == 0
            await asyncio.gather(call, return_exceptions=True)
        assert "Traceback" not in node.log
