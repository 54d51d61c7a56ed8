"""The base CDI document: device `all`, which daemons get beside their claim's, with the driver's files."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable

from nvdra import cdi, telemetry
from nvdra.gpu.edits import FoundNode, common_edits
from nvdra.host import DriverRoot, DriverVersionUnknown, Footprint, HookMissing, is_unchanged, survey
from nvdra.host.driver_files import device_node
from nvdra.ports import Host

KIND = "k8s.compute-domain.nvidia.com/device"
FILE = "k8s.compute-domain.nvidia.com-device_base.yaml"
_DEVICE = "all"
_FOLDERS = ("", "nvidia-caps/", "nvidia-caps-imex-channels/")
_NAME = re.compile(
    r"nvidia(?!-fs|-nvswitch|-nvlink)[^/]*|nvidia-caps/[^/]+|nvidia-caps-imex-channels/channel[0-9]+", re.ASCII
)


class BaseSpec:
    """The file of the base document, written again where the driver's files changed.

    cdi_root       the folder of CDI files
    hook           nvidia-cdi-hook, as the container runtime reaches it
    host_root      the driver root as the container runtime sees it
    restore_hook   puts the hook there if it is gone, raises HookMissing; None: it is the host's
    """

    def __init__(
        self,
        host: Host,
        root: DriverRoot,
        cdi_root: str,
        *,
        hook: str,
        host_root: str,
        restore_hook: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self._host = host
        self._root = root
        self._path = f"{cdi_root}/{FILE}"
        self._hook = hook
        self._host_root = host_root
        self._restore_hook = restore_hook
        self._seen: tuple[Footprint, tuple[FoundNode, ...]] | None = None
        self._content = b""
        self._cause = ""

    async def renew(self) -> bool:
        """Write the file where it is not as it should be; whether it is now."""
        try:
            if self._restore_hook is not None:
                await self._restore_hook()
            if not self._is_current():
                await self._write()
        except (DriverVersionUnknown, HookMissing, OSError, cdi.InvalidDocument) as error:
            if str(error) != self._cause:
                telemetry.warning(
                    "The base CDI document cannot be written; daemons cannot start until it is",
                    path=self._path,
                    cause=str(error),
                )
            self._cause = str(error)
            return False
        self._cause = ""
        return True

    def _is_current(self) -> bool:
        if self._seen is None or not is_unchanged(self._host, self._root, self._seen[0]):
            return False
        try:
            return self._nodes() == self._seen[1] and self._host.read(self._path) == self._content
        except OSError:
            return False

    async def _write(self) -> None:
        files, seen = await asyncio.to_thread(survey, self._host, self._root)
        nodes = self._nodes()
        document = cdi.Document(
            KIND,
            (cdi.CdiDevice(_DEVICE, cdi.Edits(device_nodes=tuple(map(_edit, nodes)))),),
            _without_nodes(common_edits(files, self._hook)),
        )
        whole = cdi.transform_root(cdi.simplify(document), self._root.path, self._host_root)
        content = cdi.render(whole)
        await self._host.replace(self._path, content, mode=0o644, durable=False)
        self._seen, self._content = (seen, nodes), content
        telemetry.info(1, "Wrote the base CDI document", path=self._path)

    def _nodes(self) -> tuple[FoundNode, ...]:
        """Every device node of the driver below the device root."""
        found = []
        for folder in _FOLDERS:
            try:
                names = self._host.list(f"{self._root.dev.rstrip('/')}/dev/{folder}".rstrip("/"))
            except OSError:
                continue
            for name in names:
                if _NAME.fullmatch(f"{folder}{name}") is None:
                    continue
                if (node := device_node(self._host, self._root, f"/dev/{folder}{name}")) is not None:
                    found.append(node)
        return tuple(found)


def _edit(node: FoundNode) -> cdi.DeviceNode:
    return cdi.DeviceNode(
        path=node.container_path,
        host_path="" if node.host_path == node.container_path else node.host_path,
        major=node.major,
        minor=node.minor,
        file_mode=node.mode,
        permissions="rwm",
        gid=node.gid,
    )


def _without_nodes(edits: cdi.Edits) -> cdi.Edits:
    return cdi.Edits(edits.env, (), edits.hooks, edits.mounts, edits.additional_gids)
