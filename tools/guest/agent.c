/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs the command of tools/run inside the guest and carries its output out.
 *
 * /run/eyot/argv holds the command's arguments, each ended by a zero byte; /run/eyot/stdin,
 * when it is there, is the command's standard input. What the command writes leaves on a
 * terminal device (eyot.port= on the kernel command line, ttyS0 without) as frames, so that
 * it is exact to the byte and told apart from the kernel's and systemd's own messages:
 *
 *   magic   4 bytes  F7 45 59 46 ("EYF" after a byte that UTF-8 never has)
 *   type    1 byte   'o' standard output, 'e' standard error, 's' exit status (1 byte,
 *                    128 + N when signal N ended it)
 *   length  4 bytes  little-endian, at most FRAME_MAX
 *   data
 *   crc     4 bytes  little-endian CRC-32 (reflected 0xEDB88320) of type, length and data
 *
 * The kernel writes its messages to the same device without asking, so they are turned off
 * while the command runs; the checksum shows the one that comes all the same (a panic).
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define FRAME_MAX 16384
#define ARGV_MAX 4096
#define KLOG_CONSOLE_OFF 6
#define KLOG_CONSOLE_ON 7

static int port = -1;
static uint32_t crc_table[256];

static void crc_init(void)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t c = i;

		for (int bit = 0; bit < 8; bit++)
			c = (c >> 1) ^ (c & 1 ? 0xedb88320u : 0);
		crc_table[i] = c;
	}
}

static uint32_t crc32_of(const uint8_t *p, size_t n)
{
	uint32_t c = ~0u;

	while (n--)
		c = crc_table[(c ^ *p++) & 0xff] ^ (c >> 8);
	return ~c;
}

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void write_all(int fd, const uint8_t *p, size_t n)
{
	while (n) {
		ssize_t done = write(fd, p, n);

		if (done < 0) {
			if (errno == EINTR)
				continue;
			die("port");
		}
		p += done;
		n -= (size_t)done;
	}
}

static void put_le32(uint8_t *p, uint32_t v)
{
	for (int i = 0; i < 4; i++)
		p[i] = (uint8_t)(v >> (8 * i));
}

/* @frame has room for the head before and the checksum after its @n bytes at frame + 9 */
static void send_frame(uint8_t *frame, char type, uint32_t n)
{
	memcpy(frame,
	       "\xf7"
	       "EYF",
	       4);
	frame[4] = (uint8_t)type;
	put_le32(frame + 5, n);
	put_le32(frame + 9 + n, crc32_of(frame + 4, 5 + n));
	write_all(port, frame, 9 + n + 4);
}

static void open_port(void)
{
	char line[8192], path[80] = "/dev/ttyS0";
	int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, line, sizeof(line) - 1);
	struct termios t;
	char *save = NULL;

	if (n < 0)
		die("/proc/cmdline");
	line[n] = '\0';
	close(fd);
	for (char *w = strtok_r(line, " \n", &save); w; w = strtok_r(NULL, " \n", &save))
		if (!strncmp(w, "eyot.port=", 10))
			snprintf(path, sizeof(path), "/dev/%.60s", w + 10);
	port = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (port < 0)
		die(path);
	if (!tcgetattr(port, &t)) {
		cfmakeraw(&t);
		t.c_cflag |= CLOCAL;
		tcsetattr(port, TCSANOW, &t);
	}
}

static char **read_argv(void)
{
	static char text[1 << 20];
	static char *argv[ARGV_MAX + 1];
	int fd = open("/run/eyot/argv", O_RDONLY | O_CLOEXEC);
	ssize_t size = 0, n;
	int argc = 0;

	if (fd < 0)
		die("/run/eyot/argv");
	while ((n = read(fd, text + size, sizeof(text) - (size_t)size)) > 0)
		size += n;
	close(fd);
	if (size == 0 || size == sizeof(text) || text[size - 1])
		die("/run/eyot/argv: not zero-ended");
	for (ssize_t at = 0; at < size && argc < ARGV_MAX; at += (ssize_t)strlen(text + at) + 1)
		argv[argc++] = text + at;
	return argv;
}

static pid_t start(char **argv, int out[2], int err[2])
{
	pid_t pid = fork();
	int in;

	if (pid < 0)
		die("fork");
	if (pid)
		return pid;
	setsid();
	in = open("/run/eyot/stdin", O_RDONLY);
	if (in < 0)
		in = open("/dev/null", O_RDONLY);
	dup2(in, 0);
	dup2(out[1], 1);
	dup2(err[1], 2);
	if (in > 2)
		close(in);
	execvp(argv[0], argv);
	fprintf(stderr, "%s: %s\n", argv[0], strerror(errno));
	_exit(errno == ENOENT ? 127 : 126);
}

/* Returns 0 at the end of the stream. */
static int carry(int fd, char type)
{
	static uint8_t frame[9 + FRAME_MAX + 4];
	ssize_t n = read(fd, frame + 9, FRAME_MAX);

	if (n > 0)
		send_frame(frame, type, (uint32_t)n);
	return n > 0 || (n < 0 && errno == EINTR);
}

int main(void)
{
	uint8_t status_frame[9 + 1 + 4];
	int out[2], err[2], status = 0, ended = 0;
	char **argv = read_argv();
	pid_t pid;

	crc_init();
	open_port();
	klogctl(KLOG_CONSOLE_OFF, NULL, 0);
	tcdrain(port);
	if (pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC))
		die("pipe");
	pid = start(argv, out, err);
	close(out[1]);
	close(err[1]);

	/*
	 * Until the command has ended and what it wrote is out; a process that it left behind
	 * may hold the pipes open for ever, so their end is not waited for.
	 */
	struct pollfd p[2] = { { .fd = out[0], .events = POLLIN },
			       { .fd = err[0], .events = POLLIN } };

	for (;;) {
		int ready = poll(p, 2, ended ? 0 : 20);

		if (ready > 0) {
			if (p[0].revents && !carry(p[0].fd, 'o'))
				p[0].fd = -1;
			if (p[1].revents && !carry(p[1].fd, 'e'))
				p[1].fd = -1;
			continue;
		}
		if (ended)
			break;
		if (p[0].fd < 0 && p[1].fd < 0)
			ended = waitpid(pid, &status, 0) == pid;
		else
			ended = waitpid(pid, &status, WNOHANG) == pid;
	}
	status_frame[9] =
	    (uint8_t)(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
	send_frame(status_frame, 's', 1);
	tcdrain(port);
	klogctl(KLOG_CONSOLE_ON, NULL, 0);
	return 0;
}
