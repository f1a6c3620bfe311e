/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The balloon's command. Figures are those that the guest brought last, with their age; each call
 * asks it for new ones, which the next call shows.
 */
#include "base/util.h"
#include "monitor/command_priv.h"

#define NS_PER_MS 1000000ull

static json_t *describe(const struct virtio_balloon_info *info)
{
	json_t *stats = json_object(), *all;

	for (unsigned i = 0; i < BALLOON_STATS; i++)
		if (info->known >> i & 1)
			json_object_set_new(stats, virtio_balloon_stat_name(i),
					    json_integer((json_int_t)info->stats[i]));
	all = json_pack("{s:I, s:I, s:I, s:o}", "target_bytes", (json_int_t)info->target_bytes,
			"actual_bytes", (json_int_t)info->actual_bytes, "reported_bytes",
			(json_int_t)info->reported_bytes, "guest", stats);
	if (info->known)
		json_object_set_new(
		    all, "age_ms",
		    json_integer((json_int_t)((clock_now_ns() - info->stats_ns) / NS_PER_MS)));
	return all;
}

void command_balloon(struct control_call *call, void *opaque)
{
	struct commander *cmd = opaque;
	struct virtio_dev *dev = cmd->c.machine->balloon;
	uint64_t target = control_get_number(control_args(call), "target", 0);
	struct virtio_balloon_info info;
	struct err err;
	int ret = 0;

	if (!dev)
		ret = err_set(&err, ENOENT, "balloon: the machine has none; see --balloon");
	else if (target && virtio_balloon_set_target(dev, target) < 0)
		ret = err_set(&err, EINVAL, "target '%llu': more than the memory there is",
			      (unsigned long long)target);
	if (ret < 0) {
		control_fail(call, ret, &err);
		return;
	}
	virtio_balloon_get_info(dev, &info);
	virtio_balloon_ask_stats(dev);
	control_reply(call, describe(&info));
}
