# One GPU, read into a C struct without the GIL, and told afterwards.

cdef enum:
    _UNREAD = 0
    _READING = 1
    _READ = 2
    _REFUSED = 3
    _SILENT = 4
    _DISPLAY = 5

cdef struct Link:
    int is_there
    unsigned int is_active
    long long version
    long long remote_type
    char remote[32]

cdef struct Gpu:
    # Numbers that may be unknown are -1 then.
    int state
    int refusing
    int code
    Place place
    void *handle
    long long minor
    unsigned int architecture
    unsigned int brand
    unsigned int major_capability
    unsigned int minor_capability
    long long memory
    long long mig_current
    long long mig_pending
    long long addressing_mode
    long long virtualization_mode
    long long persistence_mode
    long long module_id
    long long numa_node
    char uuid[_NAME_SIZE]
    char name[_NAME_SIZE]
    char pci_bus_id[32]
    unsigned long cpus[_CPU_WORDS]
    unsigned long nodes[_NODE_WORDS]
    Link links[_MOST_LINKS]
    Profiles *profiles  # of its model, read by the first GPU of it; NULL where nobody asks for them
    bint has_read_profiles
    GpuInstances *instances  # NULL with MIG mode off


cdef void _bus_id(PciInfo *pci, char *out) noexcept nogil:
    """busId; of a library that fills only the older fields, the same text made of these."""
    pci.bus_id[31] = 0
    if pci.bus_id[0] != 0:
        memcpy(out, pci.bus_id, 32)
    else:
        snprintf(out, 32, "%08X:%02X:%02X.0", pci.domain, pci.bus, pci.device)


cdef inline bint _is_absent(int code) noexcept nogil:
    return code == _NOT_SUPPORTED or code == _FUNCTION_NOT_FOUND


cdef int _number(void **table, int f, Place *place, void *device, long long *out) noexcept nogil:
    """One number of a GPU into `out`, -1 when it is refused."""
    cdef unsigned int value = 0
    cdef int code = _call_device_out(table, f, place, device, &value)
    out[0] = <long long> value if code == 0 else -1
    return code


cdef int _refuse(Gpu *gpu, int f, int code) noexcept nogil:
    """Store the refusal that excludes a GPU; 0 if there is none."""
    if code != 0:
        gpu.refusing = f
        gpu.code = code
    return code


cdef int _refuse_lost(Gpu *gpu, int f, int code) noexcept nogil:
    """Like _refuse, for what a GPU can be published without: only a lost GPU is left out."""
    return _refuse(gpu, f, code if code == _GPU_IS_LOST else 0)


cdef int _refuse_present(Gpu *gpu, int f, int code) noexcept nogil:
    """Like _refuse, where "not supported" and a library without the function are answers too."""
    return _refuse(gpu, f, 0 if _is_absent(code) else code)


cdef int _read_gpu(void **table, unsigned int index, Gpu *gpu) noexcept nogil:
    """One GPU's answers. What its device is made of must be there; memory, modes and topology may be unknown."""
    cdef Place *place = &gpu.place
    cdef unsigned int value = 0
    cdef unsigned int second = 0
    cdef int code
    cdef PciInfo pci
    cdef Memory memory
    cdef AddressingMode mode
    pci.bus_id[0] = 0
    if _refuse(gpu, HANDLE_BY_INDEX, _call_number_out(table, HANDLE_BY_INDEX, place, index, &gpu.handle)):
        return _REFUSED
    if _refuse(gpu, NAME, _call_device_text(table, NAME, place, gpu.handle, gpu.name, _NAME_SIZE)):
        return _REFUSED
    if strcmp(gpu.name, "DGX Display") == 0 or strcmp(gpu.name, "NVIDIA DGX Display") == 0:
        return _DISPLAY
    if _refuse(gpu, MINOR_NUMBER, _number(table, MINOR_NUMBER, place, gpu.handle, &gpu.minor)):
        return _REFUSED
    if _refuse(gpu, UUID, _call_device_text(table, UUID, place, gpu.handle, gpu.uuid, _NAME_SIZE)):
        return _REFUSED

    gpu.mig_current = gpu.mig_pending = -1
    code = _call_device_two(table, MIG_MODE, place, gpu.handle, &value, &second)
    if _refuse_present(gpu, MIG_MODE, code):
        return _REFUSED
    if code == 0:
        gpu.mig_current = value
        gpu.mig_pending = second

    gpu.memory = -1
    code = _call_device_out(table, MEMORY, place, gpu.handle, &memory)
    if _refuse(gpu, MEMORY, 0 if code == _NOT_SUPPORTED else code):
        return _REFUSED
    if code == 0:
        gpu.memory = <long long> memory.total

    code = _call_device_out(table, ARCHITECTURE, place, gpu.handle, &gpu.architecture)
    if _refuse(gpu, ARCHITECTURE, code):
        return _REFUSED
    if _refuse(gpu, BRAND, _call_device_out(table, BRAND, place, gpu.handle, &gpu.brand)):
        return _REFUSED
    code = _call_device_two(table, COMPUTE_CAPABILITY, place, gpu.handle, &gpu.major_capability,
                            &gpu.minor_capability)
    if _refuse(gpu, COMPUTE_CAPABILITY, code):
        return _REFUSED
    if _refuse(gpu, PCI, _call_device_out(table, PCI, place, gpu.handle, &pci)):
        return _REFUSED
    _bus_id(&pci, gpu.pci_bus_id)

    mode.version = _ADDRESSING_MODE_V1
    mode.value = 0
    code = _call_device_out(table, ADDRESSING_MODE, place, gpu.handle, &mode)
    if _refuse_present(gpu, ADDRESSING_MODE, code):
        return _REFUSED
    gpu.addressing_mode = <long long> mode.value if code == 0 else -1
    return _read_surroundings(table, gpu)


cdef int _read_surroundings(void **table, Gpu *gpu) noexcept nogil:
    """Modes and topology, which are optional for publication."""
    cdef Place *place = &gpu.place
    cdef unsigned int link
    cdef int code
    code = _number(table, VIRTUALIZATION_MODE, place, gpu.handle, &gpu.virtualization_mode)
    if _refuse_lost(gpu, VIRTUALIZATION_MODE, code):
        return _REFUSED
    code = _number(table, PERSISTENCE_MODE, place, gpu.handle, &gpu.persistence_mode)
    if _refuse_lost(gpu, PERSISTENCE_MODE, code):
        return _REFUSED
    if _refuse_lost(gpu, MODULE_ID, _number(table, MODULE_ID, place, gpu.handle, &gpu.module_id)):
        return _REFUSED
    if _refuse_lost(gpu, NUMA_NODE, _number(table, NUMA_NODE, place, gpu.handle, &gpu.numa_node)):
        return _REFUSED
    code = _call_device_number_out(table, CPU_AFFINITY, place, gpu.handle, _CPU_WORDS, gpu.cpus)
    if _refuse_lost(gpu, CPU_AFFINITY, code):
        return _REFUSED
    if code != 0:
        memset(gpu.cpus, 0, sizeof(gpu.cpus))
    code = _call_device_bits(table, MEMORY_AFFINITY, place, gpu.handle, _NODE_WORDS, gpu.nodes, _AFFINITY_NODE)
    if _refuse_lost(gpu, MEMORY_AFFINITY, code):
        return _REFUSED
    if code != 0:
        memset(gpu.nodes, 0, sizeof(gpu.nodes))
    for link in range(_MOST_LINKS):
        code = _read_link(table, gpu, link)
        if gpu.code != 0:
            return _REFUSED
        if link == 0 and _is_absent(code):
            break  # a GPU without NVLink refuses the first link; each further query would cost an ioctl
    return _READ


cdef int _read_link(void **table, Gpu *gpu, unsigned int number) noexcept nogil:
    """One link; what NVML said when asked whether it is up."""
    cdef Place *place = &gpu.place
    cdef Link *link = &gpu.links[number]
    cdef unsigned int value = 0
    cdef PciInfo pci
    cdef int code = _call_device_number_out(table, NVLINK_STATE, place, gpu.handle, number, &link.is_active)
    link.version = link.remote_type = -1
    if code != 0:
        _refuse_lost(gpu, NVLINK_STATE, code)
        return code
    link.is_there = 1
    if not link.is_active:
        return 0
    code = _call_device_number_out(table, NVLINK_VERSION, place, gpu.handle, number, &value)
    if code == 0:
        link.version = value
    elif _refuse_lost(gpu, NVLINK_VERSION, code):
        return 0
    pci.bus_id[0] = 0
    code = _call_device_number_out(table, NVLINK_REMOTE_PCI, place, gpu.handle, number, &pci)
    if code == 0:
        _bus_id(&pci, link.remote)
    elif _refuse_lost(gpu, NVLINK_REMOTE_PCI, code):
        return 0
    value = 0
    code = _call_device_number_out(table, NVLINK_REMOTE_TYPE, place, gpu.handle, number, &value)
    if code == 0:
        link.remote_type = value
    _refuse_lost(gpu, NVLINK_REMOTE_TYPE, code)
    return 0


cdef int _read_mig(void **table, Gpu *gpus, int count, int index) noexcept nogil:
    """How a GPU may be partitioned, if no GPU of its model told yet, and with MIG mode on how it is."""
    cdef Gpu *gpu = &gpus[index]
    cdef Profiles *profiles = _profiles_of_model(gpus, count, index)
    if profiles == NULL:
        profiles = <Profiles *> calloc(1, sizeof(Profiles))
        if profiles == NULL:
            return _out_of_memory(gpu, PROFILE)
        gpu.code = _read_profiles(table, &gpu.place, gpu.handle, profiles, &gpu.refusing)
        if gpu.code != 0:
            free(profiles)
            return _REFUSED
        gpu.has_read_profiles = True
    _store_pointer(<void **> &gpu.profiles, profiles)
    if gpu.mig_current != 1:
        return _READ
    gpu.instances = <GpuInstances *> calloc(1, sizeof(GpuInstances))
    if gpu.instances == NULL:
        return _out_of_memory(gpu, GPU_INSTANCES)
    gpu.code = _read_instances(table, &gpu.place, gpu.handle, profiles, gpu.instances, &gpu.refusing)
    return _READ if gpu.code == 0 else _REFUSED


cdef int _out_of_memory(Gpu *gpu, int f) noexcept nogil:
    _refuse(gpu, f, _OUT_OF_MEMORY)
    return _REFUSED


cdef Profiles *_profiles_of_model(Gpu *gpus, int count, int index) noexcept nogil:
    """The profiles that another GPU of this model returned; NULL if none did. Does not wait for a thread that reads them."""
    cdef Profiles *profiles
    cdef Gpu *gpu = &gpus[index]
    cdef Gpu *other
    cdef int at
    for at in range(count):
        other = &gpus[at]
        profiles = <Profiles *> _load_pointer(<void **> &other.profiles)
        if (
            profiles != NULL
            and strcmp(gpu.name, other.name) == 0
            and gpu.memory == other.memory
            and gpu.architecture == other.architecture
            and gpu.major_capability == other.major_capability
            and gpu.minor_capability == other.minor_capability
        ):
            return profiles
    return NULL


cdef object _or_none(long long number):
    return None if number < 0 else number


cdef str _text(const char *raw):
    return raw.decode("utf-8", "replace")


cdef tuple _bits(unsigned long *words, int count):
    """Numbers of the bits that are set."""
    cdef list numbers = []
    cdef int word
    cdef int bit
    for word in range(count):
        if words[word] == 0:
            continue
        for bit in range(8 * sizeof(unsigned long)):
            if words[word] >> bit & 1:
                numbers.append(word * 8 * <int> sizeof(unsigned long) + bit)
    return tuple(numbers)


cdef tuple _links(Gpu *gpu):
    cdef list links = []
    cdef Link *link
    cdef int number
    for number in range(_MOST_LINKS):
        link = &gpu.links[number]
        if link.is_there:
            remote = _text(link.remote) if link.remote[0] else None
            links.append((number, link.is_active != 0, _or_none(link.version), remote, _or_none(link.remote_type)))
    return tuple(links)
