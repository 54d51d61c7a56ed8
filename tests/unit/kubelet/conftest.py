"""A plugin with a scripted driver behind it, on sockets in a temporary directory."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator

import pytest

from nvdra.kubelet import Plugin, SocketPaths, socket_paths
from tests.unit.kubelet.doors import DRIVER, Driver, build


@pytest.fixture
def folder() -> Iterator[str]:
    """A short path: a socket's may have 107 bytes."""
    path = tempfile.mkdtemp(prefix="k")
    yield path
    shutil.rmtree(path)


@pytest.fixture
def paths(folder: str) -> SocketPaths:
    os.makedirs(f"{folder}/reg")
    return socket_paths(DRIVER, f"{folder}/reg", f"{folder}/plugins")


@pytest.fixture
def driver() -> Driver:
    return Driver()


@pytest.fixture
async def plugin(paths: SocketPaths, driver: Driver) -> AsyncIterator[Plugin]:
    plugin = build(paths, driver)
    await plugin.start()
    yield plugin
    await plugin.stop(grace_s=0)
