/* The same walk as nvdra's scan in bare C: what the calls themselves cost. Prints seconds per walk, one a line. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef void *Device;
struct pci { char legacy[16]; unsigned numbers[5]; char bus_id[32]; };
struct memory { unsigned long long total, free, used; };
struct addressing { unsigned version, value; };
struct link { unsigned is_active, version, remote_type; struct pci remote; };
struct gpu {
    Device handle;
    char name[96], uuid[96];
    unsigned minor, mig[2], architecture, brand, virtualization, persistence, module, numa;
    int capability[2];
    struct memory memory;
    struct pci pci;
    struct addressing addressing;
    unsigned long cpus[128], nodes[16];
    struct link links[18];
};

#define NVML(name, ...) static int (*name)(__VA_ARGS__);
#define FUNCTIONS \
    NVML(nvmlInitWithFlags, unsigned) NVML(nvmlShutdown, void) \
    NVML(nvmlSystemGetDriverVersion, char *, unsigned) NVML(nvmlSystemGetCudaDriverVersion, int *) \
    NVML(nvmlDeviceGetCount_v2, unsigned *) NVML(nvmlDeviceGetHandleByIndex_v2, unsigned, Device *) \
    NVML(nvmlDeviceGetName, Device, char *, unsigned) NVML(nvmlDeviceGetUUID, Device, char *, unsigned) \
    NVML(nvmlDeviceGetMinorNumber, Device, unsigned *) NVML(nvmlDeviceGetMigMode, Device, unsigned *, unsigned *) \
    NVML(nvmlDeviceGetMemoryInfo, Device, struct memory *) NVML(nvmlDeviceGetArchitecture, Device, unsigned *) \
    NVML(nvmlDeviceGetBrand, Device, unsigned *) NVML(nvmlDeviceGetCudaComputeCapability, Device, int *, int *) \
    NVML(nvmlDeviceGetPciInfo_v3, Device, struct pci *) \
    NVML(nvmlDeviceGetAddressingMode, Device, struct addressing *) \
    NVML(nvmlDeviceGetVirtualizationMode, Device, unsigned *) \
    NVML(nvmlDeviceGetPersistenceMode, Device, unsigned *) NVML(nvmlDeviceGetModuleId, Device, unsigned *) NVML(nvmlDeviceGetNumaNodeId, Device, unsigned *) \
    NVML(nvmlDeviceGetCpuAffinity, Device, unsigned, unsigned long *) \
    NVML(nvmlDeviceGetMemoryAffinity, Device, unsigned, unsigned long *, unsigned) \
    NVML(nvmlDeviceGetNvLinkState, Device, unsigned, unsigned *) \
    NVML(nvmlDeviceGetNvLinkVersion, Device, unsigned, unsigned *) \
    NVML(nvmlDeviceGetNvLinkRemotePciInfo_v2, Device, unsigned, struct pci *) \
    NVML(nvmlDeviceGetNvLinkRemoteDeviceType, Device, unsigned, unsigned *) \
    NVML(nvmlDeviceGetTopologyCommonAncestor, Device, Device, unsigned *) \
    NVML(nvmlDeviceGetP2PStatus, Device, Device, int, unsigned *)
FUNCTIONS
#undef NVML
#define NVML(name, ...) { #name, (void **)&name },
static struct { const char *name; void **at; } functions[] = { FUNCTIONS };

static struct gpu gpus[256];
static unsigned ancestors[256][256], p2p[256][256];

static void read_gpu(unsigned index) {
    struct gpu *g = &gpus[index];
    memset(g, 0, sizeof *g);
    nvmlDeviceGetHandleByIndex_v2(index, &g->handle);
    nvmlDeviceGetName(g->handle, g->name, 96);
    nvmlDeviceGetMinorNumber(g->handle, &g->minor);
    nvmlDeviceGetUUID(g->handle, g->uuid, 96);
    nvmlDeviceGetMigMode(g->handle, &g->mig[0], &g->mig[1]);
    nvmlDeviceGetMemoryInfo(g->handle, &g->memory);
    nvmlDeviceGetArchitecture(g->handle, &g->architecture);
    nvmlDeviceGetBrand(g->handle, &g->brand);
    nvmlDeviceGetCudaComputeCapability(g->handle, &g->capability[0], &g->capability[1]);
    nvmlDeviceGetPciInfo_v3(g->handle, &g->pci);
    g->addressing.version = 0x01000008;
    nvmlDeviceGetAddressingMode(g->handle, &g->addressing);
    nvmlDeviceGetVirtualizationMode(g->handle, &g->virtualization);
    nvmlDeviceGetPersistenceMode(g->handle, &g->persistence);
    nvmlDeviceGetModuleId(g->handle, &g->module);
    nvmlDeviceGetNumaNodeId(g->handle, &g->numa);
    nvmlDeviceGetCpuAffinity(g->handle, 128, g->cpus);
    nvmlDeviceGetMemoryAffinity(g->handle, 16, g->nodes, 0);
    for (unsigned number = 0; number < 18; number++) {
        struct link *l = &g->links[number];
        int code = nvmlDeviceGetNvLinkState(g->handle, number, &l->is_active);
        if (number == 0 && code == 3)
            break;
        if (code != 0 || !l->is_active)
            continue;
        nvmlDeviceGetNvLinkVersion(g->handle, number, &l->version);
        nvmlDeviceGetNvLinkRemotePciInfo_v2(g->handle, number, &l->remote);
        nvmlDeviceGetNvLinkRemoteDeviceType(g->handle, number, &l->remote_type);
    }
}

static void walk(void) {
    char version[80];
    int cuda;
    unsigned count = 0;
    nvmlSystemGetDriverVersion(version, 80);
    nvmlSystemGetCudaDriverVersion(&cuda);
    nvmlDeviceGetCount_v2(&count);
    for (unsigned i = 0; i < count; i++)
        read_gpu(i);
    for (unsigned i = 0; i < count; i++)
        for (unsigned j = i + 1; j < count; j++) {
            nvmlDeviceGetTopologyCommonAncestor(gpus[i].handle, gpus[j].handle, &ancestors[i][j]);
            nvmlDeviceGetP2PStatus(gpus[i].handle, gpus[j].handle, 2, &p2p[i][j]);
            nvmlDeviceGetP2PStatus(gpus[j].handle, gpus[i].handle, 2, &p2p[j][i]);
        }
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: scan LIBRARY WALKS\n");
        return 2;
    }
    void *library = dlopen(argv[1], RTLD_LAZY | RTLD_GLOBAL);
    for (unsigned i = 0; library && i < sizeof functions / sizeof *functions; i++)
        if (!(*functions[i].at = dlsym(library, functions[i].name)))
            library = NULL;
    if (!library || nvmlInitWithFlags(1) != 0) {
        fprintf(stderr, "%s: %s\n", argv[1], library ? "refused to open" : dlerror());
        return 1;
    }
    for (int i = 0; i < atoi(argv[2]); i++) {
        struct timespec began, ended;
        clock_gettime(CLOCK_MONOTONIC, &began);
        walk();
        clock_gettime(CLOCK_MONOTONIC, &ended);
        printf("%.9f\n", (double)(ended.tv_sec - began.tv_sec) + (double)(ended.tv_nsec - began.tv_nsec) / 1e9);
    }
    return nvmlShutdown();
}
