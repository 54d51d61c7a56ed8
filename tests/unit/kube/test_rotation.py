"""Certificates and tokens that are replaced while a program runs, and users that are acted for."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from nvdra.kube import Access, HttpKube, access
from nvdra.ports import ApiError
from tests.unit.kube.test_connections import TLS, serving


class Door:
    """An API server that knows its users by certificate, and answers 401 to all but one of them."""

    def __init__(self) -> None:
        self.knows = "server"
        self.connections: list[str] = []
        self.heads: list[bytes] = []

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[str]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(TLS / "server.crt", TLS / "server.key")
        context.load_verify_locations(TLS / "ca.crt")
        context.verify_mode = ssl.CERT_REQUIRED
        async with serving(self._serve, context) as port:
            yield f"https://127.0.0.1:{port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name = dict(pair for group in writer.get_extra_info("peercert")["subject"] for pair in group)["commonName"]
        self.connections.append(name)
        while True:
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            if name == self.knows:
                status, body = b"200 OK", b'{"gitVersion":"v1.37.2"}'
            else:
                status, body = b"401 Unauthorized", b'{"kind":"Status","reason":"Unauthorized","code":401}'
            writer.write(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))
            await writer.drain()


def put(folder: Path, name: str, which: tuple[str, ...] = ("crt", "key")) -> None:
    """Replace the user's certificate and key, as programs do that rotate them."""
    for suffix in which:
        (folder / f"new.{suffix}").write_bytes((TLS / f"{name}.{suffix}").read_bytes())
        (folder / f"new.{suffix}").rename(folder / f"user.{suffix}")


def reached(folder: Path, url: str, **user: Any) -> Access:
    document = {
        "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "clusters": [{"name": "x", "cluster": {"server": url, "certificate-authority": str(TLS / "ca.crt")}}],
        "users": [{"name": "x", "user": {"client-certificate": "user.crt", "client-key": "user.key", **user}}],
    }
    (folder / "kubeconfig").write_text(json.dumps(document))
    return access(str(folder / "kubeconfig"), {})


async def test_a_replaced_certificate_is_presented_once_the_server_refuses_the_old_one(tmp_path: Path) -> None:
    door = Door()
    put(tmp_path, "server")
    async with door() as url, HttpKube(reached(tmp_path, url)) as kube:
        assert await kube.server_version() == "v1.37.2"
        door.knows = "client"
        put(tmp_path, "client")
        # The warm connection began with the old certificate: the call gets through all the same, over a new one.
        assert await kube.server_version() == "v1.37.2"
        assert await kube.server_version() == "v1.37.2"
    assert door.connections == ["server", "client"]


async def test_a_new_connection_presents_the_replaced_certificate(tmp_path: Path) -> None:
    door = Door()
    put(tmp_path, "client")
    async with door() as url:
        reach = reached(tmp_path, url)
        put(tmp_path, "server")
        async with HttpKube(reach) as kube:
            assert await kube.server_version() == "v1.37.2"
    assert door.connections == ["server"]


async def test_half_a_replaced_pair_changes_nothing(tmp_path: Path) -> None:
    door = Door()
    put(tmp_path, "server")
    async with door() as url, HttpKube(reached(tmp_path, url)) as kube:
        put(tmp_path, "client", ("crt",))
        assert await kube.server_version() == "v1.37.2"
        door.knows = "client"
        with pytest.raises(ApiError) as refused:
            await kube.server_version()
        assert refused.value.status == 401
        put(tmp_path, "client", ("key",))
        assert await kube.server_version() == "v1.37.2"
    assert door.connections[-1] == "client"


async def test_files_that_are_gone_keep_the_certificate(tmp_path: Path) -> None:
    door = Door()
    put(tmp_path, "server")
    async with door() as url:
        reach = reached(tmp_path, url)
        (tmp_path / "user.crt").unlink()
        async with HttpKube(reach) as kube:
            assert await kube.server_version() == "v1.37.2"


async def test_a_refused_certificate_that_has_no_successor_is_a_401(tmp_path: Path) -> None:
    door = Door()
    put(tmp_path, "client")
    async with door() as url, HttpKube(reached(tmp_path, url)) as kube:
        for _ in range(2):
            with pytest.raises(ApiError) as refused:
                await kube.server_version()
            assert refused.value.status == 401
    assert len(door.heads) == 2


async def test_the_server_is_told_whom_to_act_as(tmp_path: Path) -> None:
    door = Door()
    put(tmp_path, "server")
    user = {"as": "jane", "as-uid": "7", "as-groups": ["dev", "ops"], "as-user-extra": {"example.com/scope": ["a b"]}}
    async with door() as url, HttpKube(reached(tmp_path, url, **user)) as kube:
        await kube.server_version()
    lines = door.heads[0].split(b"\r\n")
    assert [line for line in lines if line.startswith(b"Impersonate-")] == [
        b"Impersonate-User: jane",
        b"Impersonate-Uid: 7",
        b"Impersonate-Group: dev",
        b"Impersonate-Group: ops",
        b"Impersonate-Extra-example.com%2Fscope: a b",
    ]
