/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's agent (docs/agent.md): commands for the host over vsock.
 *
 * One process listens; each connection is a process of its own that starts one command, carries its
 * streams and ends with it. Nothing is shared, so nothing one client does can hold up another.
 * Only the host reaches the port (connections of other CIDs are refused), and the host may do with
 * its guest what it likes; what is checked here is checked so that a mistake has a clear end.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/vm_sockets.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define PORT 700
#define FRAME_MAX 65536
#define VERSION 1
#define FLAG_TERMINAL 1
#define FLAG_LOGIN 2
#define WORDS_MAX 4096
#define DRAIN_MS 100 /* for output of a command that has ended */

struct request {
	uint8_t flags;
	uint16_t rows, columns;
	const char *user, *folder;
	char *env[WORDS_MAX + 8], *argv[WORDS_MAX + 1];
};

struct command {
	int peer; /* the connection */
	pid_t pid;
	int in, out, err; /* our ends; -1: closed. With a terminal in == out, and err is -1 */
	bool terminal, ended;
	int status;
	uint8_t held[FRAME_MAX]; /* of its input, what it has not taken yet */
	size_t held_len;
	bool input_over;
	uint8_t frame[5 + FRAME_MAX]; /* one that is being received */
	size_t frame_len;
};

static void put_le32(uint8_t *p, uint32_t v)
{
	for (int i = 0; i < 4; i++)
		p[i] = (uint8_t)(v >> (8 * i));
}

static uint32_t get_le32(const uint8_t *p)
{
	return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint16_t get_le16(const uint8_t *p)
{
	return (uint16_t)(p[0] | p[1] << 8);
}

/* The whole frame; the process ends when the client is gone. */
static void send_frame(int peer, char type, const void *data, uint32_t len)
{
	uint8_t frame[5 + FRAME_MAX];
	size_t done = 0;

	frame[0] = (uint8_t)type;
	put_le32(frame + 1, len);
	memcpy(frame + 5, data, len);
	while (done < 5 + len) {
		ssize_t n = send(peer, frame + done, 5 + len - done, MSG_NOSIGNAL);

		if (n < 0 && errno != EINTR)
			exit(1);
		if (n > 0)
			done += (size_t)n;
	}
}

static void send_error(int peer, uint8_t status, const char *what, const char *why)
{
	char text[300];
	int n = snprintf(text, sizeof(text), "%c%.120s: %.150s", status, what, why);

	send_frame(peer, 'E', text, (uint32_t)n);
	exit(1);
}

static void receive(int peer, uint8_t *buf, size_t len)
{
	while (len) {
		ssize_t n = recv(peer, buf, len, 0);

		if (n == 0 || (n < 0 && errno != EINTR))
			exit(1);
		if (n > 0) {
			buf += n;
			len -= (size_t)n;
		}
	}
}

/* ---- the request ---- */

/* The next text of *@p, which ends before @end; the connection ends when there is none */
static char *take_word(uint8_t **p, const uint8_t *end)
{
	uint8_t *zero = *p < end ? memchr(*p, 0, (size_t)(end - *p)) : NULL;
	char *word = (char *)*p;

	if (!zero)
		exit(1);
	*p = zero + 1;
	return word;
}

static unsigned take_words(uint8_t **p, const uint8_t *end, char **words)
{
	unsigned count;

	if (end - *p < 2)
		exit(1);
	count = get_le16(*p);
	*p += 2;
	if (count > WORDS_MAX)
		exit(1);
	for (unsigned i = 0; i < count; i++)
		words[i] = take_word(p, end);
	words[count] = NULL;
	return count;
}

static void read_request(int peer, struct request *r)
{
	static uint8_t data[FRAME_MAX];
	uint8_t head[5], *p = data + 6;
	const uint8_t *end;
	uint32_t len;

	receive(peer, head, sizeof(head));
	len = get_le32(head + 1);
	if (head[0] != 'x' || len > FRAME_MAX || len < 12)
		exit(1);
	receive(peer, data, len);
	end = data + len;
	if (data[0] != VERSION)
		send_error(peer, 126, "agent", "speaks version 1 of its protocol");
	r->flags = data[1];
	r->rows = get_le16(data + 2);
	r->columns = get_le16(data + 4);
	r->user = take_word(&p, end);
	r->folder = take_word(&p, end);
	take_words(&p, end, r->env);
	if (!take_words(&p, end, r->argv) != !!(r->flags & FLAG_LOGIN) || p != end)
		exit(1);
}

/* ---- the command ---- */

/* The files themselves: the usual functions load libraries, which a static program must not. */
static struct passwd *find_user(const char *name)
{
	FILE *f = fopen("/etc/passwd", "re");
	struct passwd *pw = NULL;

	while (f && (pw = fgetpwent(f)) && strcmp(pw->pw_name, name))
		;
	if (f)
		fclose(f);
	return pw;
}

static int set_groups(const struct passwd *pw)
{
	gid_t groups[256] = { pw->pw_gid };
	size_t count = 1;
	FILE *f = fopen("/etc/group", "re");
	struct group *gr;

	while (f && (gr = fgetgrent(f)))
		for (char **member = gr->gr_mem; *member && count < 256; member++)
			if (!strcmp(*member, pw->pw_name))
				groups[count++] = gr->gr_gid;
	if (f)
		fclose(f);
	return setgroups(count, groups);
}

static void become_user(int errors, const struct request *r)
{
	struct passwd *pw = find_user(*r->user ? r->user : "root");
	const char *why = NULL;

	if (!pw)
		why = "no such user";
	else if (set_groups(pw) || setgid(pw->pw_gid) || setuid(pw->pw_uid))
		why = strerror(errno);
	if (why) {
		dprintf(errors, "%c%s: %s", 126, r->user, why);
		_exit(126);
	}
	setenv("HOME", pw->pw_dir, 1);
	setenv("USER", pw->pw_name, 1);
	setenv("LOGNAME", pw->pw_name, 1);
	setenv("SHELL", *pw->pw_shell ? pw->pw_shell : "/bin/sh", 1);
	if (chdir(*r->folder ? r->folder : pw->pw_dir)) {
		if (*r->folder) {
			dprintf(errors, "%c%s: %s", 126, r->folder, strerror(errno));
			_exit(126);
		}
		if (chdir("/"))
			_exit(126);
	}
}

/* @errors is closed by a successful start */
static void run(const struct request *r, int errors)
{
	char shell[256], dashed[256];
	const char *name;

	signal(SIGPIPE, SIG_DFL);
	clearenv();
	setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
	setenv("LANG", "C.UTF-8", 1);
	become_user(errors, r);
	for (char *const *v = r->env; *v; v++)
		putenv(*v);
	if (r->flags & FLAG_LOGIN) {
		snprintf(shell, sizeof(shell), "%s", getenv("SHELL"));
		name = strrchr(shell, '/');
		snprintf(dashed, sizeof(dashed), "-%.250s", name ? name + 1 : shell);
		execl(shell, dashed, (char *)NULL);
		dprintf(errors, "%c%s: %s", 126, shell, strerror(errno));
	} else {
		execvp(r->argv[0], r->argv);
		dprintf(errors, "%c%s: %s", errno == ENOENT ? 127 : 126, r->argv[0],
			strerror(errno));
	}
	_exit(127);
}

static void set_size(int fd, uint16_t rows, uint16_t columns)
{
	struct winsize ws = { .ws_row = rows, .ws_col = columns };

	if (rows && columns)
		ioctl(fd, TIOCSWINSZ, &ws);
}

/* The terminal's two ends, or false */
static bool open_terminal(const struct request *r, int *ret_master, int *ret_slave)
{
	int fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC), number, unlock = 0;
	char path[40];

	if (fd < 0 || ioctl(fd, TIOCSPTLCK, &unlock) || ioctl(fd, TIOCGPTN, &number))
		return false;
	snprintf(path, sizeof(path), "/dev/pts/%d", number);
	*ret_slave = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
	*ret_master = fd;
	set_size(fd, r->rows, r->columns);
	return *ret_slave >= 0;
}

static void start(struct command *c, const struct request *r)
{
	int in[2], out[2], err[2] = { -1, -1 }, failed[2];
	char why[300];
	ssize_t n;

	c->terminal = r->flags & FLAG_TERMINAL;
	if (pipe2(failed, O_CLOEXEC))
		send_error(c->peer, 126, "pipe", strerror(errno));
	if (c->terminal) {
		if (!open_terminal(r, &in[1], &in[0]))
			send_error(c->peer, 126, "terminal", strerror(errno));
		out[0] = in[1];
		out[1] = err[1] = in[0];
	} else if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC)) {
		send_error(c->peer, 126, "pipe", strerror(errno));
	}
	c->pid = fork();
	if (c->pid < 0)
		send_error(c->peer, 126, "fork", strerror(errno));
	if (c->pid == 0) {
		setsid();
		if (c->terminal)
			ioctl(in[0], TIOCSCTTY, 0);
		dup2(in[0], 0);
		dup2(out[1], 1);
		dup2(err[1], 2);
		run(r, failed[1]);
	}
	close(failed[1]);
	close(in[0]);
	if (!c->terminal) {
		close(out[1]);
		close(err[1]);
	}
	n = read(failed[0], why, sizeof(why));
	close(failed[0]);
	if (n > 0) {
		send_frame(c->peer, 'E', why, (uint32_t)n);
		exit(1);
	}
	c->in = in[1];
	c->out = out[0];
	c->err = err[0];
	fcntl(c->in, F_SETFL, O_NONBLOCK);
	send_frame(c->peer, 'S', "", 0);
}

/* ---- its streams ---- */

static void hang_up(struct command *c)
{
	kill(-c->pid, SIGHUP);
	kill(-c->pid, SIGCONT);
	exit(0);
}

static void close_input(struct command *c)
{
	static const uint8_t eof = 4;

	if (c->in < 0)
		return;
	if (!c->terminal)
		close(c->in);
	else if (write(c->in, &eof, 1) < 0) /* what a person would type */
		return;
	c->in = -1;
}

static void feed(struct command *c)
{
	ssize_t n = c->held_len ? write(c->in, c->held, c->held_len) : 0;
	uint8_t taken[4];

	if (n < 0 && errno != EAGAIN && errno != EINTR)
		n = (ssize_t)c->held_len; /* it has closed its input: nobody will take it */
	if (n > 0) {
		put_le32(taken, (uint32_t)n);
		send_frame(c->peer, 'a', taken, 4);
		c->held_len -= (size_t)n;
		memmove(c->held, c->held + n, c->held_len);
	}
	if (!c->held_len && c->input_over)
		close_input(c);
}

static void take_frame(struct command *c, char type, const uint8_t *data, uint32_t len)
{
	switch (type) {
	case 'i':
		if (len > sizeof(c->held) - c->held_len)
			hang_up(c); /* more than was allowed */
		if (!len)
			c->input_over = true;
		memcpy(c->held + c->held_len, data, len);
		c->held_len += len;
		if (c->in >= 0)
			feed(c);
		break;
	case 'w':
		if (len == 4 && c->terminal)
			set_size(c->out, get_le16(data), get_le16(data + 2));
		break;
	case 'k':
		if (len == 1 && data[0] > 0 && data[0] < 65)
			kill(-c->pid, data[0]);
		break;
	default:
		hang_up(c);
	}
}

static void from_peer(struct command *c)
{
	size_t want = 5;
	ssize_t n;

	if (c->frame_len >= 5)
		want += get_le32(c->frame + 1);
	n = recv(c->peer, c->frame + c->frame_len, want - c->frame_len, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0)
		hang_up(c);
	c->frame_len += (size_t)n;
	if (c->frame_len < 5)
		return;
	if (get_le32(c->frame + 1) > FRAME_MAX)
		hang_up(c);
	if (c->frame_len < 5 + get_le32(c->frame + 1))
		return;
	take_frame(c, (char)c->frame[0], c->frame + 5, get_le32(c->frame + 1));
	c->frame_len = 0;
}

static void carry(struct command *c, int *fd, char type)
{
	static uint8_t buf[FRAME_MAX];
	ssize_t n = read(*fd, buf, sizeof(buf));

	if (n > 0)
		send_frame(c->peer, type, buf, (uint32_t)n);
	else if (n == 0 || errno != EINTR) /* a terminal whose other end is closed says EIO */
		*fd = -1;
}

/*
 * Until it has ended and what it wrote is out. Processes that it left behind may hold the pipes
 * open for ever, so their end is not waited for.
 */
static void serve(struct command *c)
{
	uint8_t status;

	for (;;) {
		struct pollfd p[4] = {
			{ .fd = c->peer, .events = POLLIN },
			{ .fd = c->out, .events = POLLIN },
			{ .fd = c->err, .events = POLLIN },
			{ .fd = c->held_len ? c->in : -1, .events = POLLOUT },
		};
		int ready = poll(p, 4, c->ended ? DRAIN_MS : 20), s;

		if (!c->ended && waitpid(c->pid, &s, WNOHANG) == c->pid) {
			c->ended = true;
			c->status = WIFEXITED(s) ? WEXITSTATUS(s) : 128 + WTERMSIG(s);
		}
		if (ready < 0 && errno != EINTR)
			exit(1);
		if (ready > 0 && p[0].revents)
			from_peer(c);
		if (ready > 0 && p[1].revents)
			carry(c, &c->out, 'o');
		if (ready > 0 && p[2].revents)
			carry(c, &c->err, 'e');
		if (ready > 0 && p[3].revents)
			feed(c);
		if (c->ended && ((c->out < 0 && c->err < 0) || ready == 0))
			break;
	}
	status = (uint8_t)c->status;
	send_frame(c->peer, 's', &status, 1);
	shutdown(c->peer, SHUT_WR);
	/* the client closes when it has it all */
	while (recv(c->peer, c->frame, sizeof(c->frame), 0) > 0)
		;
	exit(0);
}

static void serve_one(int peer)
{
	static struct request r;
	static struct command c;

	signal(SIGCHLD, SIG_DFL);
	signal(SIGPIPE, SIG_IGN);
	c = (struct command) { .peer = peer, .in = -1, .out = -1, .err = -1 };
	read_request(peer, &r);
	start(&c, &r);
	serve(&c);
}

/* ---- shared folders ---- */

static void make_folders(char *path)
{
	for (char *p = path + 1; *p; p++)
		if (*p == '/') {
			*p = '\0';
			mkdir(path, 0755);
			*p = '/';
		}
	mkdir(path, 0755);
}

/* /run/eyot/mounts: TAG TAB PATH TAB ro or rw. It goes, so that an agent that starts anew does not
 * mount twice. */
static void mount_shares(void)
{
	FILE *f = fopen("/run/eyot/mounts", "re");
	char line[2048];

	while (f && fgets(line, sizeof(line), f)) {
		char *save = NULL, *tag = strtok_r(line, "\t\n", &save);
		char *path = strtok_r(NULL, "\t\n", &save), *mode = strtok_r(NULL, "\t\n", &save);

		if (!mode)
			continue;
		make_folders(path);
		if (mount(tag, path, "virtiofs", strcmp(mode, "ro") ? 0 : MS_RDONLY, NULL))
			fprintf(stderr, "eyot-vsock-agent: mount %s at %s: %s\n", tag, path,
				strerror(errno));
	}
	if (f)
		fclose(f);
	unlink("/run/eyot/mounts");
}

int main(void)
{
	struct sockaddr_vm addr = { .svm_family = AF_VSOCK,
				    .svm_cid = VMADDR_CID_ANY,
				    .svm_port = PORT };
	int fd;

	mount_shares();
	fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) || listen(fd, 64)) {
		perror("eyot-vsock-agent: vsock");
		return 1;
	}
	signal(SIGCHLD, SIG_IGN); /* processes of connections are nobody's to wait for */
	for (;;) {
		struct sockaddr_vm from;
		socklen_t len = sizeof(from);
		int peer = accept4(fd, (struct sockaddr *)&from, &len, SOCK_CLOEXEC);

		if (peer < 0)
			continue;
		if (from.svm_cid == VMADDR_CID_HOST && fork() == 0) {
			close(fd);
			serve_one(peer);
		}
		close(peer);
	}
}
