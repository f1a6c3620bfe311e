/* SPDX-License-Identifier: Apache-2.0 */
/* The disks among the settings: --disk and the list in the file. */
#ifndef EYOT_MONITOR_CONFIG_DISK_H
#define EYOT_MONITOR_CONFIG_DISK_H

#include <jansson.h>

#include "monitor/config.h"

/** config_disk_parse() - add a disk: FILE[,KEY[=VALUE]]...; a comma in the name is written twice */
int config_disk_parse(struct config *cfg, const char *text, struct err *err);

/** config_disk_json() - add a disk from a list's member: a text as above, or an object */
int config_disk_json(struct config *cfg, const char *what, json_t *item, struct err *err);

void config_disk_done(struct config_disk *d);

void config_disks_drop(struct config *cfg);

#endif
