"""What NVML's numbers and texts of a GPU become."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvdra.gpu import OddDeviceError, gpu, parse_name, pci_bus_id
from nvdra.gpu.names import GpuName, MigName, VfioName


@pytest.mark.parametrize(
    ("nvml", "sysfs"),
    [
        ("00000000:9F:00.0", "0000:9f:00.0"),
        ("00000001:9F:00.0", "0001:9f:00.0"),
        ("0000FFFF:9F:1A.7", "ffff:9f:1a.7"),
        ("0000:9f:00.0", "0000:9f:00.0"),
        ("00010000:9F:00.0", "10000:9f:00.0"),
        ("ABCD1234:9F:00.0", "abcd1234:9f:00.0"),
    ],
)
def test_bus_ids_take_sysfs_form(nvml, sysfs):
    assert pci_bus_id(nvml) == sysfs


@pytest.mark.parametrize(
    "nvml", ["000010000:9F:00.0", "", "9F:00.0", "00000000:9F:00", "00000000:9F:00.0\n", "٠٠٠٠:9f:00.0"]
)
def test_odd_bus_ids_are_refused(nvml):
    with pytest.raises(OddDeviceError, match="is not of the form"):
        pci_bus_id(nvml)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("9.0", "9.0.0"),
        ("13.0", "13.0.0"),
        ("580.159.04", "580.159.4"),
        ("580.65", "580.65.0"),
        ("580", "580.0.0"),
        ("000.00.010", "0.0.10"),
        ("580.65.06-rc.1", "580.65.6-rc.1"),
        ("580.65+git-7", "580.65.0+git-7"),
        ("580.65.06-open+abc", "580.65.6-open+abc"),
        ("1.2.3.04", "1.2.3+04"),
        ("1.2.3.4.5-x+y", "1.2.3-x+4.5.y"),
    ],
)
def test_versions_take_three_numbers(text, normal):
    assert gpu.version(text) == normal


@pytest.mark.parametrize(
    "text",
    [
        "",
        "N/A",
        "v1.2",
        "1..2",
        "1.x",
        "1.2.",
        "580.65 ",
        "1.2-01",
        "1.2-",
        "1.2+",
        "1.2-ä",
        "1\n",
        "١.٢",
        "1-" + "a" * 64,
    ],
)
def test_odd_versions_are_refused(text):
    with pytest.raises(OddDeviceError, match="version"):
        gpu.version(text)


# The expression that semver.org gives for strict semantic versions, which is what the API server checks.
SEMVER = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
    r"(?:-((?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(?:\.(?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*))?"
    r"(?:\+([0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*))?",
    re.ASCII,
)


@given(st.text("0123456789.-+ab", max_size=24) | st.from_regex(r"[0-9]{1,4}(\.[0-9]{1,4}){0,4}", fullmatch=True))
def test_every_version_is_one_the_api_takes_and_its_own_normal_form(text):
    try:
        normal = gpu.version(text)
    except OddDeviceError:
        return
    assert SEMVER.fullmatch(normal)
    assert gpu.version(normal) == normal


@given(st.lists(st.integers(0, 9999), min_size=1, max_size=3), st.integers(0, 3))
def test_numbers_keep_their_values_whatever_zeros_stand_in_front(numbers, zeros):
    text = ".".join("0" * zeros + str(number) for number in numbers)
    assert [int(number) for number in gpu.version(text).split(".")] == [*numbers, 0, 0][:3]


@pytest.mark.parametrize(
    ("number", "text"), [(13000, "13.0.0"), (12040, "12.4.0"), (12090, "12.9.0"), (11080, "11.8.0")]
)
def test_cuda_numbers(number, text):
    assert gpu.cuda_version(number) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (2, "Kepler"),
        (3, "Maxwell"),
        (4, "Pascal"),
        (5, "Volta"),
        (6, "Turing"),
        (7, "Ampere"),
        (8, "Ada Lovelace"),
        (9, "Hopper"),
        (10, "Blackwell"),
        (13, "Rubin"),
        (0xFFFFFFFF, "Unknown"),
        (17, "Unknown(17)"),
        (0, "Unknown(0)"),
    ],
)
def test_architectures(number, text):
    assert gpu.architecture_text(number) == text


def test_brands():
    texts = (
        "Unknown Quadro Tesla NVS Grid GeForce Titan NvidiaVApps NvidiaVPC NvidiaVCS NvidiaVWS NvidiaCloudGaming "
        "QuadroRTX NvidiaRTX Nvidia GeForceRTX TitanRTX Unknown(17)"
    )
    assert [gpu.brand_text(number) for number in range(18)] == texts.split()


def test_addressing_modes():
    assert [gpu.addressing_mode_text(number) for number in range(4)] == ["None", "HMM", "ATS", "Unknown(3)"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("gpu-0", GpuName(0)),
        ("gpu-12", GpuName(12)),
        ("gpu-0-mig-1g5gb-19-0", MigName(0, "1g5gb", 19, 0)),
        ("gpu-0-mig-1g5gb-me-20-0", MigName(0, "1g5gb-me", 20, 0)),
        ("gpu-2-mig-4g95gb-5-0", MigName(2, "4g95gb", 5, 0)),
        ("gpu-vfio-3", VfioName(3)),
        ("gpu-", None),
        ("gpu-x", None),
        ("gpu-0-mig-1g5gb-19", None),
        ("gpu-0\n", None),
        ("gpu-٣", None),
        ("other-0", None),
        ("", None),
    ],
)
def test_names_say_what_they_name(text, name):
    assert parse_name(text) == name
    if name is not None:
        assert str(name) == text
