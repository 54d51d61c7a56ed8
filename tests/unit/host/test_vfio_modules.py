"""The vfio module for a function: of the aliases that fit, the one with the fewest wildcards."""

from __future__ import annotations

from pathlib import Path

import pytest

from nvdra.host import DriverRoot, VfioModules
from nvdra.testing.host import FakeHost

ADDRESS = "0009:01:00.0"
ROOT = DriverRoot("/driver", "/driver")
ALIASES = """\
# Aliases extracted from modules themselves.
alias pci:v000010DEd*sv*sd*bc03sc00i00* nouveau
alias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci
alias vfio_pci:v000010DEd00002342sv*sd*bc*sc*i* nvgrace_gpu_vfio_pci
alias vfio_pci:v000010DEd00002342sv*sd*bc*sc*i* a_later_one
alias vfio_pci:v00008086d*sv*sd*bc*sc*i* some_other
alias vfio_pci:broken
alias vfio_pci:v000010DEd00002345sv*sd* too_short
"""


def module(folder: Path, modalias: str | None, aliases: str | None, place: str = "/host-root/lib/modules") -> str:
    host = FakeHost(folder)
    host.write("/proc/sys/kernel/osrelease", "6.8.0-45-generic\n")
    if modalias is not None:
        host.write(f"/sys/bus/pci/devices/{ADDRESS}/modalias", modalias)
    if aliases is not None:
        host.write(f"{place}/6.8.0-45-generic/modules.alias", aliases)
    try:
        return VfioModules(host, ROOT, "/host-root").look(ADDRESS)
    finally:
        host.close()


@pytest.mark.parametrize(
    ("device", "name"), [("2342", "nvgrace_gpu_vfio_pci"), ("2330", "vfio_pci"), ("2345", "vfio_pci")]
)
@pytest.mark.parametrize("place", ["/host-root/lib/modules", "/lib/modules"])
def test_the_alias_that_fits_best_wins_and_the_first_of_several(
    tmp_path: Path, device: str, name: str, place: str
) -> None:
    modalias = f"pci:v000010DEd0000{device}sv000010DEsd000016EBbc03sc02i00\n"
    assert module(tmp_path, modalias, ALIASES, place) == name


@pytest.mark.parametrize(
    ("modalias", "aliases"),
    [
        (None, ALIASES),
        ("pci:v000010DEd00002342sv000010DEsd000016EBbc03sc02i00", None),
        ("pci:v000010DEd00002342sv000010DEsd000016EBbc03sc02i00", ""),
        ("usb:v1D6Bp0002", ALIASES),
    ],
)
def test_where_nothing_is_known_it_is_vfio_pci(tmp_path: Path, modalias: str | None, aliases: str | None) -> None:
    assert module(tmp_path, modalias, aliases) == "vfio_pci"
