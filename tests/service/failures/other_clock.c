/* The time of day, moved by the seconds in /etc/medunlearn-offset; monotonic time is untouched. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t nothing;
static volatile int64_t *offset = &nothing;

__attribute__((constructor)) static void begin(void) {
    int file = open("/etc/medunlearn-offset", O_RDONLY | O_CLOEXEC);
    if (file < 0) return;
    void *place = mmap(0, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
    if (place != MAP_FAILED) offset = place;
    close(file);
}

int clock_gettime(clockid_t which, struct timespec *at) {
    int status = (int)syscall(SYS_clock_gettime, which, at);
    if (!status && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) at->tv_sec += *offset;
    return status;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    int status = (int)syscall(SYS_gettimeofday, at, zone);
    if (!status && at) at->tv_sec += *offset;
    return status;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
