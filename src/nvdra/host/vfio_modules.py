"""The vfio module that suits a PCI function best, by the aliases of the kernel's modules.

Source: modules.alias of depmod; `alias vfio_pci:` lines are made by drivers/vfio/pci since Linux 5.16.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from nvdra.host.driver_root import DriverRoot
from nvdra.ports import Host

DEFAULT_MODULE = "vfio_pci"

_ID = r"([0-9A-F]+|\*)"
_MODALIAS = re.compile(rf"(?:vfio_)?pci:v{_ID}d{_ID}sv{_ID}sd{_ID}bc{_ID}sc{_ID}i{_ID}", re.ASCII)
_PREFIX = b"alias vfio_pci:"

_Alias = tuple[tuple[str, ...], str]


class VfioModules:
    """Modules for the functions of one node; the kernel's list is read once.

    host_root   the host's root as this program sees it
    """

    def __init__(self, host: Host, root: DriverRoot, host_root: str) -> None:
        self._host = host
        self._root = root
        self._host_root = host_root.rstrip("/")
        self._known: tuple[_Alias, ...] | None = None

    def look(self, address: str) -> str:
        """The module's name, as modprobe takes it; vfio_pci where nothing is known."""
        if self._known is None:
            self._known = self._read()
        try:
            modalias = self._host.read(f"{self._root.sysfs}/bus/pci/devices/{address}/modalias").decode().strip()
        except (OSError, UnicodeDecodeError):
            return DEFAULT_MODULE
        return best_module(modalias, self._known)

    def _read(self) -> tuple[_Alias, ...]:
        try:
            release = self._host.read(f"{self._root.procfs}/sys/kernel/osrelease").decode().strip()
        except (OSError, UnicodeDecodeError):
            return ()
        for folder in (f"{self._host_root}/lib/modules", "/lib/modules"):
            try:
                return tuple(_aliases(self._host.read(f"{folder}/{release}/modules.alias")))
            except OSError:
                continue
        return ()


def best_module(modalias: str, aliases: Iterable[_Alias]) -> str:
    """The module of the alias that fits with the fewest wildcards, the first of several."""
    found = _MODALIAS.fullmatch(modalias)
    if found is None:
        return DEFAULT_MODULE
    fitting = [
        (fields.count("*"), module)
        for fields, module in aliases
        if all(want in ("*", has) for want, has in zip(fields, found.groups(), strict=True))
    ]
    return min(fitting, key=lambda each: each[0])[1] if fitting else DEFAULT_MODULE


def _aliases(content: bytes) -> Iterator[_Alias]:
    for line in content.splitlines():
        words = line.split()
        if line.startswith(_PREFIX) and len(words) == 3:
            found = _MODALIAS.fullmatch(words[1].decode(errors="replace"))
            if found is not None:
                yield found.groups(), words[2].decode(errors="replace")
