"""Prepared devices: one class for each kind of device, and the fields that all kinds share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

DeviceType = Literal["gpu", "mig", "vfio", "channel", "daemon"]


@dataclass(frozen=True, slots=True)
class PreparedGpu:
    """A full GPU."""

    type: ClassVar[DeviceType] = "gpu"

    uuid: str


@dataclass(frozen=True, slots=True)
class PreparedMig:
    """A MIG device, in NVML's ids. `parent_pci_bus_id` is "" unless another writer recorded it."""

    type: ClassVar[DeviceType] = "mig"

    uuid: str
    parent_minor: int
    parent_uuid: str
    gi_id: int
    ci_id: int
    parent_pci_bus_id: str = ""


@dataclass(frozen=True, slots=True)
class UnplacedMig:
    """A MIG device of an unsupported entry: the file does not say its whole placement (releases before v25.12)."""

    type: ClassVar[DeviceType] = "mig"

    uuid: str


@dataclass(frozen=True, slots=True)
class PreparedVfio:
    """A GPU bound to vfio-pci.

    uuid         made from the PCI address (version 5, DNS namespace), not NVML's
    pci_bus_id   "" if the writer kept none (releases before v0.4.0)
    """

    type: ClassVar[DeviceType] = "vfio"

    uuid: str
    pci_bus_id: str = ""


@dataclass(frozen=True, slots=True)
class PreparedChannel:
    """An IMEX channel of a ComputeDomain."""

    type: ClassVar[DeviceType] = "channel"

    id: int


@dataclass(frozen=True, slots=True)
class PreparedDaemon:
    """The device of a ComputeDomain's IMEX daemon."""

    type: ClassVar[DeviceType] = "daemon"

    id: int


GpuInfo = PreparedGpu | PreparedMig | UnplacedMig | PreparedVfio
DomainInfo = PreparedChannel | PreparedDaemon
Info = GpuInfo | DomainInfo


@dataclass(frozen=True, slots=True)
class PreparedDevice:
    """One allocation result: its prepared device, and the answer that kubelet got.

    metadata   the device's attributes for the container, as JSON in the Go driver's field order; b"" for none
    """

    info: Info
    requests: tuple[str, ...]  # full form, "req" or "req/sub"
    pool: str
    device: str
    cdi_ids: tuple[str, ...]
    share_id: str | None = None
    metadata: bytes = b""

    @property
    def type(self) -> DeviceType:
        """The device's type, as metrics have it."""
        return self.info.type

    @property
    def uuid(self) -> str:
        """The UUID of the GPU, MIG device or vfio device; "" for a channel or daemon."""
        return "" if isinstance(self.info, PreparedChannel | PreparedDaemon) else self.info.uuid

    @property
    def mig(self) -> PreparedMig | None:
        """The MIG device's placement, if it is a MIG device and the checkpoint says it."""
        return self.info if isinstance(self.info, PreparedMig) else None


@dataclass(frozen=True, slots=True)
class PreparedGroup:
    """Devices of gpu.nvidia.com that share one config, and what was applied to them.

    time_slice_applied   None if the file does not say
    verbatim   the group as JSON, where the file says more of it than the fields here do (keys of a later release):
               written again as it is, so a change of a field must clear it
    """

    devices: tuple[PreparedDevice, ...]
    mps_daemon_id: str = ""
    time_slice_applied: bool | None = None
    verbatim: bytes = b""


@dataclass(frozen=True, slots=True)
class DomainGroup:
    """Devices of compute-domain.nvidia.com that share one config.

    config_type   "channel" or "daemon"
    domain        UID of the ComputeDomain
    verbatim      as in `PreparedGroup`
    """

    devices: tuple[PreparedDevice, ...]
    config_type: str
    domain: str
    verbatim: bytes = b""


Group = PreparedGroup | DomainGroup


@dataclass(frozen=True, slots=True)
class Unsupported:
    """Prepared groups of an unsupported entry, as the JSON they were read as.

    kinds     why it is unsupported: of "mig" (`UnplacedMig`) and of the schema's `unsupported` kinds ("vfio", "mps")
    devices   what is known of each, enough to answer kubelet again
    """

    prepared_devices: bytes
    kinds: frozenset[str]
    device_names: tuple[str, ...]
    devices: tuple[PreparedDevice, ...] = ()
