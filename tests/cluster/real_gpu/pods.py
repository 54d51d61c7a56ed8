"""What the pods run: CUDA through the driver's own API, by ctypes, so that no compiler and no toolkit is needed."""

from __future__ import annotations

from tests.cluster.harness.api import Object
from tests.cluster.harness.cluster import QUICK

_CUDA = r'''
import ctypes as C, os, subprocess, sys, time
cuda = C.CDLL("libcuda.so.1")
def call(name, *arguments):
    code = getattr(cuda, name)(*arguments)
    if code:
        text = C.c_char_p()
        cuda.cuGetErrorString(code, C.byref(text))
        raise SystemExit(f"{name}: error {code}: {(text.value or b'').decode()}")
device, context, count = C.c_int(), C.c_void_p(), C.c_int()
began = time.monotonic()
call("cuInit", 0); call("cuDeviceGet", C.byref(device), 0)
call("cuDevicePrimaryCtxRetain", C.byref(context), device); call("cuCtxSetCurrent", context)
opened = time.monotonic() - began
call("cuDeviceGetAttribute", C.byref(count), 16, device)
def uuid():
    raw = (C.c_ubyte * 16)()
    call("cuDeviceGetUuid", raw, device)
    text = bytes(raw).hex()
    return "GPU-" + "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
PTX = b"""
.version 7.0
.target sm_70
.address_size 64
.visible .entry twice(.param .u64 out, .param .u32 n)
{
 .reg .pred %p; .reg .b32 %r<6>; .reg .b64 %rd<4>;
 ld.param.u64 %rd1, [out];
 ld.param.u32 %r1, [n];
 mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mov.u32 %r4, %tid.x;
 mad.lo.s32 %r5, %r2, %r3, %r4;
 setp.ge.u32 %p, %r5, %r1;
 @%p bra END;
 cvta.to.global.u64 %rd2, %rd1;
 mul.wide.u32 %rd3, %r5, 4;
 add.s64 %rd2, %rd2, %rd3;
 shl.b32 %r5, %r5, 1;
 st.global.u32 [%rd2], %r5;
END:
 ret;
}
.visible .entry wrong(.param .u64 out, .param .u32 n)
{
 .reg .b32 %r<2>; .reg .b64 %rd<2>;
 mov.u64 %rd1, 16;
 mov.u32 %r1, 1;
 st.global.u32 [%rd1], %r1;
 ret;
}
"""
def launch(kernel, n=1 << 20):
    module, function, memory = C.c_void_p(), C.c_void_p(), C.c_uint64()
    call("cuModuleLoadData", C.byref(module), PTX)
    call("cuModuleGetFunction", C.byref(function), module, kernel.encode())
    call("cuMemAlloc_v2", C.byref(memory), C.c_size_t(4 * n))
    number = C.c_uint32(n)
    parameters = (C.c_void_p * 2)(C.cast(C.byref(memory), C.c_void_p), C.cast(C.byref(number), C.c_void_p))
    call("cuLaunchKernel", function, n // 256, 1, 1, 256, 1, 1, 0, None, parameters, None)
    call("cuCtxSynchronize")
    out = (C.c_uint32 * n)()
    call("cuMemcpyDtoH_v2", out, memory, C.c_size_t(4 * n))
    call("cuMemFree_v2", memory)
    return all(out[i] == 2 * i for i in range(0, n, 997))
def memory():
    free, total = C.c_size_t(), C.c_size_t()
    call("cuMemGetInfo_v2", C.byref(free), C.byref(total))
    return f"total={total.value >> 20} free={free.value >> 20}"
def allocated(*mib):
    return [each for each in mib if not cuda.cuMemAlloc_v2(C.byref(C.c_uint64()), C.c_size_t(each << 20))]
'''
COMPUTE = (
    _CUDA
    + r"""
print("uuid", uuid())
print("multiprocessors", count.value, memory(), f"context_s={opened:.2f}")
print("computed", launch("twice"))
print("pipe", os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "-"))
print("allocated MiB", allocated(512, 1024, 4096))
print("done", flush=True)
time.sleep(3600)
"""
)
"""Prints what CUDA sees of its GPU, computes, allocates 512, 1,024 and 4,096 MiB, and stays."""
FAULT = (
    _CUDA
    + r"""
print("writes at", time.time(), flush=True)
try:
    launch("wrong")
except SystemExit as refused:
    print(refused, flush=True)
print("done", flush=True)
"""
)
"""Writes to an address that no kernel may write to: its own process fails, and the GPU reports XID 31."""


def pod(name: str, image: str, code: str, claim: str) -> Object:
    """A pod of one container of `image` that runs Python code with the GPUs of one claim."""
    container = {
        "name": "main",
        "image": image,
        "command": ["/opt/nvdra/bin/python3", "-c", code],
        "resources": {"claims": [{"name": "gpus"}]},
    }
    return {
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "resourceClaims": [{"name": "gpus", "resourceClaimName": claim}],
            "containers": [container],
            **QUICK,
        },
    }
