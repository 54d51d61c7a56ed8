# MIG: how a GPU may be partitioned and how it is, read without the GIL; and one call per change.

cdef struct Profile:
    int index
    ProfileInfo about
    unsigned int count
    Placement placements[_MOST_PLACEMENTS]

cdef struct Profiles:
    int count
    Profile each[_PROFILE_INDICES]

cdef struct ComputeInstance:
    unsigned int id
    unsigned int profile_id
    char uuid[_NAME_SIZE]

cdef struct GpuInstance:
    GpuInstanceInfo about
    int count
    ComputeInstance each[_COMPUTE_IDS]

cdef struct GpuInstances:
    int count
    GpuInstance each[_MOST_GPU_INSTANCES]


cdef inline bint _is_gone(int code) noexcept nogil:
    """Whether the code means that another program destroyed the instance meanwhile."""
    return code == _INVALID_ARGUMENT or code == _NOT_SUPPORTED or code == _NOT_FOUND


cdef int _read_profiles(void **table, Place *place, void *device, Profiles *out, int *at) noexcept nogil:
    """The profiles a GPU has. An index it lacks, or that NVML does not know, is no refusal. `at`: what was called."""
    cdef unsigned int index
    cdef Profile *profile
    cdef int code
    out.count = 0
    for index in range(_PROFILE_INDICES):
        profile = &out.each[out.count]
        at[0] = PROFILE
        code = _call_device_number_out(table, PROFILE, place, device, index, &profile.about)
        if code == 0:
            at[0] = PLACEMENTS
            code = _read_placements(table, place, device, profile)
        if code == 0:
            profile.index = <int> index
            out.count += 1
        elif not _is_absent(code) and code != _INVALID_ARGUMENT:
            return code
    return 0


cdef int _read_placements(void **table, Place *place, void *device, Profile *profile) noexcept nogil:
    cdef unsigned int count = 0
    cdef int code = _call_device_number_two(table, PLACEMENTS, place, device, profile.about.id, NULL, &count)
    profile.count = 0
    if code != 0 or count == 0:
        return code
    if count > _MOST_PLACEMENTS:
        return _INSUFFICIENT_SIZE
    code = _call_device_number_two(table, PLACEMENTS, place, device, profile.about.id, profile.placements, &count)
    if code == 0:
        profile.count = count
    return code


cdef int _read_instances(void **table, Place *place, void *device, Profiles *profiles, GpuInstances *out,
                         int *at) noexcept nogil:
    """Every GPU instance, by profile: only so one without compute instances is seen."""
    cdef void *found[_MOST_GPU_INSTANCES]
    cdef unsigned int count
    cdef int number
    cdef int code
    out.count = 0
    for number in range(profiles.count):
        # NVML fills as many as the profile allows and does not ask how many there is room for.
        at[0] = GPU_INSTANCES
        count = profiles.each[number].about.most
        if count > _MOST_GPU_INSTANCES:
            return _INSUFFICIENT_SIZE
        code = _call_device_number_two(table, GPU_INSTANCES, place, device, profiles.each[number].about.id, found,
                                       &count)
        if code == 0:
            code = _read_each(table, place, found, count, profiles.each[number].about.slices, out, at)
            if code != 0:
                return code
        elif not _is_gone(code):
            return code
    return 0


cdef int _read_each(void **table, Place *place, void **found, unsigned int count, unsigned int slices,
                    GpuInstances *out, int *at) noexcept nogil:
    cdef GpuInstance *instance
    cdef unsigned int number
    cdef int code
    for number in range(count):
        if out.count == _MOST_GPU_INSTANCES:
            return _INSUFFICIENT_SIZE
        instance = &out.each[out.count]
        at[0] = GPU_INSTANCE_INFO
        code = _call_device_out(table, GPU_INSTANCE_INFO, place, found[number], &instance.about)
        if _is_gone(code):
            continue
        if code == 0:
            code = _read_compute(table, place, found[number], <int> slices, instance, at)
        if code != 0:
            return code
        out.count += 1
    return 0


cdef int _read_compute(void **table, Place *place, void *handle, int slices, GpuInstance *out,
                       int *at) noexcept nogil:
    """The compute instances, by id, until all slices are found: almost always the first id."""
    cdef ComputeInstance *instance
    cdef ComputeInstanceInfo about
    cdef unsigned int ci_id
    cdef void *compute
    cdef int code
    out.count = 0
    for ci_id in range(_COMPUTE_IDS):
        at[0] = COMPUTE_INSTANCE
        code = _call_device_number_out(table, COMPUTE_INSTANCE, place, handle, ci_id, &compute)
        if code == 0:
            instance = &out.each[out.count]
            code = _read_compute_instance(table, place, compute, &about, instance, at)
        if _is_gone(code):
            continue
        if code != 0:
            return code
        out.count += 1
        slices -= <int> about.placement.size
        if slices <= 0:
            break
    return 0


cdef int _read_compute_instance(void **table, Place *place, void *handle, ComputeInstanceInfo *about,
                                ComputeInstance *out, int *at) noexcept nogil:
    """One compute instance; its UUID is empty where the driver shows no MIG device."""
    cdef int code
    about.placement.size = 0
    at[0] = COMPUTE_INSTANCE_INFO
    code = _call_device_out(table, COMPUTE_INSTANCE_INFO, place, handle, about)
    if code != 0:
        return code
    out.id = about.id
    out.profile_id = about.profile_id
    at[0] = UUID
    code = _call_device_text(table, UUID, place, about.device, out.uuid, _NAME_SIZE)
    if code != 0:
        out.uuid[0] = 0
    return code if code == _GPU_IS_LOST else 0


cdef tuple _tell_profiles(Profiles *profiles):
    cdef list told = []
    cdef Profile *profile
    cdef int number
    cdef unsigned int at
    for number in range(profiles.count):
        profile = &profiles.each[number]
        placements = [(profile.placements[at].start, profile.placements[at].size) for at in range(profile.count)]
        told.append((
            profile.index,
            profile.about.id,
            profile.about.slices,
            profile.about.most,
            profile.about.multiprocessors,
            profile.about.copy_engines,
            profile.about.decoders,
            profile.about.encoders,
            profile.about.jpeg_engines,
            profile.about.ofa_engines,
            profile.about.memory_mib,
            tuple(sorted(placements)),
        ))
    return tuple(told)


cdef tuple _tell_instances(GpuInstances *instances):
    cdef list told = []
    cdef GpuInstance *instance
    cdef ComputeInstance *compute
    cdef int number
    cdef int at
    for number in range(instances.count):
        instance = &instances.each[number]
        within = []
        for at in range(instance.count):
            compute = &instance.each[at]
            within.append((compute.id, compute.profile_id, _text(compute.uuid)))
        told.append((
            instance.about.id,
            instance.about.profile_id,
            instance.about.placement.start,
            instance.about.placement.size,
            tuple(within),
        ))
    return tuple(sorted(told, key=_start))


def _start(instance: tuple) -> int:
    return instance[2]
