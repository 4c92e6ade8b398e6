/* Memory of the devices and pinned memory of the host: all of it is the host's, and counted. */
#include "device.h"

#include <stdlib.h>
#include <string.h>

enum { POISON = 0xdb, POISONED_BYTES = 4 << 20, ALIGNMENT = 4096 };

typedef struct Allocation {
    struct Allocation *next;
    char *start;
    size_t size;
    enum Place place;
    int device;
} Allocation;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Allocation *allocations;
static size_t pinned;

size_t pinned_bytes(void) { return pinned; }

static int reserve(Device *device, size_t size, enum Place place) {
    if (place == PINNED) {
        pinned += size;
        return SUCCESS;
    }
    if (device->used + size > device->capacity)
        return OUT_OF_MEMORY;
    device->used += size;
    if (device->used > device->peak)
        device->peak = device->used;
    return SUCCESS;
}

int allocate(void **pointer, size_t size, enum Place place) {
    Device *device = current_device();
    *pointer = NULL;
    if (device->fault || !size)
        return device->fault;
    pthread_mutex_lock(&lock);
    int error = reserve(device, size, place);
    if (!error) {
        Allocation *made = malloc(sizeof *made);
        *made = (Allocation){allocations, aligned_alloc(ALIGNMENT, (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT),
                             size, place, current_number()};
        allocations = made;
        *pointer = made->start;
    }
    pthread_mutex_unlock(&lock);
    return error;
}

int release(void *pointer) {
    if (!pointer)
        return SUCCESS;
    pthread_mutex_lock(&lock);
    Allocation **link = &allocations, *found;
    while (*link && (*link)->start != pointer)
        link = &(*link)->next;
    if ((found = *link)) {
        *link = found->next;
        *(found->place == PINNED ? &pinned : &devices[found->device].used) -= found->size;
    }
    pthread_mutex_unlock(&lock);
    if (!found)
        return INVALID_VALUE;
    if (found->size <= POISONED_BYTES) /* larger blocks go back to the system: to read them is a crash */
        memset(found->start, POISON, found->size);
    free(found->start);
    free(found);
    return SUCCESS;
}

enum Place place_of(const void *pointer, int *device) {
    enum Place place = PAGEABLE;
    const char *address = pointer;
    pthread_mutex_lock(&lock);
    for (Allocation *each = allocations; each; each = each->next)
        if (address >= each->start && address < each->start + each->size) {
            place = each->place;
            *device = each->device;
            break;
        }
    pthread_mutex_unlock(&lock);
    return place;
}

typedef struct {
    void *to;
    const void *from;
    size_t size;
    pthread_mutex_t *engine;
} Copy;

static void run_copy(Stream *stream, void *argument) {
    Copy *what = argument;
    if (device_of(stream)->fault)
        return;
    if (what->engine)
        pthread_mutex_lock(what->engine);
    if (what->engine && megabytes_per_second > 0)
        sleep_microseconds((double)what->size / megabytes_per_second);
    memmove(what->to, what->from, what->size);
    if (what->engine)
        pthread_mutex_unlock(what->engine);
}

/* A copy of pageable memory waits for the device, as CUDA's documentation says of it. */
int copy(void *to, const void *from, size_t size, Stream *stream, bool wait) {
    Device *device = device_of(stream);
    if (device->fault)
        return device->fault;
    int ignored;
    enum Place target = place_of(to, &ignored), source = place_of(from, &ignored);
    enum Kind kind = target == source ? COPY_INSIDE : target == ON_DEVICE ? COPY_IN : COPY_OUT;
    Copy what = {to, from, size, NULL};
    if (kind != COPY_INSIDE)
        what.engine = &device->engines[kind == COPY_IN ? TO_DEVICE : FROM_DEVICE];
    uint64_t number = enqueue(stream, kind, run_copy, &what, sizeof what);
    if (wait || target == PAGEABLE || source == PAGEABLE)
        wait_until(stream, number);
    return device->fault;
}

typedef struct {
    void *pointer;
    int value;
    size_t size;
} Fill;

static void run_fill(Stream *stream, void *argument) {
    Fill *what = argument;
    if (!device_of(stream)->fault)
        memset(what->pointer, what->value, what->size);
}

int fill(void *pointer, int value, size_t size, Stream *stream) {
    Fill what = {pointer, value, size};
    if (!device_of(stream)->fault)
        enqueue(stream, KERNEL, run_fill, &what, sizeof what);
    return device_of(stream)->fault;
}

/* Freed in the order of a stream, and poisoned then: whatever still reads it on another stream reads poison. */
static void run_release(Stream *stream, void *argument) {
    (void)stream;
    release(*(void **)argument);
}

EXPORT void fakegpu_free_in_order(void *pointer, void *stream) {
    enqueue(stream_of(stream), OTHER, run_release, &pointer, sizeof pointer);
}
