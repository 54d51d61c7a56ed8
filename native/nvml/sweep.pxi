# A whole node in one sweep.

cdef class Sweep:
    """One scan of a whole node. `run` scans it in one go, without the GIL; the other methods handle hung calls.

    A hung call blocks only its thread: `place` says where it hangs, `abandon` ends the thread's work once the call
    returns, and other threads go on with `read_gpu` and `read_pairs`. Each GPU is read by one thread at a time.
    """

    cdef Library _library
    cdef int _code
    cdef int _refusing
    cdef int _generation  # of walks: one that is not the latest leaves
    cdef Place _place
    cdef int _at_gpu
    cdef int _at_peer
    cdef int _published  # how many GPUs other threads may look at
    cdef unsigned int _count
    cdef int _cuda_driver_version
    cdef char _driver_version[_VERSION_SIZE]
    cdef Gpu *_gpus
    cdef int *_ancestors  # count x count, -1 where nothing is known
    cdef int *_p2p
    cdef unsigned char _silent[_MOST_SILENT]
    cdef unsigned char _without_pairs[_MOST_SILENT]
    cdef bint _with_profiles

    def __cinit__(
        self, Library library not None, silent: object = (), without_pairs: object = (), profiles: bool = False
    ) -> None:
        self._with_profiles = profiles
        self._at_gpu = self._at_peer = -1
        self._library = library
        for index in silent:
            if 0 <= index < _MOST_SILENT:
                self._silent[<int> index] = 1
        for index in without_pairs:
            if 0 <= index < _MOST_SILENT:
                self._without_pairs[<int> index] = 1

    def __dealloc__(self) -> None:
        cdef int index
        for index in range(self._published):
            free(self._gpus[index].instances)
            if self._gpus[index].has_read_profiles:
                free(self._gpus[index].profiles)
        free(self._gpus)
        free(self._ancestors)
        free(self._p2p)

    def run(self) -> None:
        """The versions, then every GPU, then every pair.

        Raises NvmlError when the node as a whole refuses; a GPU that refuses is told by `tell`.
        """
        cdef int generation = _load(&self._generation)
        if self._gpus != NULL:
            raise RuntimeError("a sweep runs once")
        with nogil:
            if self._walk_node(generation) == 0:
                self._walk_gpus(generation)
                self._walk_pairs(generation)
        self._library._check(self._refusing, self._code)

    def read_gpu(self, index: int) -> None:
        """Read one GPU, if no thread has begun it."""
        cdef int at = index
        if not 0 <= at < _load(&self._published):
            raise IndexError(f"no GPU {index} in this sweep")
        with nogil:
            self._walk_gpu(at)

    def read_pairs(self) -> None:
        """Read the topology between the GPUs that were read."""
        cdef int generation = _load(&self._generation)
        with nogil:
            self._walk_pairs(generation)

    def abandon(self) -> None:
        """End the sweep of its thread when the current call returns."""
        _store(&self._generation, self._generation + 1)

    @property
    def place(self) -> tuple[int | None, int | None, str, int]:
        """Where the walk stands: GPU index and its peer's (None: not at one), function, functions called there."""
        cdef int gpu = _load(&self._at_gpu)
        cdef int peer = _load(&self._at_peer)
        cdef Place *place = &self._place
        if gpu >= 0 and peer < 0:
            place = &self._gpus[gpu].place
        function = _name(_load(&place.function)) if _load(&place.calls) else ""
        return None if gpu < 0 else gpu, None if peer < 0 else peer, function, _load(&place.calls)

    def function_at(self, index: int) -> str:
        """The function called last for a GPU; "" if none was."""
        if not 0 <= index < _load(&self._published):
            return ""
        cdef Place *place = &self._gpus[<int> index].place
        return _name(_load(&place.function)) if _load(&place.calls) else ""

    def unread(self) -> tuple[int, ...]:
        """GPUs still to be read, which no thread has begun."""
        return self._in_state(_UNREAD)

    def unfinished(self) -> tuple[int, ...]:
        """GPUs that a thread has begun to read and not finished."""
        return self._in_state(_READING)

    cdef tuple _in_state(self, int state):
        cdef list found = []
        cdef int index
        for index in range(_load(&self._published)):
            if _load(&self._gpus[index].state) == state:
                found.append(index)
        return tuple(found)

    def tell(self) -> tuple:
        """What was read so far: (driver version, CUDA version, GPUs, left out, ancestors, P2P); see the stub."""
        cdef list gpus = []
        cdef list left_out = []
        cdef dict ancestors = {}
        cdef dict p2p = {}
        cdef int count = _load(&self._published)
        cdef int index
        cdef int peer
        cdef int state
        cdef Gpu *gpu
        for index in range(count):
            gpu = &self._gpus[index]
            state = _load(&gpu.state)
            if state == _READ:
                gpus.append(self._tell_gpu(index, gpu))
            elif state == _REFUSED:
                minor, uuid = self.known(index)
                text = self._library.error_text(gpu.code)
                left_out.append((index, minor, uuid, _name(gpu.refusing), gpu.code, text))
        for index in range(count):
            for peer in range(count):
                if index < peer and _load(&self._ancestors[index * count + peer]) >= 0:
                    ancestors[index, peer] = self._ancestors[index * count + peer]
                if index != peer and _load(&self._p2p[index * count + peer]) >= 0:
                    p2p[index, peer] = self._p2p[index * count + peer]
        version = _text(self._driver_version)
        return version, self._cuda_driver_version, gpus, left_out, ancestors, p2p

    def known(self, index: int) -> tuple[int | None, str | None]:
        """Minor and UUID of a GPU; None for a value not read yet."""
        cdef int at = index
        if not 0 <= at < _load(&self._published):
            return None, None
        cdef Gpu *gpu = &self._gpus[at]
        # The UUID is the fourth thing asked: it is whole once the fifth is under way.
        uuid = _text(gpu.uuid) if _load(&gpu.place.calls) > 4 and gpu.uuid[0] else None
        return _or_none(gpu.minor), uuid

    def tell_mig(self) -> tuple[list[tuple], dict[int, tuple[int, tuple]]]:
        """Profile tables, and by GPU index which of them is its and which instances it has; see the stub."""
        cdef list tables = []
        cdef dict numbers = {}
        cdef dict told = {}
        cdef int index
        cdef Gpu *gpu
        for index in range(_load(&self._published)):
            gpu = &self._gpus[index]
            if _load(&gpu.state) != _READ or gpu.profiles == NULL:
                continue
            number = numbers.setdefault(<size_t> gpu.profiles, len(tables))
            if number == len(tables):
                tables.append(_tell_profiles(gpu.profiles))
            told[index] = number, () if gpu.instances == NULL else _tell_instances(gpu.instances)
        return tables, told

    def mig(self, index: int) -> Mig:
        """A GPU that was read, with the handle and the profiles this sweep knows."""
        cdef int at = index
        if not 0 <= at < _load(&self._published) or _load(&self._gpus[at].state) != _READ:
            raise IndexError(f"no GPU {index} was read in this sweep")
        return _mig(self._library, at, &self._gpus[at])

    cdef tuple _tell_gpu(self, int index, Gpu *gpu):
        mig = None if gpu.mig_current < 0 else (gpu.mig_current, gpu.mig_pending)
        return (
            index,
            gpu.minor,
            _text(gpu.uuid),
            _text(gpu.name),
            _text(gpu.pci_bus_id),
            gpu.architecture,
            gpu.brand,
            (gpu.major_capability, gpu.minor_capability),
            _or_none(gpu.memory),
            mig,
            _or_none(gpu.addressing_mode),
            _or_none(gpu.numa_node),
            _bits(gpu.cpus, _CPU_WORDS),
            _links(gpu),
            _bits(gpu.nodes, _NODE_WORDS),
            _or_none(gpu.virtualization_mode),
            _or_none(gpu.persistence_mode),
            _or_none(gpu.module_id),
        )

    cdef int _walk_node(self, int generation) noexcept nogil:
        cdef void **table = self._library._table
        cdef unsigned int count = 0
        cdef int index
        cdef int f = DRIVER_VERSION
        cdef int code = _call_text(table, f, &self._place, self._driver_version, _VERSION_SIZE)
        if code == 0:
            f = CUDA_DRIVER_VERSION
            code = _call_out(table, f, &self._place, &self._cuda_driver_version)
        if code == 0:
            f = COUNT
            code = _call_out(table, f, &self._place, &count)
        self._refusing = f
        self._code = code
        if code != 0 or _load(&self._generation) != generation:
            return -1
        self._gpus = <Gpu *> calloc(count + 1, sizeof(Gpu))
        self._ancestors = <int *> calloc(count * count + 1, sizeof(int))
        self._p2p = <int *> calloc(count * count + 1, sizeof(int))
        if self._gpus == NULL or self._ancestors == NULL or self._p2p == NULL:
            self._code = _OUT_OF_MEMORY
            return -1
        memset(self._ancestors, 0xFF, count * count * sizeof(int))
        memset(self._p2p, 0xFF, count * count * sizeof(int))
        for index in range(<int> count):
            self._gpus[index].minor = -1
            if index < _MOST_SILENT and self._silent[index]:
                self._gpus[index].state = _SILENT
        _store(&self._published, <int> count)
        return 0

    cdef void _walk_gpus(self, int generation) noexcept nogil:
        cdef int index
        for index in range(self._published):
            if _load(&self._generation) != generation:
                return
            _store(&self._at_gpu, index)
            self._walk_gpu(index)
        _store(&self._at_gpu, -1)

    cdef void _walk_gpu(self, int index) noexcept nogil:
        cdef Gpu *gpu = &self._gpus[index]
        cdef int state
        if _load(&gpu.state) == _UNREAD:
            _store(&gpu.state, _READING)
            state = _read_gpu(self._library._table, index, gpu)
            if state == _READ and (gpu.mig_current == 1 or (self._with_profiles and gpu.mig_current == 0)):
                state = _read_mig(self._library._table, self._gpus, self._published, index)
            _store(&gpu.state, state)

    cdef void _walk_pairs(self, int generation) noexcept nogil:
        cdef int index
        cdef int peer
        for index in range(self._published):
            for peer in range(index + 1, self._published):
                if _load(&self._generation) != generation:
                    return
                if self._has_pairs(index) and self._has_pairs(peer):
                    _store(&self._at_peer, peer)
                    _store(&self._at_gpu, index)
                    self._walk_pair(index, peer)
        _store(&self._at_gpu, -1)
        _store(&self._at_peer, -1)

    cdef bint _has_pairs(self, int index) noexcept nogil:
        return _load(&self._gpus[index].state) == _READ and not (
            index < _MOST_SILENT and self._without_pairs[index]
        )

    cdef void _walk_pair(self, int index, int peer) noexcept nogil:
        cdef void **table = self._library._table
        cdef void *one = self._gpus[index].handle
        cdef void *other = self._gpus[peer].handle
        cdef int count = self._published
        cdef int value = 0
        if _call_two_devices_out(table, COMMON_ANCESTOR, &self._place, one, other, &value) == 0:
            _store(&self._ancestors[index * count + peer], value)
        if _call_two_devices_number_out(table, P2P_STATUS, &self._place, one, other, _P2P_NVLINK, &value) == 0:
            _store(&self._p2p[index * count + peer], value)
        if _call_two_devices_number_out(table, P2P_STATUS, &self._place, other, one, _P2P_NVLINK, &value) == 0:
            _store(&self._p2p[peer * count + index], value)
