"""Verdicts on claims and templates: what is looked at, what never is, and every text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvdra.api import gates
from nvdra.webhook import ReviewError, judge
from tests.unit.webhook.reviews import DOMAIN, GPU, GROUP, UID, claim, entry, parameters, review, spec, template

OFF = gates.defaults()
SHARING = gates.parse("TimeSlicingSettings=true,MPSSupport=true")
P = "spec.devices.config[0].opaque.parameters"
NO_CLAIM = "expected a ResourceClaim of resource.k8s.io, got "


def answer(body: bytes, on: gates.Gates = SHARING) -> dict[str, Any]:
    """The response in the AdmissionReview that comes back."""
    document = json.loads(judge(body, on).body())
    assert (document["kind"], document["apiVersion"]) == ("AdmissionReview", "admission.k8s.io/v1")
    response: dict[str, Any] = document["response"]
    assert response.pop("uid") == UID
    return response


def refusal(body: bytes, on: gates.Gates = SHARING) -> tuple[str, str]:
    response = answer(body, on)
    assert set(response) == {"allowed", "status"}
    assert response["allowed"] is False
    assert set(response["status"]) == {"message", "reason"}
    return response["status"]["reason"], response["status"]["message"]


def reason_of(given: Any, *requests: str, driver: str = GPU, on: gates.Gates = SHARING) -> str:
    """What is said of the one config of a claim."""
    reason, message = refusal(review(claim(spec(entry(given, *requests, driver=driver)))), on)
    assert reason == "Invalid"
    head = "1 configs failed to validate: "
    assert message.startswith(head)
    return message.removeprefix(head)


ALLOWED = {"allowed": True}

TAKEN: dict[str, Any] = {
    "nothing said": parameters(),
    "a time slice": parameters(sharing={"strategy": "TimeSlicing", "timeSlicingConfig": {"interval": "Long"}}),
    "a time slice by default": parameters(sharing={"strategy": "TimeSlicing"}),
    "an empty time slice, which ends the Go driver's process": parameters(
        sharing={"strategy": "TimeSlicing", "timeSlicingConfig": {}}
    ),
    "MPS": parameters(sharing={"strategy": "MPS", "mpsConfig": {"defaultActiveThreadPercentage": 100}}),
    "MIG": parameters("MigDeviceConfig", sharing={"strategy": "TimeSlicing"}),
    "VFIO, which the Go driver's webhook refuses": parameters("VfioDeviceConfig"),
    "VFIO with a policy": parameters("VfioDeviceConfig", iommu={"backendPolicy": "PreferIommuFD"}),
    "a channel": parameters("ComputeDomainChannelConfig", domainID="d"),
    "a daemon": parameters("ComputeDomainDaemonConfig", domainID="d"),
}


@pytest.mark.parametrize("version", ["v1", "v1beta2", "v1beta1"])
@pytest.mark.parametrize("given", TAKEN.values(), ids=TAKEN)
def test_what_is_admitted(given: Any, version: str) -> None:
    of = spec(entry(given, "gpu"))
    assert answer(review(claim(of, version), version=version)) == ALLOWED
    assert answer(review(template(of, version), version=version)) == ALLOWED


REFUSED: dict[str, tuple[Any, str]] = {
    "unknown field": (
        parameters(speed=1),
        f'error decoding object at {P}: strict decoding error: unknown field "speed"',
    ),
    "unknown fields, nested": (
        parameters(sharing={"strategy": "MPS", "a": 1, "mpsConfig": {"b": 1}}),
        f'error decoding object at {P}: strict decoding error: unknown field "sharing.a", '
        'unknown field "sharing.mpsConfig.b"',
    ),
    "unknown kind": (
        parameters("CpuConfig"),
        f'error decoding object at {P}: no kind "CpuConfig" is registered for version "{GROUP}" in scheme '
        '"nvdra/api/configs"',
    ),
    "other version": (
        {"apiVersion": "resource.nvidia.com/v9", "kind": "GpuConfig"},
        f'error decoding object at {P}: no kind "GpuConfig" is registered for version "resource.nvidia.com/v9" in '
        'scheme "nvdra/api/configs"',
    ),
    "no kind": (
        {"apiVersion": GROUP},
        f"error decoding object at {P}: Object 'Kind' is missing in '{{\"apiVersion\":\"{GROUP}\"}}'",
    ),
    "no version": (
        {"kind": "GpuConfig"},
        f"error decoding object at {P}: Object 'apiVersion' is missing in '{{\"kind\":\"GpuConfig\"}}'",
    ),
    "nothing": (None, f"error decoding object at {P}: Object 'Kind' is missing in 'null'"),
    "no object": (
        [],
        f"error decoding object at {P}: couldn't get version/kind; json parse error: "
        "json: cannot unmarshal array into an object",
    ),
    "no config of a device": (
        parameters("ComputeDomain"),
        f"expected a recognized configuration type at {P} but got: *v1beta1.ComputeDomain",
    ),
    "unknown strategy": (
        parameters(sharing={"strategy": "Luck"}),
        f"object at {P} is invalid: unknown GPU sharing strategy: Luck, "
        "supported GPU sharing strategies: TimeSlicing, MPS",
    ),
    "unknown interval": (
        parameters(sharing={"strategy": "TimeSlicing", "timeSlicingConfig": {"interval": "Never"}}),
        f"object at {P} is invalid: unknown time-slice interval: Never, "
        "supported time-slice intervals: Default, Short, Medium, Long",
    ),
    "negative share": (
        parameters(sharing={"strategy": "MPS", "mpsConfig": {"defaultActiveThreadPercentage": -1}}),
        f"object at {P} is invalid: active thread percentage must not be negative",
    ),
    "more than everything": (
        parameters("MigDeviceConfig", sharing={"strategy": "MPS", "mpsConfig": {"defaultActiveThreadPercentage": 101}}),
        f"object at {P} is invalid: active thread percentage must not be greater than 100",
    ),
    "MPS settings of a time slice": (
        parameters(sharing={"strategy": "TimeSlicing", "mpsConfig": {}}),
        f"object at {P} is invalid: cannot use MpsConfig with the 'TimeSlicing' strategy",
    ),
    "a time slice of MPS": (
        parameters(sharing={"strategy": "MPS", "timeSlicingConfig": {"interval": "Long"}}),
        f"object at {P} is invalid: cannot use TimeSlicingConfig with the 'MPS' strategy",
    ),
    "a limit below one mebibyte": (
        parameters(sharing={"strategy": "MPS", "mpsConfig": {"defaultPinnedDeviceMemoryLimit": "10Ki"}}),
        f"object at {P} is invalid: invalid limit: default value set too low: 10Ki",
    ),
    "a device's limit below one mebibyte": (
        parameters(
            "MigDeviceConfig",
            sharing={"strategy": "MPS", "mpsConfig": {"defaultPerDevicePinnedMemoryLimit": {"MIG-1": "0"}}},
        ),
        f"object at {P} is invalid: invalid limit: value set too low: MIG-1: 0",
    ),
    "a limit of no device": (
        parameters(sharing={"strategy": "MPS", "mpsConfig": {"defaultPerDevicePinnedMemoryLimit": {"gpu": "1Gi"}}}),
        f"object at {P} is invalid: invalid device: unable to parse key as an integer: gpu",
    ),
    "a limit of a device before the first": (
        parameters(sharing={"strategy": "MPS", "mpsConfig": {"defaultPerDevicePinnedMemoryLimit": {"-1": "1Gi"}}}),
        f"object at {P} is invalid: invalid device: invalid device index: -1",
    ),
    "unknown policy": (
        parameters("VfioDeviceConfig", iommu={"backendPolicy": "Any"}),
        f"object at {P} is invalid: unknown IOMMU backend policy: Any, "
        "supported IOMMU backend policies: LegacyOnly, PreferIommuFD",
    ),
    "no domain": (
        parameters("ComputeDomainChannelConfig"),
        f"object at {P} is invalid: domainID cannot be empty",
    ),
}


@pytest.mark.parametrize("driver", [GPU, DOMAIN])
@pytest.mark.parametrize(("given", "text"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(given: Any, text: str, driver: str) -> None:
    assert reason_of(given, driver=driver) == text


@pytest.mark.parametrize(
    ("strategy", "gate"), [("TimeSlicing", "TimeSlicingSettings"), ("MPS", "MPSSupport")], ids=lambda word: word
)
def test_a_strategy_needs_its_gate(strategy: str, gate: str) -> None:
    assert reason_of(parameters(sharing={"strategy": strategy}), on=OFF) == (
        f'object at {P} is invalid: "{strategy}" is selected as the GPU sharing strategy, '
        f'but the "{gate}" feature gate is not enabled'
    )


def test_all_configs_that_fail_are_reported_at_once_with_their_places() -> None:
    bad, good = parameters(sharing={"strategy": "Luck"}), parameters()
    of = spec(entry(bad), entry(good), entry(bad, driver="nic.example.com"), {"requests": ["gpu"]}, entry(bad))
    unknown = "is invalid: unknown GPU sharing strategy: Luck, supported GPU sharing strategies: TimeSlicing, MPS"
    for subject, path in ((claim(of), "spec.devices"), (template(of), "spec.spec.devices")):
        places = [f"object at {path}.config[{index}].opaque.parameters {unknown}" for index in (0, 4)]
        assert refusal(review(subject)) == ("Invalid", f"2 configs failed to validate: {'; '.join(places)}")


def test_other_drivers_configs_are_their_own_affair() -> None:
    assert answer(review(claim(spec(entry({"any": "thing"}, driver="nic.example.com"))))) == ALLOWED


@pytest.mark.parametrize("devices", [None, {}, {"requests": None, "config": None}, {"config": []}])
def test_a_claim_without_configs_is_admitted(devices: Any) -> None:
    assert answer(review(claim({"devices": devices}))) == ALLOWED
    assert answer(review(template({"devices": devices}))) == ALLOWED
    assert answer(review(claim({}))) == ALLOWED


def test_duplicate_fields_are_found_as_the_plugin_finds_them() -> None:
    body = review(claim(spec(entry("HERE")))).replace(
        b'"HERE"', f'{{"apiVersion":"{GROUP}","kind":"GpuConfig","sharing":null,"sharing":null}}'.encode()
    )
    assert refusal(body) == (
        "Invalid",
        f'1 configs failed to validate: error decoding object at {P}: strict decoding error: duplicate field "sharing"',
    )


# ── admin access ───────────────────────────────────────────────────────────────────────────────────────────────────

ADMIN = {
    "v1": {"name": "watch", "exactly": {"deviceClassName": GPU, "adminAccess": True}},
    "v1beta2": {"name": "watch", "exactly": {"deviceClassName": GPU, "adminAccess": True}},
    "v1beta1": {"name": "watch", "deviceClassName": GPU, "adminAccess": True},
}


@pytest.mark.parametrize("version", ADMIN)
def test_a_request_with_admin_access_takes_no_config(version: str) -> None:
    requests = [ADMIN[version], {"name": "use", "exactly": {"deviceClassName": GPU}}]

    def body(*names: str) -> bytes:
        return review(claim(spec(entry(parameters(), *names), requests=requests), version), version=version)

    # A config for all requests is meant for those that it can configure.
    assert answer(body()) == answer(body("use")) == ALLOWED
    reason, message = refusal(body("use", "watch"))
    assert reason == "Invalid"
    assert message.startswith(
        "1 configs failed to validate: object at spec.devices.config[0] is invalid: "
        "request watch has adminAccess: true, which never changes a GPU, so GpuConfig cannot be applied to it"
    )


def test_a_compute_domains_config_may_name_a_request_with_admin_access() -> None:
    given = parameters("ComputeDomainChannelConfig", domainID="d")
    assert answer(review(claim(spec(entry(given, "watch", driver=DOMAIN), requests=[ADMIN["v1"]])))) == ALLOWED


# ── updates and deletions ──────────────────────────────────────────────────────────────────────────────────────────

OLD = parameters(sharing={"strategy": "Luck"}, since="before")


@pytest.mark.parametrize("of", [claim, template])
def test_an_update_that_leaves_the_device_spec_is_admitted(of: Any) -> None:
    before, after = of(spec(entry(OLD))), of(spec(entry(OLD)), finalizers=[])
    assert answer(review(after, operation="UPDATE", old=before)) == ALLOWED
    changed = of(spec(entry(OLD), entry(parameters())), finalizers=[])
    assert refusal(review(changed, operation="UPDATE", old=before))[0] == "Invalid"
    assert refusal(review(after, operation="UPDATE", old=None))[0] == "Invalid"


@pytest.mark.parametrize("of", [claim, template])
def test_what_is_being_deleted_is_admitted(of: Any) -> None:
    after = of(spec(entry(OLD)), deletionTimestamp="2026-01-01T00:00:00Z")
    assert answer(review(after, operation="UPDATE", old=of(spec()))) == ALLOWED


@pytest.mark.parametrize("operation", ["DELETE", "CONNECT"])
def test_other_operations_are_admitted(operation: str) -> None:
    assert answer(review(None, resource="resourceclaims", operation=operation)) == ALLOWED


def test_a_newer_field_is_refused_when_created_and_never_traps_what_is_there() -> None:
    """An old webhook beside claims of a newer release."""
    newer = claim(spec(entry(parameters(sharing={"strategy": "MPS", "mpsConfig": {"newer": 1}}))))
    assert refusal(review(newer))[1].endswith('strict decoding error: unknown field "sharing.mpsConfig.newer"')
    assert answer(review(newer, operation="UPDATE", old=newer)) == ALLOWED


# ── reviews and objects that are none ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("group", "version", "resource"),
    [
        ("resource.k8s.io", "v1", "foos"),
        ("resource.k8s.io", "v1alpha3", "resourceclaims"),
        ("apps", "v1", "resourceclaims"),
        ("resource.k8s.io", "v1", "resourceslices"),
    ],
)
def test_other_resources_are_refused(group: str, version: str, resource: str) -> None:
    assert refusal(review(claim(spec()), group=group, version=version, resource=resource)) == (
        "BadRequest",
        "expected resource to be one of the supported versions for resourceclaims or resourceclaimtemplates, "
        f"got {{{group} {version} {resource}}}",
    )


@pytest.mark.parametrize(
    ("subject", "text"),
    [
        (
            template(spec()),
            f"{NO_CLAIM}resource.k8s.io/v1, Kind=ResourceClaimTemplate",
        ),
        (
            {**claim(spec()), "apiVersion": "v1"},
            f"{NO_CLAIM}v1, Kind=ResourceClaim",
        ),
        (None, "cannot read the ResourceClaim: "),
        ({**claim(spec()), "spec": []}, "cannot read the ResourceClaim: Expected `object | null`, got `array`"),
        (claim({"devices": 1}), "cannot read the device spec: "),
        (claim({"devices": {"config": [{"opaque": {"driver": 1}}]}}), "cannot read the device spec: "),
    ],
)
def test_malformed_objects_are_refused(subject: Any, text: str) -> None:
    reason, message = refusal(review(subject, resource="resourceclaims"))
    assert reason == "BadRequest"
    assert message.startswith(text)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "request could not be decoded: Input data was truncated"),
        (b"{", "request could not be decoded: Input data was truncated"),
        (b"[]", "request could not be decoded: Expected `object`, got `array`"),
        (b"\xff", "request could not be decoded: "),
        (b"{}", "request could not be decoded: Object 'Kind' is missing"),
        (b'{"kind":"AdmissionReview"}', "request could not be decoded: Object 'apiVersion' is missing"),
        (
            b'{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1beta1","request":{}}',
            "unsupported group version kind: admission.k8s.io/v1beta1, Kind=AdmissionReview",
        ),
        (b'{"kind":"Pod","apiVersion":"v1"}', "unsupported group version kind: v1, Kind=Pod"),
        (b'{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1"}', "the AdmissionReview has no request"),
        (
            b'{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":null}',
            "the AdmissionReview has no request",
        ),
    ],
)
def test_what_is_no_review_is_an_error(body: bytes, text: str) -> None:
    with pytest.raises(ReviewError) as raised:
        judge(body, OFF)
    assert str(raised.value).startswith(text)


@pytest.mark.parametrize("depth", [50, 900, 5_000, 100_000])
def test_deep_nesting_is_refused(depth: int) -> None:
    nested = b'{"a":' * depth + b"1" + b"}" * depth
    body = review(claim(spec(entry("HERE")))).replace(b'"HERE"', nested)
    reason, message = refusal(body)
    assert (reason, message) == ("BadRequest", "the object is nested too deeply") or (
        reason == "Invalid" and message.startswith(f"1 configs failed to validate: error decoding object at {P}: ")
    )


def test_invalid_utf8_in_parameters_is_refused() -> None:
    body = review(claim(spec(entry(parameters("HERE"))))).replace(b"HERE", b"\xff\xfe")
    reason, message = refusal(body)
    assert reason == "Invalid"
    assert message.startswith(
        f"1 configs failed to validate: error decoding object at {P}: couldn't get version/kind; "
    )


@pytest.mark.parametrize("half", [r"\ud800", r"\udc00x", r"a\ud83d"])
def test_half_a_surrogate_pair_is_refused_with_a_text_that_can_be_sent(half: str) -> None:
    for odd in (parameters("HERE"), parameters(sharing={"strategy": "HERE"}), parameters(HERE=1)):
        reason, message = refusal(review(claim(spec(entry(odd)))).replace(b"HERE", half.encode()))
        assert reason == "Invalid"
        assert "\N{REPLACEMENT CHARACTER}" in message
    assert refusal(review(claim(spec())).replace(b"resourceclaims", half.encode()))[0] == "BadRequest"
    # What only looks like one: an escaped backslash, and a whole pair.
    for text, seen in ((r"\\ud800", r"\ud800"), (r"\ud83d\ude00", "\N{GRINNING FACE}")):
        message = refusal(review(claim(spec(entry(parameters("HERE"))))).replace(b"HERE", f"{half}{text}".encode()))[1]
        assert f'{seen}" is registered' in message


VALUES = st.none() | st.booleans() | st.integers() | st.text()


@given(st.recursive(VALUES, lambda more: st.lists(more) | st.dictionaries(st.text(), more)))
def test_any_parameters_have_a_verdict(given: Any) -> None:
    assert answer(review(claim(spec(entry(given)))))["allowed"] is False


@given(st.binary())
def test_any_body_is_a_review_or_an_error(body: bytes) -> None:
    with pytest.raises(ReviewError):
        judge(body, OFF)


def test_limits_of_devices_that_a_claim_may_be_given_are_admitted() -> None:
    limits = {"0": "1Gi", "7": "1Mi", "GPU-4d4f434b-0000-0000-0000-000000000000": "10Gi"}
    sharing = {"strategy": "MPS", "mpsConfig": {"defaultPerDevicePinnedMemoryLimit": limits}}
    assert answer(review(claim(spec(entry(parameters(sharing=sharing)))))) == ALLOWED
