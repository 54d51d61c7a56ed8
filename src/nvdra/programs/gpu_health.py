"""Device health of gpu.nvidia.com, wired to the chassis: built only with the gate NVMLDeviceHealthCheck."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from nvdra import telemetry
from nvdra.gpu import Inventory
from nvdra.gpu.extents import DRIVER
from nvdra.gpu.health import extra_ignored, waits_for_reset
from nvdra.kubelet import DeviceHealth
from nvdra.node.gpu.fault_store import FaultStore
from nvdra.node.gpu.health_file import HealthFile
from nvdra.node.gpu.health_monitor import HealthMonitor
from nvdra.node.gpu.health_socket import HealthSocket
from nvdra.nvml import NvmlEvents
from nvdra.programs.chassis import Chassis
from nvdra.programs.gpu_flags import Options
from nvdra.telemetry.health_metrics import HealthMetrics


class GpuHealth:
    """The health monitor with its event session, its socket, and its report to kubelet.

    reread, rescan   as for `HealthMonitor`
    renew            publishes the devices with their taints
    """

    def __init__(
        self,
        chassis: Chassis,
        options: Options,
        library_path: Callable[[], str],
        inventory: Callable[[], Inventory],
        *,
        reread: Callable[[str], Awaitable[None]],
        rescan: Callable[[], Awaitable[None]],
        renew: Callable[[], None],
    ) -> None:
        self._chassis = chassis
        self._pool = options.node_name
        self._renew = renew
        ignored, odd = extra_ignored(options.additional_xids_to_ignore)
        for part in odd:
            telemetry.info(6, "Ignored a part of --additional-xids-to-ignore that is no XID", part=part)
        self.events = NvmlEvents(library_path, chassis.clock, waits_for_reset)
        metrics = HealthMetrics(chassis.registry, driver=DRIVER, node=options.node_name)
        file = HealthFile(chassis.host, chassis.paths.plugin_dir)
        self.store = FaultStore(chassis.clock, file, inventory, metrics, self._changed)
        self.monitor = HealthMonitor(
            self.events,
            chassis.clock,
            self.store,
            inventory,
            reread=reread,
            rescan=rescan,
            metrics=metrics,
            ignored=ignored,
        )
        chassis.health.is_served = True
        self._socket = HealthSocket(
            chassis.paths.plugin_dir,
            {"clear": self._clear, "pause": self._pause, "resume": self._resume, "show": self._show},
        )

    async def serve(self) -> None:
        """Answer administrators; a socket that cannot be made costs nothing else."""
        try:
            await self._socket.start()
        except OSError as error:
            telemetry.warning("nvdra health cannot be served", cause=str(error))
        self._chassis.stack.push_async_callback(self._socket.stop)

    def report(self) -> None:
        """Report to kubelet how every device is."""
        self._chassis.health.report(
            [DeviceHealth(self._pool, each.device, each.verdict, each.message) for each in self.store.verdicts()],
            self._chassis.clock.wall(),
        )

    def _changed(self) -> None:
        self._renew()
        self.report()

    async def _show(self, _device: str) -> Sequence[str]:
        return self.store.shown()

    async def _clear(self, device: str) -> Sequence[str]:
        return await self.monitor.clear(device)

    async def _pause(self, _device: str) -> Sequence[str]:
        await self.monitor.pause()
        return ["GPUs are not monitored and not held until nvdra health resume"]

    async def _resume(self, _device: str) -> Sequence[str]:
        await self.monitor.resume()
        return ["GPUs are monitored again"]
