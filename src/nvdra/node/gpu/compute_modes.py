"""Compute modes of full GPUs, made exclusive for an MPS daemon and restored after it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

import orjson

from nvdra import telemetry
from nvdra.gpu import Gpu, Inventory
from nvdra.host import ComputeMode, NvidiaSmi, NvidiaSmiError
from nvdra.ports import Host

_EXCLUSIVE: ComputeMode = "EXCLUSIVE_PROCESS"
_DEFAULT: ComputeMode = "DEFAULT"


class ComputeModes:
    """Sets modes through the driver root's `nvidia-smi`, only where they change.

    Every method raises OSError, NvidiaSmiError and DriverFileMissing.
    inventory   as last scanned
    """

    def __init__(self, host: Host, smi: Callable[[], NvidiaSmi], inventory: Callable[[], Inventory]) -> None:
        self._host = host
        self._smi = smi
        self._inventory = inventory

    async def make_exclusive(self, gpus: Iterable[Gpu], before: str) -> None:
        """Set EXCLUSIVE_PROCESS; first write the modes from before into the file `before`, unless it is there."""
        uuids = [gpu.uuid for gpu in gpus]
        known = await self._read(uuids)
        if not self._host.exists(before):
            modes = {uuid: known.get(uuid, _DEFAULT) for uuid in uuids}
            await self._host.replace(before, orjson.dumps(modes), mode=0o644, durable=True)
        await self._set(dict.fromkeys(uuids, _EXCLUSIVE), known)

    async def restore(self, before: str, gpus: Iterable[Gpu]) -> None:
        """Set the modes that the file `before` says, where they still are exclusive.

        gpus   set to DEFAULT where there is no such file, or none that can be read
        """
        try:
            modes = _decoded(self._host.read(before))
        except (FileNotFoundError, ValueError):
            modes = {gpu.uuid: _DEFAULT for gpu in gpus}
        here = {gpu.uuid for gpu in self._inventory().gpus.values()}
        wanted = {uuid: mode for uuid, mode in modes.items() if uuid in here}
        if wanted:
            known = await self._read(wanted)
            await self._set({u: m for u, m in wanted.items() if known.get(u, _EXCLUSIVE) == _EXCLUSIVE}, known)

    async def _read(self, uuids: Iterable[str]) -> Mapping[str, ComputeMode]:
        try:
            return await self._smi().read_compute_modes(uuids)
        except NvidiaSmiError as error:
            telemetry.warning("Compute modes cannot be read", cause=str(error))
            return {}

    async def _set(self, wanted: Mapping[str, ComputeMode], known: Mapping[str, ComputeMode]) -> None:
        """All GPUs side by side; a GPU without compute modes is left as it is."""
        changes = [(uuid, mode) for uuid, mode in sorted(wanted.items()) if known.get(uuid) != mode]
        ends = await asyncio.gather(*(self._set_one(*change) for change in changes), return_exceptions=True)
        for end in ends:
            if isinstance(end, BaseException):
                raise end

    async def _set_one(self, uuid: str, mode: ComputeMode) -> None:
        try:
            await self._smi().set_compute_mode(uuid, mode)
        except NvidiaSmiError as error:
            if not error.is_not_supported:
                raise
            telemetry.info(1, "A GPU has no compute modes", uuid=uuid)


def _decoded(content: bytes) -> dict[str, ComputeMode]:
    """The modes in a file. Raises ValueError."""
    found = orjson.loads(content)
    if not isinstance(found, dict):
        raise ValueError("it is no object")
    modes: tuple[ComputeMode, ...] = (_DEFAULT, _EXCLUSIVE, "PROHIBITED")
    named = {mode: mode for mode in modes}
    return {uuid: named[mode] for uuid, mode in found.items() if mode in named}
