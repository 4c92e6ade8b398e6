/* What the tests turn and read, through control.py. Streams are the handles that the program has. */
#include "device.h"

#include <stdlib.h>

/* -- time */

static void run_delay(Stream *stream, void *argument) {
    if (!device_of(stream)->fault)
        sleep_microseconds(*(double *)argument);
}

/* A kernel that takes so long. */
EXPORT void fakegpu_delay(void *stream, double microseconds) {
    enqueue(stream_of(stream), DELAY, run_delay, &microseconds, sizeof microseconds);
}

enum { GATES = 64 };
static pthread_mutex_t gates_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t gates_changed = PTHREAD_COND_INITIALIZER;
static bool open_gates[GATES];

static void run_hold(Stream *stream, void *argument) {
    (void)stream;
    int gate = *(int *)argument;
    pthread_mutex_lock(&gates_lock);
    while (!open_gates[gate])
        pthread_cond_wait(&gates_changed, &gates_lock);
    pthread_mutex_unlock(&gates_lock);
}

/* A kernel that takes until its gate is opened. */
EXPORT void fakegpu_hold(void *stream, int gate) {
    enqueue(stream_of(stream), DELAY, run_hold, &gate, sizeof gate);
}

EXPORT void fakegpu_gate(int gate, int is_open) {
    pthread_mutex_lock(&gates_lock);
    open_gates[gate] = is_open;
    pthread_cond_broadcast(&gates_changed);
    pthread_mutex_unlock(&gates_lock);
}

/* -- faults */

static void run_fault(Stream *stream, void *argument) { device_of(stream)->fault = *(int *)argument; }

/* A kernel that leaves the device with a sticky error. */
EXPORT void fakegpu_fault(void *stream, int error) {
    enqueue(stream_of(stream), KERNEL, run_fault, &error, sizeof error);
}

/* A new process would find the device so. */
EXPORT void fakegpu_clear(void) {
    for (int i = 0; i < DEVICES; i++)
        devices[i].fault = SUCCESS;
}

/* -- settings and counts */

EXPORT void fakegpu_set_speed(double value) { megabytes_per_second = value; }
EXPORT void fakegpu_set_driver_lock(int value) { driver_lock = value; }

EXPORT void fakegpu_set_capacity(size_t bytes) {
    for (int i = 0; i < DEVICES; i++)
        devices[i].capacity = bytes;
}

EXPORT void fakegpu_memory(int device, size_t *used, size_t *peak, size_t *capacity, size_t *pinned) {
    *used = devices[device].used;
    *peak = devices[device].peak;
    *capacity = devices[device].capacity;
    *pinned = pinned_bytes();
}

/* -- traces */

typedef struct {
    uint64_t stream, kind, began, ended;
} Step;

enum { STEPS = 1 << 16 };
static Step steps[STEPS];
static atomic_size_t taken;
static atomic_uint_fast64_t ticks;
static atomic_bool tracing;

uint64_t trace_begin(void) { return atomic_fetch_add(&ticks, 1); }

void trace_end(const Stream *stream, enum Kind kind, uint64_t began) {
    if (!tracing || kind == OTHER)
        return;
    size_t index = atomic_fetch_add(&taken, 1);
    if (index < STEPS)
        steps[index] = (Step){(uintptr_t)stream, kind, began, atomic_fetch_add(&ticks, 1)};
}

EXPORT void fakegpu_trace(int on) {
    taken = 0;
    tracing = on;
}

/* How many steps there are; `*found` is the first. */
EXPORT size_t fakegpu_steps(Step **found) {
    *found = steps;
    return taken < STEPS ? taken : STEPS;
}
