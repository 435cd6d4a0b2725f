/* Preloaded into the broker: makes calls to the disk fail in ways a test chooses while it runs.
 *
 * FAULT_CONTROL names a file of 64-bit words that both sides map or write:
 *   0 mode   1 countdown (acts at the n-th matching call)   2 parameter   3 hits
 *   4 classes (bit set: 1 segments j/, 2 cold files c/, 4 pages p/, 8 checkpoints x/, 16 other files, 32 directories)
 *   5..9 ENOSPC answers of the system, by class (j c p x other)   10 syncs asked for after a failed one
 * Modes:
 *   1 sync fails with EIO; every later one of these classes says it worked and syncs nothing, as ext4 does with pages it marked clean
 *   2 a write stops half way and the process is killed   3 a write is short   4 a write fails with EIO
 *   5 every matching sync is preceded by a pause of `parameter` microseconds
 *   6 before an allocation or write, FAULT_BALLAST takes all the space that is left on the disk
 *   7 every matching write is preceded by a pause of `parameter` microseconds
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { MODE, COUNTDOWN, PARAMETER, HITS, CLASSES, FULL, LATER_SYNCS = 10, WORDS = 16 };
enum { SYNC_EIO = 1, TORN_KILL, SHORT_WRITE, WRITE_EIO, SYNC_PAUSE, FILL, WRITE_PAUSE };

static volatile uint64_t *control;
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static int (*real_fdatasync)(int);
static int (*real_fsync)(int);
static int (*real_fallocate)(int, int, off_t, off_t);

__attribute__((constructor)) static void set_up(void)
{
    real_pwrite = dlsym(RTLD_NEXT, "pwrite");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fallocate = dlsym(RTLD_NEXT, "fallocate");
    const char *path = getenv("FAULT_CONTROL");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *map = mmap(NULL, WORDS * 8, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (map != MAP_FAILED)
        control = map;
}

/* Index of the class: 0 j, 1 c, 2 p, 3 x, 4 other, 5 directory. */
static int class_of(int fd)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, path, sizeof path - 1);
    if (len <= 0)
        return 4;
    path[len] = 0;
    char *slash = strrchr(path, '/');
    if (!slash)
        return 4;
    int flags = fcntl(fd, F_GETFL);
    if (flags >= 0 && (flags & O_ACCMODE) == O_RDONLY)
        return 5;
    if (slash - path < 2 || slash[-2] != '/')
        return 4;
    const char *at = strchr("jcpx", slash[-1]);
    return at ? (int)(at - "jcpx") : 4;
}

/* Whether the fault acts on this call: the mode is one of two, the class is meant, and the countdown has come to its end. */
static int acts(int class, uint64_t mode)
{
    if (!control || control[MODE] != mode || !(control[CLASSES] >> class & 1))
        return 0;
    uint64_t left = __atomic_fetch_sub(&control[COUNTDOWN], 1, __ATOMIC_SEQ_CST);
    return left == 1;
}

static void hit(void)
{
    __atomic_fetch_add(&control[HITS], 1, __ATOMIC_SEQ_CST);
}

static int sync_with(int fd, int (*call)(int))
{
    if (!control || control[MODE] == 0)
        return call(fd);
    int class = class_of(fd);
    if (control[MODE] == SYNC_PAUSE && (control[CLASSES] >> class & 1)) {
        hit();
        usleep((useconds_t)control[PARAMETER]);
        return call(fd);
    }
    if (control[MODE] == SYNC_EIO && (control[CLASSES] >> class & 1)) {
        if (control[HITS]) {
            __atomic_fetch_add(&control[LATER_SYNCS], 1, __ATOMIC_SEQ_CST);
            return 0;
        }
        if (acts(class, SYNC_EIO)) {
            hit();
            errno = EIO;
            return -1;
        }
    }
    return call(fd);
}

int fdatasync(int fd) { return sync_with(fd, real_fdatasync); }
int fsync(int fd) { return sync_with(fd, real_fsync); }

static void fill_disk(void)
{
    const char *path = getenv("FAULT_BALLAST");
    int fd = path ? open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (fd < 0)
        return;
    off_t at = lseek(fd, 0, SEEK_END);
    for (off_t step = 1 << 20; step >= 4096;) {
        if (real_fallocate(fd, 0, at, step) == 0)
            at += step;
        else
            step /= 4;
    }
    close(fd);
}

static void before_growth(int class)
{
    if (acts(class, FILL)) {
        fill_disk();
        hit();
    }
}

static void note_full(int class)
{
    if (control && errno == ENOSPC) {
        __atomic_fetch_add(&control[FULL + (class > 4 ? 4 : class)], 1, __ATOMIC_SEQ_CST);
        errno = ENOSPC;
    }
}

ssize_t pwrite(int fd, const void *bytes, size_t len, off_t at)
{
    if (!control || control[MODE] == 0)
        return real_pwrite(fd, bytes, len, at);
    int class = class_of(fd);
    if (control[MODE] == WRITE_PAUSE && (control[CLASSES] >> class & 1)) {
        hit();
        usleep((useconds_t)control[PARAMETER]);
    }
    before_growth(class);
    if (acts(class, TORN_KILL)) {
        real_pwrite(fd, bytes, len / 2, at);
        hit();
        kill(getpid(), SIGKILL);
        pause();
    }
    if (acts(class, SHORT_WRITE)) {
        hit();
        return real_pwrite(fd, bytes, len / 2, at);
    }
    if (acts(class, WRITE_EIO)) {
        real_pwrite(fd, bytes, len / 2, at);
        hit();
        errno = EIO;
        return -1;
    }
    ssize_t written = real_pwrite(fd, bytes, len, at);
    if (written < 0)
        note_full(class);
    return written;
}

ssize_t pwrite64(int fd, const void *bytes, size_t len, off_t at) { return pwrite(fd, bytes, len, at); }

int fallocate(int fd, int how, off_t at, off_t len)
{
    if (!control || control[MODE] == 0)
        return real_fallocate(fd, how, at, len);
    int class = class_of(fd);
    before_growth(class);
    int result = real_fallocate(fd, how, at, len);
    if (result < 0)
        note_full(class);
    return result;
}

int fallocate64(int fd, int how, off_t at, off_t len) { return fallocate(fd, how, at, len); }
