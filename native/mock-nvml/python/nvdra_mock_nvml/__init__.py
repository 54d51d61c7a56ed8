"""A mock NVML: a `libnvidia-ml.so.1` without hardware, and the driver roots it lives in.

from nvdra_mock_nvml import lay_out
root = lay_out(Path("/tmp/node"), "h100x8")      # eight H100, as a driver root with /proc and /sys stand-ins
root.library                                     # load this
root.remove_gpu(3)                               # seven H100, from the next nvmlInit on
root.set_mig_mode(0, True); root.create_mig(0, "1g.10gb", start=2)
lay_fabric(root).active()                        # Fabric Manager, by libnvfm.so; which of its partitions are active
root.set_faults([{"function": "nvmlDeviceGetName", "minor": 2, "code": "GPU_IS_LOST"}])
"""

from nvdra_mock_nvml.calls import read_calls
from nvdra_mock_nvml.fabric import MockFabric, lay_fabric, lay_partitions
from nvdra_mock_nvml.partitions import MigDevice, MigError, realistic_delays
from nvdra_mock_nvml.portraits import Portrait, load, names
from nvdra_mock_nvml.root import Root, lay_out
from nvdra_mock_nvml.tree import DeviceFiles, LayoutError

__all__ = [
    "DeviceFiles",
    "LayoutError",
    "MigDevice",
    "MigError",
    "MockFabric",
    "Portrait",
    "Root",
    "lay_fabric",
    "lay_out",
    "lay_partitions",
    "load",
    "names",
    "read_calls",
    "realistic_delays",
]
