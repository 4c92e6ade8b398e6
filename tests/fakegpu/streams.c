/* Streams and events: a thread for each stream, which runs its operations in order. */
#include "device.h"

#include <stdlib.h>
#include <string.h>

Device devices[DEVICES];
double megabytes_per_second;
bool driver_lock;
int device_count = DEVICES;

static pthread_mutex_t registry = PTHREAD_MUTEX_INITIALIZER; /* of the streams; taken before a stream's own lock */
static pthread_mutex_t driver;
static Stream *streams;
static _Thread_local int thread_device;

__attribute__((constructor)) static void prepare(void) {
    pthread_mutexattr_t recursive;
    pthread_mutexattr_init(&recursive);
    pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&driver, &recursive);
    const char *capacity = getenv("FAKEGPU_BYTES"), *speed = getenv("FAKEGPU_MEGABYTES_PER_SECOND");
    const char *lock = getenv("FAKEGPU_DRIVER_LOCK"), *count = getenv("FAKEGPU_DEVICES");
    device_count = count && atoi(count) < DEVICES ? atoi(count) : DEVICES;
    megabytes_per_second = speed ? atof(speed) : 0;
    driver_lock = lock && atoi(lock);
    for (int i = 0; i < DEVICES; i++) {
        devices[i].capacity = capacity ? strtoull(capacity, NULL, 0) : 1ull << 30;
        for (int direction = 0; direction < DIRECTIONS; direction++)
            pthread_mutex_init(&devices[i].engines[direction], NULL);
    }
}

void lock_driver(void) {
    if (driver_lock)
        pthread_mutex_lock(&driver);
}

void unlock_driver(void) {
    if (driver_lock)
        pthread_mutex_unlock(&driver);
}

void enter_driver(void) {
    lock_driver();
    unlock_driver();
}

int current_number(void) { return thread_device; }
void set_current_number(int number) { thread_device = number; }
Device *current_device(void) { return &devices[thread_device]; }

void sleep_microseconds(double microseconds) {
    struct timespec time = {(time_t)(microseconds / 1e6), (long)((long long)(microseconds * 1e3) % 1000000000)};
    nanosleep(&time, NULL);
}

/* -- streams */

typedef struct Dependency {
    struct Dependency *next;
    Stream *stream;
    uint64_t until;
} Dependency;

typedef struct Operation {
    struct Operation *next;
    Dependency *behind; /* operations of other streams that run first: the null stream's order */
    enum Kind kind;
    Work work;
    _Alignas(16) char argument[];
} Operation;

/* It is never freed, since others may still ask how far it has come; its thread ends. */
struct Stream {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    Operation *first, *last;
    uint64_t submitted, completed;
    bool closing, non_blocking;
    int priority, device;
    Stream *next;
};

Device *device_of(const Stream *stream) { return &devices[stream->device]; }
int number_of(const Stream *stream) { return stream->device; }
bool is_non_blocking(const Stream *stream) { return stream->non_blocking; }
int priority_of(const Stream *stream) { return stream->priority; }

void wait_until(Stream *stream, uint64_t operation) {
    pthread_mutex_lock(&stream->lock);
    while (stream->completed < operation)
        pthread_cond_wait(&stream->changed, &stream->lock);
    pthread_mutex_unlock(&stream->lock);
}

static void wait_for_dependencies(Operation *operation) {
    for (Dependency *next, *behind = operation->behind; behind; behind = next) {
        wait_until(behind->stream, behind->until);
        next = behind->next;
        free(behind);
    }
}

static Operation *next_operation(Stream *stream) {
    pthread_mutex_lock(&stream->lock);
    while (!stream->first && !stream->closing)
        pthread_cond_wait(&stream->changed, &stream->lock);
    Operation *operation = stream->first;
    if (operation && !(stream->first = operation->next))
        stream->last = NULL;
    pthread_mutex_unlock(&stream->lock);
    return operation;
}

static void *serve(void *argument) {
    Stream *stream = argument;
    thread_device = stream->device;
    for (Operation *operation; (operation = next_operation(stream));) {
        wait_for_dependencies(operation);
        uint64_t began = trace_begin();
        operation->work(stream, operation->argument);
        trace_end(stream, operation->kind, began);
        free(operation);
        pthread_mutex_lock(&stream->lock);
        stream->completed++;
        pthread_cond_broadcast(&stream->changed);
        pthread_mutex_unlock(&stream->lock);
    }
    return NULL;
}

static Stream *start_stream(bool non_blocking, int priority) {
    Stream *stream = calloc(1, sizeof *stream);
    pthread_mutex_init(&stream->lock, NULL);
    pthread_cond_init(&stream->changed, NULL);
    stream->non_blocking = non_blocking;
    stream->priority = priority;
    stream->device = thread_device;
    pthread_create(&stream->thread, NULL, serve, stream);
    pthread_setname_np(stream->thread, "fakegpu-stream");
    return stream;
}

Stream *make_stream(bool non_blocking, int priority) {
    Stream *stream = start_stream(non_blocking, priority);
    pthread_mutex_lock(&registry);
    stream->next = streams;
    streams = stream;
    pthread_mutex_unlock(&registry);
    return stream;
}

Stream *stream_of(void *handle) {
    if ((uintptr_t)handle > 2)
        return handle;
    Device *device = current_device();
    pthread_mutex_lock(&registry);
    if (!device->null)
        device->null = start_stream(false, 0);
    pthread_mutex_unlock(&registry);
    return device->null;
}

static void run_behind(Operation *operation, Stream *other) {
    pthread_mutex_lock(&other->lock);
    if (other->completed < other->submitted) {
        Dependency *behind = malloc(sizeof *behind);
        *behind = (Dependency){operation->behind, other, other->submitted};
        operation->behind = behind;
    }
    pthread_mutex_unlock(&other->lock);
}

/* The legacy default stream waits for all blocking streams of its device, and they for it. */
static void keep_null_order(Operation *operation, Stream *stream) {
    Stream *null = device_of(stream)->null;
    if (stream != null) {
        if (null && !stream->non_blocking)
            run_behind(operation, null);
        return;
    }
    for (Stream *other = streams; other; other = other->next)
        if (!other->non_blocking && other->device == stream->device)
            run_behind(operation, other);
}

uint64_t enqueue(Stream *stream, enum Kind kind, Work work, const void *argument, size_t size) {
    Operation *operation = calloc(1, sizeof *operation + size);
    operation->kind = kind;
    operation->work = work;
    if (size)
        memcpy(operation->argument, argument, size);
    pthread_mutex_lock(&registry);
    keep_null_order(operation, stream);
    pthread_mutex_lock(&stream->lock);
    if (stream->last)
        stream->last->next = operation;
    else
        stream->first = operation;
    stream->last = operation;
    uint64_t number = ++stream->submitted;
    pthread_cond_broadcast(&stream->changed);
    pthread_mutex_unlock(&stream->lock);
    pthread_mutex_unlock(&registry);
    return number;
}

void wait_for_stream(Stream *stream) {
    pthread_mutex_lock(&stream->lock);
    uint64_t submitted = stream->submitted;
    pthread_mutex_unlock(&stream->lock);
    wait_until(stream, submitted);
}

bool is_idle(Stream *stream) {
    pthread_mutex_lock(&stream->lock);
    bool idle = stream->completed == stream->submitted;
    pthread_mutex_unlock(&stream->lock);
    return idle;
}

void wait_for_device(Device *device) {
    pthread_mutex_lock(&registry);
    Stream *stream = streams, *null = device->null; /* streams are only ever put in front */
    pthread_mutex_unlock(&registry);
    for (; stream; stream = stream->next)
        if (device_of(stream) == device)
            wait_for_stream(stream);
    if (null)
        wait_for_stream(null);
}

/* What was submitted still runs. */
void destroy_stream(Stream *stream) {
    pthread_mutex_lock(&stream->lock);
    stream->closing = true;
    pthread_cond_broadcast(&stream->changed);
    pthread_mutex_unlock(&stream->lock);
    pthread_detach(stream->thread);
}

/* -- events */

struct Event {
    pthread_mutex_t lock;
    pthread_cond_t happened;
    uint64_t recorded, completed;
    int references; /* the program's, and those of operations on their way */
    struct timespec time;
};

typedef struct {
    Event *event;
    uint64_t record;
} EventArgument;

Event *make_event(void) {
    Event *event = calloc(1, sizeof *event);
    pthread_mutex_init(&event->lock, NULL);
    pthread_cond_init(&event->happened, NULL);
    event->references = 1;
    return event;
}

void drop_event(Event *event) {
    pthread_mutex_lock(&event->lock);
    bool last = --event->references == 0;
    pthread_mutex_unlock(&event->lock);
    if (last)
        free(event);
}

static void wait_for_record(Event *event, uint64_t record) {
    pthread_mutex_lock(&event->lock);
    while (event->completed < record)
        pthread_cond_wait(&event->happened, &event->lock);
    pthread_mutex_unlock(&event->lock);
}

static void run_record(Stream *stream, void *argument) {
    (void)stream;
    EventArgument *what = argument;
    pthread_mutex_lock(&what->event->lock);
    if (what->event->completed < what->record)
        what->event->completed = what->record;
    clock_gettime(CLOCK_MONOTONIC, &what->event->time);
    pthread_cond_broadcast(&what->event->happened);
    pthread_mutex_unlock(&what->event->lock);
    drop_event(what->event);
}

static void run_wait(Stream *stream, void *argument) {
    (void)stream;
    EventArgument *what = argument;
    wait_for_record(what->event, what->record);
    drop_event(what->event);
}

void record_event(Event *event, Stream *stream) {
    pthread_mutex_lock(&event->lock);
    EventArgument argument = {event, ++event->recorded};
    event->references++;
    pthread_mutex_unlock(&event->lock);
    enqueue(stream, OTHER, run_record, &argument, sizeof argument);
}

void wait_on_device(Stream *stream, Event *event) {
    pthread_mutex_lock(&event->lock);
    EventArgument argument = {event, event->recorded};
    event->references++;
    pthread_mutex_unlock(&event->lock);
    enqueue(stream, OTHER, run_wait, &argument, sizeof argument);
}

void wait_for_event(Event *event) {
    pthread_mutex_lock(&event->lock);
    uint64_t record = event->recorded;
    pthread_mutex_unlock(&event->lock);
    wait_for_record(event, record);
}

bool has_happened(Event *event) {
    pthread_mutex_lock(&event->lock);
    bool happened = event->completed >= event->recorded;
    pthread_mutex_unlock(&event->lock);
    return happened;
}

double milliseconds_between(Event *from, Event *to) {
    return (double)(to->time.tv_sec - from->time.tv_sec) * 1e3 + (double)(to->time.tv_nsec - from->time.tv_nsec) / 1e6;
}
