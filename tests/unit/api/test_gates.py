"""Feature gates: what a setting means, what may not stand together, what is not built yet."""

from __future__ import annotations

import pytest

from nvdra.api import gates
from nvdra.api.gates import GateError

OFF_BY_DEFAULT = [
    "TimeSlicingSettings",
    "MPSSupport",
    "PassthroughSupport",
    "DynamicMIG",
    "NVMLDeviceHealthCheck",
    "DeviceMetadata",
    "DRAListTypeAttributes",
    "FabricManagerPartitioning",
    "HostManagedIMEXDaemon",
    "ConsumableShares",
    "LoggingAlphaOptions",
    "AllAlpha",
    "AllBeta",
]
ON_BY_DEFAULT = [
    "IMEXDaemonsWithDNSNames",
    "ComputeDomainCliques",
    "CrashOnNVLinkFabricErrors",
    "ContextualLogging",
    "LoggingBetaOptions",
]


def test_eighteen_gates_and_their_defaults():
    values = gates.defaults().values
    assert {name for name, value in values.items() if value} == set(ON_BY_DEFAULT)
    assert {name for name, value in values.items() if not value} == set(OFF_BY_DEFAULT)
    assert len(values) == 18


def test_since_is_the_release_that_brought_the_gate():
    since = {gate.name: gate.since for gate in gates.GATES.values() if gate.since}
    assert {name for name, release in since.items() if release == "0.2"} == {
        "TimeSlicingSettings",
        "MPSSupport",
        "IMEXDaemonsWithDNSNames",
    }
    assert since["ComputeDomainCliques"] == "0.3"
    assert since["DeviceMetadata"] == "0.4"
    assert since["ConsumableShares"] == "0.5"
    assert len(since) == 13


@pytest.mark.parametrize(
    "setting",
    ["", ",", " , ,", "DynamicMIG=false", "DynamicMIG=false,", "DynamicMIG=F,DynamicMIG=0", " DynamicMIG = false ,"],
)
def test_blank_items_and_a_trailing_comma_are_fine(setting):
    assert gates.parse(setting) == gates.defaults()


@pytest.mark.parametrize("text", ["1", "t", "T", "TRUE", "true", "True"])
def test_every_spelling_of_true(text):
    assert gates.parse(f"DynamicMIG={text}").enabled("DynamicMIG")


def test_a_gate_named_twice_takes_the_last_value():
    assert not gates.parse("DynamicMIG=true,DynamicMIG=false").enabled("DynamicMIG")


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("DynamicMIG", "missing bool value for DynamicMIG"),
        (
            "DynamicMIG=yes",
            'invalid value of DynamicMIG=yes, err: strconv.ParseBool: parsing "yes": invalid syntax',
        ),
        ("DynamicMIG=", 'invalid value of DynamicMIG=, err: strconv.ParseBool: parsing "": invalid syntax'),
        ("DynamicMig=true", "unrecognized feature gate: DynamicMig"),
        (
            "ContextualLogging=false",
            "cannot set feature gate ContextualLogging to false, feature is locked to true",
        ),
    ],
)
def test_what_cannot_be_taken_is_named(setting, text):
    with pytest.raises(GateError) as refused:
        gates.parse(setting)
    assert str(refused.value) == text


def test_a_locked_gate_may_be_set_to_what_it_is():
    assert gates.parse("ContextualLogging=true") == gates.defaults()


def test_all_alpha_moves_what_is_not_named_wherever_it_stands():
    on = gates.parse("DynamicMIG=false,AllAlpha=true")
    assert on == gates.parse("AllAlpha=true,DynamicMIG=false")
    assert on.enabled("MPSSupport")
    assert on.enabled("AllAlpha")
    assert not on.enabled("DynamicMIG")
    assert not on.enabled("AllBeta")


def test_all_beta_off_leaves_the_locked_gate_on():
    off = gates.parse("AllBeta=false,ComputeDomainCliques=true")
    assert not off.enabled("IMEXDaemonsWithDNSNames")
    assert off.enabled("ComputeDomainCliques")
    assert off.enabled("ContextualLogging")


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        (
            "IMEXDaemonsWithDNSNames=false",
            "feature gate ComputeDomainCliques requires IMEXDaemonsWithDNSNames to also be enabled",
        ),
        (
            "DynamicMIG=true,PassthroughSupport=true",
            "feature gate DynamicMIG is currently mutually exclusive with PassthroughSupport",
        ),
        (
            "DynamicMIG=true,NVMLDeviceHealthCheck=true",
            "feature gate DynamicMIG is currently mutually exclusive with NVMLDeviceHealthCheck",
        ),
        (
            "DynamicMIG=true,MPSSupport=true",
            "feature gate DynamicMIG is currently mutually exclusive with MPSSupport",
        ),
        (
            "PassthroughSupport=true,NVMLDeviceHealthCheck=true",
            "feature gate PassthroughSupport is currently mutually exclusive with NVMLDeviceHealthCheck",
        ),
        ("DeviceMetadata=true", "feature gate DeviceMetadata requires PassthroughSupport to also be enabled"),
        # Several conflicts: the first of the list is the one reported.
        ("AllAlpha=true", "feature gate DynamicMIG is currently mutually exclusive with PassthroughSupport"),
        (
            "AllAlpha=true,IMEXDaemonsWithDNSNames=false",
            "feature gate ComputeDomainCliques requires IMEXDaemonsWithDNSNames to also be enabled",
        ),
    ],
)
def test_conflicts_are_refused_in_order(setting, text):
    with pytest.raises(GateError) as refused:
        gates.cross_check(gates.parse(setting))
    assert str(refused.value) == text


@pytest.mark.parametrize(
    "setting",
    ["", "MPSSupport=true,NVMLDeviceHealthCheck=true", "IMEXDaemonsWithDNSNames=false,ComputeDomainCliques=false"],
)
def test_what_may_stand_together(setting):
    gates.cross_check(gates.parse(setting))


def test_gates_that_are_not_built_are_refused_only_if_on():
    for program, names in gates.table()["unbuilt"].items():
        gates.refuse_unbuilt(gates.defaults(), program)
        for name in names:
            with pytest.raises(GateError) as refused:
                gates.refuse_unbuilt(gates.parse(f"{name}=true"), program)
            assert str(refused.value) == (
                f"{program} does not support feature gate {name} yet: "
                "turn it off in --feature-gates (FEATURE_GATES), or run the Go driver for it"
            )
        if len(names) > 1:
            both = ",".join(f"{name}=true" for name in names[:2])
            with pytest.raises(GateError, match=f"feature gates {', '.join(names[:2])} yet: turn them off"):
                gates.refuse_unbuilt(gates.parse(f"{both},TimeSlicingSettings=true"), program)


def test_gates_of_other_programs_are_ignored():
    setting = "HostManagedIMEXDaemon=true,ComputeDomainCliques=false,CrashOnNVLinkFabricErrors=false"
    gates.refuse_unbuilt(gates.parse(setting), "gpu-kubelet-plugin")
    gates.refuse_unbuilt(gates.parse("PassthroughSupport=true"), "webhook")


def test_the_dump_is_go_s_map_literal_sorted_by_name():
    text = str(gates.parse("MPSSupport=true"))
    assert text.startswith('map[string]bool{"AllAlpha":false, "AllBeta":false, "ComputeDomainCliques":true, ')
    assert text.endswith('"NVMLDeviceHealthCheck":false, "PassthroughSupport":false, "TimeSlicingSettings":false}')
    assert '"MPSSupport":true' in text


def test_help_names_every_gate_sorted():
    lines = gates.help_lines()
    assert lines == sorted(lines)
    assert len(lines) == 18
    assert "DynamicMIG=true|false (ALPHA - default=false)" in lines
    assert "ComputeDomainCliques=true|false (BETA - default=true)" in lines
