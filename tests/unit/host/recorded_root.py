"""Driver roots laid out on a FakeHost from their listings: that of the recordings, and those of distributions."""

from __future__ import annotations

import re
from pathlib import Path

from nvdra_mock_nvml.elf import shared_object

from nvdra.testing.host import FakeHost

GOLDEN = Path(__file__).parents[2] / "golden"
RECORDINGS = GOLDEN / "recordings"
PACKAGES = sorted((GOLDEN / "driver-roots").glob("*.txt"))  # drivers of distributions, by system and version
VERSION = "550.163.01"
ROOT = "/srv/driver"

_LINE = re.compile(r"(?P<mode>\S{10}) '(?P<path>[^']+)'(?: -> '(?P<target>[^']+)')?(?: (?P<major>\w+):(?P<minor>\w+))?")


def lay_out(host: FakeHost, root: str = ROOT, listing: Path = RECORDINGS / "driver-root.txt") -> None:
    entries = [_LINE.fullmatch(line) for line in listing.read_text().splitlines()]
    targets = {
        entry["target"]: entry["path"].rpartition("/")[2] for entry in entries if entry is not None and entry["target"]
    }
    for entry in entries:
        assert entry is not None
        path, name = root + entry["path"], entry["path"].rpartition("/")[2]
        mode = sum(1 << (8 - i) for i, letter in enumerate(entry["mode"][1:]) if letter != "-")
        match entry["mode"][0]:
            case "c":
                host.put_device(path, int(entry["major"], 16), int(entry["minor"], 16), mode=mode)
            case "l":
                host.link(path, entry["target"])
            case _ if ".so." in name:
                # The recorded management library was a stand-in that names itself by its file.
                soname = name if name.startswith("libnvidia-ml") else targets.get(name, name)
                soname = soname if soname.rpartition(".")[2] != "so" else name
                host.write(path, shared_object(soname), mode=mode)
            case _:
                host.write(path, b"x", mode=mode)
