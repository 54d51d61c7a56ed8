/* libnvfm.so without Fabric Manager: the calls and structures of its SDK over a state file.
 *
 * The address of a connection is the path of a socket; the folder of the socket has:
 *   partitions   a line for each: <id> <1 if active> <module id>[,<module id>...]
 *   faults       a line for each: <function> <code to return> [<milliseconds to wait before>]; a code of 0 only waits
 *   calls        a line for each call that was made, appended
 * Fabric Manager runs while the socket exists. A connection ends with it: another socket is another Fabric Manager.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <libgen.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { OK = 0, BADPARAM = -1, GENERIC = -2, UNINITIALIZED = -4, VERSION_MISMATCH = -6, IN_USE = -7, NO_CONNECTION = -9 };
enum { MOST_PARTITIONS = 64, MOST_GPUS = 16 };

typedef struct {
    uint32_t version;
    char address[256];
    uint32_t timeout_ms, is_unix_socket, address_type;
} params_t;

typedef struct {
    uint32_t physical_id;
    char uuid[80], pci_bus_id[32];
    uint32_t links, most_links, line_rate;
} gpu_t;

typedef struct {
    uint32_t id, is_active, count;
    gpu_t gpus[MOST_GPUS];
} partition_t;

typedef struct {
    uint32_t version, count, most;
    partition_t partitions[MOST_PARTITIONS];
} list_t;

_Static_assert(sizeof(params_t) == 272, "fmConnectParams_v2");
_Static_assert(sizeof(gpu_t) == 128, "fmFabricPartitionGpuInfo_t");
_Static_assert(sizeof(partition_t) == 2060, "fmFabricPartitionInfo_t");
_Static_assert(sizeof(list_t) == 131852, "fmFabricPartitionList_v2");

typedef struct {
    char socket[256], folder[256];
    ino_t inode;
} connection_t;

static int initialized;

static FILE *open_in(const char *folder, const char *name, const char *mode) {
    char path[600];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return fopen(path, mode);
}

/* Notes the call; returns the fault on demand. */
static int enter(const char *folder, const char *function) {
    char name[64];
    int code, wait_ms, result = OK;
    FILE *calls = open_in(folder, "calls", "a"), *faults;
    if (calls) {
        fprintf(calls, "%s\n", function);
        fclose(calls);
    }
    if (!(faults = open_in(folder, "faults", "r"))) return OK;
    char line[200];
    while (fgets(line, sizeof line, faults)) {
        wait_ms = 0;
        if (sscanf(line, "%63s %d %d", name, &code, &wait_ms) < 2 || strcmp(name, function)) continue;
        struct timespec wait = {wait_ms / 1000, wait_ms % 1000 * 1000000L};
        nanosleep(&wait, NULL);
        if (code) result = code;
    }
    fclose(faults);
    return result;
}

static int alive(const connection_t *connection) {
    struct stat seen;
    return connection && stat(connection->socket, &seen) == 0 && seen.st_ino == connection->inode;
}

static int load(const char *folder, list_t *list) {
    char line[400];
    FILE *file = open_in(folder, "partitions", "r");
    if (!file) return GENERIC;
    list->count = 0;
    list->most = MOST_PARTITIONS;
    while (list->count < MOST_PARTITIONS && fgets(line, sizeof line, file)) {
        partition_t *one = &list->partitions[list->count];
        int at = 0;
        if (sscanf(line, "%u %u %n", &one->id, &one->is_active, &at) < 2) continue;
        for (char *module = strtok(line + at, ",\n"); module; module = strtok(NULL, ",\n"))
            if (one->count < MOST_GPUS) one->gpus[one->count++].physical_id = (uint32_t)atoi(module);
        list->count++;
    }
    fclose(file);
    return OK;
}

static int store(const char *folder, const list_t *list) {
    char from[600], to[600];
    FILE *file = open_in(folder, "partitions.new", "w");
    if (!file) return GENERIC;
    for (uint32_t i = 0; i < list->count; i++) {
        const partition_t *one = &list->partitions[i];
        fprintf(file, "%u %u ", one->id, one->is_active);
        for (uint32_t g = 0; g < one->count; g++) fprintf(file, "%s%u", g ? "," : "", one->gpus[g].physical_id);
        fprintf(file, "\n");
    }
    fclose(file);
    snprintf(from, sizeof from, "%s/partitions.new", folder);
    snprintf(to, sizeof to, "%s/partitions", folder);
    return rename(from, to) ? GENERIC : OK;
}

static int share_gpus(const partition_t *one, const partition_t *other) {
    for (uint32_t i = 0; i < one->count; i++)
        for (uint32_t j = 0; j < other->count; j++)
            if (one->gpus[i].physical_id == other->gpus[j].physical_id) return 1;
    return 0;
}

static int set_active(connection_t *connection, uint32_t id, uint32_t is_active) {
    list_t *list = calloc(1, sizeof *list);
    int folder = open(connection->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC), code = GENERIC;
    if (!list || folder < 0 || flock(folder, LOCK_EX)) goto out;
    if ((code = load(connection->folder, list)) != OK) goto out;
    code = BADPARAM;
    for (uint32_t i = 0; i < list->count; i++) {
        partition_t *one = &list->partitions[i];
        if (one->id != id) continue;
        /* Documented: GPUs of an active partition are in use. Assumed: so is a partition that is as it should become. */
        if (one->is_active == is_active) {
            code = IN_USE;
            goto out;
        }
        for (uint32_t j = 0; is_active && j < list->count; j++)
            if (list->partitions[j].is_active && share_gpus(one, &list->partitions[j])) {
                code = IN_USE;
                goto out;
            }
        one->is_active = is_active;
        code = store(connection->folder, list);
    }
out:
    if (folder >= 0) close(folder);
    free(list);
    return code;
}

int fmLibInit(void) {
    initialized = 1;
    return OK;
}

int fmLibShutdown(void) {
    if (!initialized) return UNINITIALIZED;
    initialized = 0;
    return OK;
}

int fmConnect(params_t *params, void **handle) {
    struct stat seen;
    int code;
    if (!initialized) return UNINITIALIZED;
    if (!params || !handle) return BADPARAM;
    if (params->version != 0x02000110) return VERSION_MISMATCH;
    if (!params->is_unix_socket || params->address_type != 2 || memchr(params->address, 0, 256) == NULL) return BADPARAM;
    connection_t *made = calloc(1, sizeof *made);
    if (!made) return GENERIC;
    memcpy(made->socket, params->address, 256);
    memcpy(made->folder, params->address, 256);
    dirname(made->folder);
    code = enter(made->folder, "fmConnect");
    if (code == OK && stat(made->socket, &seen)) code = NO_CONNECTION;
    if (code != OK) {
        free(made);
        return code;
    }
    made->inode = seen.st_ino;
    *handle = made;
    return OK;
}

int fmDisconnect(void *handle) {
    if (!initialized) return UNINITIALIZED;
    if (!handle) return BADPARAM;
    int code = enter(((connection_t *)handle)->folder, "fmDisconnect");
    free(handle);
    return code;
}

int fmGetSupportedFabricPartitions(void *handle, list_t *list) {
    connection_t *connection = handle;
    if (!initialized) return UNINITIALIZED;
    if (!connection || !list) return BADPARAM;
    if (list->version != 0x0102030c) return VERSION_MISMATCH;
    int code = enter(connection->folder, "fmGetSupportedFabricPartitions");
    if (!alive(connection)) return NO_CONNECTION;
    return code != OK ? code : load(connection->folder, list);
}

static int change(void *handle, uint32_t id, uint32_t is_active, const char *function) {
    connection_t *connection = handle;
    if (!initialized) return UNINITIALIZED;
    if (!connection) return BADPARAM;
    int code = enter(connection->folder, function);
    if (!alive(connection)) return NO_CONNECTION;
    return code != OK ? code : set_active(connection, id, is_active);
}

int fmActivateFabricPartition(void *handle, uint32_t id) { return change(handle, id, 1, "fmActivateFabricPartition"); }

int fmDeactivateFabricPartition(void *handle, uint32_t id) {
    return change(handle, id, 0, "fmDeactivateFabricPartition");
}
