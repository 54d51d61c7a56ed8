"""Lines and prefixes that scripts, alerts and the Go driver's own tests look for, from the real process."""

from __future__ import annotations

import asyncio

import pytest

from tests.contract.plugin_node import plugin_node, until


async def test_lines_that_others_look_for() -> None:
    async with plugin_node() as node:
        await node.start()
        ref = await node.claim("gpu-0")
        bad = await node.claim("gpu-1", parameters='{"unexpectedField":1}')
        await node.prepare(ref, bad)
        await node.released(ref)
        await node.released(ref)
        await until(lambda: "Unprepare noop" in node.log)
        lines = node.log.splitlines()

    def is_logged(*parts: str, level: str = "I") -> bool:
        return any(line.startswith(level) and all(part in line for part in parts) for line in lines)

    assert is_logged("Started debug signal handler(s)")
    assert is_logged("reflector.go", "Caches populated")
    assert is_logged("About to announce device gpu-0")
    assert is_logged("round_trippers.go", '"Response" verb="GET"')
    assert is_logged("Permanent error preparing devices for claim", bad.uid, level="E")
    assert is_logged("Prepared devices for claim", ref.uid)
    assert is_logged("Unprepared devices for claim", ref.uid)
    assert is_logged("Unprepare noop: claim not found in checkpoint data", ref.uid)


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ({"http_endpoint": "8080"}, "Error: setup metrics endpoint: listen on metrics endpoint: address 8080: "),
        ({"kubeconfig": "/nowhere"}, "Error: create client: "),
    ],
)
async def test_what_cannot_be_set_up_is_told_with_the_go_drivers_prefix(flags: dict[str, str], text: str) -> None:
    async with plugin_node() as node:
        process = await node.launch(**flags)
        assert await asyncio.wait_for(process.wait(), 60) == 1
        assert text in node.log
        assert "Traceback" not in node.log
