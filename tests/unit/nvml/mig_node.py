"""What tests of partitions do to a node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable

import pytest
from nvdra_mock_nvml import Root

from nvdra.nvml import Nvml, NvmlError
from tests.contract.clocks import LoopClock, StandingClock

SMALL, THREE, ALL = 19, 9, 0
CREATE = "nvmlDeviceCreateGpuInstanceWithPlacement"
CREATE_COMPUTE = "nvmlGpuInstanceCreateComputeInstance"


def session(root: Root, clock: StandingClock | LoopClock | None = None) -> Nvml:
    return Nvml(lambda: str(root.library.resolve()), clock or LoopClock())


def uuid(root: Root, minor: int) -> str:
    return root.gpu(minor).uuid


def calls_since(root: Root, before: dict[str, int]) -> dict[str, int]:
    return dict(Counter(root.calls()) - Counter(before))


def count(root: Root, function: str) -> int:
    return root.calls().get(function, 0)


async def refusal(work: Awaitable[object]) -> NvmlError:
    with pytest.raises(NvmlError) as refused:
        await work
    return refused.value
