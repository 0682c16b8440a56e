/* Fails, shortens or ends the N-th file operation below a folder, and records all of them; for LD_PRELOAD on Linux.
 *
 * FAULT_ROOT     only operations on paths below this folder count
 * FAULT_CONTROL  a file of one `struct control`, shared by all processes of a run
 * FAULT_LOG      a line for each operation that counts: NAME, a tab, PATH, and for two paths a tab and the other
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NONE, NO_SPACE, BROKEN, DENIED, SHORT, KILLED, TORN };
enum { OPEN = 1, WRITE = 2, SYNC = 4, NAME = 8, SHRINK = 16 }; /* NAME: rename, link, mkdir; SHRINK: what frees space */

struct control {
    long count, at;
    int kind;
};

static struct control *control;
static char root[PATH_MAX];
static size_t root_length;
static int log_file = -1;

__attribute__((constructor)) static void start(void) {
    const char *folder = getenv("FAULT_ROOT"), *file = getenv("FAULT_CONTROL"), *log = getenv("FAULT_LOG");
    if (!folder || !file || !log) return;
    int handle = syscall(SYS_openat, AT_FDCWD, file, O_RDWR | O_CLOEXEC);
    if (handle < 0) return;
    void *shared = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, handle, 0);
    syscall(SYS_close, handle);
    log_file = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (shared == MAP_FAILED || log_file < 0) return;
    strncpy(root, folder, sizeof root - 1);
    root_length = strlen(root);
    control = shared;
}

static void of_handle(int handle, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length > 0 ? length : 0] = 0;
}

static void of_path(int folder, const char *name, char *path) {
    if (name[0] == '/') {
        snprintf(path, PATH_MAX, "%s", name);
        return;
    }
    char above[PATH_MAX];
    if (folder == AT_FDCWD) {
        if (syscall(SYS_getcwd, above, sizeof above) < 0) above[0] = 0;
    } else {
        of_handle(folder, above);
    }
    snprintf(path, PATH_MAX, "%.*s/%s", PATH_MAX / 2, above, name);
}

static int below(const char *path) {
    return !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
}

static int applies(int kind, int class) {
    switch (kind) {
    case NO_SPACE: return class != SHRINK;
    case DENIED: return class & (OPEN | NAME | SHRINK);
    case SHORT: case TORN: return class == WRITE;
    default: return 1;
    }
}

static void die(void) {
    kill(0, SIGKILL); /* with its workers, as when the power fails */
    for (;;) pause();
}

/* What is to happen to this operation; NONE for it to be done. errno is set where it is to fail. */
static int fate(const char *name, int class, const char *path, const char *other) {
    if (!control || !(below(path) || (other && below(other)))) return NONE;
    int before = errno;
    char line[3 * PATH_MAX];
    int length = snprintf(line, sizeof line, "%s\t%s%s%s\n", name, path, other ? "\t" : "", other ? other : "");
    syscall(SYS_write, log_file, line, length);
    errno = before;
    long number = __atomic_add_fetch(&control->count, 1, __ATOMIC_SEQ_CST);
    int kind = control->kind;
    if (!control->at || number < control->at || !applies(kind, class)) return NONE;
    if (number > control->at && kind != NO_SPACE) return NONE; /* a full disk stays full, the others happen once */
    if (kind == KILLED) die();
    errno = kind == NO_SPACE ? ENOSPC : kind == DENIED ? EACCES : EIO;
    return kind;
}

/* What a call returns that is to fail, where it cannot be done by half. */
static int refused(int kind) {
    if (kind == TORN) die();
    return -1;
}

static ssize_t half(int kind, int handle, const void *data, size_t size) {
    if (kind != SHORT && kind != TORN) return -1;
    ssize_t written = syscall(SYS_write, handle, data, size > 1 ? size / 2 : size);
    if (kind == TORN) die();
    return written;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int opened(int folder, const char *name, int flags, mode_t mode) {
    char path[PATH_MAX];
    if (control && (flags & O_ACCMODE) != O_RDONLY) {
        of_path(folder, name, path);
        if (fate(flags & O_CREAT ? "create" : "open", OPEN, path, NULL)) return -1;
    }
    return syscall(SYS_openat, folder, name, flags, mode);
}

#define MODE(flags) mode_t mode = 0; if ((flags) & (O_CREAT | O_TMPFILE)) { \
    va_list more; va_start(more, flags); mode = va_arg(more, mode_t); va_end(more); }

int open(const char *name, int flags, ...) { MODE(flags) return opened(AT_FDCWD, name, flags, mode); }
int open64(const char *name, int flags, ...) { MODE(flags) return opened(AT_FDCWD, name, flags, mode); }
int openat(int folder, const char *name, int flags, ...) { MODE(flags) return opened(folder, name, flags, mode); }
int openat64(int folder, const char *name, int flags, ...) { MODE(flags) return opened(folder, name, flags, mode); }

static int on_handle(const char *name, int class, int handle) {
    if (!control) return NONE;
    char path[PATH_MAX];
    of_handle(handle, path);
    return fate(name, class, path, NULL);
}

ssize_t write(int handle, const void *data, size_t size) {
    int kind = on_handle("write", WRITE, handle);
    return kind ? half(kind, handle, data, size) : syscall(SYS_write, handle, data, size);
}

ssize_t pwrite64(int handle, const void *data, size_t size, off64_t at) {
    int kind = on_handle("write", WRITE, handle);
    return kind ? refused(kind) : syscall(SYS_pwrite64, handle, data, size, at);
}
ssize_t pwrite(int handle, const void *data, size_t size, off_t at) { return pwrite64(handle, data, size, at); }

ssize_t writev(int handle, const struct iovec *parts, int count) {
    int kind = on_handle("write", WRITE, handle);
    return kind ? refused(kind) : syscall(SYS_writev, handle, parts, count);
}

ssize_t sendfile64(int to, int from, off64_t *at, size_t size) {
    int kind = on_handle("write", WRITE, to);
    return kind ? refused(kind) : syscall(SYS_sendfile, to, from, at, size);
}
ssize_t sendfile(int to, int from, off_t *at, size_t size) { return sendfile64(to, from, at, size); }

ssize_t copy_file_range(int from, off64_t *at, int to, off64_t *there, size_t size, unsigned flags) {
    int kind = on_handle("write", WRITE, to);
    return kind ? refused(kind) : syscall(SYS_copy_file_range, from, at, to, there, size, flags);
}

int fsync(int handle) { return on_handle("fsync", SYNC, handle) ? -1 : syscall(SYS_fsync, handle); }
int fdatasync(int handle) { return on_handle("fsync", SYNC, handle) ? -1 : syscall(SYS_fdatasync, handle); }
/* Nothing is written: a process that ends loses nothing, and all disks of a machine are many. */
void sync(void) { fate("sync", SYNC, root, NULL); }
int ftruncate64(int handle, off64_t size) {
    return on_handle("truncate", SHRINK, handle) ? -1 : syscall(SYS_ftruncate, handle, size);
}
int ftruncate(int handle, off_t size) { return ftruncate64(handle, size); }

int posix_fallocate64(int handle, off64_t at, off64_t size) {
    int kind = on_handle("allocate", WRITE, handle);
    return kind ? refused(kind), errno : REAL(posix_fallocate64)(handle, at, size);
}
int posix_fallocate(int handle, off_t at, off_t size) { return posix_fallocate64(handle, at, size); }

static int on_path(const char *function, int class, int folder, const char *name) {
    if (!control) return NONE;
    char path[PATH_MAX];
    of_path(folder, name, path);
    return fate(function, class, path, NULL);
}

int truncate64(const char *name, off64_t size) {
    return on_path("truncate", SHRINK, AT_FDCWD, name) ? -1 : syscall(SYS_truncate, name, size);
}
int truncate(const char *name, off_t size) { return truncate64(name, size); }

int mkdirat(int folder, const char *name, mode_t mode) {
    return on_path("mkdir", NAME, folder, name) ? -1 : syscall(SYS_mkdirat, folder, name, mode);
}
int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }

int unlinkat(int folder, const char *name, int flags) {
    const char *what = flags & AT_REMOVEDIR ? "rmdir" : "unlink";
    return on_path(what, SHRINK, folder, name) ? -1 : syscall(SYS_unlinkat, folder, name, flags);
}
int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }

static int on_paths(const char *function, int folder, const char *name, int other_folder, const char *other) {
    if (!control) return NONE;
    char path[PATH_MAX], second[PATH_MAX];
    of_path(folder, name, path);
    of_path(other_folder, other, second);
    return fate(function, NAME, path, second);
}

int renameat2(int folder, const char *name, int other, const char *target, unsigned flags) {
    return on_paths("rename", folder, name, other, target) ? -1 : syscall(SYS_renameat2, folder, name, other, target, flags);
}
int renameat(int folder, const char *name, int other, const char *target) {
    return renameat2(folder, name, other, target, 0);
}
int rename(const char *name, const char *target) { return renameat2(AT_FDCWD, name, AT_FDCWD, target, 0); }

int linkat(int folder, const char *name, int other, const char *target, int flags) {
    return on_paths("link", folder, name, other, target) ? -1 : syscall(SYS_linkat, folder, name, other, target, flags);
}
int link(const char *name, const char *target) { return linkat(AT_FDCWD, name, AT_FDCWD, target, 0); }

int symlinkat(const char *target, int folder, const char *name) {
    return on_path("symlink", NAME, folder, name) ? -1 : syscall(SYS_symlinkat, target, folder, name);
}
int symlink(const char *target, const char *name) { return symlinkat(target, AT_FDCWD, name); }
