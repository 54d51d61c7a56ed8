"""MPS control daemons: which one a group of devices needs, with which settings, and what it adds to containers.

A daemon serves the devices of one group of one claim. Where devices are shared, it serves one device for all claims
that have a share of it. Its folder `mps/<id>` in the plugin's folder has what daemon and containers share.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from nvdra.api.configs import MPS, ConfigError, GpuConfig, GpuSharing, MigDeviceConfig, MigSharing, MpsConfig
from nvdra.api.mps_limits import default_limit, device_limit, index
from nvdra.api.quantity import Quantity
from nvdra.cdi import Edits, Mount
from nvdra.claims import ConfigRefused, Group
from nvdra.gpu.gpu import Gpu
from nvdra.gpu.mig import MigDevice, MigSpec

# What a container sees; the Go driver's.
_PIPE, _SHM = "/tmp/nvidia-mps", "/dev/shm"
_BIND = ("rw", "nosuid", "nodev", "bind")

_MULTI_USER = (7, 0)  # CUDA compute capability

_SHARED = "-share"


@dataclass(frozen=True, slots=True)
class MpsSettings:
    """What a daemon is told when it starts.

    percentage   of active threads; None: the daemon's own default
    limits       of pinned device memory, by device UUID, sorted: ("GPU-…", "1024M")
    multi_user   serve clients of every user at once
    """

    percentage: int | None = None
    limits: tuple[tuple[str, str], ...] = ()
    multi_user: bool = False


@dataclass(frozen=True, slots=True)
class StartMpsDaemon:
    """Run an MPS control daemon for these devices; rolled back by ending it. Its facts are its id, by device UUID.

    gpus       full GPUs, whose compute mode it sets
    uuids      of all devices, sorted
    names      of all devices
    settings   None where the step is only to be rolled back
    """

    kind: ClassVar[str] = "mps"
    has_rollback: ClassVar[bool] = True

    id: str
    gpus: tuple[Gpu, ...]
    uuids: tuple[str, ...]
    settings: MpsSettings | None = None
    names: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return self.id

    @property
    def resources(self) -> frozenset[str]:
        """Full GPUs by PCI address, MIG devices by UUID: two MIG devices of a GPU have daemons of their own."""
        full = {gpu.uuid for gpu in self.gpus}
        devices = {uuid for uuid in self.uuids if uuid not in full}
        return frozenset({gpu.pci_bus_id for gpu in self.gpus} | devices) or frozenset((f"mps-{self.id}",))

    @property
    def is_shared(self) -> bool:
        """Whether it serves every claim with a share of its device."""
        return is_shared_id(self.id)


def daemon_fact(uuid: str) -> str:
    """The name of the fact that says which daemon serves a device."""
    return f"mps {uuid}"


def mps_config(config: object) -> MpsConfig | None:
    """The MPS settings that a normalized config asks for; None if it asks for no MPS."""
    match config:
        case (
            GpuConfig(sharing=GpuSharing(strategy=strategy, mps=mps))
            | MigDeviceConfig(sharing=MigSharing(strategy=strategy, mps=mps))
        ) if strategy == MPS:
            return mps or MpsConfig()
    return None


def daemon_id(claim_uid: str, uuids: Iterable[str]) -> str:
    """The Go driver's id of the daemon for a group's devices."""
    text = ",".join(sorted(uuids))
    return f"{claim_uid}-{hashlib.sha256(text.encode()).hexdigest()[:5]}"


def shared_daemon_id(uuid: str) -> str:
    """The id of the daemon of a shared device: the name of its Deployment has 63 characters at most."""
    return uuid.partition("-")[2].lower() + _SHARED


def is_shared_id(daemon: str) -> bool:
    """Whether it is the id of the daemon of a shared device."""
    return daemon.endswith(_SHARED)


def mps_step(claim_uid: str, group: Group, *, is_shared: bool) -> StartMpsDaemon | None:
    """The daemon that a group needs; None without MPS, or for devices of admin access alone.

    is_shared   devices are shared between claims
    Raises ConfigRefused.
    """
    config = mps_config(group.config)
    if config is None:
        return None
    if isinstance(group.config, GpuConfig) and group.config.sharing and group.config.sharing.time_slicing is not None:
        raise ConfigRefused(f"error getting MPS configuration: cannot use TimeSlicingConfig with the '{MPS}' strategy")
    devices = {d.uuid: d for r, d in group.members if not r.admin_access and isinstance(d, Gpu | MigDevice)}
    if not devices:
        return None
    if any(isinstance(device, MigSpec) for _, device in group.members):
        raise ConfigRefused("MPS is not yet supported when using featureGates.DynamicMIG=true")
    uuids = tuple(sorted(devices))
    gpus = tuple(device for uuid in uuids if isinstance(device := devices[uuid], Gpu))
    if is_shared and len(uuids) > 1:
        requests = " ".join(dict.fromkeys(result.request for result, _ in group.members))
        raise ConfigRefused(
            f"requests '[{requests}]' ask for shares of {len(uuids)} devices with one MPS config: a container talks to "
            "one MPS daemon, and a shared device has its own; give each request a config of its own and each container "
            "one request"
        )
    settings = mps_settings(config, uuids, gpus)
    daemon = shared_daemon_id(uuids[0]) if is_shared else daemon_id(claim_uid, uuids)
    return StartMpsDaemon(daemon, gpus, uuids, settings, tuple(devices[uuid].name for uuid in uuids))


def mps_settings(config: MpsConfig, uuids: Sequence[str], gpus: Iterable[Gpu]) -> MpsSettings:
    """The settings for these devices. Raises ConfigRefused with the Go driver's text."""
    try:
        limits = pinned_limits(uuids, config.pinned_memory_limit, dict(config.per_device_limits))
    except ConfigError as odd:
        raise ConfigRefused(
            "error starting MPS control daemon: error transforming DefaultPerDevicePinnedMemoryLimit into string: "
            f"{odd}"
        ) from None
    if config.multi_user and (lacking := _without_multi_user(gpus)):
        raise ConfigRefused(
            "error starting MPS control daemon: multiuser mode was requested but is not supported: "
            + "\n".join(reversed(lacking))
        )
    return MpsSettings(config.active_thread_percentage, tuple(sorted(limits.items())), bool(config.multi_user))


def pinned_limits(uuids: Sequence[str], default: Quantity | None, per_device: Mapping[str, Quantity]) -> dict[str, str]:
    """The limit of each device that has one, as the daemon takes it ("1024M").

    uuids        sorted
    per_device   by UUID, or by index into `uuids`; overrides the default
    Raises ConfigError.
    """
    limits = {} if default is None or not uuids else dict.fromkeys(uuids, default_limit(default))
    for key, quantity in per_device.items():
        uuid = _device(key, uuids)
        limits[uuid] = device_limit(key, quantity)
    return limits


def mps_edits(folder: str, limit_mib: int = 0) -> Edits:
    """What a daemon adds to each container with its devices.

    folder      the daemon's
    limit_mib   of this client's device memory; 0: none but the daemon's own. A container can change it: advisory.
    """
    env = [f"CUDA_MPS_PIPE_DIRECTORY={_PIPE}"]
    if limit_mib:
        env.append(f"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT=0={limit_mib}M")
    mounts = (Mount(f"{folder}/shm", _SHM, _BIND), Mount(f"{folder}/pipe", _PIPE, _BIND))
    return Edits(env=tuple(env), mounts=mounts)


def _device(key: str, uuids: Sequence[str]) -> str:
    if key in uuids:
        return key
    place = index(key)
    if not 0 <= place < len(uuids):
        raise ConfigError(f"invalid device: invalid device index: {place}")
    return uuids[place]


def _without_multi_user(gpus: Iterable[Gpu]) -> list[str]:
    lacking = []
    for gpu in gpus:
        numbers = gpu.cuda_compute_capability.split(".")
        if not all(number.isdigit() for number in numbers[:2]) or len(numbers) < 2:
            lacking.append(
                f'gpu {gpu.uuid} has invalid cudaComputeCapability "{gpu.cuda_compute_capability}": '
                "invalid semantic version"
            )
        elif tuple(map(int, numbers[:2])) < _MULTI_USER:
            shown = f"{numbers[0]}.{numbers[1]}"
            lacking.append(f'{gpu.uuid} has insufficient cudaComputeCapability "{shown}", wanted >= "7.0"')
    return lacking
