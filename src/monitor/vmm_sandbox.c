/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vCPU threads and those of shares are made before the loop thread puts on its
 * filter, as a thread starts with its maker's and could only get less. Workers of disks are made
 * later, by the loop thread; what they do it may do as well.
 */
#include "monitor/vmm_sandbox.h"

#include <dirent.h>
#include <jansson.h>
#include <time.h>

#include "base/util.h"
#include "net/stream.h"

#define INHERITED_MAX 64
#define RESOLV_CONF "/etc/resolv.conf" /* libslirp asks it for the host's name server */

struct vmm_sandbox {
	const struct config *cfg;
	struct keeper *keeper;
	struct sandbox_filters *filters;
	int inherited[INHERITED_MAX]; /* open at the start, and no business of ours */
	unsigned inherited_count;
};

/*
 * What the caller left open. It is closed only when all is open: /dev/fd/N may be the path of an
 * image. Interfaces given by descriptor are kept.
 */
static void note_inherited(struct vmm_sandbox *sb)
{
	DIR *dir = opendir("/proc/self/fd");
	struct dirent *e;

	while (dir && (e = readdir(dir)) && sb->inherited_count < INHERITED_MAX) {
		int fd = atoi(e->d_name);
		bool given = fd <= STDERR_FILENO || fd == dirfd(dir);
		const char *control = sb->cfg->control;

		given |= sb->cfg->report_fd == fd;
		given |= control && !strncmp(control, "fd:", 3) && atoi(control + 3) == fd;

		for (unsigned i = 0; i < sb->cfg->net_count; i++)
			for (unsigned k = 0; k < sb->cfg->nets[i].net.fd_count; k++)
				given |= sb->cfg->nets[i].net.fds[k] == fd;
		if (!given)
			sb->inherited[sb->inherited_count++] = fd;
	}
	if (dir)
		closedir(dir);
}

static bool in_foreground(void *arg)
{
	return keeper_in_foreground(arg);
}

static int connect_through_keeper(void *arg, const struct sockaddr_un *addr)
{
	return keeper_connect(arg, addr);
}

/* In the process of a user network. */
static int confine_network(struct err *err)
{
	static const char *const shown[] = { RESOLV_CONF, NULL };
	static const struct confinement c = { .host_network = true, .shown = shown };
	struct sandbox_filters *filters;
	int ret = sandbox_confine(&c, err);

	if (ret == 0)
		ret = sandbox_filters_new(1u << SANDBOX_NET, &filters, err);
	if (ret < 0)
		return ret;
	ret = sandbox_filter_thread(filters, SANDBOX_NET);
	if (ret == 0 && sandbox_test_hook)
		sandbox_test_hook(SANDBOX_NET);
	return ret < 0 ? err_set(err, -ret, "sandbox: filter: %s", strerror(-ret)) : 0;
}

int vmm_sandbox_start(struct config *cfg, struct vmm_sandbox **ret_sb, struct err *err)
{
	struct vmm_sandbox *sb = calloc(1, sizeof(*sb));
	int ret;

	if (!sb)
		return err_set(err, ENOMEM, "sandbox: out of memory");
	sb->cfg = cfg;
	note_inherited(sb);
	ret = keeper_start(&sb->keeper, err);
	if (ret < 0) {
		free(sb);
		return ret;
	}
	console_ask_foreground(in_foreground, sb->keeper);
	cfg->connect = connect_through_keeper;
	cfg->connect_arg = sb->keeper;
	for (unsigned i = 0; i < cfg->disk_count; i++)
		cfg->disks[i].o.sandbox = true;
	for (unsigned i = 0; i < cfg->net_count; i++) {
		cfg->nets[i].net.confine = confine_network;
		cfg->nets[i].net.connect = connect_through_keeper;
		cfg->nets[i].net.connect_arg = sb->keeper;
	}
	*ret_sb = sb;
	return 0;
}

void vmm_sandbox_free(struct vmm_sandbox *sb)
{
	if (!sb)
		return;
	keeper_free(sb->keeper);
	sandbox_filters_free(sb->filters);
	free(sb);
}

void vmm_sandbox_socket(struct vmm_sandbox *sb, char *path)
{
	if (path)
		keeper_unlink_later(sb->keeper, path);
	free(path);
}

static int thread_hook(void *arg, enum loop_thread kind)
{
	struct vmm_sandbox *sb = arg;
	static const enum sandbox_role roles[] = { [LOOP_THREAD_VCPU] = SANDBOX_VCPU,
						   [LOOP_THREAD_WORKER] = SANDBOX_WORKER,
						   [LOOP_THREAD_SHARE] = SANDBOX_SHARE };
	enum sandbox_role role = roles[kind];
	int ret = sandbox_filter_thread(sb->filters, role);

	if (ret == 0 && sandbox_test_hook)
		sandbox_test_hook(role);
	return ret;
}

int vmm_sandbox_close(struct vmm_sandbox *sb, struct loop *loop, struct err *err)
{
	unsigned roles = 1u << SANDBOX_LOOP | 1u << SANDBOX_VCPU | 1u << SANDBOX_WORKER;
	struct confinement c = { 0 };
	int ret;

	if (!sb)
		return 0;
	if (sb->cfg->share_count) {
		c.many_files = true;
		roles |= 1u << SANDBOX_SHARE;
	}
	ret = 0;
	if (sb->cfg->vsock.path) {
		ret = keeper_unlink_later(sb->keeper, sb->cfg->vsock.path);
		if (ret == 0)
			ret = keeper_allow_ports(sb->keeper, sb->cfg->vsock.path);
	}
	if (ret == 0)
		ret = keeper_seal(sb->keeper);
	if (ret < 0)
		return err_set(err, -ret, "sandbox: keeper: %s", strerror(-ret));
	for (unsigned i = 0; i < sb->inherited_count; i++)
		close(sb->inherited[i]);
	json_object_seed(0); /* reads a file when the first object is made */
	tzset();	     /* which reads a file the first time the clock is asked for a date */
	ret = sandbox_confine(&c, err);
	if (ret == 0)
		ret = sandbox_filters_new(roles, &sb->filters, err);
	if (ret == 0)
		loop_set_thread_hook(loop, thread_hook, sb);
	return ret;
}

int vmm_sandbox_filter_loop(struct vmm_sandbox *sb, struct err *err)
{
	int ret = sb ? sandbox_filter_thread(sb->filters, SANDBOX_LOOP) : 0;

	if (ret < 0)
		return err_set(err, -ret, "sandbox: filter: %s", strerror(-ret));
	if (sb && sandbox_test_hook)
		sandbox_test_hook(SANDBOX_LOOP);
	return 0;
}
