"""Configs for requests with admin access: which are refused, and in which words."""

from __future__ import annotations

import pytest

from nvdra.api.admin_access import config_refusal

TEXT = (
    "request {} has adminAccess: true, which changes nothing on a device and so takes no config of this driver: "
    "take the request out of the config's list of requests"
)


@pytest.mark.parametrize(
    ("requests", "admin", "named"),
    [
        ([], ["watch"], ""),
        (["use"], ["watch"], ""),
        (["use"], [], ""),
        (["watch"], ["watch"], '"watch"'),
        (["use", "watch"], ["watch"], '"watch"'),
        (["b", "a", "b"], ["a", "b"], '"a", "b"'),
        (["watch/large"], ["watch"], '"watch/large"'),
        (["watching"], ["watch"], ""),
    ],
)
def test_only_a_config_that_names_such_a_request_is_refused(requests: list[str], admin: list[str], named: str) -> None:
    assert config_refusal(requests, admin) == (TEXT.format(named) if named else None)
