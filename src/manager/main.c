/* SPDX-License-Identifier: Apache-2.0 */
/* eyotd: the manager. Options, start, end; the one place that prints errors. */
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/util.h"
#include "manager/http.h"
#include "manager/image.h"
#include "manager/instance.h"
#include "manager/machine.h"
#include "version.h"

enum {
	STATUS_ENDED = 0,
	STATUS_USAGE = 2,
	STATUS_HOST = 8,
	STATUS_RUNS = 10,
};

#define TIDY_NS (600 * 1000000000ull)

static const char usage[] =
    "usage: eyotd [OPTION]...\n"
    "Keep virtual machines; eyot and other programs talk to it.\n"
    "\n"
    "  --data DIR          where images, disks and the store are\n"
    "  --run DIR           where sockets are\n"
    "  --system            the daemon of the system, not of this user\n"
    "  --overcommit-cpus N, --overcommit-memory N, --overcommit-disk N\n"
    "                      how often each may be promised (default: 8, 1, 2)\n"
    "  --ready-fd N        close this descriptor once clients can connect\n"
    "  --log LEVEL         error, warn, info or debug (default: info)\n"
    "  --help, --version\n"
    "\n"
    "SIGTERM ends it; machines go on. Exit status: 0 ended, 2 bad usage, 8 host error,\n"
    "10 another one has the folder.\n";

struct options {
	bool system;
	const char *data, *run;
	enum log_level level;
	int ready_fd;
};

static void on_signal(void *arg, int signo)
{
	struct manager *m = arg;

	loop_quit(m->loop, STATUS_ENDED);
}

static void on_store_failure(void *arg, const char *text)
{
	struct manager *m = arg;

	log_error("%s; machines go on, start me again when there is room", text);
	loop_quit(m->loop, STATUS_HOST);
}

static int parse_ratio(const char *text, double *ret, struct err *err)
{
	char *end;
	double v = strtod(text, &end);

	if (*end || !(v >= 0.01 && v <= 1000))
		return err_set(err, EINVAL, "over-commit '%s': not a number from 0.01 to 1000",
			       text);
	*ret = v;
	return 0;
}

enum { OPT_DATA = 256, OPT_RUN, OPT_SYSTEM, OPT_CPUS, OPT_MEMORY, OPT_DISK, OPT_READY, OPT_LOG };

static int take_option(struct manager *m, struct options *o, int option, const char *value,
		       struct err *err)
{
	switch (option) {
	case OPT_DATA:
		o->data = value;
		return 0;
	case OPT_RUN:
		o->run = value;
		return 0;
	case OPT_SYSTEM:
		o->system = true;
		return 0;
	case OPT_CPUS:
		return parse_ratio(value, &m->overcommit.cpus, err);
	case OPT_MEMORY:
		return parse_ratio(value, &m->overcommit.memory, err);
	case OPT_DISK:
		return parse_ratio(value, &m->overcommit.disk, err);
	case OPT_READY:
		o->ready_fd = atoi(value);
		if (o->ready_fd <= STDERR_FILENO || fcntl(o->ready_fd, F_SETFD, FD_CLOEXEC) < 0)
			return err_set(err, EINVAL, "ready-fd '%s': is not open", value);
		return 0;
	case OPT_LOG:
		if (log_level_parse(value, &o->level) < 0)
			return err_set(err, EINVAL, "log '%s': not one of error, warn, info, debug",
				       value);
		return 0;
	}
	return err_set(err, EINVAL, "see eyotd --help");
}

/* Relative folders would mean other ones to the programs that we start. */
static int absolute(const char **path, char out[PATH_SIZE], struct err *err)
{
	char cwd[PATH_SIZE];

	if (!*path || **path == '/')
		return 0;
	if (!getcwd(cwd, sizeof(cwd)) || snprintf(out, PATH_SIZE, "%s/%s", cwd, *path) >= PATH_SIZE)
		return err_set(err, ENAMETOOLONG, "folder '%s': its path is too long", *path);
	*path = out;
	return 0;
}

static int take_lock(struct manager *m, struct err *err)
{
	char path[PATH_SIZE + 8];

	snprintf(path, sizeof(path), "%s/lock", m->paths.data);
	m->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (m->lock_fd < 0)
		return err_set(err, errno, "'%s': %s", path, strerror(errno));
	if (flock(m->lock_fd, LOCK_EX | LOCK_NB) < 0)
		return err_set(err, errno == EWOULDBLOCK ? EBUSY : errno, "folder '%s': %s",
			       m->paths.data,
			       errno == EWOULDBLOCK ? "another eyotd has it" : strerror(errno));
	return 0;
}

static int watch_signals(struct manager *m)
{
	static const int signals[] = { SIGTERM, SIGINT, SIGHUP };
	int ret = 0;

	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);
	for (unsigned i = 0; ret == 0 && i < ARRAY_SIZE(signals); i++)
		ret = loop_signal_add(m->loop, signals[i], on_signal, m);
	return ret;
}

static void raise_limits(void)
{
	struct rlimit l;

	if (getrlimit(RLIMIT_NOFILE, &l) == 0) {
		l.rlim_cur = l.rlim_max;
		setrlimit(RLIMIT_NOFILE, &l);
	}
}

static int set_up(struct manager *m, const struct options *o, struct err *err)
{
	int ret = paths_init(&m->paths, o->system, o->data, o->run, err);

	if (ret == 0)
		ret = take_lock(m, err);
	if (ret == 0)
		ret = loop_new(&m->loop, err);
	if (ret == 0) {
		ret = watch_signals(m);
		if (ret < 0)
			err_set(err, -ret, "signals: %s", strerror(-ret));
	}
	if (ret == 0)
		ret = store_open(m->loop, m->paths.data, on_store_failure, m, &m->store, err);
	if (ret < 0)
		return ret;
	m->last_event =
	    store_count(m->store, "SELECT seq FROM sqlite_sequence WHERE name = 'events'", "");
	ret = images_load(m, err);
	if (ret == 0)
		ret = instances_load(m, err);
	if (ret == 0)
		ret = http_new(m, &m->http, err);
	if (ret < 0)
		return ret;
	event_emit(m, "daemon.started", NULL, "eyotd", "{}");
	jobs_interrupted(m);
	jobs_tidy(m);
	machines_reconcile(m);
	return store_commit(m->store) < 0 ? err_set(err, EIO, "the store cannot be written") : 0;
}

static void tear_down(struct manager *m)
{
	m->ending = true;
	http_free(m->http);
	m->http = NULL;
	instances_free(m);
	images_free(m);
	jobs_free(m);
	store_close(m->store);
	loop_free(m->loop);
	if (m->lock_fd >= 0)
		close(m->lock_fd);
}

int main(int argc, char **argv)
{
	static const struct option long_options[] = {
		{ "data", required_argument, NULL, OPT_DATA },
		{ "run", required_argument, NULL, OPT_RUN },
		{ "system", no_argument, NULL, OPT_SYSTEM },
		{ "overcommit-cpus", required_argument, NULL, OPT_CPUS },
		{ "overcommit-memory", required_argument, NULL, OPT_MEMORY },
		{ "overcommit-disk", required_argument, NULL, OPT_DISK },
		{ "ready-fd", required_argument, NULL, OPT_READY },
		{ "log", required_argument, NULL, OPT_LOG },
		{ "help", no_argument, NULL, 'h' },
		{ "version", no_argument, NULL, 'v' },
		{ 0 },
	};
	struct manager m = { .lock_fd = -1, .overcommit = { 8, 1, 2 } };
	struct options o = { .level = LOG_INFO, .ready_fd = -1 };
	char data[PATH_SIZE], run[PATH_SIZE];
	struct err err = { .text = "" };
	int option, ret = 0, status = STATUS_USAGE;

	log_init("eyotd", LOG_INFO);
	while (ret == 0 && (option = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
		if (option == 'h' || option == 'v') {
			fputs(option == 'h' ? usage : "eyotd " EYOT_VERSION "\n", stdout);
			return fflush(stdout) == 0 ? 0 : STATUS_HOST;
		}
		ret = take_option(&m, &o, option, optarg, &err);
	}
	if (ret == 0 && optind < argc)
		ret = err_set(&err, EINVAL, "'%s': unknown; see eyotd --help", argv[optind]);
	if (ret == 0)
		ret = absolute(&o.data, data, &err);
	if (ret == 0)
		ret = absolute(&o.run, run, &err);
	if (ret == 0) {
		log_init("eyotd", o.level);
		raise_limits();
		umask(077);
		m.system = o.system;
		m.uid = geteuid();
		m.started_ms = time_now_ms();
		ret = set_up(&m, &o, &err);
		status = ret == -EBUSY ? STATUS_RUNS : STATUS_HOST;
	}
	if (ret == 0) {
		if (o.ready_fd >= 0)
			close(o.ready_fd);
		log_info("listens at %s", m.paths.socket);
		status = loop_run(m.loop);
	}
	if (ret < 0)
		log_error("%s", err.text);
	tear_down(&m);
	return status < 0 ? STATUS_HOST : status;
}
