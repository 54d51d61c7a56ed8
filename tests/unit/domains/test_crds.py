"""The chart's CRDs, against those of the Go driver."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.domain_world import crds
from tests.unit.domains.test_templates import differences, golden

OURS = {each["metadata"]["name"]: each for each in crds()}


def without_additions(crd: dict[str, Any]) -> dict[str, Any]:
    """What the Go driver has, too: no columns, no conditions, no descriptions."""
    (version,) = crd["spec"]["versions"]
    found = {key: value for key, value in version.items() if key != "additionalPrinterColumns"}
    return {**crd, "spec": {**crd["spec"], "versions": [_plain(found)]}}


def _plain(value: Any, path: tuple[str, ...] = ()) -> Any:
    if isinstance(value, dict):
        is_fields = path[-1:] == ("properties",)
        kept = {key: each for key, each in value.items() if is_fields or key != "description"}
        if path[-2:] == ("status", "properties"):
            kept.pop("conditions", None)
        return {key: _plain(each, (*path, key)) for key, each in kept.items()}
    if isinstance(value, list):
        # The order of names that are required, allowed or keys means nothing.
        return sorted(value) if all(isinstance(each, str) for each in value) else [_plain(each, path) for each in value]
    return value


@pytest.mark.parametrize("name", sorted(OURS))
def test_crds_have_the_go_drivers_fields_and_rules(name: str) -> None:
    ours, theirs = without_additions(OURS[name]), without_additions(golden("crds")[name])
    assert differences(theirs, ours) == []
    assert differences(ours["spec"], theirs["spec"]) == []


@pytest.mark.parametrize("name", sorted(OURS))
def test_crds_have_columns_and_describe_every_field(name: str) -> None:
    (version,) = OURS[name]["spec"]["versions"]
    assert version["additionalPrinterColumns"]

    def undescribed(schema: dict[str, Any], path: str) -> list[str]:
        inner = schema.get("properties", {}) | schema.get("items", {}).get("properties", {})
        found = [] if "description" in schema or path in ("", ".metadata") else [path]
        return found + [each for key, field in inner.items() for each in undescribed(field, f"{path}.{key}")]

    assert undescribed(version["schema"]["openAPIV3Schema"], "") == []
