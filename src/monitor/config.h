/* SPDX-License-Identifier: Apache-2.0 */
/* What eyot-vmm is asked to do: from the command line and a JSON file, checked. */
#ifndef EYOT_MONITOR_CONFIG_H
#define EYOT_MONITOR_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/log.h"
#include "disk/disk.h"
#include "monitor/config_net.h"
#include "vm/cpu_model.h"

#define CONFIG_DISKS_MAX 16
#define CONFIG_NETS_MAX NET_PLACES
#define CONFIG_SHARES_MAX 3
#define CONFIG_ID_MAX 63 /* characters of a name */

enum config_action { CONFIG_RUN, CONFIG_HELP, CONFIG_VERSION, CONFIG_PROBE };

enum console_kind { CONSOLE_STDIO, CONSOLE_PTY, CONSOLE_FILE, CONSOLE_UNIX };

struct config_disk {
	char *path;
	char *id;		   /* NULL: made from its number */
	char *serial;		   /* NULL: made from its number */
	char *tls_certs, *tls_psk; /* what o points to, or NULL */
	unsigned queues;	   /* 0: one a CPU */
	unsigned place;		   /* one more than it; 0: the first that is free */
	struct disk_options o;	   /* all but the engine and a snapshot's name */
};

struct config_share {
	char *tag, *path;
	bool readonly;
};

struct config_vsock {
	uint32_t cid;
	char *path; /* NULL: no such device */
};

struct config {
	char *accel; /* "auto" or an accelerator's name */
	unsigned cpus;
	struct cpu_model cpu; /* all zero: host */
	uint64_t memory_bytes;
	char *kernel, *initrd, *cmdline; /* initrd may be NULL */
	struct config_disk disks[CONFIG_DISKS_MAX];
	unsigned disk_count;
	struct config_net nets[CONFIG_NETS_MAX];
	unsigned net_count;
	bool no_genid, has_genid; /* neither: random, another one after each load */
	uint8_t genid[16];
	struct config_share shares[CONFIG_SHARES_MAX];
	unsigned share_count;
	struct config_vsock vsock;
	bool balloon;
	uint64_t balloon_bytes; /* what the guest shall have at first; 0: all */
	enum console_kind console;
	char *console_path; /* of CONSOLE_FILE and CONSOLE_UNIX */
	char *control;	    /* a path or "fd:N"; may be NULL */
	int report_fd;	    /* see report.h; -1: none */
	char *load;	    /* a saved machine to go on with; may be NULL */
	bool debug_exit, no_reboot, sandbox;
	/* Set by a sandbox: see struct virtio_env */
	int (*connect)(void *arg, const struct sockaddr_un *addr);
	void *connect_arg;
	bool json;  /* of --probe */
	char *name; /* may be NULL */
	enum log_level log;
	char *accel_debug; /* may be NULL */
};

/** config_init() - the defaults; 0 or -ENOMEM */
int config_init(struct config *cfg, struct err *err);
void config_done(struct config *cfg);

/** config_id_check() - what a device may be called: letters, digits, '.', '_', '-'; -EINVAL */
int config_id_check(const char *text);

/**
 * config_parse_args() - read the command line, and the file of --config before it
 * @ret_action: what the command line asks for
 *
 * Return: 0; -EINVAL or the errno of reading the file, with a text.
 */
int config_parse_args(struct config *cfg, int argc, char **argv, enum config_action *ret_action,
		      struct err *err);

/** config_parse_json() - settings of a JSON text; @what: for errors, e.g. the file's name */
int config_parse_json(struct config *cfg, const char *what, const char *text, size_t len,
		      struct err *err);

/** config_check() - what can only be said of all settings together */
int config_check(const struct config *cfg, struct err *err);

/** config_usage() - the text of --help */
const char *config_usage(void);

#endif
