/* Many signed WebSockets in one thread, from several loopback addresses.
 *
 *   sockets PORT COUNT KEYS
 *
 * Opens COUNT sockets, as many at a time as there are keys, each key for one handshake at a time. Prints one JSON object
 * when all have had their first message. Then, for each line on stdin: prints "listening", and once every socket has had
 * one more delta (a text that begins with {"type":"trade.), when the first and the last came, in ns since 1970. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cd1.h"

#define MOST 20000
#define ADDRESSES 16
#define PATIENCE_S 30
#define IS_DELTA(text) (!memcmp(text, "{\"type\":\"trade.", 15))

enum { UNUSED, CONNECTING, SHAKING, OPEN, GONE };

typedef struct {
    int fd, state, has_first;
    bot_key_t *key;
    int opcode;
    int kept;                /* bytes of `head`: the HTTP answer's end, a frame's head, then the payload's beginning */
    unsigned char head[32];
    long long left;          /* bytes of the payload still to come; -1 while the head is read */
    int taken;               /* bytes of the payload in `head` */
} socket_t;

static socket_t sockets[MOST];
static bot_key_t keys[MOST];
static int poller, port, count, begun, with_first, gone, deltas;
static long long first_ns, last_ns;
static char host[32];

static long long now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void dial(bot_key_t *key) {
    if (begun == count) return;
    socket_t *s = &sockets[begun];
    struct sockaddr_in from = {.sin_family = AF_INET}, to = {.sin_family = AF_INET, .sin_port = htons(port)};
    int one = 1;
    from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + begun % ADDRESSES);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(s->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (bind(s->fd, (void *)&from, sizeof from) || (connect(s->fd, (void *)&to, sizeof to) && errno != EINPROGRESS))
        perror("connect"), exit(2);
    s->state = CONNECTING, s->key = key, s->left = -1;
    struct epoll_event event = {.events = EPOLLOUT, .data.u32 = begun++};
    epoll_ctl(poller, EPOLL_CTL_ADD, s->fd, &event);
}

static void shake_hands(socket_t *s) {
    static const char more[] = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                               "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    char out[2048];
    int n = signed_request(out, s->key, host, "GET", "/ws/v2/active", "", "", "", 0, more);
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = s - sockets};
    epoll_ctl(poller, EPOLL_CTL_MOD, s->fd, &event);
    s->state = SHAKING;
    if (send(s->fd, out, n, MSG_NOSIGNAL) != n) fprintf(stderr, "a handshake was not taken\n"), exit(3);
}

static void hear_message(socket_t *s) {
    if (!s->has_first) {
        s->has_first = 1;
        with_first++;
        dial(s->key);
    } else if (s->taken >= 15 && IS_DELTA((char *)s->head)) {
        last_ns = now_ns();
        if (!deltas++) first_ns = last_ns;
    }
}

/* The server asks now and then whether we live. A mask of zeros leaves the payload as it is. */
static void answer_ping(socket_t *s) {
    unsigned char out[6 + 125] = {0x8a, 0x80 | (unsigned char)s->taken};
    memcpy(out + 6, s->head, s->taken);
    send(s->fd, out, 6 + s->taken, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* Frames as they come, in whatever pieces: only the beginning of each payload is kept. */
static void hear_frames(socket_t *s, const unsigned char *p, const unsigned char *end) {
    while (p < end) {
        if (s->left < 0) {
            s->head[s->kept++] = *p++;
            int size = s->kept < 2 ? 0 : s->head[1], need = size == 126 ? 4 : size == 127 ? 10 : 2;
            if (s->kept < need) continue;
            s->left = need == 2 ? size : 0;
            for (int i = 2; i < need; i++) s->left = s->left << 8 | s->head[i];
            s->taken = 0;
            s->opcode = s->head[0] & 15;
            if (s->opcode == 8) { gone++, s->state = GONE, close(s->fd); return; }
        }
        long long k = end - p < s->left ? end - p : s->left;
        int keep = (int)sizeof s->head - s->taken;
        if (keep > k) keep = k;
        memcpy(s->head + s->taken, p, keep);
        s->taken += keep, p += k, s->left -= k;
        if (s->left) continue;
        if (s->opcode == 9) answer_ping(s);
        else hear_message(s);
        s->left = -1, s->kept = 0;
    }
}

static void hear(socket_t *s) {
    static unsigned char in[1 << 16];
    ssize_t n = recv(s->fd, in, sizeof in, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
        gone++, s->state = GONE, close(s->fd);
        return;
    }
    unsigned char *p = in;
    if (s->state == SHAKING) {
        unsigned char *blank = memmem(in, n, "\r\n\r\n", 4); /* an answer's head comes in one piece over loopback */
        if (!blank || memcmp(in, "HTTP/1.1 101", 12)) fprintf(stderr, "refused: %.*s\n", (int)n, in), exit(3);
        s->state = OPEN;
        p = blank + 4;
    }
    hear_frames(s, p, in + n);
}

static void turn(int wait_ms) {
    struct epoll_event events[1024];
    int n = epoll_wait(poller, events, 1024, wait_ms);
    for (int i = 0; i < n; i++) {
        socket_t *s = &sockets[events[i].data.u32];
        if (s->state == CONNECTING) shake_hands(s);
        else if (s->state != GONE) hear(s);
    }
}

int main(int argc, char **argv) {
    if (argc != 4) return fprintf(stderr, "usage: sockets PORT COUNT KEYS\n"), 2;
    port = atoi(argv[1]), count = atoi(argv[2]);
    int known = read_keys(argv[3], keys, MOST);
    char line[16];
    if (count > MOST || !known) return 2;
    snprintf(host, sizeof host, "127.0.0.1:%d", port);
    poller = epoll_create1(0);
    long long start = now_ns(), progress = start;
    for (int i = 0; i < known && i < count; i++) dial(&keys[i]);
    for (int had = 0; with_first < count;) {
        turn(100);
        if (with_first > had) had = with_first, progress = now_ns();
        if (gone || now_ns() - progress > PATIENCE_S * 1000000000LL)
            return fprintf(stderr, "%d of %d sockets are open, %d went\n", with_first, count, gone), 3;
    }
    printf("{\"open\": %d, \"seconds\": %.2f}\n", with_first, (now_ns() - start) / 1e9);
    fflush(stdout);
    fcntl(0, F_SETFL, O_NONBLOCK);
    for (;;) {
        ssize_t n = read(0, line, sizeof line);
        if (!n) return 0;
        if (n < 0) { turn(20); continue; }
        deltas = 0, first_ns = last_ns = 0;
        printf("listening\n"), fflush(stdout);
        long long until = now_ns() + PATIENCE_S * 1000000000LL;
        while (deltas < count && now_ns() < until && !gone) turn(100);
        printf("{\"got\": %d, \"first_ns\": %lld, \"last_ns\": %lld, \"gone\": %d}\n", deltas, first_ns, last_ns, gone);
        fflush(stdout);
    }
}
