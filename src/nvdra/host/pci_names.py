"""Names of NVIDIA's devices, from the node's pci.ids or the one of this image."""

from __future__ import annotations

from collections.abc import Mapping

from nvdra.ports import Host

# DROP-IN: the Go driver's name for a device that its list lacks.
UNKNOWN = "UNKNOWN_DEVICE"

# Source: pci.ids; the folders in which distributions put it.
_PLACES = (
    "/usr/share/misc/pci.ids",
    "/usr/local/share/pci.ids",
    "/usr/share/hwdata/pci.ids",
    "/usr/share/pci.ids",
)
_VENDOR = "10de"
_LIMIT = 64  # bytes of a string attribute that the API server takes


class PciNames:
    """Reads NVIDIA's section of the list once.

    host_root   the host's root as this program sees it
    """

    def __init__(self, host: Host, host_root: str) -> None:
        self._host = host
        self._host_root = host_root.rstrip("/")
        self._names: Mapping[str, str] | None = None

    def look(self, device: int) -> str:
        """The name of a device by its PCI id."""
        if self._names is None:
            self._names = self._read()
        name = self._names.get(f"{device:04x}", UNKNOWN)
        return name.encode()[:_LIMIT].decode(errors="ignore")

    def _read(self) -> Mapping[str, str]:
        for path in (*_PLACES, *(f"{self._host_root}{place}" for place in _PLACES)):
            try:
                return _section(self._host.read(path).decode(errors="replace"))
            except OSError:
                continue
        return {}


def _section(text: str) -> Mapping[str, str]:
    """Device names of NVIDIA by id: lines of one tab after the vendor's."""
    found = {}
    is_ours = False
    for line in text.splitlines():
        if line[:1] not in ("\t", "#", ""):
            if is_ours:
                break
            is_ours = line.startswith(_VENDOR)
        elif is_ours and line[:1] == "\t" and line[1:2] != "\t":
            number, _, name = line.strip().partition("  ")
            found[number] = name.strip()
    return found
