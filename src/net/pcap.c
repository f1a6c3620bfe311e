/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Each frame is written at once, so that whoever reads along sees it. A file
 * that can take no more ends the capture, not the traffic.
 */
#include "net/pcap.h"

#include <fcntl.h>
#include <pthread.h>
#include <time.h>

#include "base/log.h"
#include "base/util.h"
#include "net/net.h"
#include "net/offload.h"

#define MAGIC 0xa1b2c3d4 /* times in microseconds */
#define LINKTYPE_ETHERNET 1

struct file_head {
	uint32_t magic;
	uint16_t major, minor;
	uint32_t zone, accuracy, snaplen, linktype;
};

struct frame_head {
	uint32_t sec, usec, caplen, len;
};

struct net_pcap {
	pthread_mutex_t lock; /* guards what follows */
	int fd;		      /* -1: the capture ended */
	uint8_t buffer[sizeof(struct frame_head) + NET_FRAME_MAX];
};

static void write_out(struct net_pcap *pcap, size_t len)
{
	size_t done = 0;

	while (done < len && pcap->fd >= 0) {
		/* sandbox: loop vcpu: write */
		ssize_t n = write(pcap->fd, pcap->buffer + done, len - done);

		if (n > 0) {
			done += (size_t)n;
		} else if (n == 0 || errno != EINTR) {
			log_debug("capture: %s; it ends here", strerror(errno));
			/* sandbox: loop vcpu: close */
			close(pcap->fd);
			pcap->fd = -1;
		}
	}
}

int net_pcap_open(const char *path, struct net_pcap **ret_pcap, struct err *err)
{
	struct file_head head = { .magic = MAGIC,
				  .major = 2,
				  .minor = 4,
				  .snaplen = NET_FRAME_MAX,
				  .linktype = LINKTYPE_ETHERNET };
	struct net_pcap *pcap = calloc(1, sizeof(*pcap));
	int ret;

	if (!pcap)
		return err_set(err, ENOMEM, "capture '%s': out of memory", path);
	pcap->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (pcap->fd < 0) {
		ret = err_set(err, errno, "capture '%s': %s", path, strerror(errno));
		free(pcap);
		return ret;
	}
	pthread_mutex_init(&pcap->lock, NULL);
	memcpy(pcap->buffer, &head, sizeof(head));
	write_out(pcap, sizeof(head));
	*ret_pcap = pcap;
	return 0;
}

void net_pcap_write(struct net_pcap *pcap, const struct iovec *iov, unsigned count, size_t len)
{
	struct frame_head head = { .caplen = (uint32_t)len, .len = (uint32_t)len };
	struct timespec now;

	if (!pcap || len > NET_FRAME_MAX)
		return;
	pthread_mutex_lock(&pcap->lock);
	clock_gettime(CLOCK_REALTIME, &now);
	head.sec = (uint32_t)now.tv_sec;
	head.usec = (uint32_t)(now.tv_nsec / 1000);
	memcpy(pcap->buffer, &head, sizeof(head));
	net_gather(pcap->buffer + sizeof(head), len, iov, count);
	write_out(pcap, sizeof(head) + len);
	pthread_mutex_unlock(&pcap->lock);
}

void net_pcap_close(struct net_pcap *pcap)
{
	if (!pcap)
		return;
	if (pcap->fd >= 0)
		close(pcap->fd);
	pthread_mutex_destroy(&pcap->lock);
	free(pcap);
}
