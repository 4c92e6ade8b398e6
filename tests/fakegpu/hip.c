/* HIP's runtime as CuPy calls it, over the software GPU. What is not here, build.py answers with "not supported". */
#include "device.h"

#include <stdio.h>
#include <string.h>

#define API EXPORT int
#define VERSION 70051831 /* of HIP, as the wheel was built for */

static int fault(void) { return current_device()->fault; }

/* -- devices */

API hipGetDeviceCount(int *count) { enter_driver(); *count = device_count; return SUCCESS; }
API hipGetDevice(int *number) { enter_driver(); *number = current_number(); return SUCCESS; }
API hipDriverGetVersion(int *version) { *version = VERSION; return SUCCESS; }
API hipRuntimeGetVersion(int *version) { *version = VERSION; return SUCCESS; }
API hipDeviceCanAccessPeer(int *can, int device, int peer) { (void)device; (void)peer; *can = 0; return SUCCESS; }
API hipDeviceGetLimit(size_t *value, int limit) { (void)limit; *value = 8 << 20; return SUCCESS; }
API hipDeviceSynchronize(void) { enter_driver(); wait_for_device(current_device()); return fault(); }
API hipGetLastError(void) { enter_driver(); return fault(); }
API hipPeekAtLastError(void) { enter_driver(); return fault(); }

API hipSetDevice(int number) {
    enter_driver();
    if (number < 0 || number >= device_count)
        return INVALID_DEVICE;
    set_current_number(number);
    return SUCCESS;
}

API hipDeviceGetAttribute(int *value, int attribute, int device) {
    enter_driver();
    (void)device;
    enum { COMPUTE_MAJOR = 23, COMPUTE_MINOR = 24 };
    *value = attribute == COMPUTE_MAJOR || attribute == COMPUTE_MINOR ? 9 : 1;
    return SUCCESS;
}

API hipGetDevicePropertiesR0600(void *properties, int device) {
    enter_driver();
    enum { SIZE = 1472 };
    memset(properties, 0, SIZE);
    snprintf(properties, 256, "software GPU %d", device); /* its name stands first */
    return SUCCESS;
}

static const struct {
    int number;
    const char *name, *text;
} errors[] = {
    {SUCCESS, "hipSuccess", "no error"},
    {INVALID_VALUE, "hipErrorInvalidValue", "invalid argument"},
    {OUT_OF_MEMORY, "hipErrorOutOfMemory", "out of memory"},
    {INVALID_DEVICE, "hipErrorInvalidDevice", "invalid device ordinal"},
    {INVALID_IMAGE, "hipErrorInvalidImage", "device kernel image is invalid"},
    {NOT_FOUND, "hipErrorNotFound", "named symbol not found"},
    {NOT_READY, "hipErrorNotReady", "device not ready"},
    {ILLEGAL_ADDRESS, "hipErrorIllegalAddress", "an illegal memory access was encountered"},
    {NOT_SUPPORTED, "hipErrorNotSupported", "operation not supported"},
    {-1, "hipErrorUnknown", "unknown error"},
};

static int find_error(int number) {
    int i = 0;
    while (errors[i].number != number && errors[i].number != -1)
        i++;
    return i;
}

EXPORT const char *hipGetErrorName(int number) { return errors[find_error(number)].name; }
EXPORT const char *hipGetErrorString(int number) { return errors[find_error(number)].text; }

/* -- memory */

API hipMalloc(void **pointer, size_t size) { enter_driver(); return allocate(pointer, size, ON_DEVICE); }
API hipHostFree(void *pointer) { enter_driver(); return release(pointer); }

API hipMallocManaged(void **pointer, size_t size, unsigned flags) {
    enter_driver();
    (void)flags;
    return allocate(pointer, size, ON_DEVICE);
}

API hipHostMalloc(void **pointer, size_t size, unsigned flags) {
    enter_driver();
    (void)flags;
    return allocate(pointer, size, PINNED);
}

API hipFree(void *pointer) {
    enter_driver();
    wait_for_device(current_device());
    return release(pointer);
}

API hipMemGetInfo(size_t *available, size_t *capacity) {
    enter_driver();
    Device *device = current_device();
    *capacity = device->capacity;
    *available = device->capacity > device->used ? device->capacity - device->used : 0;
    return fault();
}

API hipMemcpy(void *to, const void *from, size_t size, int kind) {
    enter_driver();
    (void)kind;
    return copy(to, from, size, stream_of(NULL), true);
}

API hipMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) {
    enter_driver();
    (void)kind;
    return copy(to, from, size, stream_of(stream), false);
}

API hipMemcpyPeer(void *to, int target, const void *from, int source, size_t size) {
    enter_driver();
    (void)target, (void)source;
    return copy(to, from, size, stream_of(NULL), true);
}

API hipMemcpyPeerAsync(void *to, int target, const void *from, int source, size_t size, void *stream) {
    enter_driver();
    (void)target, (void)source;
    return copy(to, from, size, stream_of(stream), false);
}

API hipMemset(void *pointer, int value, size_t size) {
    enter_driver();
    return fill(pointer, value, size, stream_of(NULL));
}

API hipMemsetAsync(void *pointer, int value, size_t size, void *stream) {
    enter_driver();
    return fill(pointer, value, size, stream_of(stream));
}

typedef struct {
    int type, device;
    void *device_pointer, *host_pointer;
    int managed;
    unsigned flags;
} PointerAttributes;

/* CuPy's own table of HIP reads 0 as the host's memory and 1 as a device's; others are unregistered. */
API hipPointerGetAttributes(PointerAttributes *attributes, const void *pointer) {
    enter_driver();
    static const int types[] = {[PAGEABLE] = 5, [PINNED] = 0, [ON_DEVICE] = 1};
    memset(attributes, 0, sizeof *attributes);
    enum Place place = place_of(pointer, &attributes->device);
    attributes->type = types[place];
    if (place != PAGEABLE)
        attributes->device_pointer = (void *)pointer;
    if (place != ON_DEVICE)
        attributes->host_pointer = (void *)pointer;
    return SUCCESS;
}

/* -- streams */

API hipStreamCreateWithPriority(void **stream, unsigned flags, int priority) {
    enter_driver();
    *stream = make_stream(flags & 1, priority);
    return fault();
}

API hipStreamCreate(void **stream) { return hipStreamCreateWithPriority(stream, 0, 0); }
API hipStreamCreateWithFlags(void **stream, unsigned flags) { return hipStreamCreateWithPriority(stream, flags, 0); }
API hipStreamDestroy(void *stream) { enter_driver(); destroy_stream(stream); return SUCCESS; }
API hipStreamIsCapturing(void *stream, int *status) { (void)stream; *status = 0; return SUCCESS; }
API hipGetStreamDeviceId(void *stream) { return number_of(stream_of(stream)); }

API hipStreamSynchronize(void *handle) {
    enter_driver();
    Stream *stream = stream_of(handle);
    wait_for_stream(stream);
    return device_of(stream)->fault;
}

API hipStreamQuery(void *handle) {
    enter_driver();
    Stream *stream = stream_of(handle);
    int error = device_of(stream)->fault;
    return error ? error : is_idle(stream) ? SUCCESS : NOT_READY;
}

API hipStreamGetFlags(void *stream, unsigned *flags) {
    enter_driver();
    *flags = is_non_blocking(stream_of(stream));
    return SUCCESS;
}

API hipStreamGetPriority(void *stream, int *priority) {
    enter_driver();
    *priority = priority_of(stream_of(stream));
    return SUCCESS;
}

API hipStreamWaitEvent(void *stream, void *event, unsigned flags) {
    enter_driver();
    (void)flags;
    wait_on_device(stream_of(stream), event);
    return SUCCESS;
}

/* -- functions of the program's on the driver's threads: with its lock held, if there is one */

typedef struct {
    void (*with_status)(void *stream, int status, void *data);
    void (*plain)(void *data);
    void *handle, *data;
} Callback;

static void run_callback(Stream *stream, void *argument) {
    Callback *what = argument;
    int error = device_of(stream)->fault;
    lock_driver();
    if (what->with_status)
        what->with_status(what->handle, error, what->data);
    else if (!error) /* CUDA and HIP do not call these after an error */
        what->plain(what->data);
    unlock_driver();
}

API hipStreamAddCallback(void *stream, void *function, void *data, unsigned flags) {
    enter_driver();
    (void)flags;
    Callback what = {(void (*)(void *, int, void *))function, NULL, stream, data};
    enqueue(stream_of(stream), OTHER, run_callback, &what, sizeof what);
    return SUCCESS;
}

API hipLaunchHostFunc(void *stream, void *function, void *data) {
    enter_driver();
    Callback what = {NULL, (void (*)(void *))function, stream, data};
    enqueue(stream_of(stream), OTHER, run_callback, &what, sizeof what);
    return fault();
}

/* -- events */

API hipEventCreateWithFlags(void **event, unsigned flags) {
    enter_driver();
    (void)flags; /* every wait sleeps, and every event is timed */
    *event = make_event();
    return fault();
}

API hipEventCreate(void **event) { return hipEventCreateWithFlags(event, 0); }
API hipEventDestroy(void *event) { enter_driver(); drop_event(event); return SUCCESS; }

API hipEventRecord(void *event, void *handle) {
    enter_driver();
    Stream *stream = stream_of(handle);
    record_event(event, stream);
    return device_of(stream)->fault;
}

API hipEventSynchronize(void *event) { enter_driver(); wait_for_event(event); return fault(); }

API hipEventQuery(void *event) {
    enter_driver();
    return fault() ? fault() : has_happened(event) ? SUCCESS : NOT_READY;
}

API hipEventElapsedTime(float *milliseconds, void *from, void *to) {
    enter_driver();
    *milliseconds = (float)milliseconds_between(from, to);
    return fault();
}
