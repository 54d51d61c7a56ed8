"""An MPS daemon on a real GPU: the script of its container run by a shell here, and what CUDA sees of its limits.

    python -m tests.contract.mps_run DRIVER_ROOT      # "/", or where the driver lies; as root

Sets no compute mode. Pipe and log folders are temporary. Prints one line a fact.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from nvdra.gpu.mps import MpsSettings
from nvdra.gpu.mps_deployment import STARTUP_LOG, script

CLIENT = """
import ctypes as C, os
cuda = C.CDLL("libcuda.so.1")
def call(name, *arguments):
    if code := getattr(cuda, name)(*arguments): raise SystemExit(f"{name}: error {code}")
device, context, count = C.c_int(), C.c_void_p(), C.c_int()
free, total = C.c_size_t(), C.c_size_t()
call("cuInit", 0); call("cuDeviceGet", C.byref(device), 0)
call("cuDevicePrimaryCtxRetain", C.byref(context), device); call("cuCtxSetCurrent", context)
call("cuDeviceGetAttribute", C.byref(count), 16, device); call("cuMemGetInfo_v2", C.byref(free), C.byref(total))
made = [mib for mib in (512, 1024, 4096) if not cuda.cuMemAlloc_v2(C.byref(C.c_uint64()), C.c_size_t(mib << 20))]
print("multiprocessors", count.value, "total, free, allocated MiB", total.value >> 20, free.value >> 20, made)
"""
LIMIT = "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"


def main(root: str) -> None:
    base = "" if root == "/" else root
    with tempfile.TemporaryDirectory(prefix="mps-") as folder:
        pipe, log = Path(folder, "pipe"), Path(folder, "log")
        pipe.mkdir()
        log.mkdir()
        env = {**os.environ, "CUDA_MPS_PIPE_DIRECTORY": str(pipe), "CUDA_MPS_LOG_DIRECTORY": str(log)}
        query = ["nvidia-smi", "--query-gpu=uuid,compute_mode", "--format=csv,noheader"]
        uuid, mode = subprocess.check_output(query, text=True).splitlines()[0].split(", ")
        print("compute mode before:", mode)
        _client(env | {"CUDA_MPS_PIPE_DIRECTORY": "/none"}, "without MPS")
        text = script(MpsSettings(50, ((uuid, "4096M"),), True))
        for inside, here in (("/var/log/nvidia-mps", str(log)), ("/tmp/nvidia-mps", str(pipe))):
            text = text.replace(f"/driver-root{inside}", here)
        text = text.replace("chroot /driver-root", f"chroot {base or '/'}").replace("/driver-root", base)
        visible = env | {"CUDA_VISIBLE_DEVICES": uuid}
        daemon = subprocess.Popen(["sh", "-c", text], env=visible, stdout=subprocess.DEVNULL)
        try:
            while not (log / STARTUP_LOG).exists() and daemon.poll() is None:
                time.sleep(0.05)
            for command in ("get_default_active_thread_percentage", f"get_default_device_pinned_mem_limit {uuid}"):
                ask = ["nvidia-cuda-mps-control"]
                answer = subprocess.run(ask, input=command, env=env, capture_output=True, text=True, check=False)
                print(f"{command}: {answer.stdout.strip()}")
            _client(env, "through the daemon")
            _client(env | {LIMIT: "0=1024M"}, "a share of 1 GiB")
        finally:
            began = time.monotonic()
            daemon.send_signal(signal.SIGTERM)
            status = daemon.wait(20)
        print(f"ended with status {status} after {time.monotonic() - began:.2f} s; left:", *sorted(os.listdir(pipe)))
        print("compute mode after:", subprocess.check_output(query, text=True).splitlines()[0].split(", ")[1])


def _client(env: dict[str, str], what: str) -> None:
    ran = subprocess.run([sys.executable, "-c", CLIENT], env=env, capture_output=True, text=True, check=False)
    print(f"{what}: {(ran.stdout or ran.stderr).strip().splitlines()[-1]}")


if __name__ == "__main__":
    main(sys.argv[1])
