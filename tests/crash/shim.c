/* Preloaded into a process: logs what it does to the files of one folder, with the data, in the order in which it was done.
 *
 *   CRASH_UNDER         the folder (no slash at the end); its files and itself are traced, its sub-folders are not
 *   CRASH_TRACE         the trace, appended to
 *   CRASH_DIE_AT_SYNC   SIGKILL at the beginning of the Nth fsync or fdatasync of a traced file; none if absent
 *   CRASH_DIE_AT_WRITE  the same at the Nth pwrite
 *   CRASH_SHORT_EVERY   every Nth pwrite of more than 100 bytes to a traced file writes 100 of them; none if absent
 *
 * A record is {op, descriptor, number, length} packed, little-endian, then `length` bytes:
 *   O open     number 1: did not exist, 2: cut to nothing, else 0; bytes: the path
 *   C close        W write      number: offset; bytes: what was written
 *   T truncate     number: size             B a sync begins     F that sync has returned 0     E it has failed
 *   U unlink       bytes: the path          R rename   bytes: the path, a NUL, the new path
 * A write is logged when it has returned; a sync when it begins and when it has returned: what is written meanwhile is
 * not covered by it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define DESCRIPTORS 4096
#define REAL(name) ((__typeof__(&name))real(#name))

static char traced[DESCRIPTORS];
static const char *under;
static size_t under_length;
static int trace = -1;
static long die_at, syncs, die_at_write, short_every, pwrites;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

static void begin(void) {
    const char *path = getenv("CRASH_TRACE"), *at = getenv("CRASH_DIE_AT_SYNC"), *every = getenv("CRASH_SHORT_EVERY");
    const char *at_write = getenv("CRASH_DIE_AT_WRITE");
    under = getenv("CRASH_UNDER");
    under_length = under ? strlen(under) : 0;
    die_at = at ? atol(at) : 0;
    die_at_write = at_write ? atol(at_write) : 0;
    short_every = every ? atol(every) : 0;
    if (path && under) trace = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static int ours(const char *path) {
    pthread_once(&once, begin);
    if (trace < 0 || !path || strncmp(path, under, under_length)) return 0;
    const char *rest = path + under_length;
    return !*rest || (*rest == '/' && !strchr(rest + 1, '/'));
}

static int is_traced(int fd) { return fd >= 0 && fd < DESCRIPTORS && traced[fd]; }

static void put(char op, int fd, int64_t number, const struct iovec *parts, int count, size_t length) {
    struct __attribute__((packed)) { char op; int32_t fd; int64_t number; uint32_t length; } head = {op, fd, number, length};
    struct iovec all[17] = {{&head, sizeof head}};
    size_t whole = sizeof head + length, left = length;
    int used = 1;
    for (int i = 0; i < count && left && used < 17; i++) {
        size_t part = parts[i].iov_len < left ? parts[i].iov_len : left;
        all[used++] = (struct iovec){parts[i].iov_base, part};
        left -= part;
    }
    pthread_mutex_lock(&lock);
    if (left || syscall(SYS_writev, trace, all, used) != (long)whole) abort(); /* half a trace would show nothing */
    pthread_mutex_unlock(&lock);
}

static void put_text(char op, int fd, int64_t number, const char *text) {
    struct iovec part = {(void *)text, strlen(text)};
    put(op, fd, number, &part, 1, part.iov_len);
}

static int opened(int fd, const char *path, int flags, int existed) {
    if (fd < 0 || fd >= DESCRIPTORS) return fd;
    put_text('O', fd, existed ? (flags & O_TRUNC ? 2 : 0) : 1, path);
    traced[fd] = 1;
    return fd;
}

#define OPENS(name)                                                                         \
    int name(const char *path, int flags, ...) {                                            \
        va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more); \
        if (!ours(path)) return REAL(name)(path, flags, mode);                              \
        int existed = syscall(SYS_faccessat, AT_FDCWD, path, F_OK) == 0;                    \
        return opened(REAL(name)(path, flags, mode), path, flags, existed);                 \
    }
#define OPENS_AT(name)                                                                      \
    int name(int folder, const char *path, int flags, ...) {                                \
        va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more); \
        if (!ours(path)) return REAL(name)(folder, path, flags, mode);                      \
        int existed = syscall(SYS_faccessat, AT_FDCWD, path, F_OK) == 0;                    \
        return opened(REAL(name)(folder, path, flags, mode), path, flags, existed);         \
    }
OPENS(open)
OPENS(open64)
OPENS_AT(openat)
OPENS_AT(openat64)

int close(int fd) {
    if (is_traced(fd)) { traced[fd] = 0; put('C', fd, 0, NULL, 0, 0); }
    return REAL(close)(fd);
}

static ssize_t wrote(ssize_t done, int fd, int64_t offset, const struct iovec *parts, int count) {
    if (done > 0 && is_traced(fd)) put('W', fd, offset < 0 ? lseek(fd, 0, SEEK_CUR) - done : offset, parts, count, done);
    return done;
}

ssize_t write(int fd, const void *bytes, size_t length) {
    struct iovec part = {(void *)bytes, length};
    return wrote(REAL(write)(fd, bytes, length), fd, -1, &part, 1);
}
ssize_t writev(int fd, const struct iovec *parts, int count) { return wrote(REAL(writev)(fd, parts, count), fd, -1, parts, count); }

static size_t shortened(int fd, size_t length) {
    if (!is_traced(fd)) return length;
    long number = __sync_add_and_fetch(&pwrites, 1);
    if (number == die_at_write) raise(SIGKILL);
    return length > 100 && short_every && number % short_every == 0 ? 100 : length;
}

#define PWRITES(name, offset_type)                                               \
    ssize_t name(int fd, const void *bytes, size_t length, offset_type offset) { \
        struct iovec part = {(void *)bytes, length};                             \
        length = shortened(fd, length);                                          \
        return wrote(REAL(name)(fd, bytes, length, offset), fd, offset, &part, 1); \
    }
PWRITES(pwrite, off_t)
PWRITES(pwrite64, off64_t)
#define PWRITEVS(name, offset_type)                                                    \
    ssize_t name(int fd, const struct iovec *parts, int count, offset_type offset) {   \
        return wrote(REAL(name)(fd, parts, count, offset), fd, offset, parts, count);  \
    }
PWRITEVS(pwritev, off_t)
PWRITEVS(pwritev64, off64_t)

#define TRUNCATES(name, offset_type)                                  \
    int name(int fd, offset_type size) {                              \
        int failed = REAL(name)(fd, size);                            \
        if (!failed && is_traced(fd)) put('T', fd, size, NULL, 0, 0); \
        return failed;                                                \
    }
TRUNCATES(ftruncate, off_t)
TRUNCATES(ftruncate64, off64_t)

#define SYNCS(name)                                               \
    int name(int fd) {                                            \
        if (!is_traced(fd)) return REAL(name)(fd);                \
        put('B', fd, 0, NULL, 0, 0);                              \
        if (__sync_add_and_fetch(&syncs, 1) == die_at) raise(SIGKILL); \
        int failed = REAL(name)(fd);                              \
        put(failed ? 'E' : 'F', fd, 0, NULL, 0, 0);               \
        return failed;                                            \
    }
SYNCS(fsync)
SYNCS(fdatasync)

int unlink(const char *path) {
    int failed = REAL(unlink)(path);
    if (!failed && ours(path)) put_text('U', -1, 0, path);
    return failed;
}

int rename(const char *from, const char *to) {
    int failed = REAL(rename)(from, to);
    if (!failed && ours(from) && ours(to)) {
        struct iovec parts[] = {{(void *)from, strlen(from)}, {"", 1}, {(void *)to, strlen(to)}};
        put('R', -1, 0, parts, 3, parts[0].iov_len + 1 + parts[2].iov_len);
    }
    return failed;
}
