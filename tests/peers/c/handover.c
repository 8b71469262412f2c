// Handovers by sendmsg(2) and recvmsg(2) alone: the baseline of the benchmark of handovers.
//
//     handover send DIRECTORY COUNT...     sends COUNT descriptors to each client at DIRECTORY/COUNT
//     handover receive DIRECTORY           for each line "run COUNT ROUNDS" receives ROUNDS times from
//                                          DIRECTORY/COUNT, and prints the nanoseconds of each
//     handover receive DIRECTORY thread    the same beside a second thread that does nothing
#define _GNU_SOURCE
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

// The most descriptors of a message (SCM_MAX_FD), the bytes of a record without meta.
enum { MAX_FDS = 253, HEADER = 4, LISTENERS = 16 };

static char data[4096];
static union {
  struct cmsghdr align;
  char bytes[CMSG_SPACE(MAX_FDS * sizeof(int))];
} control;

static int check(int result, const char *what) {
  if (result >= 0) return result;
  perror(what);
  exit(1);
}

static struct sockaddr_un address(const char *directory, int count) {
  struct sockaddr_un name = {.sun_family = AF_UNIX};
  snprintf(name.sun_path, sizeof name.sun_path, "%s/%d", directory, count);
  return name;
}

static void serve(int conn, const int *fds, int count) {
  for (int sent = 0; sent < count;) {
    int n = count - sent < MAX_FDS ? count - sent : MAX_FDS;
    struct iovec part = {data, n * HEADER};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = CMSG_SPACE(n * sizeof(int))};
    struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(n * sizeof(int));
    memset(data, 0, n * HEADER);
    memcpy(CMSG_DATA(rights), fds + sent, n * sizeof(int));
    if (sendmsg(conn, &message, MSG_NOSIGNAL) < 0) {
      perror("sendmsg");
      break;
    }
    sent += n;
  }
  close(conn);
}

static void send_to_all(const char *directory, char **counts, int listeners) {
  struct pollfd polled[LISTENERS];
  int *fds[LISTENERS];
  for (int i = 0; i < listeners; i++) {
    int count = atoi(counts[i]);
    fds[i] = malloc(count * sizeof(int));
    for (int j = 0; j < count; j++) fds[i][j] = check(dup(0), "dup");
    struct sockaddr_un name = address(directory, count);
    polled[i].fd = check(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
    polled[i].events = POLLIN;
    check(bind(polled[i].fd, (struct sockaddr *)&name, sizeof name), "bind");
    check(listen(polled[i].fd, 128), "listen");
  }
  puts("listening");
  for (;;) {
    check(poll(polled, listeners, -1), "poll");
    for (int i = 0; i < listeners; i++) {
      if (!(polled[i].revents & POLLIN)) continue;
      serve(check(accept(polled[i].fd, NULL, NULL), "accept"), fds[i], atoi(counts[i]));
    }
  }
}

static int receive(const char *directory, int count) {
  struct sockaddr_un name = address(directory, count);
  int conn = check(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
  check(connect(conn, (struct sockaddr *)&name, sizeof name), "connect");
  int received = 0;
  for (;;) {
    struct iovec part = {data, sizeof data};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    if (check(recvmsg(conn, &message, MSG_CMSG_CLOEXEC), "recvmsg") == 0) break;
    struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
    if (!rights) continue;
    int n = (rights->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (int i = 0; i < n; i++) close(((int *)CMSG_DATA(rights))[i]);
    received += n;
  }
  close(conn);
  return received;
}

static long long now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void receive_on_request(const char *directory) {
  int count, rounds;
  while (scanf(" run %d %d", &count, &rounds) == 2) {
    for (int i = 0; i < rounds; i++) {
      long long from = now();
      int received = receive(directory, count);
      long long took = now() - from;
      if (received != count) exit(1);
      printf(i ? " %lld" : "%lld", took);
    }
    puts("");
  }
}

static void *idle(void *unused) {
  pause();
  return unused;
}

int main(int argc, char **argv) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  // As other runtimes do: the soft limit exists only for programs that use select(2).
  struct rlimit limit;
  check(getrlimit(RLIMIT_NOFILE, &limit), "getrlimit");
  limit.rlim_cur = limit.rlim_max;
  check(setrlimit(RLIMIT_NOFILE, &limit), "setrlimit");
  if (argc > 3 && argc - 3 <= LISTENERS && !strcmp(argv[1], "send")) {
    send_to_all(argv[2], argv + 3, argc - 3);
  }
  if (argc > 3 && !strcmp(argv[3], "thread")) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, idle, NULL)) return 1;
  }
  if (argc > 2 && !strcmp(argv[1], "receive")) receive_on_request(argv[2]);
  return 0;
}
