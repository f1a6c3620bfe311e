/* SPDX-License-Identifier: Apache-2.0 */
/* The settings of devices that a machine has one of: KEY=VALUE[,KEY=VALUE]... */
#ifndef EYOT_MONITOR_CONFIG_DEV_H
#define EYOT_MONITOR_CONFIG_DEV_H

#include <jansson.h>

#include "monitor/config.h"

/** config_vsock_parse() - cid=N,path=PATH */
int config_vsock_parse(struct config *cfg, const char *text, struct err *err);

/** config_genid_parse() - auto, off or a GUID */
int config_genid_parse(struct config *cfg, const char *text, struct err *err);

/** config_balloon_parse() - on, off or the size that the guest's memory shall have at first */
int config_balloon_parse(struct config *cfg, const char *text, struct err *err);

/**
 * config_json_list() - an object of JSON as such a list: keys with '-' for '_', "on" and "off" for
 * true and false
 * Return: the text, the caller's; NULL: it has values of other types, or memory is out.
 */
char *config_json_list(json_t *object);

void config_vsock_done(struct config_vsock *vsock);

#endif
