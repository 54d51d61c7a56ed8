"""A mock node as tests use it: its library in this process, programs run on it, its nvidia-smi."""

import ctypes
import os
import subprocess
import weakref
from collections.abc import Callable
from pathlib import Path

from nvdra_mock_nvml import Root

PORTRAITS = ["h200x1", "h200x2", "h100x8", "a100x8", "gpus16", "b200x8", "gb200x4", "recorded-a100x8"]
PROBE = Path(__file__).parent / "mock_nvml_probe.py"
SUCCESS, UNINITIALIZED, INVALID, UNSUPPORTED, NOT_FOUND, TOO_SMALL, NO_DRIVER = 0, 1, 2, 3, 6, 7, 9
LOST, MISMATCH, WRONG_VERSION, NO_GPUS, UNKNOWN = 15, 18, 25, 28, 999
NO_GPUS_FLAG = 1


def _end_sessions(library: ctypes.CDLL) -> None:
    while library.nvmlShutdown() == SUCCESS:
        pass


class Library:
    """The library of a root, loaded into this process; each root has its own copy, so they do not meet.

    Sessions that a test leaves open end with the object: they hold device nodes open.
    """

    def __init__(self, root: Root) -> None:
        self.c = ctypes.CDLL(str(root.library.resolve()), mode=ctypes.RTLD_GLOBAL | os.RTLD_LAZY)
        self.c.nvmlErrorString.restype = ctypes.c_char_p
        weakref.finalize(self, _end_sessions, self.c).atexit = False

    def __getattr__(self, name: str) -> Callable[..., int]:
        function: Callable[..., int] = getattr(self.c, name)
        return function

    def count(self) -> int:
        number = ctypes.c_uint()
        assert self.nvmlDeviceGetCount_v2(ctypes.byref(number)) == SUCCESS
        return number.value

    def handle(self, index: int) -> ctypes.c_void_p:
        handle = ctypes.c_void_p()
        assert self.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) == SUCCESS
        return handle

    def minor(self, handle: ctypes.c_void_p) -> int:
        """The minor, or minus the code it fails with."""
        minor = ctypes.c_uint()
        code = self.nvmlDeviceGetMinorNumber(handle, ctypes.byref(minor))
        return minor.value if code == SUCCESS else -code

    def minors(self) -> list[int]:
        """The visible GPUs, in a session of their own."""
        assert self.nvmlInitWithFlags(NO_GPUS_FLAG) == SUCCESS
        try:
            return [self.minor(self.handle(index)) for index in range(self.count())]
        finally:
            assert self.nvmlShutdown() == SUCCESS


def on(root: Root, *command: str | Path) -> str:
    """What a program prints that finds the root's library by the loader's path."""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(root.library.parent)}
    done = subprocess.run([str(word) for word in command], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def smi(root: Root, *arguments: str, status: int = 0) -> str:
    done = subprocess.run([str(root.nvidia_smi), *arguments], env={}, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout
