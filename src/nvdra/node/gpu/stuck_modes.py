"""Changes of MIG mode that GPUs of this node refused, kept in a file for as long as the node is not booted anew."""

from __future__ import annotations

import json
from collections.abc import Mapping

from nvdra import telemetry
from nvdra.gpu import StuckMode
from nvdra.ports import Host

NAME = "stuck-mig-modes.json"


class StuckModes:
    """What GPUs refused, by PCI address, as the plugin's folder keeps it."""

    def __init__(self, host: Host, plugin_dir: str) -> None:
        self._host = host
        self._path = f"{plugin_dir}/{NAME}"
        self._known = read_stuck_modes(host, plugin_dir)

    def known(self) -> Mapping[str, StuckMode]:
        return self._known

    async def note(self, address: str, stuck: StuckMode) -> None:
        """Remember a refusal. A file that cannot be written costs the next program this knowledge, nothing else."""
        self._known = {**self._known, address: stuck}
        gpus = {gpu: {"on": one.on, "reason": one.reason} for gpu, one in self._known.items()}
        content = json.dumps({"bootID": self._host.boot_id(), "gpus": gpus}, indent=1).encode()
        try:
            await self._host.replace(self._path, content, mode=0o600, durable=False)
        except OSError as error:
            telemetry.warning("Could not keep a GPU's refusal to change MIG mode", path=self._path, cause=str(error))


def read_stuck_modes(host: Host, plugin_dir: str) -> dict[str, StuckMode]:
    """What was kept in this boot; nothing if there is no such file, or none that can be read."""
    try:
        kept = json.loads(host.read(f"{plugin_dir}/{NAME}"))
        if kept["bootID"] != host.boot_id():
            return {}
        return {str(gpu): StuckMode(bool(one["on"]), str(one["reason"])) for gpu, one in kept["gpus"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}
