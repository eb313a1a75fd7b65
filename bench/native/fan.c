/* The floor of a fan-out: accepts WebSockets, and writes each frame that comes on stdin to all of them.
 *
 *   fan PORT
 *
 * On stdin: a frame's length in four bytes (big endian), then the frame as it is to be written. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define MOST 20100

static int open_fds[MOST], count, poller;
static char greeted[MOST];

static const char GREETING[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                               "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n\x81\x13{\"type\":\"snapshot\"}";

static void watch(int fd) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
}

static void accept_all(int door) {
    int one = 1;
    for (int fd; (fd = accept4(door, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
        if (fd >= MOST) exit(4);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        greeted[fd] = 0;
        watch(fd);
    }
}

static void hear(int fd) {
    char in[4096];
    ssize_t n = recv(fd, in, sizeof in, 0);
    if (n <= 0) {
        close(fd);
        for (int i = 0; i < count; i++)
            if (open_fds[i] == fd) open_fds[i] = open_fds[--count];
    } else if (!greeted[fd]) {
        greeted[fd] = 1;
        open_fds[count++] = fd;
        send(fd, GREETING, sizeof GREETING - 1, MSG_NOSIGNAL);
    }
}

static void read_whole(void *to, size_t n) {
    for (char *p = to; n;) {
        ssize_t k = read(0, p, n);
        if (k <= 0) exit(0);
        p += k, n -= k;
    }
}

static void fan_out(void) {
    unsigned char length[4], frame[1 << 16];
    read_whole(length, 4);
    size_t n = length[2] << 8 | length[3];
    read_whole(frame, n);
    for (int i = 0; i < count; i++)
        if (send(open_fds[i], frame, n, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)n) exit(5);
}

int main(int argc, char **argv) {
    int door = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(argc > 1 ? atoi(argv[1]) : 0)};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(door, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(door, (void *)&at, sizeof at) || listen(door, 4096)) return perror("bind"), 2;
    poller = epoll_create1(0);
    watch(door), watch(0);
    for (struct epoll_event events[1024];;) {
        int n = epoll_wait(poller, events, 1024, -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == door) accept_all(door);
            else if (fd == 0) fan_out();
            else hear(fd);
        }
    }
}
