/* Records what a process asks of the disk: every write, truncation, rename, deletion and sync below a directory, in the order in which the calls
   returned. Preloaded into the program under test; `disk.rs` reads the record. POWER_CUT_BELOW names the directory, POWER_CUT_RECORD the file. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { WRITE = 'w', TRUNCATE = 't', SYNC = 's', SYNC_DIR = 'd', CREATE = 'c', RENAME = 'r', UNLINK = 'u', MKDIR = 'm', RMDIR = 'x' };

static const char *below;
static int record = -1;
static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void begin(void) {
    below = getenv("POWER_CUT_BELOW");
    const char *path = getenv("POWER_CUT_RECORD");
    if (below && path)
        record = REAL(open)(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static int ours(const char *path) {
    size_t n = below ? strlen(below) : 0;
    return record >= 0 && strncmp(path, below, n) == 0 && (path[n] == '/' || path[n] == 0);
}

/* The path of an open file, if it is below. */
static int of(int fd, char *path) {
    char link[64];
    if (record < 0 || fd == record)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, PATH_MAX - 1);
    if (n <= 0)
        return 0;
    path[n] = 0;
    return ours(path);
}

static const char *whole(int dir, const char *path, char *buffer) {
    if (path[0] == '/')
        return path;
    if (dir == AT_FDCWD) {
        if (!getcwd(buffer, PATH_MAX))
            return path;
    } else {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
        ssize_t n = readlink(link, buffer, PATH_MAX - 1);
        buffer[n < 0 ? 0 : n] = 0;
    }
    strncat(buffer, "/", PATH_MAX - strlen(buffer) - 1);
    strncat(buffer, path, PATH_MAX - strlen(buffer) - 1);
    return buffer;
}

/* One entry: kind, milliseconds since some moment, offset, lengths of path and data, path, data. */
static void note(char kind, const char *path, uint64_t offset, const struct iovec *data, int parts, size_t size) {
    int kept = errno;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t head[4] = {(uint64_t)kind, (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000, offset, ((uint64_t)strlen(path) << 40) | size};
    struct iovec all[2 + 64];
    all[0] = (struct iovec){head, sizeof head};
    all[1] = (struct iovec){(void *)path, strlen(path)};
    size_t left = size;
    int count = 2;
    for (int i = 0; i < parts && i < 64 && left > 0; i++) {
        size_t n = data[i].iov_len < left ? data[i].iov_len : left;
        all[count++] = (struct iovec){data[i].iov_base, n};
        left -= n;
    }
    if (REAL(writev)(record, all, count) < 0)
        abort();
    errno = kept;
}

#define LOCKED(...) do { pthread_mutex_lock(&one); __VA_ARGS__; pthread_mutex_unlock(&one); } while (0)

ssize_t write(int fd, const void *data, size_t size) {
    char path[PATH_MAX];
    ssize_t done;
    if (!of(fd, path))
        return REAL(write)(fd, data, size);
    LOCKED({
        off_t at = fcntl(fd, F_GETFL) & O_APPEND ? lseek(fd, 0, SEEK_END) : lseek(fd, 0, SEEK_CUR);
        done = REAL(write)(fd, data, size);
        struct iovec v = {(void *)data, size};
        if (done > 0)
            note(WRITE, path, (uint64_t)at, &v, 1, (size_t)done);
    });
    return done;
}

static ssize_t at(int fd, const void *data, size_t size, off_t offset) {
    char path[PATH_MAX];
    ssize_t done;
    if (!of(fd, path))
        return REAL(pwrite64)(fd, data, size, offset);
    LOCKED({
        done = REAL(pwrite64)(fd, data, size, offset);
        struct iovec v = {(void *)data, size};
        if (done > 0)
            note(WRITE, path, (uint64_t)offset, &v, 1, (size_t)done);
    });
    return done;
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return at(fd, data, size, offset); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) { return at(fd, data, size, offset); }

ssize_t writev(int fd, const struct iovec *parts, int count) {
    char path[PATH_MAX];
    ssize_t done;
    if (!of(fd, path))
        return REAL(writev)(fd, parts, count);
    LOCKED({
        off_t at = lseek(fd, 0, SEEK_CUR);
        done = REAL(writev)(fd, parts, count);
        if (done > 0)
            note(WRITE, path, (uint64_t)at, parts, count, (size_t)done);
    });
    return done;
}

static int truncated(int fd, off_t size) {
    char path[PATH_MAX];
    int done;
    if (!of(fd, path))
        return REAL(ftruncate64)(fd, size);
    LOCKED({
        done = REAL(ftruncate64)(fd, size);
        if (done == 0)
            note(TRUNCATE, path, (uint64_t)size, NULL, 0, 0);
    });
    return done;
}
int ftruncate(int fd, off_t size) { return truncated(fd, size); }
int ftruncate64(int fd, off64_t size) { return truncated(fd, size); }

static int synced(int fd, int (*real)(int)) {
    char path[PATH_MAX];
    struct stat is;
    int done;
    if (!of(fd, path))
        return real(fd);
    /* What is written while the disk works may or may not be on it: only what was written before the call is counted. */
    LOCKED({
        int dir = fstat(fd, &is) == 0 && S_ISDIR(is.st_mode);
        note(dir ? SYNC_DIR : SYNC, path, 0, NULL, 0, 0);
    });
    done = real(fd);
    LOCKED(note('e', path, 0, NULL, 0, 0));
    return done;
}
int fsync(int fd) { return synced(fd, REAL(fsync)); }
int fdatasync(int fd) { return synced(fd, REAL(fdatasync)); }

static int opened(int dir, const char *path, int flags, mode_t mode) {
    char buffer[PATH_MAX];
    const char *full = whole(dir, path, buffer);
    if (!ours(full) || !(flags & (O_CREAT | O_TRUNC)))
        return REAL(openat)(dir, path, flags, mode);
    int fd;
    LOCKED({
        struct stat is;
        int known = stat(full, &is) == 0;
        fd = REAL(openat)(dir, path, flags, mode);
        if (fd >= 0 && !known)
            note(CREATE, full, 0, NULL, 0, 0);
        else if (fd >= 0 && (flags & O_TRUNC) && is.st_size > 0)
            note(TRUNCATE, full, 0, NULL, 0, 0);
    });
    return fd;
}
#define MODE mode_t mode = 0; if (flags & (O_CREAT | O_TMPFILE)) { va_list all; va_start(all, flags); mode = va_arg(all, mode_t); va_end(all); }
int open(const char *path, int flags, ...) { MODE return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE return opened(AT_FDCWD, path, flags, mode); }
int openat(int dir, const char *path, int flags, ...) { MODE return opened(dir, path, flags, mode); }
int openat64(int dir, const char *path, int flags, ...) { MODE return opened(dir, path, flags, mode); }

int rename(const char *from, const char *to) {
    char a[PATH_MAX], b[PATH_MAX];
    const char *old = whole(AT_FDCWD, from, a), *new = whole(AT_FDCWD, to, b);
    int done;
    if (!ours(old) && !ours(new))
        return REAL(rename)(from, to);
    LOCKED({
        done = REAL(rename)(from, to);
        struct iovec v = {(void *)new, strlen(new)};
        if (done == 0)
            note(RENAME, old, 0, &v, 1, strlen(new));
    });
    return done;
}

static int gone(const char *path, char kind, int (*real)(const char *)) {
    char buffer[PATH_MAX];
    const char *full = whole(AT_FDCWD, path, buffer);
    int done;
    if (!ours(full))
        return real(path);
    LOCKED({
        done = real(path);
        if (done == 0)
            note(kind, full, 0, NULL, 0, 0);
    });
    return done;
}
int unlink(const char *path) { return gone(path, UNLINK, REAL(unlink)); }
int rmdir(const char *path) { return gone(path, RMDIR, REAL(rmdir)); }
int unlinkat(int dir, const char *path, int flags) {
    char buffer[PATH_MAX];
    const char *full = whole(dir, path, buffer);
    int done;
    if (!ours(full))
        return REAL(unlinkat)(dir, path, flags);
    LOCKED({
        done = REAL(unlinkat)(dir, path, flags);
        if (done == 0)
            note(flags & AT_REMOVEDIR ? RMDIR : UNLINK, full, 0, NULL, 0, 0);
    });
    return done;
}
int mkdir(const char *path, mode_t mode) {
    char buffer[PATH_MAX];
    const char *full = whole(AT_FDCWD, path, buffer);
    int done;
    if (!ours(full))
        return REAL(mkdir)(path, mode);
    LOCKED({
        done = REAL(mkdir)(path, mode);
        if (done == 0)
            note(MKDIR, full, 0, NULL, 0, 0);
    });
    return done;
}
