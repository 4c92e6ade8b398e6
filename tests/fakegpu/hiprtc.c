/* HIP's run-time compiler: hands a program's source to compile.py, and its shared object back. */
#define _GNU_SOURCE
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SUCCESS = 0, COMPILATION = 6 };

extern char **environ;

typedef struct {
    char *source, *log, *code;
    size_t log_size, code_size;
} Program;

int hiprtcVersion(int *major, int *minor) {
    *major = 7, *minor = 0;
    return SUCCESS;
}

const char *hiprtcGetErrorString(int error) { return error ? "HIPRTC_ERROR_COMPILATION" : "HIPRTC_SUCCESS"; }

int hiprtcCreateProgram(Program **made, const char *source, const char *name, int headers, const char **texts,
                        const char **names) {
    (void)name, (void)headers, (void)texts, (void)names;
    *made = calloc(1, sizeof **made);
    (*made)->source = strdup(source);
    return SUCCESS;
}

int hiprtcDestroyProgram(Program **program) {
    free((*program)->source);
    free((*program)->log);
    free((*program)->code);
    free(*program);
    return SUCCESS;
}

static char *read_file(const char *folder, const char *name, size_t *size) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "rb");
    *size = 0;
    if (!file)
        return strdup("");
    fseek(file, 0, SEEK_END);
    char *contents = calloc(1, (size_t)ftell(file) + 1);
    *size = (size_t)ftell(file);
    rewind(file);
    *size = fread(contents, 1, *size, file);
    fclose(file);
    unlink(path);
    return contents;
}

static void write_source(const char *folder, const char *source) {
    char path[256];
    snprintf(path, sizeof path, "%s/kernel.cc", folder);
    FILE *file = fopen(path, "w");
    fputs(source, file);
    fclose(file);
}

/* compile.py FOLDER OPTION...: kernel.cc becomes kernel.so and log. */
static int run_compiler(char *folder, int count, const char **options) {
    const char *arguments[count + 6];
    int used = 0;
    arguments[used++] = getenv("FAKEGPU_PYTHON");
    arguments[used++] = "-I";
    arguments[used++] = getenv("FAKEGPU_COMPILE");
    arguments[used++] = folder;
    for (int i = 0; i < count; i++)
        arguments[used++] = options[i];
    arguments[used] = NULL;
    pid_t pid;
    int status;
    if (!arguments[0] || posix_spawn(&pid, arguments[0], NULL, NULL, (char **)arguments, environ))
        return COMPILATION;
    return waitpid(pid, &status, 0) == pid && status == 0 ? SUCCESS : COMPILATION;
}

int hiprtcCompileProgram(Program *program, int count, const char **options) {
    char folder[] = "/tmp/fakegpu-XXXXXX";
    size_t ignored;
    if (!mkdtemp(folder))
        return COMPILATION;
    write_source(folder, program->source);
    int error = run_compiler(folder, count, options);
    program->log = read_file(folder, "log", &program->log_size);
    program->code = read_file(folder, "kernel.so", &program->code_size);
    free(read_file(folder, "kernel.cc", &ignored));
    rmdir(folder);
    return error;
}

int hiprtcGetCodeSize(Program *program, size_t *size) {
    *size = program->code_size;
    return SUCCESS;
}

int hiprtcGetCode(Program *program, char *code) {
    memcpy(code, program->code, program->code_size);
    return SUCCESS;
}

int hiprtcGetProgramLogSize(Program *program, size_t *size) {
    *size = program->log_size + 1;
    return SUCCESS;
}

int hiprtcGetProgramLog(Program *program, char *log) {
    strcpy(log, program->log ? program->log : "");
    return SUCCESS;
}

int hiprtcAddNameExpression(Program *program, const char *name) {
    (void)program, (void)name;
    return SUCCESS;
}

int hiprtcGetLoweredName(Program *program, const char *name, const char **lowered) {
    (void)program;
    *lowered = name;
    return SUCCESS;
}
