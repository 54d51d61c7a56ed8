"""Configs for requests with admin access: which are refused, and in which words."""

from __future__ import annotations

import pytest

from nvdra.api.admin_access import config_refusal

TEXT = (
    "request {} has adminAccess: true, which never changes a GPU, so GpuConfig cannot be applied to it: "
    "let the requests of that config name only requests without adminAccess"
)


@pytest.mark.parametrize(
    ("requests", "admin", "named"),
    [
        ([], ["watch"], ""),
        (["use"], ["watch"], ""),
        (["use"], [], ""),
        (["watch"], ["watch"], "watch"),
        (["use", "watch"], ["watch"], "watch"),
        (["b", "a", "b"], ["a", "b"], "b"),
        (["watch/large"], ["watch"], "watch/large"),
        (["watching"], ["watch"], ""),
    ],
)
def test_only_a_config_that_names_such_a_request_is_refused(requests: list[str], admin: list[str], named: str) -> None:
    assert config_refusal(requests, admin, "GpuConfig") == (TEXT.format(named) if named else None)
