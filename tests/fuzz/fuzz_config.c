/* SPDX-License-Identifier: Apache-2.0 */
/* The JSON settings of eyot-vmm. What is accepted is in range. */
#include "base/util.h"
#include "monitor/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct err err = { .text = "" };
	struct config cfg;
	int ret;

	if (config_init(&cfg, &err) < 0)
		return 0;
	ret = config_parse_json(&cfg, "f", (const char *)data, size, &err);
	if (ret < 0 ? !err.text[0]
		    : cfg.cpus < 1 || cfg.cpus > 64 || cfg.memory_bytes < MIB(2) ||
			  cfg.memory_bytes > GIB(64) || cfg.memory_bytes % 4096 ||
			  cfg.disk_count > CONFIG_DISKS_MAX || cfg.net_count > CONFIG_NETS_MAX)
		abort();
	config_done(&cfg);
	return 0;
}
