# The NVLink fabric as each GPU sees it.

cdef int _fabric_info(void **table, void *device, FabricInfo *out, int *asked) noexcept nogil:
    """The GPU's fabric info, from the newer function where the library lacks the older one."""
    cdef FabricInfoV2 newer
    cdef int code
    asked[0] = FABRIC_INFO
    code = _call_device_out(table, FABRIC_INFO, NULL, device, out)
    if code != _FUNCTION_NOT_FOUND:
        return code
    asked[0] = FABRIC_INFO_V
    memset(&newer, 0, sizeof(newer))
    newer.version = _FABRIC_INFO_V2
    code = _call_device_out(table, FABRIC_INFO_V, NULL, device, &newer)
    if code == 0:
        memcpy(out.cluster_uuid, newer.cluster_uuid, 16)
        out.status = newer.status
        out.clique_id = newer.clique_id
        out.state = newer.state
    return code


def read_fabric(Library library not None) -> tuple:
    """The driver's version, and of each GPU: index, UUID, NVML's code and text, cluster UUID, status, clique, state.

    Display GPUs are left out. A GPU without the question's function, or without a fabric, has code NOT_SUPPORTED.
    Raises NvmlError, also when one GPU cannot be looked up.
    """
    cdef void **table = library._table
    cdef char version[_VERSION_SIZE]
    cdef char name[_NAME_SIZE]
    cdef char uuid[_NAME_SIZE]
    cdef unsigned int count = 0
    cdef unsigned int index
    cdef void *device = NULL
    cdef FabricInfo info
    cdef int code
    cdef int f
    with nogil:
        code = _call_text(table, DRIVER_VERSION, NULL, version, _VERSION_SIZE)
    library._check(DRIVER_VERSION, code)
    with nogil:
        code = _call_out(table, COUNT, NULL, &count)
    library._check(COUNT, code)
    gpus = []
    for index in range(count):
        memset(&info, 0, sizeof(info))
        with nogil:
            f = HANDLE_BY_INDEX
            code = _call_number_out(table, HANDLE_BY_INDEX, NULL, index, &device)
            if code == 0:
                f = NAME
                code = _call_device_text(table, NAME, NULL, device, name, _NAME_SIZE)
            if code == 0:
                f = UUID
                code = _call_device_text(table, UUID, NULL, device, uuid, _NAME_SIZE)
        library._check(f, code)
        if strcmp(name, "DGX Display") == 0 or strcmp(name, "NVIDIA DGX Display") == 0:
            continue
        with nogil:
            code = _fabric_info(table, device, &info, &f)
        text = "" if code == 0 else library.error_text(code)
        if code == _FUNCTION_NOT_FOUND:
            code = _NOT_SUPPORTED
        gpus.append((
            index, uuid.decode("utf-8", "replace"), code, text, bytes(info.cluster_uuid[:16]), info.status,
            info.clique_id, info.state,
        ))
    return version.decode("utf-8", "replace"), gpus
