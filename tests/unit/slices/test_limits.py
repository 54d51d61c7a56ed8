"""The API server's limits on slices, at and beyond each of them; the contract tests put the same to a server."""

from __future__ import annotations

from typing import Any

import pytest

from nvdra.slices import device_problems, slice_problems
from tests.unit.slices.limits import BAD_DEVICES, BAD_SLICES, BY_VERSION, GOOD_DEVICES, GOOD_SLICES


@pytest.mark.parametrize("good", GOOD_SLICES)
def test_slices_at_the_limits_are_fine(good: dict[str, Any]) -> None:
    assert slice_problems(good) == ()


@pytest.mark.parametrize(("bad", "text"), BAD_SLICES)
def test_slices_beyond_a_limit_are_named_with_their_field(bad: dict[str, Any], text: str) -> None:
    assert any(text in problem for problem in slice_problems(bad)), slice_problems(bad)


@pytest.mark.parametrize(("what", "minor", "is_fine"), BY_VERSION)
def test_limits_that_moved_follow_the_servers_version(what: dict[str, Any], minor: int, is_fine: bool) -> None:
    assert (slice_problems(what, minor) == ()) is is_fine, slice_problems(what, minor)


@pytest.mark.parametrize("good", GOOD_DEVICES)
def test_devices_at_the_limits_are_fine(good: dict[str, Any]) -> None:
    assert device_problems(good) == ()


@pytest.mark.parametrize(("bad", "text"), BAD_DEVICES)
def test_devices_beyond_a_limit_are_named_with_their_field(bad: dict[str, Any], text: str) -> None:
    assert any(text in problem for problem in device_problems(bad)), device_problems(bad)
