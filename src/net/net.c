/* SPDX-License-Identifier: Apache-2.0 */
#include "net/net.h"

const char *net_kind_name(enum net_kind kind)
{
	static const char *const names[NET_KINDS] = {
		[NET_USER] = "user", [NET_TAP] = "tap", [NET_SWITCH] = "switch"
	};

	return names[kind];
}

int net_open(struct loop *loop, const struct net_config *cfg, struct net_backend **ret_be,
	     struct err *err)
{
	switch (cfg->kind) {
	case NET_USER:
		return (cfg->confine ? net_user_own_process : net_user_open)(loop, cfg, ret_be,
									     err);
	case NET_TAP:
		return net_tap_open(loop, cfg, ret_be, err);
	case NET_SWITCH:
		return net_port_open(loop, cfg, ret_be, err);
	}
	return err_set(err, EINVAL, "no such kind of network");
}

void net_attach(struct net_backend *be, const struct net_nic_ops *nic, void *opaque)
{
	be->opaque = opaque;
	be->nic = nic;
}

void net_free(struct net_backend *be)
{
	if (be)
		be->ops->free(be);
}
