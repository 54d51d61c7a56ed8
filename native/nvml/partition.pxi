# Reads and changes MIG of one GPU, with as few calls as possible.

cdef class Mig:
    """One GPU as MIG sees it, by UUID; used by one thread at a time, and for one session.

    Its handle is looked up when it is first needed: that may take seconds while others look theirs up.
    Every method raises NvmlError; effects before the refused call remain.
    """

    cdef Library _library
    cdef Place _place
    cdef void *_device
    cdef Profiles *_profiles  # read when first needed: they are the GPU's as long as the session lasts
    cdef int _at
    cdef readonly str uuid
    cdef readonly int index  # NVML's; -1 until the GPU was looked up

    def __cinit__(self, Library library not None, uuid: str) -> None:
        self._library = library
        self.uuid = uuid
        self.index = -1

    def __dealloc__(self) -> None:
        free(self._profiles)

    @property
    def function(self) -> str:
        """The function called last; "" if none was."""
        return _name(_load(&self._place.function)) if _load(&self._place.calls) else ""

    def error_text(self, code: int) -> str:
        """NVML's words for one of its codes."""
        return self._library.error_text(code)

    cdef int _check(self, int code) except -1:
        return self._library._check(self._at, code)

    cdef int _find(self) except -1:
        """The GPU's handle and index, looked up once."""
        cdef void **table = self._library._table
        cdef bytes raw = self.uuid.encode()
        cdef const char *uuid = raw
        cdef void *device = NULL
        cdef unsigned int index = 0
        cdef int code
        if self._device != NULL:
            return 0
        with nogil:
            self._at = HANDLE_BY_UUID
            code = _call_device_out(table, HANDLE_BY_UUID, &self._place, <void *> uuid, &device)
            if code == 0:
                self._at = INDEX
                code = _call_device_out(table, INDEX, &self._place, device, &index)
        self._check(code)
        self._device = device
        self.index = <int> index
        return 0

    cdef int _need_profiles(self) except -1:
        cdef Profiles *profiles
        cdef int code
        self._find()
        if self._profiles != NULL:
            return 0
        profiles = <Profiles *> calloc(1, sizeof(Profiles))
        if profiles == NULL:
            raise MemoryError
        with nogil:
            code = _read_profiles(self._library._table, &self._place, self._device, profiles, &self._at)
        try:
            self._check(code)
        except NvmlError:
            free(profiles)
            raise
        self._profiles = profiles
        return 0

    def mode(self) -> tuple[int, int]:
        """MIG mode, current and pending."""
        cdef unsigned int current = 0
        cdef unsigned int pending = 0
        cdef int code
        self._find()
        with nogil:
            self._at = MIG_MODE
            code = _call_device_two(self._library._table, MIG_MODE, &self._place, self._device, &current, &pending)
        self._check(code)
        return current, pending

    def set_mode(self, on: bool) -> int:
        """Set the MIG mode. Returns the code of the activation, which may be an error although the mode was accepted."""
        cdef unsigned int mode = on
        cdef unsigned int activation = 0
        cdef int code
        self._find()
        with nogil:
            self._at = SET_MIG_MODE
            code = _call_device_number_out(self._library._table, SET_MIG_MODE, &self._place, self._device, mode,
                                           &activation)
        self._check(code)
        return activation

    def instances(self) -> tuple:
        """The GPU instances, ascending by start; see the stub. none while MIG mode is off."""
        cdef GpuInstances *instances
        cdef int code
        self._need_profiles()
        instances = <GpuInstances *> calloc(1, sizeof(GpuInstances))
        if instances == NULL:
            raise MemoryError
        try:
            with nogil:
                code = _read_instances(self._library._table, &self._place, self._device, self._profiles, instances,
                                       &self._at)
            self._check(code)
            return _tell_instances(instances)
        finally:
            free(instances)

    def create_gpu_instance(self, profile_id: int, start: int, size: int) -> int:
        """The id of a new GPU instance."""
        cdef void **table = self._library._table
        cdef unsigned int profile = profile_id
        cdef Placement placement = Placement(start, size)
        cdef GpuInstanceInfo about
        cdef void *instance = NULL
        cdef int code
        self._find()
        with nogil:
            self._at = CREATE_GPU_INSTANCE
            code = _call_device_number_two(table, CREATE_GPU_INSTANCE, &self._place, self._device, profile,
                                           &placement, &instance)
            if code == 0:
                self._at = GPU_INSTANCE_INFO
                code = _call_device_out(table, GPU_INSTANCE_INFO, &self._place, instance, &about)
        self._check(code)
        return about.id

    def create_compute_instance(self, gi_id: int, profile_id: int) -> tuple[int, int, str]:
        """A new compute instance: its id, its profile's, the UUID of its MIG device."""
        cdef void **table = self._library._table
        cdef unsigned int profile = profile_id
        cdef ComputeInstanceInfo about
        cdef char uuid[_NAME_SIZE]
        cdef void *instance = self._gpu_instance(gi_id)
        cdef void *compute = NULL
        cdef int code
        with nogil:
            self._at = CREATE_COMPUTE_INSTANCE
            code = _call_device_number_out(table, CREATE_COMPUTE_INSTANCE, &self._place, instance, profile, &compute)
            if code == 0:
                self._at = COMPUTE_INSTANCE_INFO
                code = _call_device_out(table, COMPUTE_INSTANCE_INFO, &self._place, compute, &about)
            if code == 0:
                self._at = UUID
                code = _call_device_text(table, UUID, &self._place, about.device, uuid, _NAME_SIZE)
        self._check(code)
        return about.id, about.profile_id, _text(uuid)

    def destroy_compute_instance(self, gi_id: int, ci_id: int) -> None:
        cdef void **table = self._library._table
        cdef void *instance = self._gpu_instance(gi_id)
        cdef unsigned int wanted = ci_id
        cdef void *compute = NULL
        cdef int code
        with nogil:
            self._at = COMPUTE_INSTANCE
            code = _call_device_number_out(table, COMPUTE_INSTANCE, &self._place, instance, wanted, &compute)
            if code == 0:
                self._at = DESTROY_COMPUTE_INSTANCE
                code = _call_device(table, DESTROY_COMPUTE_INSTANCE, &self._place, compute)
        self._check(code)

    def destroy_gpu_instance(self, gi_id: int) -> None:
        cdef void *instance = self._gpu_instance(gi_id)
        cdef int code
        with nogil:
            self._at = DESTROY_GPU_INSTANCE
            code = _call_device(self._library._table, DESTROY_GPU_INSTANCE, &self._place, instance)
        self._check(code)

    cdef void *_gpu_instance(self, gi_id: int) except NULL:
        cdef unsigned int wanted = gi_id
        cdef void *instance = NULL
        cdef int code
        self._find()
        with nogil:
            self._at = GPU_INSTANCE
            code = _call_device_number_out(self._library._table, GPU_INSTANCE, &self._place, self._device, wanted,
                                           &instance)
        self._check(code)
        return instance

    def processes(self) -> list[tuple[int, int, int]]:
        """Programs that compute on this GPU, as far as NVML shows them here: pid, GPU instance, compute instance."""
        cdef unsigned int room = 64
        cdef unsigned int count = 0
        cdef unsigned int at
        cdef Process *listed
        cdef int code = _INSUFFICIENT_SIZE
        self._find()
        while code == _INSUFFICIENT_SIZE:
            listed = <Process *> calloc(room, sizeof(Process))
            if listed == NULL:
                raise MemoryError
            try:
                with nogil:
                    self._at = PROCESSES
                    count = room
                    code = _call_device_two(self._library._table, PROCESSES, &self._place, self._device, &count,
                                            <unsigned int *> listed)
                if code == 0:
                    return [(listed[at].pid, listed[at].gi_id, listed[at].ci_id) for at in range(count)]
            finally:
                free(listed)
            room = max(2 * room, count)
        self._check(code)


cdef Mig _mig(Library library, int index, Gpu *gpu):
    """A GPU that a sweep has read, with its handle."""
    cdef Mig made = Mig(library, _text(gpu.uuid))
    made._device = gpu.handle
    made.index = index
    if gpu.profiles != NULL:
        made._profiles = <Profiles *> malloc(sizeof(Profiles))
        if made._profiles == NULL:
            raise MemoryError
        memcpy(made._profiles, gpu.profiles, sizeof(Profiles))
    return made
