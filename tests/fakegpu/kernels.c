/* Kernels: a module is a shared object, made by compile.py for this machine's own processor. */
#include "device.h"

#include <dlfcn.h>
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define API EXPORT int

/* compile.py makes two functions for each kernel: one copies a launch's parameters, the other runs it. */
typedef struct {
    void *(*pack)(void **parameters);
    void (*run)(void *packed, const unsigned shape[6]);
} Kernel;

typedef struct {
    Kernel kernel;
    void *packed;
    unsigned shape[6]; /* of the grid, and of a block */
} Launch;

static size_t size_of_image(const void *image) {
    const Elf64_Ehdr *header = image;
    if (memcmp(header->e_ident, ELFMAG, SELFMAG) != 0)
        return 0;
    return header->e_shoff + (size_t)header->e_shentsize * header->e_shnum; /* the sections' table stands last */
}

/* The file's name is new each time: dlopen takes two files of one name for the same. */
API hipModuleLoadData(void **module, const void *image) {
    enter_driver();
    size_t size = size_of_image(image);
    char path[] = "/tmp/fakegpu-XXXXXX";
    int file = size ? mkstemp(path) : -1;
    if (file < 0)
        return INVALID_IMAGE;
    bool whole = write(file, image, size) == (ssize_t)size;
    close(file);
    *module = whole ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
    if (!*module)
        fprintf(stderr, "fakegpu: a module cannot be loaded: %s\n", whole ? dlerror() : "no room in /tmp");
    unlink(path);
    return *module ? SUCCESS : INVALID_IMAGE;
}

/* A kernel of it may still be on its way: modules stay. */
API hipModuleUnload(void *module) {
    (void)module;
    return SUCCESS;
}

static void *find(void *module, const char *prefix, const char *name) {
    char symbol[512];
    snprintf(symbol, sizeof symbol, "%s%s", prefix, name);
    return dlsym(module, symbol);
}

API hipModuleGetFunction(void **function, void *module, const char *name) {
    enter_driver();
    Kernel kernel = {find(module, "fakegpu_pack_", name), find(module, "fakegpu_run_", name)};
    if (!kernel.pack || !kernel.run)
        return NOT_FOUND;
    *function = memcpy(malloc(sizeof kernel), &kernel, sizeof kernel);
    return SUCCESS;
}

API hipModuleGetGlobal(void **pointer, size_t *size, void *module, const char *name) {
    enter_driver();
    (void)size;
    *pointer = dlsym(module, name);
    return *pointer ? SUCCESS : NOT_FOUND;
}

API hipFuncGetAttribute(int *value, int attribute, void *function) {
    (void)function;
    enum { MAX_THREADS_PER_BLOCK = 0 };
    *value = attribute == MAX_THREADS_PER_BLOCK ? 1024 : 0;
    return SUCCESS;
}

API hipOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, void *function, int block_size, size_t shared) {
    (void)function, (void)block_size, (void)shared;
    *blocks = 1;
    return SUCCESS;
}

static void run_launch(Stream *stream, void *argument) {
    Launch *launch = argument;
    if (!device_of(stream)->fault)
        launch->kernel.run(launch->packed, launch->shape);
    free(launch->packed);
}

API hipModuleLaunchKernel(
    void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
    unsigned block_z, unsigned shared_bytes, void *handle, void **parameters, void **extra
) {
    enter_driver();
    (void)extra;
    Stream *stream = stream_of(handle);
    if (device_of(stream)->fault)
        return device_of(stream)->fault;
    if (!parameters || shared_bytes)
        return NOT_SUPPORTED;
    Launch launch = {*(Kernel *)function, NULL, {grid_x, grid_y, grid_z, block_x, block_y, block_z}};
    launch.packed = launch.kernel.pack(parameters); /* the caller may change them when this has returned */
    enqueue(stream, KERNEL, run_launch, &launch, sizeof launch);
    return SUCCESS;
}

/* -- device code inside the wheel (Thrust, CUB) is for AMD's processors. Its results must not be taken for good. */

static int refuse(void) {
    current_device()->fault = NOT_SUPPORTED;
    fprintf(stderr, "fakegpu: a kernel that the wheel brings (sort and others of Thrust, CUB) cannot run here\n");
    return NOT_SUPPORTED;
}

API hipLaunchKernel(void) { return refuse(); }
API __hipPushCallConfiguration(void) { return refuse(); }
EXPORT void **__hipRegisterFatBinary(const void *data) { static void *handle; (void)data; return &handle; }
EXPORT void __hipUnregisterFatBinary(void **handle) { (void)handle; }
EXPORT void __hipRegisterFunction(void) {}
