"""The nodes of this folder's tests, their programs started."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.node.mig_world import MigWorld
from tests.unit.node.world import World


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    made.start()
    yield made
    await made.stop()


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[MigWorld]:
    """A node whose GPUs are partitioned on demand, its program started and warm."""
    made = MigWorld(tmp_path)
    made.start()
    await made.warm()
    yield made
    await made.stop()
