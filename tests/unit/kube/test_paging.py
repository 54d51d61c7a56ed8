"""LISTs of heavy objects: answers stay small, and the list is complete."""

from __future__ import annotations

import asyncio
import json
import re

import pytest

from nvdra.kube import Access, HttpKube
from nvdra.ports import ApiError, Resource
from tests.unit.kube.test_connections import Connections, serving

CLAIMS = Resource("resource.k8s.io", "v1", "resourceclaims", namespaced=True)
MIB = 1 << 20


class Lister:
    """An API server with objects of these weights."""

    def __init__(self, *weights: int) -> None:
        self._items = [
            json.dumps({"metadata": {"name": f"c{index}"}, "spec": "x" * weight}).encode()
            for index, weight in enumerate(weights)
        ]
        self.asked: list[tuple[int, int]] = []  # first object, limit
        self.sent: list[int] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            limit, start = (int(re.search(rf"[?&]{key}=(\d+)|$", head)[1] or 0) for key in ("limit", "continue"))  # type: ignore[index]
            self.asked.append((start, limit))
            metadata = {"resourceVersion": "7"}
            if start + limit < len(self._items):
                metadata["continue"] = str(start + limit)
            chunk = b",".join(self._items[start : start + limit])
            body = b'{"kind":"ResourceClaimList","metadata":%b,"items":[%b]}' % (json.dumps(metadata).encode(), chunk)
            self.sent.append(len(body))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            await writer.drain()


async def names(lister: Lister) -> list[str]:
    async with serving(lister) as port, HttpKube(Access(f"http://127.0.0.1:{port}"), qps=-1) as kube:
        page = await kube.list(CLAIMS)
    assert page.resource_version == "7"
    return [json.loads(item)["metadata"]["name"] for item in page.items]


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 1200])
async def test_light_objects_come_in_pages_that_grow(count: int) -> None:
    lister = Lister(*[100] * count)
    assert await names(lister) == [f"c{index}" for index in range(count)]
    limits = [limit for _, limit in lister.asked]
    assert limits == [32, 128, 500, 500, 500][: len(limits)]


async def test_heavy_objects_come_in_pages_of_a_few_mebibytes() -> None:
    lister = Lister(*[300_000] * 100)
    assert await names(lister) == [f"c{index}" for index in range(100)]
    assert max(lister.sent[1:]) <= 4 * MIB + 300_000


async def test_heavy_objects_behind_light_ones_are_asked_for_again_in_smaller_pages() -> None:
    lister = Lister(*[100] * 200, *[MIB] * 40)
    assert await names(lister) == [f"c{index}" for index in range(240)]
    assert max(limit for _, limit in lister.asked) == 500
    assert (160, 500) in lister.asked  # 40 MiB: cut off
    assert (160, 62) in lister.asked


async def test_one_object_that_is_too_large_is_an_error_in_words() -> None:
    lister = Lister(17 * MIB)
    with pytest.raises(ApiError, match="sent more than is read: its answer has more than 16 MiB") as refused:
        await names(lister)
    assert refused.value.status == 0
    assert [limit for _, limit in lister.asked] == [32, 4, 1]


async def test_an_answer_without_end_is_cut_off() -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * MIB)
            await writer.drain()

    async with serving(endless) as port:
        kept = Connections(Access(f"http://127.0.0.1:{port}"))
        with pytest.raises(OSError, match="more than 64 MiB"):
            await kept.ask("GET", "/x", (), None, 60)
        async with kept.stream("/x", (), timeout_s=60, silence_s=60) as (_, lines):
            with pytest.raises(OSError, match="more than 64 MiB"):
                await anext(lines)
        kept.close()
