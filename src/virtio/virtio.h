/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Virtio 1.x devices over PCI: what they share, and their constructors.
 *
 * Locks, outer to inner: PCI host, device, queue, block layer, PCI interrupts.
 * A notification takes only its queue's lock, so that queues run side by side.
 */
#ifndef EYOT_VIRTIO_VIRTIO_H
#define EYOT_VIRTIO_VIRTIO_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/un.h>

#include "base/err.h"
#include "base/snap.h"
#include "hw/pci.h"
#include "loop/loop.h"
#include "virtio/queue.h"
#include "vm/mem.h"

#define VIRTIO_MAX_QUEUES 64

struct disk;
struct net_backend;
struct virtio_dev;

/* Where a device lives; borrowed, outliving it. */
struct virtio_env {
	const struct guest_mem *mem;
	struct pci_host *pci;
	struct loop *loop;
	/* Instead of unix_connect(), where that is not allowed any more; NULL: that */
	int (*connect)(void *arg, const struct sockaddr_un *addr);
	void *connect_arg;
	bool doorbells; /* the accelerator counts notifications in eventfds: bus_doorbell() */
};

struct virtio_dev_ops {
	const char *name;    /* of its saved section, e.g. "virtio-blk" */
	uint16_t device_id;  /* virtio 1.2, 5 */
	uint32_t class_code; /* PCI */
	/* The driver made buffers available. Queue lock held, queue running; vCPU or loop thread.
	 */
	void (*notify)(struct virtio_dev *dev, struct virtq *vq);
	/* Read or write device configuration, within its length; device lock held; may be NULL */
	void (*config_read)(struct virtio_dev *dev, unsigned off, void *buf, unsigned len);
	void (*config_write)(struct virtio_dev *dev, unsigned off, const void *buf, unsigned len);
	/* Features are agreed on (dev->accepted); device lock held; may be NULL */
	void (*features_ok)(struct virtio_dev *dev);
	/* Wait until no chain is out, without locks, loop thread; NULL when none ever is */
	void (*drain)(struct virtio_dev *dev);
	/* The device's own state after a reset; device lock held, no chain is out; may be NULL */
	void (*reset)(struct virtio_dev *dev);
	/* The device's own state inside its section; drained; may be NULL */
	void (*save)(struct virtio_dev *dev, struct snap_writer *w);
	int (*load)(struct virtio_dev *dev, struct snap_reader *r, struct err *err);
	void (*free)(
	    struct virtio_dev *dev); /* drained, off the bus: free own parts and @dev's container */
};

/* Embedded in each device. */
struct virtio_dev {
	const struct virtio_dev_ops *ops;
	struct virtio_env env;
	struct pci_dev pci;
	unsigned pci_cfg_cap;	   /* offset of the configuration access capability */
	struct loop_timer *resume; /* lets all queues look for work, on the loop thread */

	pthread_mutex_t lock;	    /* guards what follows, unless atomic */
	uint64_t offered, accepted; /* features */
	uint32_t feature_select, driver_feature_select;
	uint16_t queue_select;
	atomic_uint status;
	bool frozen;	/* see virtio_dev_freeze(); loop thread, vCPUs parked */
	bool resetting; /* the driver asked for a reset; chains are still out */
	uint8_t config_generation;
	unsigned config_len;
	_Atomic uint16_t config_vector;
	pthread_mutex_t isr_lock; /* isr and the level of INTx */
	uint8_t isr;

	struct virtq *queues;
	unsigned queue_count;
};

/* For devices */
int virtio_dev_init(struct virtio_dev *dev, const struct virtio_dev_ops *ops,
		    const struct virtio_env *env, unsigned slot, uint64_t features,
		    unsigned queue_count, unsigned config_len, struct err *err);
void virtio_dev_done(struct virtio_dev *dev); /* after virtio_dev_init() succeeded; loop thread */

static inline bool virtio_has(const struct virtio_dev *dev, unsigned feature)
{
	return dev->accepted >> feature & 1; /* fixed while queues run */
}

/** virtio_resume_soon() - have all running queues notified on the loop thread; any thread, any lock
 */
void virtio_resume_soon(struct virtio_dev *dev);

/** virtio_config_changed() - tell the driver that device configuration has changed; no lock held */
void virtio_config_changed(struct virtio_dev *dev);

/* For the queue */
void virtio_needs_reset(struct virtio_dev *dev, unsigned queue, const char *why);
void virtio_queue_interrupt(struct virtio_dev *dev, uint16_t vector);
void virtio_reset_continue(struct virtio_dev *dev);

/* For the transport; device lock held */
void virtio_set_status(struct virtio_dev *dev, uint8_t status);
void virtio_set_feature_word(struct virtio_dev *dev, uint32_t word, uint32_t bits);
void virtio_queue_enable(struct virtio_dev *dev, struct virtq *vq);
/* Without locks */
void virtio_queue_notify(struct virtio_dev *dev, unsigned queue);
uint8_t virtio_isr_take(struct virtio_dev *dev);
int virtio_pci_init(struct virtio_dev *dev, unsigned slot, struct err *err);

/* For the machine: one row of its device table; loop thread, vCPUs parked */
void virtio_dev_reset(struct virtio_dev *dev);
void virtio_dev_quiesce(struct virtio_dev *dev);
/*
 * As virtio_dev_quiesce(), and nothing is taken from the driver or given to it until the thaw:
 * neither guest RAM nor the queues change meanwhile.
 */
void virtio_dev_freeze(struct virtio_dev *dev);
void virtio_dev_thaw(struct virtio_dev *dev);
void virtio_dev_save(struct virtio_dev *dev, struct snap_writer *w);
int virtio_dev_load(struct virtio_dev *dev, struct snap_reader *r, struct err *err);
void virtio_dev_free(struct virtio_dev *dev); /* NULL is fine; vCPU threads have ended */

/**
 * virtio_blk_new() - a block device
 * @env: copied
 * @slot: of the PCI bus
 * @disk: borrowed, closed by its owner after the device is freed
 * @serial: up to 20 bytes that the guest can read as the disk's name; may be NULL
 * @queue_count: 1 to VIRTIO_MAX_QUEUES, usually one a vCPU
 */
int virtio_blk_new(const struct virtio_env *env, unsigned slot, struct disk *disk,
		   const char *serial, unsigned queue_count, struct virtio_dev **ret_dev,
		   struct err *err);

/** virtio_blk_resized() - tell the driver that the disk has another size; loop thread, no lock held
 */
void virtio_blk_resized(struct virtio_dev *dev);

/** virtio_rng_new() - an entropy source, fed by the host's */
int virtio_rng_new(const struct virtio_env *env, unsigned slot, struct virtio_dev **ret_dev,
		   struct err *err);

struct virtio_net_options {
	uint8_t mac[6];
	unsigned queue_pairs; /* 1 to NET_QUEUES_MAX */
	uint64_t rate;	      /* bytes a second, each way; 0: no limit */
	const char *pcap;     /* file of a capture of all frames; NULL: none */
};

/**
 * virtio_net_new() - a network card
 * @be: where its frames go; the card's from here on when this succeeds, freed with it
 */
int virtio_net_new(const struct virtio_env *env, unsigned slot, struct net_backend *be,
		   const struct virtio_net_options *opt, struct virtio_dev **ret_dev,
		   struct err *err);

/**
 * virtio_net_set_link() - plug the cable in or out; loop thread, no lock held
 * The link is up while this and the back end say so.
 */
void virtio_net_set_link(struct virtio_dev *dev, bool up);

/** virtio_net_set_rate() - bytes a second, each way; 0: no limit; loop thread, vCPUs parked */
void virtio_net_set_rate(struct virtio_dev *dev, uint64_t rate);

struct virtio_net_info {
	uint8_t mac[6]; /* as the driver sees it */
	bool link_up;
	uint64_t rate;				   /* bytes a second, each way; 0: no limit */
	uint64_t rx_packets, rx_bytes, rx_dropped; /* into the guest */
	uint64_t tx_packets, tx_bytes, tx_dropped; /* out of it */
};

/** virtio_net_get_info() - for people; loop thread, no lock held */
void virtio_net_get_info(struct virtio_dev *dev, struct virtio_net_info *ret_info);

/* What a guest tells of its memory (virtio 1.2, 5.5.6.3); in the order of their tags */
enum balloon_stat {
	BALLOON_SWAP_IN,	/* bytes */
	BALLOON_SWAP_OUT,	/* bytes */
	BALLOON_MAJOR_FAULTS,	/* how many */
	BALLOON_MINOR_FAULTS,	/* how many */
	BALLOON_FREE,		/* bytes nobody uses */
	BALLOON_TOTAL,		/* bytes, without the balloon */
	BALLOON_AVAILABLE,	/* bytes that can be had without swapping */
	BALLOON_DISK_CACHES,	/* bytes that can be had without I/O */
	BALLOON_HUGETLB_ALLOCS, /* how many */
	BALLOON_HUGETLB_FAILS,	/* how many */
	BALLOON_OOM_KILLS,	/* how many; these six: newer drivers */
	BALLOON_ALLOC_STALLS,
	BALLOON_ASYNC_SCANS,
	BALLOON_DIRECT_SCANS,
	BALLOON_ASYNC_RECLAIMS,
	BALLOON_DIRECT_RECLAIMS,
	BALLOON_STATS,
};

struct virtio_balloon_info {
	uint64_t target_bytes;	 /* memory the guest shall have */
	uint64_t actual_bytes;	 /* memory it has: RAM without what is in the balloon */
	uint64_t reported_bytes; /* free pages given back to the host so far, counted each time */
	uint32_t known;		 /* which of stats there are, a mask */
	uint64_t stats[BALLOON_STATS];
	uint64_t stats_ns; /* when they came, clock_now_ns() */
};

/** virtio_balloon_stat_name() - such as "free-memory" */
const char *virtio_balloon_stat_name(unsigned stat);

/**
 * virtio_balloon_new() - a memory balloon (virtio 1.2, 5.5)
 * @target_bytes: what the guest shall have, at most its RAM
 */
int virtio_balloon_new(const struct virtio_env *env, unsigned slot, uint64_t target_bytes,
		       struct virtio_dev **ret_dev, struct err *err);

/** virtio_balloon_set_target() - change it; loop thread. Return: 0; -EINVAL: more than there is */
int virtio_balloon_set_target(struct virtio_dev *dev, uint64_t target_bytes);

/** virtio_balloon_get_info() - what is known; any thread, no lock held */
void virtio_balloon_get_info(struct virtio_dev *dev, struct virtio_balloon_info *ret_info);

/** virtio_balloon_ask_stats() - have the driver bring new statistics, soon; loop thread */
void virtio_balloon_ask_stats(struct virtio_dev *dev);

/**
 * virtio_fs_new() - a folder of the host (virtio 1.2, 5.11)
 * @tag: by which the guest mounts it, 1 to 36 bytes
 * @path: the folder
 */
int virtio_fs_new(const struct virtio_env *env, unsigned slot, const char *tag, const char *path,
		  bool readonly, struct virtio_dev **ret_dev, struct err *err);

/** virtio_fs_start() - start its thread, before the guest runs; what sandboxes the process needs it
 * to have one thread until then */
int virtio_fs_start(struct virtio_dev *dev, struct err *err);

/**
 * virtio_vsock_new() - sockets between the guest and this host's UNIX sockets (virtio 1.2, 5.10)
 * @cid: the guest's, 3 to 0xfffffffe
 * @path: of the socket that clients of the host connect to; made, and gone with the device. The
 * guest's connections to port N of the host go to @path_N.
 */
int virtio_vsock_new(const struct virtio_env *env, unsigned slot, uint32_t cid, const char *path,
		     struct virtio_dev **ret_dev, struct err *err);

/* The other end of a console; all on the loop thread, no lock held. As struct uart_backend. */
struct virtio_console_backend {
	/* Must not block. Return: how many bytes were taken; the rest comes again a little later */
	size_t (*output)(void *opaque, const uint8_t *bytes, size_t len);
	/* There is room again after virtio_console_receive() took less than all; may be NULL */
	void (*input_ready)(void *opaque);
	void *opaque;
};

/** virtio_console_new() - a console with one port; @backend: borrowed */
int virtio_console_new(const struct virtio_env *env, unsigned slot,
		       const struct virtio_console_backend *backend, struct virtio_dev **ret_dev,
		       struct err *err);

/** virtio_console_receive() - bytes for the guest; loop thread. Return: how many were taken */
size_t virtio_console_receive(struct virtio_dev *dev, const uint8_t *bytes, size_t len);

/** virtio_console_flush() - hand gathered output to the backend now; loop thread. Return: bytes
 * still waiting */
size_t virtio_console_flush(struct virtio_dev *dev);

#endif
