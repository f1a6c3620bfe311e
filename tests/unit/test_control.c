/* SPDX-License-Identifier: Apache-2.0 */
/* control: the check of requests, the server against clients of all manners. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/sock.h"
#include "base/util.h"
#include "control/server.h"

#define REPLY_MAX MIB(8)
#define BIG 200000

struct fixture {
	struct loop *loop;
	struct loop_timer *timer;
	struct control_server *server;
	struct control_call *kept;
	unsigned runs, echoes;
	char path[64], *text;
	int given; /* handed over */
	char behind[64];
};

/* ---- commands ---- */

static void run_echo(struct control_call *call, void *opaque)
{
	((struct fixture *)opaque)->echoes++;
	control_reply(call, json_deep_copy(control_args(call)));
}

static void run_keep(struct control_call *call, void *opaque)
{
	((struct fixture *)opaque)->kept = call;
}

static void run_big(struct control_call *call, void *opaque)
{
	char *text = malloc(BIG);

	((struct fixture *)opaque)->runs++;
	memset(text, 'x', BIG);
	control_reply(call, json_pack("{s:s#}", "text", text, BIG));
	free(text);
}

static void run_refuse(struct control_call *call, void *opaque)
{
	struct err err;

	control_fail(call, err_set(&err, ENOENT, "device 'x': there is none"), &err);
}

static void run_events(struct control_call *call, void *opaque)
{
	control_subscribe(call, control_get_number(control_args(call), "since", UINT64_MAX));
}

static void run_size(struct control_call *call, void *opaque)
{
	int fd = control_take_fd(call);
	struct stat st = { .st_size = -1 };

	if (fd >= 0) {
		fstat(fd, &st);
		close(fd);
	}
	control_reply(call, json_pack("{s:I}", "size", (json_int_t)st.st_size));
}

static void taken(void *arg, int fd, const void *bytes, size_t len)
{
	struct fixture *f = arg;

	f->given = fd;
	snprintf(f->behind, sizeof(f->behind), "%.*s", (int)len, (const char *)bytes);
}

static void run_take(struct control_call *call, void *opaque)
{
	control_hand_over(call, NULL, taken, opaque);
}

static const struct control_arg echo_args[] = {
	{ "flag", CONTROL_FLAG, false, 0, 0, NULL, "" },
	{ "number", CONTROL_NUMBER, false, 3, 7, NULL, "" },
	{ "text", CONTROL_TEXT, false, 1, 4, NULL, "" },
	{ "word", CONTROL_WORD, false, 0, 0, "up|down", "" },
	{ "config", CONTROL_CONFIG, false, 0, 0, NULL, "" },
	{ NULL },
};
static const struct control_arg need_args[] = {
	{ "text", CONTROL_TEXT, true, 0, 100, NULL, "" },
	{ NULL },
};
static const struct control_arg since_args[] = {
	{ "since", CONTROL_NUMBER, false, 0, INT64_MAX, NULL, "" },
	{ NULL },
};
static const struct control_command table[] = {
	{ "echo", "", echo_args, 0, run_echo },
	{ "need", "", need_args, 0, run_echo },
	{ "keep", "", NULL, 0, run_keep },
	{ "big", "", NULL, 0, run_big },
	{ "refuse", "", NULL, 0, run_refuse },
	{ "events", "", since_args, 0, run_events },
	{ "size", "", NULL, 1, run_size },
	{ "take", "", NULL, 0, run_take },
	{ NULL },
};

/* ---- the other end ---- */

static void fired(void *arg)
{
	loop_quit(((struct fixture *)arg)->loop, 0);
}

/* Let the server do what there is to do. */
static void turn(struct fixture *f, unsigned ms)
{
	loop_timer_arm(f->timer, clock_now_ns() + ms * 1000000ull);
	loop_run(f->loop);
}

static int connect_to(struct fixture *f)
{
	struct sockaddr_un addr;
	int fd;

	assert_int_equal(unix_address(f->path, &addr, NULL), 0);
	fd = unix_connect(&addr);
	assert_true(fd >= 0);
	return fd;
}

/* All that comes within a moment; "" when it is closed, too. */
static const char *answer(struct fixture *f, int fd)
{
	size_t len = 0;

	for (unsigned idle = 0; idle < 3;) {
		ssize_t n;

		turn(f, 3);
		n = recv(fd, f->text + len, REPLY_MAX - 1 - len, MSG_DONTWAIT);
		if (n <= 0)
			idle++;
		else
			len += (size_t)n;
	}
	f->text[len] = '\0';
	return f->text;
}

static void say(int fd, const char *text)
{
	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

static bool is_closed(struct fixture *f, int fd)
{
	char c;

	turn(f, 5);
	while (recv(fd, &c, 1, MSG_DONTWAIT) == 1)
		;
	return recv(fd, &c, 1, MSG_DONTWAIT) == 0 || errno == ECONNRESET;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct control_server_config cfg = { .table = table, .opaque = f };
	struct err err;

	*state = f;
	f->text = malloc(REPLY_MAX);
	f->given = -1;
	snprintf(f->path, sizeof(f->path), "/tmp/eyot-control-%d", (int)getpid());
	if (loop_new(&f->loop, &err) < 0 || loop_timer_add(f->loop, fired, f, &f->timer) < 0)
		return -1;
	cfg.loop = f->loop;
	return control_server_new(&cfg, f->path, &f->server, &err);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	control_server_free(f->server);
	assert_int_equal(access(f->path, F_OK), -1);
	loop_timer_del(f->timer);
	loop_free(f->loop);
	free(f->text);
	free(f);
	return 0;
}

/* ---- requests ---- */

static void parse(const char *line, const char *want_code, const char *want_text)
{
	struct control_request req;
	struct err err = { "" };
	const char *code = "";
	int ret = control_parse(table, line, strlen(line), &req, &code, &err);

	control_request_done(&req);
	if (!want_code) {
		assert_int_equal(ret, 0);
		return;
	}
	assert_true(ret < 0);
	assert_string_equal(code, want_code);
	assert_non_null(strstr(err.text, want_text));
}

static void test_requests(void **state)
{
	parse("{\"id\":1,\"command\":\"echo\"}", NULL, NULL);
	parse("{\"id\":\"a\",\"command\":\"echo\",\"arguments\":{}}", NULL, NULL);
	parse("", "bad-json", "not JSON");
	parse("{\"id\":1,\"id\":2,\"command\":\"echo\"}", "bad-json", "duplicate");
	parse("[1]", "bad-request", "not a JSON object");
	parse("{\"command\":\"echo\"}", "bad-request", "'id'");
	parse("{\"id\":1.5,\"command\":\"echo\"}", "bad-request", "'id'");
	parse("{\"id\":1}", "bad-request", "'command'");
	parse("{\"id\":1,\"command\":\"echo\",\"x\":1}", "bad-request", "unknown key 'x'");
	parse("{\"id\":1,\"command\":\"echo\",\"arguments\":[]}", "bad-request", "'arguments'");
	parse("{\"id\":1,\"command\":\"no\"}", "unknown-command", "'no'");
	parse("{\"id\":1,\"command\":\"need\"}", "bad-argument", "'text' is missing");
}

static void one_arg(const char *arg, bool good)
{
	char line[200];

	snprintf(line, sizeof(line), "{\"id\":1,\"command\":\"echo\",\"arguments\":{%s}}", arg);
	parse(line, good ? NULL : "bad-argument", "command 'echo': ");
}

static void test_arguments(void **state)
{
	one_arg("\"flag\":true", true);
	one_arg("\"flag\":1", false);
	one_arg("\"number\":3", true);
	one_arg("\"number\":7", true);
	one_arg("\"number\":2", false);
	one_arg("\"number\":8", false);
	one_arg("\"number\":-5", false);
	one_arg("\"number\":\"5\"", false);
	one_arg("\"text\":\"abcd\"", true);
	one_arg("\"text\":\"\"", false);
	one_arg("\"text\":\"abcde\"", false);
	one_arg("\"word\":\"up\"", true);
	one_arg("\"word\":\"down\"", true);
	one_arg("\"word\":\"dow\"", false);
	one_arg("\"word\":\"\"", false);
	one_arg("\"word\":\"up|down\"", false);
	one_arg("\"config\":{}", true);
	one_arg("\"config\":\"x\"", true);
	one_arg("\"config\":[]", false);
	one_arg("\"other\":1", false);
	one_arg("\"flag\":null", false);
}

/* ---- clients ---- */

static void test_answers(void **state)
{
	struct fixture *f = *state;
	int fd = connect_to(f);

	assert_non_null(strstr(answer(f, fd), "\"protocol\":1"));
	say(fd, "{\"id\":5,\"command\":\"echo\",\"arguments\":{\"number\":4}}\n");
	assert_string_equal(answer(f, fd), "{\"id\":5,\"result\":{\"number\":4}}\n");
	say(fd, "nonsense\n{\"id\":\"b\",\"command\":\"refuse\"}\n");
	assert_string_equal(strchr(answer(f, fd), '\n') + 1,
			    "{\"id\":\"b\",\"error\":{\"code\":\"not-found\",\"message\":\"device "
			    "'x': there is none\"}}\n");
	assert_non_null(strstr(f->text, "{\"id\":null,\"error\":{\"code\":\"bad-json\""));
	/* In pieces, and two at once */
	for (const char *p = "{\"id\":6,\"command\":\"echo\"}\n"; *p; p++) {
		assert_int_equal(send(fd, p, 1, 0), 1);
		turn(f, 1);
	}
	assert_string_equal(answer(f, fd), "{\"id\":6,\"result\":{}}\n");
	close(fd);
}

static void test_last_words(void **state)
{
	struct fixture *f = *state;
	int fd = connect_to(f);

	/* Gone at once: the command is carried out all the same. */
	say(fd, "{\"id\":1,\"command\":\"echo\"}\n");
	close(fd);
	turn(f, 10);
	assert_int_equal(f->echoes, 1);
	/* One that only says that it will send no more still gets its answer. */
	fd = connect_to(f);
	say(fd, "{\"id\":7,\"command\":\"echo\"}\n");
	shutdown(fd, SHUT_WR);
	assert_non_null(strstr(answer(f, fd), "\"id\":7"));
	assert_true(is_closed(f, fd));
	close(fd);
}

static void test_oversize(void **state)
{
	struct fixture *f = *state;
	int fd = connect_to(f), sent = 0;
	char block[4096];

	memset(block, 'a', sizeof(block));
	while (sent < CONTROL_LINE_MAX + 4096) {
		ssize_t n = send(fd, block, sizeof(block), MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n <= 0)
			break;
		sent += (int)n;
		turn(f, 1);
	}
	assert_non_null(strstr(answer(f, fd), "too-long"));
	assert_true(is_closed(f, fd));
	close(fd);
}

static void test_many_connections(void **state)
{
	struct fixture *f = *state;
	int fds[CONTROL_CLIENTS_MAX], more;

	for (unsigned i = 0; i < 1000; i++) {
		int fd = connect_to(f);

		if (i % 3 == 0)
			say(fd, "{\"id\":1,\"comm"); /* half a line */
		close(fd);
		if (i % 16 == 0)
			turn(f, 1);
	}
	turn(f, 20);
	for (unsigned i = 0; i < CONTROL_CLIENTS_MAX; i++) {
		fds[i] = connect_to(f);
		turn(f, 1);
	}
	more = connect_to(f);
	assert_non_null(strstr(answer(f, more), "busy"));
	assert_true(is_closed(f, more));
	close(more);
	close(fds[0]);
	turn(f, 5);
	more = connect_to(f);
	assert_non_null(strstr(answer(f, more), "protocol"));
	close(more);
	for (unsigned i = 1; i < CONTROL_CLIENTS_MAX; i++)
		close(fds[i]);
}

/* One that asks and never reads gets only so much done; the others are served meanwhile. */
static void test_never_reading(void **state)
{
	struct fixture *f = *state;
	static const char line[] = "{\"id\":1,\"command\":\"big\"}\n";
	int deaf = connect_to(f), fd = connect_to(f);
	unsigned long asked = 0;

	while (send(deaf, line, sizeof(line) - 1, MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
		asked++;
	assert_true(asked > 50);
	turn(f, 50);
	assert_true(f->runs < 20);
	answer(f, fd);
	say(fd, "{\"id\":2,\"command\":\"echo\"}\n");
	assert_string_equal(answer(f, fd), "{\"id\":2,\"result\":{}}\n");
	/* When it reads after all, everything is there. */
	for (unsigned long got = 0; got < asked * BIG;) {
		ssize_t n;

		turn(f, 1);
		while ((n = recv(deaf, f->text, REPLY_MAX, MSG_DONTWAIT)) > 0)
			got += (unsigned long)n;
	}
	assert_int_equal(f->runs, asked);
	close(deaf);
	close(fd);
}

static void test_late_answer(void **state)
{
	struct fixture *f = *state;
	int fd = connect_to(f);

	answer(f, fd);
	say(fd, "{\"id\":1,\"command\":\"keep\"}\n{\"id\":2,\"command\":\"echo\"}\n");
	assert_string_equal(answer(f, fd), "{\"id\":2,\"result\":{}}\n");
	control_reply(f->kept, NULL);
	assert_string_equal(answer(f, fd), "{\"id\":1,\"result\":{}}\n");
	/* The client goes before its answer. */
	say(fd, "{\"id\":3,\"command\":\"keep\"}\n");
	turn(f, 5);
	close(fd);
	turn(f, 5);
	control_reply(f->kept, NULL);
	/* Too many that wait */
	fd = connect_to(f);
	answer(f, fd);
	for (unsigned i = 0; i < CONTROL_CALLS_MAX + 1; i++)
		say(fd, "{\"id\":4,\"command\":\"keep\"}\n");
	assert_non_null(strstr(answer(f, fd), "busy"));
	close(fd);
}

static void test_events(void **state)
{
	struct fixture *f = *state;
	int fd = connect_to(f), late;

	control_event(f->server, "first", NULL);
	answer(f, fd);
	say(fd, "{\"id\":1,\"command\":\"events\"}\n");
	assert_string_equal(answer(f, fd), "{\"id\":1,\"result\":{\"last\":1,\"lost\":0}}\n");
	control_event(f->server, "second", json_pack("{s:i}", "x", 3));
	assert_non_null(strstr(answer(f, fd), "{\"event\":\"second\",\"number\":2,"));
	assert_non_null(strstr(f->text, "\"data\":{\"x\":3}}\n"));
	/* Who comes later asks for what it missed. */
	late = connect_to(f);
	answer(f, late);
	say(late, "{\"id\":1,\"command\":\"events\",\"arguments\":{\"since\":0}}\n");
	answer(f, late);
	assert_non_null(strstr(f->text, "\"first\""));
	assert_non_null(strstr(f->text, "\"second\""));
	close(late);
	for (unsigned i = 0; i < CONTROL_EVENTS_KEPT; i++)
		control_event(f->server, "many", NULL);
	late = connect_to(f);
	answer(f, late);
	say(late, "{\"id\":1,\"command\":\"events\",\"arguments\":{\"since\":1}}\n");
	assert_non_null(strstr(answer(f, late), "\"lost\":1}"));
	close(late);
	/* A subscriber that does not read loses events, not the machine its memory. */
	for (unsigned i = 0; i < 20000; i++)
		control_event(f->server, "flood", NULL);
	assert_false(is_closed(f, fd));
	close(fd);
}

static void test_descriptors(void **state)
{
	struct fixture *f = *state;
	int fd = connect_to(f), zero = open("/dev/zero", O_RDONLY);
	char buf[CMSG_SPACE(2 * sizeof(int))] = { 0 };
	char line[] = "{\"id\":1,\"command\":\"size\"}\n";
	struct iovec iov = { line, sizeof(line) - 1 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = buf };
	struct cmsghdr *cm;

	answer(f, fd);
	for (int count = 1; count <= 2; count++) {
		int fds[2] = { zero, zero };

		msg.msg_controllen = CMSG_SPACE((unsigned)count * sizeof(int));
		cm = CMSG_FIRSTHDR(&msg);
		cm->cmsg_level = SOL_SOCKET;
		cm->cmsg_type = SCM_RIGHTS;
		cm->cmsg_len = CMSG_LEN((unsigned)count * sizeof(int));
		memcpy(CMSG_DATA(cm), fds, (unsigned)count * sizeof(int));
		assert_true(sendmsg(fd, &msg, 0) > 0);
		assert_non_null(strstr(answer(f, fd), count == 1 ? "\"size\":0" : "bad-request"));
	}
	say(fd, line);
	assert_non_null(strstr(answer(f, fd), "\"size\":-1"));
	close(zero);
	close(fd);
}

static void test_hand_over(void **state)
{
	struct fixture *f = *state;
	int fd = connect_to(f);

	answer(f, fd);
	say(fd, "{\"id\":1,\"command\":\"take\"}\nbehind");
	assert_string_equal(answer(f, fd), "{\"id\":1,\"result\":{}}\n");
	assert_true(f->given >= 0);
	assert_string_equal(f->behind, "behind");
	assert_int_equal(write(f->given, "raw", 3), 3);
	assert_string_equal(answer(f, fd), "raw");
	close(f->given);
	close(fd);
}

static void test_socket(void **state)
{
	struct fixture *f = *state;
	struct control_server_config cfg = { .loop = f->loop, .table = table, .opaque = f };
	struct control_server *other = NULL;
	char path[80], where[32];
	struct stat st;
	struct err err;
	int fd, pair[2];

	assert_int_equal(stat(f->path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	/* Somebody listens there. */
	assert_int_equal(control_server_new(&cfg, f->path, &other, &err), -EADDRINUSE);
	/* One that was left behind */
	snprintf(path, sizeof(path), "%s-stale", f->path);
	fd = unix_listen(path, 1, &err);
	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(control_server_new(&cfg, path, &other, &err), 0);
	control_server_free(other);
	assert_int_equal(access(path, F_OK), -1);
	/* A file is not taken over. */
	fd = open(path, O_CREAT | O_WRONLY, 0600);
	close(fd);
	assert_int_equal(control_server_new(&cfg, path, &other, &err), -EADDRINUSE);
	unlink(path);
	/* Inherited: connected already */
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	snprintf(where, sizeof(where), "fd:%d", pair[0]);
	assert_int_equal(control_server_new(&cfg, where, &other, &err), 0);
	answer(f, pair[1]);
	say(pair[1], "{\"id\":2,\"command\":\"echo\"}\n");
	assert_string_equal(answer(f, pair[1]), "{\"id\":2,\"result\":{}}\n");
	control_server_free(other);
	close(pair[1]);
	assert_int_equal(control_server_new(&cfg, "fd:0x", &other, &err), -EINVAL);
	assert_int_equal(control_server_new(&cfg, "fd:999", &other, &err), -EBADF);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_requests),
		cmocka_unit_test(test_arguments),
		T(test_answers),
		T(test_last_words),
		T(test_oversize),
		T(test_many_connections),
		T(test_never_reading),
		T(test_late_answer),
		T(test_events),
		T(test_descriptors),
		T(test_hand_over),
		T(test_socket),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
