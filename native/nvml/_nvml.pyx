# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# cython: autotestdict=False, auto_pickle=False, binding=True
"""NVML, bound by dlopen: ints and texts in, ints, texts and small tuples out.

This module only wraps NVML's C interface: it makes no decisions, does not wait and starts no thread.
Every call into the library is made without the GIL; a function the library lacks is an error of the call, never of
the import. functions.pxi lists the functions, fabric.pxi reads the NVLink fabric, gpu.pxi reads one GPU, mig.pxi its partitions, sweep.pxi a node; partition.pxi
changes how one GPU is partitioned; events.pxi waits for events.
"""

from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset, strcmp

__all__ = [
    "DRIVER_NOT_LOADED",
    "FUNCTION_NOT_FOUND",
    "GPU_IS_LOST",
    "INSUFFICIENT_RESOURCES",
    "INVALID_ARGUMENT",
    "IN_USE",
    "LIBRARY_NOT_FOUND",
    "LIB_RM_VERSION_MISMATCH",
    "NOT_FOUND",
    "NOT_SUPPORTED",
    "NO_PERMISSION",
    "RESET_REQUIRED",
    "SUCCESS",
    "TIMEOUT",
    "UNINITIALIZED",
    "Events",
    "Library",
    "Mig",
    "NvmlError",
    "NvmlMissing",
    "Sweep",
    "calls",
    "read_fabric",
]

cdef extern from "dlfcn.h" nogil:
    void *dlopen(const char *path, int flags)
    int dlclose(void *library)
    void *dlsym(void *library, const char *name)
    const char *dlerror()
    int RTLD_LAZY
    int RTLD_GLOBAL

cdef extern from * nogil:
    """
    #include <features.h>
    #ifdef __GLIBC__
    #include <malloc.h>
    #else
    #define malloc_trim(keep) ((void) (keep))
    #endif
    static unsigned long long nvdra_calls = 0;
    static inline void nvdra_count(void) { __atomic_add_fetch(&nvdra_calls, 1, __ATOMIC_RELAXED); }
    static inline unsigned long long nvdra_counted(void) { return __atomic_load_n(&nvdra_calls, __ATOMIC_RELAXED); }
    static inline int nvdra_load(int *at) { return __atomic_load_n(at, __ATOMIC_ACQUIRE); }
    static inline void nvdra_store(int *at, int value) { __atomic_store_n(at, value, __ATOMIC_RELEASE); }
    static inline void *nvdra_load_pointer(void **at) { return __atomic_load_n(at, __ATOMIC_ACQUIRE); }
    static inline void nvdra_store_pointer(void **at, void *value) { __atomic_store_n(at, value, __ATOMIC_RELEASE); }
    """
    void malloc_trim(size_t keep)
    void _count "nvdra_count" ()
    unsigned long long _counted "nvdra_counted" ()
    int _load "nvdra_load" (int *at)
    void _store "nvdra_store" (int *at, int value)
    void *_load_pointer "nvdra_load_pointer" (void **at)
    void _store_pointer "nvdra_store_pointer" (void **at, void *value)

# Return codes of NVML that the code depends on.
SUCCESS = 0
UNINITIALIZED = 1
INVALID_ARGUMENT = 2
NOT_SUPPORTED = 3
NO_PERMISSION = 4
NOT_FOUND = 6
DRIVER_NOT_LOADED = 9
TIMEOUT = 10
LIBRARY_NOT_FOUND = 12
FUNCTION_NOT_FOUND = 13
GPU_IS_LOST = 15
RESET_REQUIRED = 16
LIB_RM_VERSION_MISMATCH = 18
IN_USE = 19
INSUFFICIENT_RESOURCES = 23

cdef enum:
    _INVALID_ARGUMENT = 2
    _NOT_SUPPORTED = 3
    _NOT_FOUND = 6
    _INSUFFICIENT_SIZE = 7
    _FUNCTION_NOT_FOUND = 13
    _GPU_IS_LOST = 15
    _OUT_OF_MEMORY = 20

include "functions.pxi"


def calls() -> int:
    """How many NVML functions this process has called."""
    return _counted()


class NvmlError(Exception):
    """NVML returned an error: the function, the code, and NVML's text if it has one."""

    def __init__(self, code: int, function: str, text: str = "") -> None:
        super().__init__(f"{function}: {text or 'no text'} (NVML code {code})")
        self.code = code
        self.function = function
        self.text = text


class NvmlMissing(NvmlError):
    """The loaded library lacks the function: it is too old, or not NVML."""

    def __init__(self, function: str) -> None:
        super().__init__(FUNCTION_NOT_FOUND, function, "the library has no such function")


cdef str _name(int f):
    return _functions[f].name.decode("ascii")


cdef class Library:
    """One loaded NVML library.

    path   of the file; a name without a slash is looked for where the loader looks
    Raises NvmlError with code 12 when it cannot be loaded.
    """

    cdef void *_table[1 + _MOST_FUNCTIONS]
    cdef readonly str path

    def __cinit__(self, path: str) -> None:
        cdef bytes name = path.encode("utf-8", "surrogateescape")
        cdef const char *raw = name
        cdef const char *refusal = NULL
        self.path = path
        with nogil:
            self._table[0] = dlopen(raw, RTLD_LAZY | RTLD_GLOBAL)
            if self._table[0] == NULL:
                refusal = dlerror()
        if self._table[0] == NULL:
            text = refusal.decode("utf-8", "replace") if refusal != NULL else f"{path}: cannot be loaded"
            raise NvmlError(LIBRARY_NOT_FOUND, "dlopen", text)

    def init(self) -> None:
        """A session with the driver, also on a node where no GPU is visible; NVML counts nested ones."""
        cdef int code = 0
        cdef void *address
        with nogil:
            address = _enter(self._table, INIT, NULL)
            code = (<Number> address)(_INIT_NO_GPUS) if address else _FUNCTION_NOT_FOUND
        self._check(INIT, code)

    def shutdown(self) -> None:
        """End a session; the end of the last one closes the device nodes."""
        cdef int code = 0
        cdef void *address
        with nogil:
            address = _enter(self._table, SHUTDOWN, NULL)
            code = (<Plain> address)() if address else _FUNCTION_NOT_FOUND
        self._check(SHUTDOWN, code)

    def unload(self) -> None:
        """Unload the library: a loaded one keeps 15 MiB of memory.

        No thread may be in a call. Calls made afterwards raise UNINITIALIZED.
        """
        cdef void *library = self._table[0]
        cdef int f
        if library == NULL:
            return
        for f in range(_MOST_FUNCTIONS):
            _store_pointer(&self._table[1 + f], _ABSENT)
        self._table[0] = NULL
        with nogil:
            dlclose(library)
            malloc_trim(0)

    def error_text(self, code: int) -> str:
        """NVML's text for a return code."""
        cdef int number = code
        cdef const char *text = NULL
        cdef void *address
        if number == _FUNCTION_NOT_FOUND:
            return "the library has no such function"
        with nogil:
            address = _enter(self._table, ERROR_STRING, NULL)
            if address:
                text = (<ErrorString> address)(number)
        return text.decode("utf-8", "replace") if text != NULL else ""

    cdef int _check(self, int f, int code) except -1:
        if code == 0:
            return 0
        if self._table[0] == NULL:
            raise NvmlError(UNINITIALIZED, _name(f), f"{self.path} is loaded no more")
        if _load_pointer(&self._table[1 + f]) == _ABSENT:
            raise NvmlMissing(_name(f))
        raise NvmlError(code, _name(f), self.error_text(code))


include "fabric.pxi"
include "mig.pxi"
include "gpu.pxi"
include "partition.pxi"
include "sweep.pxi"
include "events.pxi"
