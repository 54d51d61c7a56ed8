"""The file of faults: what a restarted plugin must know. It is void after a reboot, which resets every GPU."""

from __future__ import annotations

import json
from typing import Any

from nvdra import telemetry
from nvdra.gpu.health import SEVERITY, Fault, Target
from nvdra.gpu.health_state import Health, Key, Raised
from nvdra.ports import Host

NAME = "device-health.json"


class HealthFile:
    """Faults in the plugin's folder."""

    def __init__(self, host: Host, plugin_dir: str) -> None:
        self._host = host
        self._path = f"{plugin_dir}/{NAME}"
        self._logged = ""

    def read(self) -> Health:
        """The faults of this boot; none if there is no such file, or none that can be read."""
        try:
            kept = json.loads(self._host.read(self._path))
            return _decoded(kept) if kept["bootID"] == self._host.boot_id() else Health()
        except FileNotFoundError:
            return Health()
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            telemetry.warning(
                "The file of GPU faults cannot be read: faults from before this start are known only as far as NVML "
                "still reports a recovery action",
                path=self._path,
                cause=f"{type(error).__name__}: {error}",
            )
            return Health()

    async def write(self, health: Health) -> None:
        """Keep the faults. If that fails, only the next process misses them."""
        content = json.dumps({"bootID": self._host.boot_id(), **_encoded(health)}, indent=1).encode()
        try:
            await self._host.replace(self._path, content, mode=0o600, durable=False)
        except OSError as error:
            if self._logged != str(error):
                telemetry.warning("Could not keep the faults of GPUs", path=self._path, cause=str(error))
            self._logged = str(error)
        else:
            self._logged = ""


def _encoded(health: Health) -> dict[str, Any]:
    return {
        "faults": [
            {
                **_key(key),
                "value": raised.fault.value,
                "effect": raised.fault.effect,
                "links": raised.fault.links,
                "seen": raised.seen_s,
            }
            for key, raised in health.faults.items()
        ],
        "raised": [{**_key(key), "times": list(times)} for key, times in health.flaps.items()],
    }


def _key(key: Key) -> dict[str, Any]:
    target, name = key
    return {"gpu": target.address, "partition": list(target.partition), "key": name}


def _decoded(kept: dict[str, Any]) -> Health:
    faults = {}
    for each in kept["faults"]:
        target, name = _key_of(each)
        effect = SEVERITY[SEVERITY.index(each["effect"])]
        fault = Fault(target, name, str(each["value"]), effect, int(each["links"]))
        faults[target, name] = Raised(fault, float(each["seen"]))
    return Health(faults, {_key_of(each): tuple(map(float, each["times"])) for each in kept["raised"]})


def _key_of(each: dict[str, Any]) -> Key:
    return Target(str(each["gpu"]), tuple(map(int, each["partition"]))), str(each["key"])
