# NVML's functions, structs and constants: what nvml.h says, as far as it is used.
# A function is one `_declare` line, newest name first, then what an older library calls it; one of the few shapes
# `_call_*` calls it.

cdef enum:
    _MOST_FUNCTIONS = 96

cdef struct Names:
    const char *name
    const char *older
    const char *oldest

cdef Names _functions[_MOST_FUNCTIONS]
cdef int _function_count = 0


cdef int _declare(const char *name, const char *older=NULL, const char *oldest=NULL) noexcept:
    global _function_count
    assert _function_count < _MOST_FUNCTIONS
    _functions[_function_count] = Names(name, older, oldest)
    _function_count += 1
    return _function_count - 1


cdef int INIT = _declare("nvmlInitWithFlags")
cdef int SHUTDOWN = _declare("nvmlShutdown")
cdef int ERROR_STRING = _declare("nvmlErrorString")
cdef int DRIVER_VERSION = _declare("nvmlSystemGetDriverVersion")
cdef int CUDA_DRIVER_VERSION = _declare("nvmlSystemGetCudaDriverVersion")
cdef int COUNT = _declare("nvmlDeviceGetCount_v2", "nvmlDeviceGetCount")
cdef int HANDLE_BY_INDEX = _declare("nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetHandleByIndex")
cdef int NAME = _declare("nvmlDeviceGetName")
cdef int UUID = _declare("nvmlDeviceGetUUID")
cdef int MINOR_NUMBER = _declare("nvmlDeviceGetMinorNumber")
cdef int MIG_MODE = _declare("nvmlDeviceGetMigMode")
cdef int MEMORY = _declare("nvmlDeviceGetMemoryInfo")
cdef int ARCHITECTURE = _declare("nvmlDeviceGetArchitecture")
cdef int BRAND = _declare("nvmlDeviceGetBrand")
cdef int COMPUTE_CAPABILITY = _declare("nvmlDeviceGetCudaComputeCapability")
cdef int PCI = _declare("nvmlDeviceGetPciInfo_v3", "nvmlDeviceGetPciInfo_v2", "nvmlDeviceGetPciInfo")
cdef int ADDRESSING_MODE = _declare("nvmlDeviceGetAddressingMode")
cdef int VIRTUALIZATION_MODE = _declare("nvmlDeviceGetVirtualizationMode")
cdef int PERSISTENCE_MODE = _declare("nvmlDeviceGetPersistenceMode")
cdef int MODULE_ID = _declare("nvmlDeviceGetModuleId")
cdef int NUMA_NODE = _declare("nvmlDeviceGetNumaNodeId")
cdef int CPU_AFFINITY = _declare("nvmlDeviceGetCpuAffinity")
cdef int MEMORY_AFFINITY = _declare("nvmlDeviceGetMemoryAffinity")
cdef int NVLINK_STATE = _declare("nvmlDeviceGetNvLinkState")
cdef int NVLINK_VERSION = _declare("nvmlDeviceGetNvLinkVersion")
cdef int NVLINK_REMOTE_PCI = _declare("nvmlDeviceGetNvLinkRemotePciInfo_v2", "nvmlDeviceGetNvLinkRemotePciInfo")
cdef int NVLINK_REMOTE_TYPE = _declare("nvmlDeviceGetNvLinkRemoteDeviceType")
cdef int COMMON_ANCESTOR = _declare("nvmlDeviceGetTopologyCommonAncestor")
cdef int P2P_STATUS = _declare("nvmlDeviceGetP2PStatus")
cdef int HANDLE_BY_UUID = _declare("nvmlDeviceGetHandleByUUID")
cdef int INDEX = _declare("nvmlDeviceGetIndex")
cdef int SET_MIG_MODE = _declare("nvmlDeviceSetMigMode")
cdef int PROFILE = _declare("nvmlDeviceGetGpuInstanceProfileInfo")
cdef int PLACEMENTS = _declare("nvmlDeviceGetGpuInstancePossiblePlacements_v2",
                               "nvmlDeviceGetGpuInstancePossiblePlacements")
cdef int GPU_INSTANCES = _declare("nvmlDeviceGetGpuInstances")
cdef int GPU_INSTANCE = _declare("nvmlDeviceGetGpuInstanceById")
cdef int GPU_INSTANCE_INFO = _declare("nvmlGpuInstanceGetInfo")
cdef int CREATE_GPU_INSTANCE = _declare("nvmlDeviceCreateGpuInstanceWithPlacement")
cdef int DESTROY_GPU_INSTANCE = _declare("nvmlGpuInstanceDestroy")
cdef int COMPUTE_INSTANCE = _declare("nvmlGpuInstanceGetComputeInstanceById")
cdef int COMPUTE_INSTANCE_INFO = _declare("nvmlComputeInstanceGetInfo_v2", "nvmlComputeInstanceGetInfo")
cdef int CREATE_COMPUTE_INSTANCE = _declare("nvmlGpuInstanceCreateComputeInstance")
cdef int DESTROY_COMPUTE_INSTANCE = _declare("nvmlComputeInstanceDestroy")
# The first form, without instance ids, is of no use here.
cdef int PROCESSES = _declare("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2")
cdef int HANDLE_BY_PCI = _declare("nvmlDeviceGetHandleByPciBusId_v2", "nvmlDeviceGetHandleByPciBusId")
cdef int EVENT_SET_CREATE = _declare("nvmlEventSetCreate")
cdef int EVENT_SET_FREE = _declare("nvmlEventSetFree")
cdef int EVENT_SET_WAIT = _declare("nvmlEventSetWait_v2", "nvmlEventSetWait")
cdef int EVENT_TYPES = _declare("nvmlDeviceGetSupportedEventTypes")
cdef int REGISTER_EVENTS = _declare("nvmlDeviceRegisterEvents")
cdef int FIELD_VALUES = _declare("nvmlDeviceGetFieldValues")

cdef int FABRIC_INFO = _declare("nvmlDeviceGetGpuFabricInfo")
cdef int FABRIC_INFO_V = _declare("nvmlDeviceGetGpuFabricInfoV")

# Structs and limits.

cdef enum:
    _INIT_NO_GPUS = 1
    _VERSION_SIZE = 80
    _NAME_SIZE = 96
    _MOST_LINKS = 18
    _CPU_WORDS = 128  # 8192 CPUs, the most Linux is built for
    _NODE_WORDS = 16
    _AFFINITY_NODE = 0
    _P2P_NVLINK = 2
    _ADDRESSING_MODE_V1 = 0x01000008
    _FABRIC_INFO_V2 = 0x02000024
    _MOST_SILENT = 1024
    _PROFILE_INDICES = 18
    _MOST_PLACEMENTS = 32  # of one profile; GPUs have 8 memory slices
    _MOST_GPU_INSTANCES = 32  # at once; mig-minors knows ids 0 to 14
    _COMPUTE_IDS = 8  # in a GPU instance, as mig-minors counts them
    _MOST_EVENTS = 256  # taken in one turn
    _TIMEOUT = 10
    _FIELD_RECOVERY_ACTION = 230

cdef struct PciInfo:
    char bus_id_legacy[16]
    unsigned int domain
    unsigned int bus
    unsigned int device
    unsigned int pci_device_id
    unsigned int pci_subsystem_id
    char bus_id[32]

cdef struct Memory:
    unsigned long long total
    unsigned long long free
    unsigned long long used

cdef struct AddressingMode:
    unsigned int version
    unsigned int value

cdef struct FabricInfo:
    unsigned char cluster_uuid[16]
    unsigned int status
    unsigned int clique_id
    unsigned char state

cdef struct FabricInfoV2:
    unsigned int version
    unsigned char cluster_uuid[16]
    unsigned int status
    unsigned int clique_id
    unsigned char state
    unsigned int health_mask

cdef struct Placement:
    unsigned int start
    unsigned int size

cdef struct ProfileInfo:
    unsigned int id
    unsigned int is_p2p_supported
    unsigned int slices
    unsigned int most
    unsigned int multiprocessors
    unsigned int copy_engines
    unsigned int decoders
    unsigned int encoders
    unsigned int jpeg_engines
    unsigned int ofa_engines
    unsigned long long memory_mib

cdef struct GpuInstanceInfo:
    void *device
    unsigned int id
    unsigned int profile_id
    Placement placement

cdef struct ComputeInstanceInfo:
    void *device  # the MIG device
    void *gpu_instance
    unsigned int id
    unsigned int profile_id
    Placement placement  # in compute slices; the unversioned form has none

cdef struct Process:
    unsigned int pid
    unsigned long long used_memory
    unsigned int gi_id
    unsigned int ci_id

cdef struct EventData:
    void *device
    unsigned long long kind
    unsigned long long data
    unsigned int gi_id
    unsigned int ci_id

cdef struct FieldValue:
    unsigned int field
    unsigned int scope
    long long timestamp
    long long latency_us
    unsigned int value_type
    unsigned int code
    unsigned long long value  # a union: all forms that are used begin here, and the others leave the rest 0

# The shapes. A device is any handle: of a GPU, a MIG device, an instance.

ctypedef int (*Plain)() noexcept nogil
ctypedef int (*Number)(unsigned int) noexcept nogil
ctypedef const char *(*ErrorString)(int) noexcept nogil
ctypedef int (*Text)(char *, unsigned int) noexcept nogil
ctypedef int (*Out)(void *) noexcept nogil
ctypedef int (*NumberOut)(unsigned int, void *) noexcept nogil
ctypedef int (*DeviceText)(void *, char *, unsigned int) noexcept nogil
ctypedef int (*Device)(void *) noexcept nogil
ctypedef int (*DeviceOut)(void *, void *) noexcept nogil
ctypedef int (*DeviceTwo)(void *, unsigned int *, unsigned int *) noexcept nogil
ctypedef int (*DeviceWideDevice)(void *, unsigned long long, void *) noexcept nogil
ctypedef int (*DeviceOutNumber)(void *, void *, unsigned int) noexcept nogil
ctypedef int (*DeviceNumberOut)(void *, unsigned int, void *) noexcept nogil
ctypedef int (*DeviceNumberTwo)(void *, unsigned int, void *, void *) noexcept nogil
ctypedef int (*DeviceBits)(void *, unsigned int, unsigned long *, unsigned int) noexcept nogil
ctypedef int (*TwoDevicesOut)(void *, void *, void *) noexcept nogil
ctypedef int (*TwoDevicesNumberOut)(void *, void *, int, void *) noexcept nogil


cdef struct Place:
    # Where a walk stands: the function called last, and how many were called. Read by other threads.
    int function
    int calls


cdef inline int _call_text(void **table, int f, Place *place, char *out, unsigned int size) noexcept nogil:
    cdef void *address = _enter(table, f, place)
    return (<Text> address)(out, size) if address else _FUNCTION_NOT_FOUND


cdef inline int _call_out(void **table, int f, Place *place, void *out) noexcept nogil:
    cdef void *address = _enter(table, f, place)
    return (<Out> address)(out) if address else _FUNCTION_NOT_FOUND


cdef inline int _call_number_out(void **table, int f, Place *place, unsigned int number, void *out) noexcept nogil:
    cdef void *address = _enter(table, f, place)
    return (<NumberOut> address)(number, out) if address else _FUNCTION_NOT_FOUND


cdef inline int _call_device_text(void **table, int f, Place *place, void *device, char *out,
                                  unsigned int size) noexcept nogil:
    cdef void *address = _enter(table, f, place)
    return (<DeviceText> address)(device, out, size) if address else _FUNCTION_NOT_FOUND


cdef inline int _call_device(void **table, int f, Place *place, void *device) noexcept nogil:
    cdef void *address = _enter(table, f, place)
    return (<Device> address)(device) if address else _FUNCTION_NOT_FOUND


cdef inline int _call_device_out(void **table, int f, Place *place, void *device, void *out) noexcept nogil:
    cdef void *address = _enter(table, f, place)
    return (<DeviceOut> address)(device, out) if address else _FUNCTION_NOT_FOUND


cdef inline int _call_device_two(void **table, int f, Place *place, void *device, unsigned int *first,
                                 unsigned int *second) noexcept nogil:
    cdef void *address = _enter(table, f, place)
    return (<DeviceTwo> address)(device, first, second) if address else _FUNCTION_NOT_FOUND


cdef inline int _call_device_wide_device(void **table, int f, Place *place, void *device, unsigned long long number,
                                         void *other) noexcept nogil:
    cdef void *address = _enter(table, f, place)
    return (<DeviceWideDevice> address)(device, number, other) if address else _FUNCTION_NOT_FOUND


cdef inline int _call_device_out_number(void **table, int f, Place *place, void *device, void *out,
                                        unsigned int number) noexcept nogil:
    cdef void *address = _enter(table, f, place)
    return (<DeviceOutNumber> address)(device, out, number) if address else _FUNCTION_NOT_FOUND


cdef inline int _call_device_number_out(void **table, int f, Place *place, void *device, unsigned int number,
                                        void *out) noexcept nogil:
    cdef void *address = _enter(table, f, place)
    return (<DeviceNumberOut> address)(device, number, out) if address else _FUNCTION_NOT_FOUND


cdef inline int _call_device_number_two(void **table, int f, Place *place, void *device, unsigned int number,
                                        void *first, void *second) noexcept nogil:
    cdef void *address = _enter(table, f, place)
    return (<DeviceNumberTwo> address)(device, number, first, second) if address else _FUNCTION_NOT_FOUND


cdef inline int _call_device_bits(void **table, int f, Place *place, void *device, unsigned int words,
                                  unsigned long *out, unsigned int scope) noexcept nogil:
    cdef void *address = _enter(table, f, place)
    return (<DeviceBits> address)(device, words, out, scope) if address else _FUNCTION_NOT_FOUND


cdef inline int _call_two_devices_out(void **table, int f, Place *place, void *one, void *other,
                                      void *out) noexcept nogil:
    cdef void *address = _enter(table, f, place)
    return (<TwoDevicesOut> address)(one, other, out) if address else _FUNCTION_NOT_FOUND


cdef inline int _call_two_devices_number_out(void **table, int f, Place *place, void *one, void *other, int number,
                                             void *out) noexcept nogil:
    cdef void *address = _enter(table, f, place)
    return (<TwoDevicesNumberOut> address)(one, other, number, out) if address else _FUNCTION_NOT_FOUND


# table[0] is the dlopen handle, table[1 + f] the address of function f: NULL not looked for yet, _ABSENT not there.
cdef void *_ABSENT = <void *> 1


cdef void *_enter(void **table, int f, Place *place) noexcept nogil:
    """The address of a function that is about to be called, or NULL; counts the call and leaves its mark."""
    cdef void *address = _load_pointer(&table[1 + f])
    if address == NULL:
        address = dlsym(table[0], _functions[f].name)
        if address == NULL and _functions[f].older != NULL:
            address = dlsym(table[0], _functions[f].older)
        if address == NULL and _functions[f].oldest != NULL:
            address = dlsym(table[0], _functions[f].oldest)
        _store_pointer(&table[1 + f], address if address else _ABSENT)
    if address == _ABSENT or address == NULL:
        return NULL
    _count()
    if place != NULL:
        _store(&place.function, f)
        _store(&place.calls, place.calls + 1)
    return address
