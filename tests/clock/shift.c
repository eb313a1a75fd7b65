/* Shifts the realtime clock of a process by CLOCK_SHIFT_S seconds; loaded with LD_PRELOAD, so its children are shifted
 * too. The clock goes on running, and the monotonic one, by which sleeps and time-outs are measured, is left alone.
 *
 * A wait that ends at a moment of the realtime clock is shifted back, or it would last until that moment comes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static time_t shift_s;
static int (*real_clock_gettime)(clockid_t, struct timespec *);
static int (*real_clock_nanosleep)(clockid_t, int, const struct timespec *, struct timespec *);
static int (*real_sem_timedwait)(sem_t *, const struct timespec *);

__attribute__((constructor)) static void begin(void) {
    const char *shift = getenv("CLOCK_SHIFT_S");
    shift_s = shift ? (time_t)strtoll(shift, NULL, 10) : 0;
    *(void **)&real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    *(void **)&real_clock_nanosleep = dlsym(RTLD_NEXT, "clock_nanosleep");
    *(void **)&real_sem_timedwait = dlsym(RTLD_NEXT, "sem_timedwait");
}

static int is_realtime(clockid_t clock) { return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE; }

int clock_gettime(clockid_t clock, struct timespec *at) {
    /* Other libraries may ask before this one has begun. */
    int failed = real_clock_gettime ? real_clock_gettime(clock, at) : (int)syscall(SYS_clock_gettime, clock, at);
    if (!failed && is_realtime(clock)) at->tv_sec += shift_s;
    return failed;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}

int timespec_get(struct timespec *at, int base) {
    return base == TIME_UTC && !clock_gettime(CLOCK_REALTIME, at) ? base : 0;
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *until, struct timespec *left) {
    struct timespec shifted = *until;
    if (is_realtime(clock) && (flags & TIMER_ABSTIME)) shifted.tv_sec -= shift_s;
    return real_clock_nanosleep(clock, flags, &shifted, left);
}

int sem_timedwait(sem_t *semaphore, const struct timespec *until) {
    struct timespec shifted = *until;
    shifted.tv_sec -= shift_s;
    return real_sem_timedwait(semaphore, &shifted);
}
