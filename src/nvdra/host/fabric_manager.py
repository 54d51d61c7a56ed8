"""Fabric Manager through its library `libnvfm.so`: one connection, opened on demand and kept.

Calls block; the library answers within its time-out or not at all.
Source: Fabric Manager SDK, nv_fm_agent.h and nv_fm_types.h.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nvdra.host.driver_root import DriverFileMissing, DriverRoot
from nvdra.ports import Host

LIBRARY = "libnvfm.so"

BAD_PARAM, TIMEOUT, IN_USE, NO_CONNECTION, NOT_READY = -1, -5, -7, -9, -22
_TEXTS = {
    -1: "bad parameter",
    -2: "generic error",
    -3: "not supported",
    -4: "library not initialized",
    -5: "timeout",
    -6: "version mismatch",
    -7: "in use",
    -8: "not configured",
    -9: "no connection to Fabric Manager",
    -10: "NVLink error",
    -22: "not ready",
}
_TIMEOUT_MS = 1000
_PARAMS_VERSION, _LIST_VERSION = 0x02000110, 0x0102030C
_INET, _UNIX = 1, 2
_PARAMS = struct.Struct("=I256sIII")
_HEAD = struct.Struct("=III")  # of the list: version, partitions, most; of a partition: id, active, GPUs
_MOST_PARTITIONS, _MOST_GPUS = 64, 16
_GPU_SIZE = 128
_PARTITION_SIZE = _HEAD.size + _MOST_GPUS * _GPU_SIZE
_LIST_SIZE = _HEAD.size + _MOST_PARTITIONS * _PARTITION_SIZE


class FabricError(Exception):
    """Fabric Manager's refusal, or its silence; the text names the function and the cause.

    code   of nv_fm_types.h; 0: the library itself is missing or unusable
    """

    def __init__(self, function: str, code: int, text: str = "") -> None:
        super().__init__(text or f"{function}: {_TEXTS.get(code, 'unknown error')} ({code})")
        self.code = code

    @property
    def is_temporary(self) -> bool:
        """Whether Fabric Manager may answer soon: it starts, is busy, or was restarted."""
        return self.code in (TIMEOUT, NO_CONNECTION, NOT_READY)


@dataclass(frozen=True, slots=True)
class FabricAddress:
    """Where Fabric Manager listens: the path of a socket, or the address of a host."""

    address: str
    is_socket: bool = True


@dataclass(frozen=True, slots=True)
class ListedPartition:
    """A partition as Fabric Manager lists it, with the module ids of its GPUs."""

    id: int
    is_active: bool
    modules: tuple[int, ...]


def fabric_address(root: DriverRoot, environ: Mapping[str, str]) -> FabricAddress:
    """Fabric Manager's address from the Go driver's variables; else its usual socket below the driver root."""
    if (address := environ.get("NVIDIA_FABRICMANAGER_ADDRESS")) is not None:
        return FabricAddress(address or "127.0.0.1", is_socket=False)
    path = environ.get("NVIDIA_FABRICMANAGER_UNIX_SOCKET")
    return FabricAddress(path or root.below("/run/nvidia-fabricmanager/socket"))


def has_fabric(host: Host, root: DriverRoot, host_root: str, environ: Mapping[str, str]) -> bool:
    """Whether the node has NVSwitches; never with a mock of the devices (ALT_PROC_DEVICES_PATH).

    Looks below the host's root, which is mounted for passthrough, and at this container's own /proc and /sys.

    Raises OSError for what is there and cannot be read.
    """
    if environ.get("ALT_PROC_DEVICES_PATH"):
        return False
    for procfs in (f"{host_root.rstrip('/')}/proc", root.procfs):
        if _names(host, f"{procfs}/driver/nvidia-nvswitch/devices"):
            return True
    for sysfs in (f"{host_root.rstrip('/')}/sys", root.sysfs):
        folder = f"{sysfs}/class/infiniband"
        for name in _names(host, folder):
            with contextlib.suppress(FileNotFoundError):
                if b"SW_MNG" in host.read(f"{folder}/{name}/device/vpd"):
                    return True
    return False


class FabricManager:
    """Fabric Manager behind one address. Not for two threads at once.

    library   the path of libnvfm.so as it is now. A DriverFileMissing says why there is none
    """

    def __init__(self, library: Callable[[], str], address: FabricAddress) -> None:
        self._find = library
        self._address = address
        self._library: Any = None
        self._handle: Any = None

    def partitions(self) -> tuple[ListedPartition, ...]:
        """All partitions with their states. Raises FabricError."""
        import ctypes

        content = ctypes.create_string_buffer(_LIST_SIZE)
        _HEAD.pack_into(content, 0, _LIST_VERSION, 0, 0)
        self._call("fmGetSupportedFabricPartitions", ctypes.byref(content))
        return _partitions(content.raw)

    def activate(self, partition: int) -> None:
        """Raises FabricError."""
        self._change("fmActivateFabricPartition", partition)

    def deactivate(self, partition: int) -> None:
        """Raises FabricError."""
        self._change("fmDeactivateFabricPartition", partition)

    def close(self) -> None:
        """Close the connection and the library's session."""
        if self._library is not None:
            self._disconnect()
            self._library.fmLibShutdown()
            self._library = None

    def _change(self, function: str, partition: int) -> None:
        import ctypes

        self._call(function, ctypes.c_uint32(partition))

    def _call(self, function: str, argument: Any) -> None:
        """Call over the open connection; over a new one if Fabric Manager was restarted since it was opened."""
        was_open = self._handle is not None
        code = self._once(function, argument)
        if code == NO_CONNECTION and was_open:
            code = self._once(function, argument)
        if code != 0:
            raise FabricError(function, code)

    def _once(self, function: str, argument: Any) -> int:
        if self._handle is None:
            self._connect()
        code: int = getattr(self._library, function)(self._handle, argument)
        if code in (NO_CONNECTION, TIMEOUT):
            self._disconnect()
        return code

    def _connect(self) -> None:
        import ctypes

        if self._library is None:
            self._load()
        name = self._address.address.encode()
        if len(name) > 255:
            raise FabricError("fmConnect", BAD_PARAM, f"the address {self._address.address} has over 255 bytes")
        is_socket = self._address.is_socket
        params = ctypes.create_string_buffer(
            _PARAMS.pack(_PARAMS_VERSION, name, _TIMEOUT_MS, is_socket, _UNIX if is_socket else _INET), _PARAMS.size
        )
        handle = ctypes.c_void_p()
        code = self._library.fmConnect(ctypes.byref(params), ctypes.byref(handle))
        if code != 0:
            text = f"fmConnect to {self._address.address}: {_TEXTS.get(code, 'unknown error')} ({code})"
            raise FabricError("fmConnect", code, text)
        self._handle = handle

    def _load(self) -> None:
        import ctypes  # 1 MiB that only nodes with the gate pay for

        try:
            path = self._find()
            library = ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
            code = library.fmLibInit()
        except (DriverFileMissing, OSError, AttributeError) as error:
            raise FabricError(LIBRARY, 0, f"{LIBRARY} cannot be used: {error}") from None
        if code != 0:
            raise FabricError("fmLibInit", code)
        self._library = library

    def _disconnect(self) -> None:
        if self._handle is not None:
            self._library.fmDisconnect(self._handle)  # what it refuses has ended anyway
            self._handle = None


def _partitions(content: bytes) -> tuple[ListedPartition, ...]:
    function = "fmGetSupportedFabricPartitions"
    _, count, _ = _HEAD.unpack_from(content)
    if count > _MOST_PARTITIONS:
        raise FabricError(function, 0, f"{function} lists {count} partitions, over {_MOST_PARTITIONS}: another ABI")
    found = []
    for number in range(count):
        at = _HEAD.size + number * _PARTITION_SIZE
        partition, is_active, gpus = _HEAD.unpack_from(content, at)
        if gpus > _MOST_GPUS:
            text = f"{function} lists partition {partition} with {gpus} GPUs, over {_MOST_GPUS}: another ABI"
            raise FabricError(function, 0, text)
        starts = range(at + _HEAD.size, at + _HEAD.size + gpus * _GPU_SIZE, _GPU_SIZE)
        modules = tuple(int.from_bytes(content[start : start + 4], "little") for start in starts)
        found.append(ListedPartition(partition, bool(is_active), modules))
    return tuple(found)


def _names(host: Host, folder: str) -> list[str]:
    try:
        return host.list(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
