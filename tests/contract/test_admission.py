"""One corpus of configs through the webhook and through the plugin, each its own process: the same verdict and text."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.contract.plugin_node import plugin_node
from tests.contract.webhook_process import webhook
from tests.unit.webhook.reviews import GROUP, claim, entry, review, spec


def config(kind: str = "GpuConfig", **fields: Any) -> str:
    return json.dumps({"apiVersion": GROUP, "kind": kind, **fields})


MPS = {"strategy": "MPS"}
CORPUS: dict[str, str] = {
    "nothing": config(),
    "no sharing": config(sharing=None),
    "unknown field": config(speed=1),
    "unknown fields, nested": config(sharing={"a": 1, "mpsConfig": {"b": 1}}),
    "other case": config(Sharing={}),
    "duplicate field": f'{{"apiVersion":"{GROUP}","kind":"GpuConfig","sharing":null,"sharing":null}}',
    "unknown kind": config("CpuConfig"),
    "other version": '{"apiVersion":"resource.nvidia.com/v9","kind":"GpuConfig"}',
    "no kind": f'{{"apiVersion":"{GROUP}"}}',
    "no version": '{"kind":"GpuConfig"}',
    "kind is a number": f'{{"apiVersion":"{GROUP}","kind":1}}',
    "no object": "[1]",
    "a text": '"GpuConfig"',
    "null": "null",
    "empty sharing": config(sharing={}),
    "unknown strategy": config(sharing={"strategy": "Luck"}),
    "time slicing, gate off": config(sharing={"strategy": "TimeSlicing"}),
    "an empty time slice": config(sharing={"strategy": "TimeSlicing", "timeSlicingConfig": {}}),
    "MPS, gate off": config(sharing=MPS),
    "a wrong type": config(sharing={"strategy": 1}),
    "an odd quantity": config(sharing={**MPS, "mpsConfig": {"defaultPinnedDeviceMemoryLimit": "much"}}),
    "a number too large": config(sharing={**MPS, "mpsConfig": {"defaultActiveThreadPercentage": 2**70}}),
    "nested": config(deep=json.loads("[" * 40 + "]" * 40)),
    "quotes": config('Gpu"Config'),
}
# What a plugin and the webhook put before the reason.
OF_PLUGIN = re.compile(
    r"error preparing devices for claim \S+: prepare devices failed: "
    r"(error getting opaque device configs: error decoding config parameters|error validating GPU config): "
)
OF_WEBHOOK = re.compile(
    r"1 configs failed to validate: (error decoding object at|object at) spec\.devices\.config\[0\]\.opaque\.parameters"
    r"(?: is invalid)?: "
)


def reason(text: str, before: re.Pattern[str]) -> str:
    """What is left of an error after its head; empty if there is no error."""
    if not text:
        return ""
    found = before.match(text)
    assert found is not None, text
    return text[found.end() :]


async def test_the_webhook_says_what_the_plugin_says() -> None:
    async with plugin_node() as node, webhook() as made:
        await node.start()
        await made.start()
        client = await made.connect()
        verdicts = {}
        for name, parameters in CORPUS.items():
            body = review(claim(spec(entry("HERE", "gpu")))).replace(b'"HERE"', parameters.encode())
            response = (await client.judge(body)).review()
            message = "" if response["allowed"] else response["status"]["message"]
            ref = await node.claim("gpu-0", parameters=parameters)
            error = (await node.prepare(ref))[ref.uid].error
            verdicts[name] = reason(message, OF_WEBHOOK), reason(error, OF_PLUGIN)
            await node.released(ref)
        assert {name: said for name, said in verdicts.items() if said[0] != said[1]} == {}
        admitted = {name for name, (said, _) in verdicts.items() if not said}
        assert admitted == {"nothing", "no sharing"}
        assert await node.stop() == 0


@pytest.mark.parametrize("name", sorted(CORPUS))
def test_the_corpus_is_json(name: str) -> None:
    json.loads(CORPUS[name])
