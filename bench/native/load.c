/* Signed load over keep-alive connections, each as fast as it is answered: one thread, epoll.
 *
 *   load PORT[,PORT…] CONNECTIONS WARM_S SECONDS pair|batch|poll KEYS
 *
 * pair:  an open, then its close.   batch: 50 such pairs in one request.   poll: the actives, with a true If-None-Match.
 * Connection i signs with key i. Prints one JSON object. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cd1.h"

#define PAIRS 50
#define MOST 64
#define ROOM (1 << 18)
#define BUCKETS 100000 /* of 10 microseconds */

typedef struct {
    int fd, port, step, have, blind; /* blind: a poll that knows no ETag yet */
    long long ticket;
    double asked;
    char host[32], etag[80], in[ROOM], out[ROOM];
    bot_key_t *key;
} connection_t;

static connection_t connections[MOST];
static bot_key_t keys[MOST];
static char first_failure[300];
static const char *mode;
static int ports[MOST], servers, poller, ending, idle;
static long answered, failed;
static unsigned waits[BUCKETS];

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static int opening(char *out, long long ticket, const char *first) {
    return sprintf(out,
                   "{%s\"ticket_id\":\"%lld\",\"symbol\":\"EURUSD\",\"type\":\"BUY\",\"volume\":\"0.10000000\","
                   "\"open_price\":\"1.10500000\",\"sl\":\"1.10000000\",\"tp\":\"1.12000000\"}",
                   first, ticket);
}

static int batch(connection_t *c, char *body) {
    int n = sprintf(body, "{\"operations\":[");
    char first[120];
    for (int i = 0; i < PAIRS; i++) {
        c->ticket++;
        sprintf(first, "\"idempotency_key\":\"open-%015lld\",\"action\":\"open\",", c->ticket);
        n += opening(body + n, c->ticket, first);
        n += sprintf(body + n,
                     ",{\"idempotency_key\":\"close-%015lld\",\"action\":\"close\",\"ticket_id\":\"%lld\","
                     "\"close_price\":\"1.11000000\",\"profit\":\"5.00000000\",\"reason\":\"TP\"}%s",
                     c->ticket, c->ticket, i < PAIRS - 1 ? "," : "]}");
    }
    return n;
}

static void ask(connection_t *c) {
    static char body[ROOM / 2];
    char path[96] = "/api/v2/trades/active", more[120] = "", effect[64] = "";
    const char *method = "POST", *query = "";
    int length = 0;
    if (!strcmp(mode, "poll")) {
        method = "GET";
        c->blind = !*c->etag;
        if (!c->blind) sprintf(more, "If-None-Match: %s\r\n", c->etag);
    } else if (!strcmp(mode, "batch")) {
        strcat(path, "/batch");
        length = batch(c, body);
        sprintf(effect, "batch-%015lld", c->ticket);
    } else if (c->step++ % 2 == 0) {
        length = opening(body, ++c->ticket, "");
        sprintf(effect, "open-%015lld", c->ticket);
    } else {
        method = "DELETE";
        sprintf(path + strlen(path), "/%lld", c->ticket);
        query = "close_price=1.11000000&profit=5.00000000&reason=TP";
        sprintf(effect, "close-%015lld", c->ticket);
    }
    int n = signed_request(c->out, c->key, c->host, method, path, query, effect, body, length, more);
    c->have = 0;
    c->asked = now();
    for (int sent = 0; sent < n;) { /* loopback takes a request whole; wait for the rare one that it does not */
        ssize_t k = send(c->fd, c->out + sent, n - sent, MSG_NOSIGNAL);
        if (k <= 0) fprintf(stderr, "the server hung up\n"), exit(3);
        sent += k;
    }
}

static void dial(connection_t *c) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(c->port)};
    int one = 1;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(c->fd, (void *)&to, sizeof to)) perror("connect"), exit(2);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
}

/* The status of the answer once it is whole, else 0. */
static int whole(connection_t *c) {
    c->in[c->have] = 0;
    char *end = strstr(c->in, "\r\n\r\n");
    if (!end) return 0;
    int status = atoi(c->in + 9), head = end + 4 - c->in, length = 0;
    *end = 0;
    char *found = strcasestr(c->in, "\r\ncontent-length:");
    if (found) length = atoi(found + 17);
    int chunked = strcasestr(c->in, "\r\ntransfer-encoding: chunked") != NULL;
    found = strcasestr(c->in, "\r\netag: ");
    if (found) sscanf(found + 8, "%79[^\r]", c->etag);
    *end = '\r';
    if (status == 304) return status;
    if (chunked) return !memcmp(c->in + c->have - 5, "0\r\n\r\n", 5) ? status : 0;
    return c->have >= head + length ? status : 0;
}

static int is_good(connection_t *c, int status) {
    if (!strcmp(mode, "poll")) return status == 304;
    if (!strcmp(mode, "batch")) return status == 200 && !strstr(c->in, "\"problem\"");
    return status == 200 || status == 201;
}

static void hear(connection_t *c, int counting) {
    ssize_t k = recv(c->fd, c->in + c->have, ROOM - 1 - c->have, MSG_DONTWAIT);
    if (k < 0 && errno == EAGAIN) return;
    if (k <= 0) fprintf(stderr, "the server hung up\n"), exit(3);
    c->have += k;
    int status = whole(c);
    if (!status) return;
    if (counting && !c->blind) {
        double waited = now() - c->asked;
        waits[waited * 1e5 < BUCKETS ? (int)(waited * 1e5) : BUCKETS - 1]++;
        answered++;
        if (!is_good(c, status)) {
            if (!failed++) snprintf(first_failure, sizeof first_failure, "%.290s", c->in);
        }
    }
    if (ending) idle++;
    else ask(c);
}

static double quantile(double q) {
    long seen = 0;
    for (int i = 0; i < BUCKETS; i++)
        if ((seen += waits[i]) > q * answered) return (i + 0.5) / 100;
    return BUCKETS / 100;
}

int main(int argc, char **argv) {
    if (argc != 7) return fprintf(stderr, "usage: load PORT[,PORT…] CONNECTIONS WARM_S SECONDS pair|batch|poll KEYS\n"), 2;
    for (char *one = strtok(argv[1], ","); one && servers < MOST; one = strtok(NULL, ",")) ports[servers++] = atoi(one);
    mode = argv[5];
    int count = atoi(argv[2]), known = read_keys(argv[6], keys, MOST);
    if (count < 1 || count > known) return fprintf(stderr, "there are %d keys\n", known), 2;
    poller = epoll_create1(0);
    for (int i = 0; i < count; i++) {
        connection_t *c = &connections[i];
        c->port = ports[i % servers], c->key = &keys[i], c->ticket = keys[i].seq;
        snprintf(c->host, sizeof c->host, "127.0.0.1:%d", c->port);
        dial(c);
        ask(c);
    }
    double from = now() + atof(argv[3]), until = from + atof(argv[4]), t, counted = 0;
    struct epoll_event events[MOST];
    struct rusage before = {0}, after;
    while ((t = now()) < until) {
        if (!counted && t >= from) counted = t, getrusage(RUSAGE_SELF, &before);
        int n = epoll_wait(poller, events, MOST, 50);
        for (int i = 0; i < n; i++) hear(events[i].data.ptr, counted > 0);
    }
    getrusage(RUSAGE_SELF, &after);
    double spent = now() - counted;
    for (ending = 1; idle < count && now() < until + 20;) { /* what is under way ends before whatever is measured next */
        int n = epoll_wait(poller, events, MOST, 50);
        for (int i = 0; i < n; i++) hear(events[i].data.ptr, 0);
    }
    double cpu = after.ru_utime.tv_sec - before.ru_utime.tv_sec + after.ru_stime.tv_sec -
                                          before.ru_stime.tv_sec +
                                          (after.ru_utime.tv_usec - before.ru_utime.tv_usec + after.ru_stime.tv_usec -
                                           before.ru_stime.tv_usec) * 1e-6;
    for (char *p = first_failure; *p; p++)
        if (*p == '"' || *p == '\\' || *p < ' ') *p = ' ';
    printf("{\"per_s\": %.1f, \"answered\": %ld, \"failed\": %ld, \"p50_ms\": %.2f, \"p99_ms\": %.2f, \"own_cpu\": %.3f, "
           "\"first_failure\": \"%s\"}\n",
           answered / spent, answered, failed, quantile(.5), quantile(.99), cpu / spent, first_failure);
    return 0;
}
