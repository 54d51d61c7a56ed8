"""webhook as a process of its own, by its command line, and clients that speak TLS to it on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import ssl
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAM = str(Path(sys.executable).with_name("webhook"))
PATH = "/validate-resource-claim-parameters"
TIMEOUT_S = 60.0


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def make_pair(folder: Path, host: str = "w.ns.svc", *, days: int = 2) -> None:
    """`tls.crt` and `tls.key` for a host and 127.0.0.1, signed by its own key; expired if `days` is negative."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "extensions").write_text(f"subjectAltName=DNS:{host},IP:127.0.0.1\nextendedKeyUsage=serverAuth\n")
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(folder, "req", *curve, "-keyout", "tls.key", "-out", "request", "-subj", f"/CN={host}")
    signed = ("-signkey", "tls.key", "-days", str(days), "-extfile", "extensions", "-out", "tls.crt")
    openssl(folder, "x509", "-req", "-in", "request", *signed)


class SecretVolume:
    """A Secret's volume as kubelet keeps it: files are links into `..data`, which is swapped for another folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._turns = 0
        folder.mkdir()
        for name in ("tls.crt", "tls.key"):
            (folder / name).symlink_to(f"..data/{name}")

    @property
    def certificate(self) -> Path:
        return self.folder / "tls.crt"

    @property
    def key(self) -> Path:
        return self.folder / "tls.key"

    def put(self, source: Path) -> None:
        """Swap in the pair of another folder, in one rename."""
        self._turns += 1
        content = self.folder / f"..{self._turns}"
        content.mkdir()
        for name in ("tls.crt", "tls.key"):
            (content / name).write_bytes((source / name).read_bytes())
        fresh = self.folder / "..data_tmp"
        fresh.symlink_to(content.name)
        os.rename(fresh, self.folder / "..data")


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    def review(self) -> dict[str, Any]:
        """The response in the AdmissionReview."""
        assert self.status == 200, self
        assert self.headers["content-type"] == "application/json"
        response: dict[str, Any] = json.loads(self.body)["response"]
        return response


class Client:
    """One TLS connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @property
    def host(self) -> str:
        """For which the server's certificate is."""
        names: Any = self._writer.get_extra_info("peercert")["subjectAltName"]
        return str(names[0][1])

    async def ask(self, path: str = "/readyz", body: bytes | None = None, **headers: str) -> Reply:
        await self.send(head(path, None if body is None else len(body), **headers) + (body or b""))
        return await self.reply()

    async def judge(self, review: bytes) -> Reply:
        return await self.ask(PATH, review, content_type="application/json")

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def reply(self) -> Reply:
        async with asyncio.timeout(TIMEOUT_S):
            lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(re.split(r":\s*", line.lower(), maxsplit=1) for line in lines[1:] if line)
            body = await self._reader.readexactly(int(headers["content-length"]))
        return Reply(int(lines[0].split()[1]), headers, body)

    async def is_closed(self) -> bool:
        """Whether the server has nothing more to say; waits until it says so."""
        async with asyncio.timeout(TIMEOUT_S):
            try:
                return await self._reader.read(1) == b""
            except (ConnectionError, ssl.SSLError):
                return True

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


def head(path: str, length: int | None, **headers: str) -> bytes:
    """A request's first lines: POST if it has a body."""
    lines = [f"{'GET' if length is None else 'POST'} {path} HTTP/1.1", "Host: w"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


class Webhook:
    """The process, with a Secret's volume of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.volume = SecretVolume(folder / "volume")
        self.log_path = folder / "log"
        self.log_path.touch()
        self.process: asyncio.subprocess.Process
        self.trusted = folder / "first" / "tls.crt"
        make_pair(folder / "first")
        self.volume.put(folder / "first")

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    async def launch(self, **flags: str) -> asyncio.subprocess.Process:
        """Start the program; it may not come up."""
        given = {
            "tls-cert-file": str(self.volume.certificate),
            "tls-private-key-file": str(self.volume.key),
            "port": "0",
            "v": "4",
            **{name.replace("_", "-"): value for name, value in flags.items()},
        }
        with self.log_path.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                PROGRAM, *(f"--{name}={value}" for name, value in given.items()), stdout=log, stderr=log
            )
        return self.process

    async def start(self, **flags: str) -> None:
        await self.launch(**flags)
        await self.logged('"Serving admission reviews"')

    async def logged(self, text: str) -> str:
        """The line with a text, as soon as there is one."""
        async with asyncio.timeout(TIMEOUT_S):
            while text not in self.log:
                assert self.process.returncode is None, self.log
                await asyncio.sleep(0.02)
        return next(line for line in self.log.splitlines() if text in line)

    @property
    def port(self) -> int:
        found = re.search(r'"Serving admission reviews" port=(\d+)', self.log)
        assert found is not None
        return int(found[1])

    async def connect(self, *, trusted: Path | None = None, host: str | None = "127.0.0.1") -> Client:
        """A connection by somebody who trusts a certificate, and asks for a host (None: for none)."""
        context = ssl.create_default_context(cafile=str(trusted or self.trusted))
        context.check_hostname = host is not None
        async with asyncio.timeout(TIMEOUT_S):
            streams = await asyncio.open_connection("127.0.0.1", self.port, ssl=context, server_hostname=host or "")
        return Client(*streams)

    def rss_mib(self) -> float:
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())
        assert found is not None
        return int(found[1]) / 1024

    async def stop(self) -> int:
        if self.process.returncode is None:
            self.process.terminate()
        async with asyncio.timeout(TIMEOUT_S):
            return await self.process.wait()


@contextlib.asynccontextmanager
async def webhook() -> AsyncIterator[Webhook]:
    """A webhook that is not started yet; whatever happens to it, it shows no traceback."""
    with tempfile.TemporaryDirectory(prefix="webhook-") as folder:
        made = Webhook(Path(folder))
        try:
            yield made
        finally:
            if hasattr(made, "process"):
                await made.stop()
        assert "Traceback" not in made.log
