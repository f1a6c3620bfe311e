/* SPDX-License-Identifier: Apache-2.0 */
/* eyot-switch: one Ethernet segment for the virtual machines of a user. */
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "net/switch.h"

static const char usage[] =
    "usage: eyot-switch [--join SOCKET]... [--log LEVEL] SOCKET\n"
    "Connect virtual machines to one Ethernet segment.\n"
    "\n"
    "It listens at SOCKET for `eyot-vmm --net switch,path=SOCKET` and for QEMU's\n"
    "`-netdev stream`, until a signal ends it.\n"
    "\n"
    "  --join SOCKET  also connect to what listens there, such as passt; repeatable\n"
    "  --log LEVEL    error, warn, info or debug (default: info)\n"
    "  --help\n"
    "\n"
    "Exit status: 0 ended by a signal, 2 bad usage or socket, 8 host error.\n";

#define STATUS_USAGE 2
#define STATUS_HOST 8
#define JOINS_MAX 16

static void on_signal(void *arg, int signo)
{
	loop_quit(arg, 0);
}

static int run(const char *path, const char *const *joins, unsigned join_count, struct err *err)
{
	static const int signals[] = { SIGTERM, SIGINT, SIGHUP };
	struct net_switch *sw = NULL;
	struct loop *loop = NULL;
	int ret = loop_new(&loop, err), status = STATUS_HOST;

	for (unsigned i = 0; i < 3 && ret == 0; i++) {
		ret = loop_signal_add(loop, signals[i], on_signal, loop);
		if (ret < 0)
			err_set(err, -ret, "signals: %s", strerror(-ret));
	}
	if (ret == 0) {
		status = STATUS_USAGE;
		ret = switch_new(loop, path, &sw, err);
	}
	for (unsigned i = 0; i < join_count && ret == 0; i++)
		ret = switch_join(sw, joins[i], err);
	if (ret == 0) {
		status = loop_run(loop);
		if (status < 0) {
			err_set(err, -status, "event loop: %s", strerror(-status));
			status = STATUS_HOST;
		}
	}
	if (status)
		log_error("%s", err->text);
	switch_free(sw);
	loop_free(loop);
	return status;
}

int main(int argc, char **argv)
{
	const char *joins[JOINS_MAX], *path = NULL;
	enum log_level level = LOG_INFO;
	struct err err = { .text = "" };
	unsigned join_count = 0;

	log_init("eyot-switch", level);
	for (int i = 1; i < argc; i++) {
		bool join = !strcmp(argv[i], "--join"), log = !strcmp(argv[i], "--log");

		if (!strcmp(argv[i], "--help")) {
			fputs(usage, stdout);
			return fflush(stdout) ? STATUS_HOST : 0;
		}
		if ((join || log) && i + 1 == argc) {
			log_error("option '%s': its value is missing", argv[i]);
			return STATUS_USAGE;
		}
		if (join && join_count < JOINS_MAX) {
			joins[join_count++] = argv[++i];
		} else if (log) {
			if (log_level_parse(argv[++i], &level) < 0) {
				log_error("log '%s': not one of error, warn, info, debug", argv[i]);
				return STATUS_USAGE;
			}
		} else if (join || argv[i][0] == '-' || path) {
			log_error("argument '%s': unknown or too many; see --help", argv[i]);
			return STATUS_USAGE;
		} else {
			path = argv[i];
		}
	}
	if (!path) {
		log_error("argument 'SOCKET': is missing; see --help");
		return STATUS_USAGE;
	}
	log_init("eyot-switch", level);
	return run(path, joins, join_count, &err);
}
