/* SPDX-License-Identifier: Apache-2.0 */
/*
 * eyot top: what the processes of each machine take, from /proc. A machine is the tree of processes
 * below the one that the daemon started; one that ends between two looks is left out of the
 * difference.
 */
#include <inttypes.h>
#include <string.h>

#include "base/parse.h"
#include "base/util.h"
#include "cli/cli.h"
#include "loop/loop.h"

#define TREE_MAX 64

struct usage {
	char id[32];
	uint64_t ticks;
	uint64_t rss_bytes;
	double cpu; /* 1: one processor */
};

static bool read_file(const char *path, char *buf, size_t size)
{
	FILE *f = fopen(path, "re");
	size_t n = f ? fread(buf, 1, size - 1, f) : 0;

	buf[n] = '\0';
	if (f)
		fclose(f);
	return n > 0;
}

/* proc(5), /proc/pid/stat: the 12th and 13th field behind the name are its ticks, the 22nd its
 * pages */
static void add_process(long pid, struct usage *u)
{
	unsigned long long utime = 0, stime = 0;
	long long pages = 0;
	char path[64], buf[1024], *p;

	snprintf(path, sizeof(path), "/proc/%ld/stat", pid);
	if (!read_file(path, buf, sizeof(buf)))
		return;
	p = strrchr(buf, ')');
	if (p &&
	    sscanf(p + 1,
		   " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu %*d %*d %*d %*d %*d "
		   "%*d %*u %*u %lld",
		   &utime, &stime, &pages) == 3) {
		u->ticks += utime + stime;
		u->rss_bytes += (uint64_t)pages * PAGE_SIZE;
	}
}

static void add_tree(long pid, struct usage *u)
{
	long todo[TREE_MAX] = { pid };
	unsigned count = 1;

	for (unsigned i = 0; i < count; i++) {
		char path[64], buf[1024], *p = buf, *end;

		add_process(todo[i], u);
		snprintf(path, sizeof(path), "/proc/%ld/task/%ld/children", todo[i], todo[i]);
		if (!read_file(path, buf, sizeof(buf)))
			continue;
		while (count < TREE_MAX) {
			long child = strtol(p, &end, 10);

			if (end == p)
				break;
			todo[count++] = child;
			p = end;
		}
	}
}

static int look(struct cli *cli, json_t **ret_instances, struct usage **ret_usage, struct err *err)
{
	struct usage *usage;
	json_t *instance;
	struct url u;
	size_t i;
	int ret;

	url_init(&u, "/v1/instances");
	url_param(&u, "project", cli->project);
	ret = api_get_all(cli, &u, ret_instances, err);
	if (ret < 0)
		return ret;
	usage = calloc(json_array_size(*ret_instances) + 1, sizeof(*usage));
	if (!usage) {
		json_decref(*ret_instances);
		return err_set(err, ENOMEM, "out of memory");
	}
	json_array_foreach(*ret_instances, i, instance)
	{
		json_int_t pid = json_integer_value(json_object_get(instance, "pid"));

		snprintf(usage[i].id, sizeof(usage[i].id), "%s", json_text(instance, "id"));
		if (pid > 0)
			add_tree((long)pid, &usage[i]);
	}
	*ret_usage = usage;
	return 0;
}

static const struct usage *before_of(const struct usage *before, size_t count, const char *id)
{
	for (size_t i = 0; i < count; i++)
		if (!strcmp(before[i].id, id))
			return &before[i];
	return NULL;
}

static int print(const struct cli *cli, json_t *instances, const struct usage *usage,
		 struct err *err)
{
	static const struct column columns[] = {
		{ "NAME", "name", COLUMN_TEXT },
		{ "STATE", "state", COLUMN_TEXT },
		{ "CPU", "cpu", COLUMN_TEXT },
		{ "CPUS", "cpus", COLUMN_TEXT },
		{ "TAKEN", "taken_bytes", COLUMN_BYTES },
		{ "MEMORY", "memory_bytes", COLUMN_BYTES },
		{ "RESTARTS", "restarts", COLUMN_TEXT },
		{ "RUNS FOR", "started_at", COLUMN_TIME },
		{ 0 },
	};
	json_t *running = json_array(), *instance;
	char text[32];
	size_t i;
	int ret;

	json_array_foreach(instances, i, instance)
	{
		if (!json_is_integer(json_object_get(instance, "pid")))
			continue;
		snprintf(text, sizeof(text), "%.1f %%", usage[i].cpu * 100);
		json_object_set_new(instance, "cpu",
				    cli->format == FORMAT_TABLE ? json_string(text)
								: json_real(usage[i].cpu));
		json_object_set_new(instance, "taken_bytes",
				    json_integer((json_int_t)usage[i].rss_bytes));
		json_array_append(running, instance);
	}
	if (cli->format == FORMAT_TABLE && isatty(STDOUT_FILENO))
		fputs("\033[H\033[J", stdout);
	ret = out_list(cli, columns, running, err);
	json_decref(running);
	return ret;
}

int cmd_top(struct cli *cli, const struct cli_args *args, struct err *err)
{
	struct usage *before = NULL, *usage;
	uint64_t before_ns = 0, now_ns;
	int64_t delay_s = 2, count = INT64_MAX;
	size_t before_count = 0;
	double hz = (double)sysconf(_SC_CLK_TCK);
	int ret = arg_number(args, "delay", 1, 3600, &delay_s, err);

	if (ret == 0)
		ret = arg_number(args, "count", 1, INT32_MAX, &count, err);
	while (ret == 0) {
		json_t *instances;

		ret = look(cli, &instances, &usage, err);
		if (ret < 0)
			break;
		now_ns = clock_now_ns();
		for (size_t i = 0; before && i < json_array_size(instances); i++) {
			const struct usage *b = before_of(before, before_count, usage[i].id);

			if (b && usage[i].ticks > b->ticks)
				usage[i].cpu = (double)(usage[i].ticks - b->ticks) / hz /
					       ((double)(now_ns - before_ns) / 1e9);
		}
		/* the first look has nothing to compare with */
		if (before)
			ret = print(cli, instances, usage, err);
		free(before);
		before = usage;
		before_ns = now_ns;
		before_count = json_array_size(instances);
		json_decref(instances);
		if (ret < 0 || count-- == 0)
			break;
		ret = cli_sleep_ms((unsigned)delay_s * 1000);
	}
	free(before);
	if (ret == -EINTR)
		*err->text = '\0'; /* how one leaves it */
	return ret;
}
