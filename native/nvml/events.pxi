# Events of GPUs, and what NVML says of a GPU's recovery. GPUs are named by PCI address: so only the asked ones are opened.

cdef class Events:
    """One event set of one session; used by one thread at a time.

    Every method raises NvmlError.
    """

    cdef Library _library
    cdef Place _place
    cdef void *_set
    cdef int _at
    cdef dict _handles  # PCI address → handle
    cdef dict _addresses  # handle → PCI address

    def __cinit__(self, Library library not None) -> None:
        self._library = library
        self._handles = {}
        self._addresses = {}

    @property
    def function(self) -> str:
        """The function called last; "" if none was."""
        return _name(_load(&self._place.function)) if _load(&self._place.calls) else ""

    cdef int _check(self, int code) except -1:
        return self._library._check(self._at, code)

    cdef void *_find(self, address: str) except NULL:
        """The handle of the GPU, looked up once."""
        cdef void *device = NULL
        cdef bytes raw
        cdef const char *text
        cdef int code
        if address in self._handles:
            return <void *> <size_t> self._handles[address]
        raw = address.encode()
        text = raw
        with nogil:
            self._at = HANDLE_BY_PCI
            code = _call_device_out(self._library._table, HANDLE_BY_PCI, &self._place, <void *> text, &device)
        self._check(code)
        self._handles[address] = <size_t> device
        self._addresses[<size_t> device] = address
        return device

    def watch(self, address: str, wanted: int) -> int:
        """Register for events of these kinds (NVML's bits), as far as the GPU has them; the kinds registered."""
        cdef void *device = self._find(address)
        cdef void **table = self._library._table
        cdef unsigned long long kinds = 0
        cdef unsigned long long asked = wanted
        cdef int code = 0
        with nogil:
            if self._set == NULL:
                self._at = EVENT_SET_CREATE
                code = _call_out(table, EVENT_SET_CREATE, &self._place, &self._set)
            if code == 0:
                self._at = EVENT_TYPES
                code = _call_device_out(table, EVENT_TYPES, &self._place, device, &kinds)
            if code == 0 and kinds & asked:
                self._at = REGISTER_EVENTS
                code = _call_device_wide_device(table, REGISTER_EVENTS, &self._place, device, kinds & asked, self._set)
        self._check(code)
        return kinds & asked

    def recovery_action(self, address: str) -> int | None:
        """What NVML says is needed to recover the GPU (0: nothing); None if it cannot tell."""
        cdef void *device = self._find(address)
        cdef FieldValue field
        cdef int code
        memset(&field, 0, sizeof(FieldValue))
        field.field = _FIELD_RECOVERY_ACTION
        with nogil:
            self._at = FIELD_VALUES
            code = _call_device_number_out(self._library._table, FIELD_VALUES, &self._place, device, 1, &field)
        if _is_absent(code) or code == _INVALID_ARGUMENT:
            return None
        self._check(code)
        if field.code == _GPU_IS_LOST:
            self._check(field.code)
        return <unsigned int> field.value if field.code == 0 else None

    def answers(self, address: str) -> None:
        """Raise NvmlError unless the GPU answers a question that only the GPU can answer."""
        cdef void *device = self._find(address)
        cdef Memory memory
        cdef int code
        with nogil:
            self._at = MEMORY
            code = _call_device_out(self._library._table, MEMORY, &self._place, device, &memory)
        if code != _NOT_SUPPORTED:
            self._check(code)

    def active_links(self, address: str) -> int:
        """How many NVLinks are up."""
        cdef void *device = self._find(address)
        cdef unsigned int is_active
        cdef unsigned int link
        cdef int active = 0
        cdef int code
        with nogil:
            for link in range(_MOST_LINKS):
                is_active = 0
                self._at = NVLINK_STATE
                code = _call_device_number_out(self._library._table, NVLINK_STATE, &self._place, device, link,
                                               &is_active)
                if code == 0 and is_active:
                    active += 1
        return active

    def wait(self, timeout_ms: int) -> list:
        """The events since the last call, at most 256: wait for the first, take those that are already there.

        (PCI address, NVML's bit, data, GPU instance, compute instance); without instance 0xffffffff; the address is ""
        for a GPU that is not watched. Empty after `timeout_ms` without an event.
        """
        cdef void **table = self._library._table
        cdef EventData *found
        cdef unsigned int patience = timeout_ms
        cdef int count = 0
        cdef int code = 0
        cdef int at
        if self._set == NULL:
            raise NvmlError(_INVALID_ARGUMENT, "nvmlEventSetWait_v2", "no GPU is watched")
        found = <EventData *> calloc(_MOST_EVENTS, sizeof(EventData))
        if found == NULL:
            raise MemoryError
        try:
            with nogil:
                self._at = EVENT_SET_WAIT
                while count < _MOST_EVENTS and code == 0:
                    # The older form leaves these two as they are.
                    found[count].gi_id = found[count].ci_id = 0xFFFFFFFF
                    code = _call_device_out_number(table, EVENT_SET_WAIT, &self._place, self._set, &found[count],
                                                   patience)
                    patience = 0
                    if code == 0:
                        count += 1
            if code != _TIMEOUT and count == 0:
                self._check(code)
            # A refusal after some events comes again with the next call.
            return [
                (
                    self._addresses.get(<size_t> found[at].device, ""),
                    found[at].kind,
                    found[at].data,
                    found[at].gi_id,
                    found[at].ci_id,
                )
                for at in range(count)
            ]
        finally:
            free(found)

    def close(self) -> None:
        """Free the event set. A session must not end before that."""
        cdef int code
        if self._set == NULL:
            return
        with nogil:
            self._at = EVENT_SET_FREE
            code = _call_device(self._library._table, EVENT_SET_FREE, &self._place, self._set)
        self._set = NULL
        self._check(code)
