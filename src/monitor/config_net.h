/* SPDX-License-Identifier: Apache-2.0 */
/* The settings of one network card. */
#ifndef EYOT_MONITOR_CONFIG_NET_H
#define EYOT_MONITOR_CONFIG_NET_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "net/net.h"

#define NET_PLACES 8 /* for cards, in a machine */

struct config_net {
	struct net_config net;
	uint8_t mac[6];
	bool has_mac;
	unsigned place; /* one more than it; 0: the first that is free */
	uint64_t rate;	/* bytes a second, each way; 0: no limit */
	char *id;	/* may be NULL */
	char *pcap;	/* may be NULL */
	unsigned given; /* which keys were, by their place in the table */
};

/** config_net_parse() - KIND[,KEY=VALUE]...; a comma in a value is written twice */
int config_net_parse(struct config_net *n, const char *text, struct err *err);

/** config_net_json() - the same from an object of JSON: "type" and the keys, '_' for '-' */
int config_net_json(struct config_net *n, json_t *object, struct err *err);

void config_net_done(struct config_net *n);

#endif
