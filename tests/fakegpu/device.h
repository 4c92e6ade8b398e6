/* A software GPU: what the other files know of its streams, events and memory. */
#pragma once
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#define EXPORT __attribute__((visibility("default")))

enum { DEVICES = 2, DIRECTIONS = 2, TO_DEVICE = 0, FROM_DEVICE = 1 };

/* HIP's numbers. */
enum Error {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    NOT_FOUND = 500,
    NOT_READY = 600,
    ILLEGAL_ADDRESS = 700,
    NOT_SUPPORTED = 801,
};

/* What an operation does, in traces. */
enum Kind { COPY_IN, COPY_OUT, COPY_INSIDE, KERNEL, DELAY, OTHER };

typedef struct Stream Stream;
typedef struct Event Event;

typedef struct Device {
    pthread_mutex_t engines[DIRECTIONS]; /* copies of one direction take turns, as with two copy engines */
    Stream *null;                        /* the legacy default stream, made when it is first used */
    size_t capacity, used, peak;         /* bytes */
    atomic_int fault;                    /* a sticky error: nothing runs any more */
} Device;

extern Device devices[DEVICES];
extern double megabytes_per_second; /* of copies; 0: as fast as memory */
extern int device_count;            /* that the program finds */
extern bool driver_lock;            /* whether calls wait for callbacks, as with one lock in the driver */

/* Every call of the API begins with it. */
void enter_driver(void);
void lock_driver(void);
void unlock_driver(void);
Device *current_device(void);
int current_number(void);
void set_current_number(int number);
void sleep_microseconds(double microseconds);

/* Streams. Work runs on the stream's thread, in order, with a copy of `size` bytes of its argument. */
typedef void (*Work)(Stream *stream, void *argument);
Stream *make_stream(bool non_blocking, int priority);
Stream *stream_of(void *handle); /* NULL and HIP's small numbers are the null stream */
Device *device_of(const Stream *stream);
int number_of(const Stream *stream);
bool is_non_blocking(const Stream *stream);
int priority_of(const Stream *stream);
uint64_t enqueue(Stream *stream, enum Kind kind, Work work, const void *argument, size_t size);
void wait_until(Stream *stream, uint64_t operation);
void wait_for_stream(Stream *stream);
void wait_for_device(Device *device);
bool is_idle(Stream *stream);
void destroy_stream(Stream *stream);

/* Events. One is recorded again and again; whoever waits, waits for the last record before that. */
Event *make_event(void);
void drop_event(Event *event);
void record_event(Event *event, Stream *stream);
void wait_for_event(Event *event);
bool has_happened(Event *event);
void wait_on_device(Stream *stream, Event *event);
double milliseconds_between(Event *from, Event *to);

/* Memory. */
enum Place { PAGEABLE, PINNED, ON_DEVICE };
int allocate(void **pointer, size_t size, enum Place place);
int release(void *pointer);
enum Place place_of(const void *pointer, int *device);
int copy(void *to, const void *from, size_t size, Stream *stream, bool wait);
int fill(void *pointer, int value, size_t size, Stream *stream);
size_t pinned_bytes(void);

/* Traces: when each operation began and ended, counted in steps that all streams share. */
uint64_t trace_begin(void);
void trace_end(const Stream *stream, enum Kind kind, uint64_t began);
