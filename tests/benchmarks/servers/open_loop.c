/* Open-loop load: GET requests at a fixed rate over a few kept connections.
 *
 * A request's latency counts from the instant at which it was due, not from when it could be sent: a proxy that stalls
 * cannot hide the queue behind it. Answers need a Content-Length and must fit into ANSWER octets.
 *
 * usage: open_loop PORT PATH REQUESTS_PER_SECOND SECONDS CONNECTIONS; prints one JSON object.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CONNECTIONS = 256, ANSWER = 64 * 1024 };

struct connection {
  int busy;
  double due;    /* of the request under way, seconds */
  size_t octets; /* of the answer so far */
  char answer[ANSWER + 1];
};

static struct sockaddr_in proxy;
static struct connection connections[MAX_CONNECTIONS];
static struct pollfd sockets[MAX_CONNECTIONS];

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec + time.tv_nsec * 1e-9;
}

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void open_connection(int i) {
  int yes = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
  if (fd < 0 || connect(fd, (struct sockaddr *)&proxy, sizeof proxy)) {
    perror("connect");
    exit(1);
  }
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  sockets[i] = (struct pollfd){.fd = fd, .events = POLLIN};
}

/* Reads what has come: 1 = a good answer is whole, 0 = more is to come, -1 = the connection is of no use any more. */
static int read_answer(int i) {
  struct connection *c = &connections[i];
  ssize_t got = read(sockets[i].fd, c->answer + c->octets, ANSWER - c->octets);
  if (got <= 0 || !c->busy) return -1;
  c->octets += (size_t)got;
  c->answer[c->octets] = 0;
  char *end = strstr(c->answer, "\r\n\r\n");
  if (!end) return 0;
  char *length = strcasestr(c->answer, "\r\ncontent-length:");
  if (strncmp(c->answer, "HTTP/1.1 200", 12) || !length || length > end) return -1;
  size_t whole = (size_t)(end + 4 - c->answer) + strtoul(length + 17, NULL, 10);
  return whole > ANSWER ? -1 : c->octets >= whole;
}

int main(int argc, char **argv) {
  if (argc != 6) return 2;
  double rate = atof(argv[3]), seconds = atof(argv[4]);
  int count = atoi(argv[5]);
  long total = (long)(rate * seconds), sent = 0, done = 0, errors = 0;
  if (count < 1 || count > MAX_CONNECTIONS || total < 1) return 2;
  double *latencies = calloc((size_t)total, sizeof *latencies);
  char request[1024];
  int size = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: localhost:%s\r\nAccept: */*\r\n\r\n", argv[2], argv[1]);
  proxy = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(argv[1]))};
  proxy.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  prctl(PR_SET_TIMERSLACK, 1UL);
  for (int i = 0; i < count; i++) open_connection(i);

  double start = now() + 0.01, give_up = start + seconds + 5;
  int next = 0; /* connections take turns, so that all of them are used */
  while (done < total && now() < give_up) {
    int idle = 0;
    for (int tried = 0; tried < count; tried++) {
      int i = (next + tried) % count;
      struct connection *c = &connections[i];
      if (c->busy) continue;
      double due = start + sent / rate;
      if (sent == total || due > now()) {
        idle = 1;
        break;
      }
      c->busy = 1;
      c->due = due;
      c->octets = 0;
      if (write(sockets[i].fd, request, (size_t)size) != size) errors++;
      sent++;
    }
    next = (next + 1) % count;
    double wait = idle && sent < total ? start + sent / rate - now() : 0.05;
    struct timespec timeout = {0, (long)((wait < 0 ? 0 : wait > 0.05 ? 0.05 : wait) * 1e9)};
    if (ppoll(sockets, (nfds_t)count, &timeout, NULL) <= 0) continue;
    for (int i = 0; i < count; i++) {
      if (!sockets[i].revents) continue;
      int outcome = read_answer(i);
      if (outcome == 0) continue;
      if (outcome < 0) {
        errors += connections[i].busy; /* an idle connection may be closed */
        close(sockets[i].fd);
        open_connection(i);
      }
      if (connections[i].busy) latencies[done++] = now() - connections[i].due;
      connections[i].busy = 0;
    }
  }
  double elapsed = now() - start;
  qsort(latencies, (size_t)done, sizeof *latencies, ascending);
  printf("{\"requests\":%ld,\"errors\":%ld,\"us\":%.0f,\"p50_us\":%.1f,\"p99_us\":%.1f,\"max_us\":%.1f}\n", done,
         errors + total - done, elapsed * 1e6, done ? latencies[done / 2] * 1e6 : 0, done ? latencies[done * 99 / 100] * 1e6 : 0,
         done ? latencies[done - 1] * 1e6 : 0);
  return 0;
}
