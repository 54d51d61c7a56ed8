"""Opaque configs: strict decoding, defaults, validation, and every text users see."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvdra.api import configs, gates, quantity
from nvdra.api.configs import (
    ComputeDomainChannelConfig,
    ComputeDomainDaemonConfig,
    ConfigError,
    GpuConfig,
    GpuSharing,
    Iommu,
    MigDeviceConfig,
    MigSharing,
    MpsConfig,
    NoConfig,
    TimeSlicingConfig,
    VfioDeviceConfig,
    check_strategy,
    decode,
    normalize,
    validate,
)

VERSION = "resource.nvidia.com/v1beta1"
OFF = gates.defaults()
SHARING = gates.parse("TimeSlicingSettings=true,MPSSupport=true")


def text_of(kind: str, **fields: Any) -> bytes:
    return json.dumps({"apiVersion": VERSION, "kind": kind, **fields}).encode()


def refusal(parameters: bytes) -> str:
    with pytest.raises(ConfigError) as refused:
        decode(parameters)
    return str(refused.value)


@pytest.mark.parametrize(
    ("parameters", "config"),
    [
        (text_of("GpuConfig"), GpuConfig()),
        (text_of("GpuConfig", sharing=None), GpuConfig()),
        (text_of("GpuConfig", sharing={}), GpuConfig(GpuSharing())),
        (
            text_of("GpuConfig", sharing={"strategy": "TimeSlicing", "timeSlicingConfig": {"interval": "Long"}}),
            GpuConfig(GpuSharing("TimeSlicing", TimeSlicingConfig("Long"))),
        ),
        (
            text_of("GpuConfig", sharing={"strategy": "TimeSlicing", "timeSlicingConfig": {}}),
            GpuConfig(GpuSharing("TimeSlicing", TimeSlicingConfig(None))),
        ),
        (
            text_of(
                "GpuConfig",
                sharing={
                    "strategy": "MPS",
                    "mpsConfig": {
                        "defaultActiveThreadPercentage": 50,
                        "defaultPinnedDeviceMemoryLimit": "10Mi",
                        "defaultPerDevicePinnedMemoryLimit": {"1": "2Gi", "0": 1000, "2": None},
                        "multiUser": True,
                    },
                },
            ),
            GpuConfig(
                GpuSharing(
                    "MPS",
                    mps=MpsConfig(
                        50,
                        quantity.parse("10Mi"),
                        (
                            ("0", quantity.parse("1000")),
                            ("1", quantity.parse("2Gi")),
                            ("2", quantity.Quantity(0)),
                        ),
                        True,
                    ),
                )
            ),
        ),
        (
            text_of("MigDeviceConfig", sharing={"strategy": "MPS", "mpsConfig": {}}),
            MigDeviceConfig(MigSharing("MPS", MpsConfig())),
        ),
        (text_of("MigDeviceConfig"), MigDeviceConfig()),
        (text_of("VfioDeviceConfig"), VfioDeviceConfig()),
        (
            text_of("VfioDeviceConfig", iommu={"backendPolicy": "PreferIommuFD", "enableAPIDevice": True}),
            VfioDeviceConfig(Iommu("PreferIommuFD", True)),
        ),
        (
            text_of("ComputeDomainChannelConfig", domainID="d", allocationMode="All"),
            ComputeDomainChannelConfig("d", "All"),
        ),
        (text_of("ComputeDomainDaemonConfig", domainID="d"), ComputeDomainDaemonConfig("d")),
        (text_of("ComputeDomain", spec={"numNodes": 1}), NoConfig("ComputeDomain")),
        (text_of("ComputeDomainClique"), NoConfig("ComputeDomainClique")),
    ],
)
def test_every_kind_is_decoded(parameters, config):
    assert decode(parameters) == config


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        (
            b'{"apiVersion":"resource.nvidia.com/v1beta1"}',
            "Object 'Kind' is missing in '{\"apiVersion\":\"resource.nvidia.com/v1beta1\"}'",
        ),
        (b'{"kind":"GpuConfig"}', "Object 'apiVersion' is missing in '{\"kind\":\"GpuConfig\"}'"),
        (b"{}", "Object 'Kind' is missing in '{}'"),
        (b"null", "Object 'Kind' is missing in 'null'"),
        (
            text_of("GpuConfiguration"),
            'no kind "GpuConfiguration" is registered for version "resource.nvidia.com/v1beta1" '
            'in scheme "nvdra/api/configs"',
        ),
        (
            b'{"apiVersion":"resource.nvidia.com/v1","kind":"GpuConfig"}',
            'no kind "GpuConfig" is registered for version "resource.nvidia.com/v1" in scheme "nvdra/api/configs"',
        ),
        (
            b'{"apiVersion":"gpu.nvidia.com/v1beta1","kind":"ComputeDomain"}',
            'no kind "ComputeDomain" is registered for version "gpu.nvidia.com/v1beta1" in scheme "nvdra/api/configs"',
        ),
        (text_of("GpuConfig", unexpectedField=1), 'strict decoding error: unknown field "unexpectedField"'),
        (
            text_of("GpuConfig", sharing={"Strategy": "MPS", "mpsConfig": {"x": {"y": 1}}}, Sharing={}),
            'strict decoding error: unknown field "sharing.Strategy", unknown field "sharing.mpsConfig.x", '
            'unknown field "Sharing"',
        ),
        (
            text_of("MigDeviceConfig", sharing={"strategy": "TimeSlicing", "timeSlicingConfig": {}}),
            'strict decoding error: unknown field "sharing.timeSlicingConfig"',
        ),
        (
            b'{"apiVersion":"resource.nvidia.com/v1beta1","kind":"GpuConfig","sharing":'
            b'{"strategy":"MPS","strategy":"MPS","a":1,"a":2,'
            b'"mpsConfig":{"defaultPerDevicePinnedMemoryLimit":{"0":"1Gi","0":"1Gi"}}},"kind":"GpuConfig"}',
            'strict decoding error: duplicate field "sharing.strategy", unknown field "sharing.a", '
            'duplicate field "sharing.mpsConfig.defaultPerDevicePinnedMemoryLimit.0", duplicate field "kind"',
        ),
        (
            text_of("GpuConfig", sharing={"strategy": 1}),
            "json: cannot unmarshal number into field sharing.strategy of type string",
        ),
        (text_of("GpuConfig", sharing=[]), "json: cannot unmarshal array into field sharing of type object"),
        (
            text_of("GpuConfig", sharing={"mpsConfig": {"multiUser": "yes"}}),
            "json: cannot unmarshal string into field sharing.mpsConfig.multiUser of type bool",
        ),
        (
            text_of("GpuConfig", sharing={"mpsConfig": {"defaultActiveThreadPercentage": 1.5}}),
            "json: cannot unmarshal number 1.5 into field sharing.mpsConfig.defaultActiveThreadPercentage of type int",
        ),
        (
            text_of("GpuConfig", sharing={"mpsConfig": {"defaultActiveThreadPercentage": True}}),
            "json: cannot unmarshal bool into field sharing.mpsConfig.defaultActiveThreadPercentage of type int",
        ),
        (
            text_of("GpuConfig", sharing={"mpsConfig": {"defaultPinnedDeviceMemoryLimit": "much"}}),
            "sharing.mpsConfig.defaultPinnedDeviceMemoryLimit: quantities must match the regular expression "
            "'^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(parameters, text):
    assert refusal(parameters) == text


@pytest.mark.parametrize(
    "parameters",
    [
        b"",
        b"{",
        b"kind: GpuConfig",
        text_of("GpuConfig") + b"}",
        text_of("GpuConfig")[:-1] + b",}",
        b'{"kind":NaN}',
        b"[]",
        b'"GpuConfig"',
        b'{"kind":7}',
        b"[" * 10_000,
    ],
)
def test_broken_json_is_refused_before_anything_else(parameters):
    assert refusal(parameters).startswith("couldn't get version/kind; json parse error: ")


@pytest.mark.parametrize(
    ("config", "on", "normal"),
    [
        (GpuConfig(), SHARING, GpuConfig()),
        (
            GpuConfig(GpuSharing("TimeSlicing")),
            SHARING,
            GpuConfig(GpuSharing("TimeSlicing", TimeSlicingConfig("Default"))),
        ),
        # `timeSlicingConfig: {}`: what ends the Go driver's process is the default here.
        (
            GpuConfig(GpuSharing("TimeSlicing", TimeSlicingConfig())),
            SHARING,
            GpuConfig(GpuSharing("TimeSlicing", TimeSlicingConfig("Default"))),
        ),
        (
            GpuConfig(GpuSharing("TimeSlicing", TimeSlicingConfig("Long"))),
            SHARING,
            GpuConfig(GpuSharing("TimeSlicing", TimeSlicingConfig("Long"))),
        ),
        (GpuConfig(GpuSharing("TimeSlicing")), OFF, GpuConfig(GpuSharing("TimeSlicing"))),
        (GpuConfig(GpuSharing("MPS")), SHARING, GpuConfig(GpuSharing("MPS", mps=MpsConfig()))),
        (GpuConfig(GpuSharing("MPS")), OFF, GpuConfig(GpuSharing("MPS"))),
        (MigDeviceConfig(MigSharing("MPS")), SHARING, MigDeviceConfig(MigSharing("MPS", MpsConfig()))),
        (MigDeviceConfig(MigSharing("MPS")), OFF, MigDeviceConfig(MigSharing("MPS"))),
        (MigDeviceConfig(MigSharing("TimeSlicing")), SHARING, MigDeviceConfig(MigSharing("TimeSlicing"))),
        (VfioDeviceConfig(), OFF, VfioDeviceConfig(Iommu("LegacyOnly", False))),
        (
            VfioDeviceConfig(Iommu("PreferIommuFD", True)),
            OFF,
            VfioDeviceConfig(Iommu("PreferIommuFD", True)),
        ),
        (VfioDeviceConfig(Iommu("", True)), OFF, VfioDeviceConfig(Iommu("LegacyOnly", True))),
        (ComputeDomainDaemonConfig("d"), OFF, ComputeDomainDaemonConfig("d")),
    ],
)
def test_defaults(config, on, normal):
    assert normalize(config, on) == normal
    assert normalize(normal, on) == normal


@pytest.mark.parametrize(
    ("config", "on", "text"),
    [
        (
            GpuConfig(GpuSharing("TimeSlicing")),
            OFF,
            '"TimeSlicing" is selected as the GPU sharing strategy, but the "TimeSlicingSettings" feature gate '
            "is not enabled",
        ),
        (
            MigDeviceConfig(MigSharing("MPS")),
            OFF,
            '"MPS" is selected as the GPU sharing strategy, but the "MPSSupport" feature gate is not enabled',
        ),
        (
            GpuConfig(GpuSharing("")),
            SHARING,
            "unknown GPU sharing strategy: , supported GPU sharing strategies: TimeSlicing, MPS",
        ),
        (
            MigDeviceConfig(MigSharing("mps")),
            OFF,
            "unknown GPU sharing strategy: mps, supported GPU sharing strategies: TimeSlicing, MPS",
        ),
        (
            GpuConfig(GpuSharing("TimeSlicing", TimeSlicingConfig("long"))),
            SHARING,
            "unknown time-slice interval: long, supported time-slice intervals: Default, Short, Medium, Long",
        ),
        (
            GpuConfig(GpuSharing("MPS", mps=MpsConfig(-1))),
            SHARING,
            "active thread percentage must not be negative",
        ),
        (
            MigDeviceConfig(MigSharing("MPS", MpsConfig(101))),
            SHARING,
            "active thread percentage must not be greater than 100",
        ),
        (
            VfioDeviceConfig(Iommu("Legacy")),
            OFF,
            "unknown IOMMU backend policy: Legacy, supported IOMMU backend policies: LegacyOnly, PreferIommuFD",
        ),
        (ComputeDomainChannelConfig(), OFF, "domainID cannot be empty"),
        (ComputeDomainDaemonConfig(), OFF, "domainID cannot be empty"),
    ],
)
def test_what_is_invalid_is_refused(config, on, text):
    with pytest.raises(ConfigError) as refused:
        validate(config, on)
    assert str(refused.value) == text


@pytest.mark.parametrize(
    "config",
    [
        GpuConfig(),
        GpuConfig(GpuSharing("TimeSlicing", TimeSlicingConfig("Medium"))),
        GpuConfig(GpuSharing("MPS", mps=MpsConfig(0))),
        GpuConfig(GpuSharing("MPS", mps=MpsConfig(100))),
        MigDeviceConfig(MigSharing("TimeSlicing")),
        VfioDeviceConfig(Iommu("PreferIommuFD", False)),
        ComputeDomainChannelConfig("d", "nonsense"),
        NoConfig("ComputeDomain"),
    ],
)
def test_what_is_valid(config):
    validate(config, SHARING)


def test_interval_numbers_are_nvidia_smi_s():
    assert dict(configs.INTERVALS) == {"Default": 0, "Short": 1, "Medium": 2, "Long": 3}


# --- properties of the strict decoder, the standard library's reader as the oracle ---

leaf = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.just(1.5), st.sampled_from(["", "MPS", "1Gi"])
)
anything = st.recursive(
    leaf,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["sharing", "strategy", "mpsConfig", "timeSlicingConfig", "interval", "iommu", "x"]),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)
kinds = st.sampled_from(["GpuConfig", "MigDeviceConfig", "VfioDeviceConfig", "ComputeDomainChannelConfig"])


@given(kinds, st.dictionaries(st.sampled_from(["sharing", "iommu", "domainID", "x"]), anything, max_size=3))
def test_any_document_is_decoded_or_refused(kind, fields):
    with suppress(ConfigError):
        assert configs.kind_of(decode(text_of(kind, **fields))) == kind


@given(st.binary(max_size=60))
def test_any_bytes_are_refused(junk):
    assert refusal(junk)


sharing = st.fixed_dictionaries(
    {},
    optional={
        "strategy": st.text(max_size=8),
        "timeSlicingConfig": st.fixed_dictionaries({}, optional={"interval": st.text(max_size=8)}),
        "mpsConfig": st.fixed_dictionaries(
            {}, optional={"defaultActiveThreadPercentage": st.integers(-(2**63), 2**63 - 1), "multiUser": st.booleans()}
        ),
    },
)


@given(sharing)
def test_what_fits_means_what_the_standard_library_reads(fields):
    seen = json.loads(json.dumps(fields))
    slicing, mps = seen.get("timeSlicingConfig"), seen.get("mpsConfig")
    want_slicing = None if slicing is None else TimeSlicingConfig(slicing.get("interval"))
    want_mps = None
    if mps is not None:
        want_mps = MpsConfig(mps.get("defaultActiveThreadPercentage"), multi_user=mps.get("multiUser"))
    want = GpuConfig(GpuSharing(seen.get("strategy", ""), want_slicing, want_mps))
    assert decode(text_of("GpuConfig", sharing=fields)) == want


names = st.text(alphabet="abcXYZ", min_size=1, max_size=6)


@given(sharing, st.lists(st.tuples(names, anything), min_size=1, max_size=3, unique_by=lambda pair: pair[0]))
def test_every_unknown_field_is_named_in_the_text_s_order(fields, extra):
    odd = {**fields, **dict(extra)}
    wanted = ", ".join(f'unknown field "sharing.{name}"' for name, _ in extra)
    assert refusal(text_of("GpuConfig", sharing=odd)) == f"strict decoding error: {wanted}"


@given(sharing.filter(bool), st.data())
def test_every_field_given_twice_is_named(fields, data):
    twice = data.draw(st.sampled_from(sorted(fields)))
    pairs = [f"{json.dumps(name)}:{json.dumps(value)}" for name, value in fields.items()]
    pairs.append(f"{json.dumps(twice)}:{json.dumps(fields[twice])}")
    text = f'{{"apiVersion":"{VERSION}","kind":"GpuConfig","sharing":{{{",".join(pairs)}}}}}'
    assert refusal(text.encode()) == f'strict decoding error: duplicate field "sharing.{twice}"'


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (
            GpuConfig(GpuSharing("TimeSlicing", mps=MpsConfig())),
            "cannot use MpsConfig with the 'TimeSlicing' strategy",
        ),
        (
            GpuConfig(GpuSharing("MPS", TimeSlicingConfig("Long"))),
            "cannot use TimeSlicingConfig with the 'MPS' strategy",
        ),
    ],
)
def test_settings_of_the_strategy_that_was_not_chosen_are_refused(config, text):
    validate(config, SHARING)
    with pytest.raises(ConfigError) as refused:
        check_strategy(config)
    assert str(refused.value) == text


@pytest.mark.parametrize(
    "config",
    [
        GpuConfig(),
        GpuConfig(GpuSharing("TimeSlicing", TimeSlicingConfig("Long"))),
        GpuConfig(GpuSharing("MPS", mps=MpsConfig())),
        # The Go driver has nothing to apply here, and so nothing to find.
        MigDeviceConfig(MigSharing("TimeSlicing", MpsConfig())),
        VfioDeviceConfig(),
        ComputeDomainDaemonConfig("d"),
    ],
)
def test_settings_of_the_chosen_strategy_pass(config):
    check_strategy(config)


def test_parameters_that_are_no_text_are_refused():
    assert "can't decode byte 0xff" in refusal(text_of("HERE").replace(b"HERE", b"\xff"))
