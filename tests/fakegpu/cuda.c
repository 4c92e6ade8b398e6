/* CUDA's driver API, its public part, as far as numba-cuda calls it without kernels: `cuda.py` builds libcuda of it. */
#include "device.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#define API EXPORT int

enum { VERSION = 13020, INVALID_CONTEXT = 201, UUID_BYTES = 16 };
enum Attribute { /* CUdevice_attribute */
    MAX_THREADS_PER_BLOCK = 1, MAX_GRID_DIM_Z = 7, WARP_SIZE = 10, MULTIPROCESSORS = 16, PCI_BUS = 33, PCI_DEVICE = 34,
    PCI_DOMAIN = 50, CAPABILITY_MAJOR = 75, CAPABILITY_MINOR = 76,
};
enum PointerAttribute { CONTEXT = 1, MEMORY_TYPE, DEVICE_POINTER, HOST_POINTER, DEVICE_ORDINAL = 9 };

static char contexts[DEVICES]; /* each stands for the primary context of a device */
static _Thread_local char *context;

static int fault(void) { return current_device()->fault; }

/* -- the driver, devices, contexts */

API cuInit(unsigned flags) { (void)flags; return SUCCESS; }
API cuDriverGetVersion(int *version) { *version = VERSION; return SUCCESS; }
API cuDeviceGetCount(int *count) { *count = DEVICES; return SUCCESS; }
API cuDeviceGet(int *device, int number) { *device = number; return number < DEVICES ? SUCCESS : INVALID_DEVICE; }
API cuDeviceTotalMem_v2(size_t *size, int device) { *size = devices[device].capacity; return SUCCESS; }

API cuGetErrorName(int error, const char **name) {
    *name = error ? "CUDA_ERROR" : "CUDA_SUCCESS"; /* cuda.bindings has its own names */
    return SUCCESS;
}

API cuGetErrorString(int error, const char **text) { return cuGetErrorName(error, text); }

API cuDeviceGetName(char *name, int size, int device) {
    snprintf(name, (size_t)size, "software GPU %d", device);
    return SUCCESS;
}

API cuDeviceGetUuid_v2(unsigned char *uuid, int device) { memset(uuid, device + 1, UUID_BYTES); return SUCCESS; }

API cuDeviceGetAttribute(int *value, int attribute, int device) {
    switch (attribute) {
    case CAPABILITY_MAJOR: *value = 8; break;
    case CAPABILITY_MINOR: case PCI_BUS: case PCI_DOMAIN: *value = 0; break;
    case PCI_DEVICE: *value = device; break;
    case MULTIPROCESSORS: *value = 4; break;
    case WARP_SIZE: *value = 32; break;
    default: *value = attribute >= MAX_THREADS_PER_BLOCK && attribute <= MAX_GRID_DIM_Z ? 1024 : 1;
    }
    return SUCCESS;
}

API cuDevicePrimaryCtxRetain(char **made, int device) { *made = &contexts[device]; return SUCCESS; }
API cuDevicePrimaryCtxRelease_v2(int device) { (void)device; return SUCCESS; }
API cuDevicePrimaryCtxReset_v2(int device) { (void)device; return SUCCESS; }

API cuCtxSetCurrent(char *other) {
    context = other;
    if (other)
        set_current_number((int)(other - contexts));
    return SUCCESS;
}

API cuCtxGetCurrent(char **current) { *current = context; return SUCCESS; }
API cuCtxPushCurrent_v2(char *other) { return cuCtxSetCurrent(other); }
API cuCtxPopCurrent_v2(char **popped) { if (popped) *popped = context; context = NULL; return SUCCESS; }
API cuCtxGetDevice(int *device) { *device = current_number(); return context ? SUCCESS : INVALID_CONTEXT; }
API cuCtxSynchronize(void) { enter_driver(); wait_for_device(current_device()); return fault(); }

/* -- memory */

API cuMemGetInfo_v2(size_t *left, size_t *capacity) {
    *capacity = current_device()->capacity;
    *left = *capacity - current_device()->used;
    return fault();
}

API cuMemAlloc_v2(void **pointer, size_t size) { enter_driver(); return allocate(pointer, size, ON_DEVICE); }
API cuMemFree_v2(void *pointer) { enter_driver(); wait_for_device(current_device()); return release(pointer); }

API cuMemHostAlloc(void **pointer, size_t size, unsigned flags) {
    (void)flags;
    enter_driver();
    return allocate(pointer, size, PINNED);
}

API cuMemFreeHost(void *pointer) { enter_driver(); return release(pointer); }

API cuPointerGetAttribute(void *value, int attribute, void *pointer) {
    int device = 0;
    enum Place place = place_of(pointer, &device);
    switch (attribute) {
    case CONTEXT: *(char **)value = &contexts[device]; break;
    case MEMORY_TYPE: *(unsigned *)value = place == ON_DEVICE ? 2 : 1; break;
    case DEVICE_POINTER: case HOST_POINTER: *(void **)value = pointer; break;
    case DEVICE_ORDINAL: *(int *)value = device; break;
    default: return INVALID_VALUE;
    }
    return place == PAGEABLE ? INVALID_VALUE : SUCCESS;
}

static int copy_on(void *to, const void *from, size_t size, void *stream, bool wait) {
    enter_driver();
    return copy(to, from, size, stream_of(stream), wait);
}

API cuMemcpyHtoD_v2(void *to, const void *from, size_t size) { return copy_on(to, from, size, NULL, true); }
API cuMemcpyDtoH_v2(void *to, const void *from, size_t size) { return copy_on(to, from, size, NULL, true); }
API cuMemcpyDtoD_v2(void *to, const void *from, size_t size) { return copy_on(to, from, size, NULL, false); }

API cuMemcpyHtoDAsync_v2(void *to, const void *from, size_t size, void *stream) {
    return copy_on(to, from, size, stream, false);
}

API cuMemcpyDtoHAsync_v2(void *to, const void *from, size_t size, void *stream) {
    return copy_on(to, from, size, stream, false);
}

API cuMemcpyDtoDAsync_v2(void *to, const void *from, size_t size, void *stream) {
    return copy_on(to, from, size, stream, false);
}

/* -- streams and events */

API cuStreamCreate(void **stream, unsigned flags) {
    enter_driver();
    *stream = make_stream(flags & 1, 0);
    return fault();
}

API cuStreamDestroy_v2(void *stream) { enter_driver(); destroy_stream(stream); return SUCCESS; }

API cuStreamSynchronize(void *handle) {
    enter_driver();
    Stream *stream = stream_of(handle);
    wait_for_stream(stream);
    return device_of(stream)->fault;
}

API cuStreamQuery(void *handle) {
    enter_driver();
    Stream *stream = stream_of(handle);
    int error = device_of(stream)->fault;
    return error ? error : is_idle(stream) ? SUCCESS : NOT_READY;
}

API cuStreamWaitEvent(void *stream, void *event, unsigned flags) {
    (void)flags;
    enter_driver();
    wait_on_device(stream_of(stream), event);
    return SUCCESS;
}

API cuEventCreate(void **event, unsigned flags) {
    (void)flags; /* every wait sleeps, and every event is timed */
    enter_driver();
    *event = make_event();
    return fault();
}

API cuEventDestroy_v2(void *event) { enter_driver(); drop_event(event); return SUCCESS; }

API cuEventRecord(void *event, void *handle) {
    enter_driver();
    Stream *stream = stream_of(handle);
    record_event(event, stream);
    return device_of(stream)->fault;
}

API cuEventSynchronize(void *event) { enter_driver(); wait_for_event(event); return fault(); }

API cuEventQuery(void *event) {
    enter_driver();
    return fault() ? fault() : has_happened(event) ? SUCCESS : NOT_READY;
}

/* -- how programs find all this: by name, in the newest version */

API cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *found) {
    (void)version, (void)flags;
    Dl_info own;
    char newer[128];
    dladdr((void *)cuInit, &own);
    void *library = dlopen(own.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    snprintf(newer, sizeof newer, "%s_v2", name);
    *function = dlsym(library, newer);
    if (!*function)
        *function = dlsym(library, name);
    dlclose(library);
    if (found)
        *found = *function ? 0 : 1; /* CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND */
    return *function ? SUCCESS : NOT_FOUND;
}

API cuGetProcAddress(const char *name, void **function, int version, uint64_t flags) {
    return cuGetProcAddress_v2(name, function, version, flags, NULL);
}
