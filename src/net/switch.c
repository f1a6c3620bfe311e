/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames go from the port they came in to the port behind which their
 * destination was last heard, or to all others while it is unknown or a group.
 *
 * Nothing that a machine does costs the others more than its share:
 * 1. Each port has one input buffer, read once an event, so that ports take turns.
 * 2. Each port has one output ring. A frame that does not fit is dropped for
 *    that port alone; so a machine that does not read holds up nobody.
 * 3. Each port has SWITCH_PORT_MACS entries of the address table for itself: a
 *    machine that floods the table with addresses pushes out its own.
 * 4. A stream that is not made of frames ends its port.
 *
 * An address that is heard on another port moves there at once, as a machine
 * does. Entries do not age: they end with their port, move, or make room.
 *
 * Entry i of port p is macs[p * SWITCH_PORT_MACS + i]; entries of one hash are
 * chained by index.
 */
#include "net/switch.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/log.h"
#include "base/sock.h"
#include "base/util.h"
#include "net/net.h"
#include "net/stream.h"

#define RING_SIZE MIB(1)
#define BUCKETS 1024 /* a power of two */
#define NONE 0xffff
#define MAC_LEN 6

struct mac_entry {
	uint64_t mac; /* 0: free */
	uint16_t next;
};

struct switch_port {
	struct net_switch *sw;
	unsigned index;
	bool used, dirty, waits; /* dirty: to be flushed; waits: for room in the socket */
	struct net_stream stream;
	struct loop_fd *source;
	unsigned next_mac; /* which entry goes next */
};

struct net_switch {
	struct loop *loop;
	int listen_fd;
	struct loop_fd *listen_source;
	char *path; /* what to unlink; NULL: nothing */
	struct switch_port ports[SWITCH_PORTS_MAX];
	struct mac_entry macs[SWITCH_PORTS_MAX * SWITCH_PORT_MACS];
	uint16_t buckets[BUCKETS];
	struct switch_stats stats;
};

/* ---- addresses ---- */

static uint64_t mac_at(const uint8_t *p)
{
	return (uint64_t)get_le32(p) | (uint64_t)get_le16(p + 4) << 32;
}

static uint16_t *bucket_of(struct net_switch *sw, uint64_t mac)
{
	return &sw->buckets[(mac * 0x9e3779b97f4a7c15ull) >> 54 & (BUCKETS - 1)];
}

static uint16_t *find_mac(struct net_switch *sw, uint64_t mac)
{
	uint16_t *link = bucket_of(sw, mac);

	while (*link != NONE && sw->macs[*link].mac != mac)
		link = &sw->macs[*link].next;
	return link;
}

static void forget_mac(struct net_switch *sw, uint16_t entry)
{
	struct mac_entry *e = &sw->macs[entry];

	if (!e->mac)
		return;
	*find_mac(sw, e->mac) = e->next;
	e->mac = 0;
	sw->stats.macs--;
}

static void learn(struct switch_port *port, uint64_t mac)
{
	struct net_switch *sw = port->sw;
	uint16_t *link = find_mac(sw, mac), entry;

	if (*link != NONE) {
		if (*link / SWITCH_PORT_MACS == port->index)
			return;
		forget_mac(sw, *link);
	}
	entry = (uint16_t)(port->index * SWITCH_PORT_MACS + port->next_mac);
	port->next_mac = (port->next_mac + 1) % SWITCH_PORT_MACS;
	forget_mac(sw, entry);
	link = bucket_of(sw, mac);
	sw->macs[entry] = (struct mac_entry) { .mac = mac, .next = *link };
	*link = entry;
	sw->stats.macs++;
}

/* ---- frames ---- */

static void end_port(struct switch_port *port)
{
	struct net_switch *sw = port->sw;

	loop_fd_del(port->source);
	port->source = NULL;
	net_stream_done(&port->stream);
	port->used = port->dirty = port->waits = false;
	for (unsigned i = 0; i < SWITCH_PORT_MACS; i++)
		forget_mac(sw, (uint16_t)(port->index * SWITCH_PORT_MACS + i));
	sw->stats.ports--;
	log_debug("port %u: ended", port->index);
}

static void send_to(struct switch_port *port, const uint8_t *frame, size_t len)
{
	struct iovec iov = { (void *)frame, len };

	if (net_stream_put(&port->stream, &iov, 1, len) == -ENOBUFS) {
		if (port->waits || net_stream_flush(&port->stream) < 0 ||
		    net_stream_put(&port->stream, &iov, 1, len) < 0) {
			port->sw->stats.dropped++;
			return;
		}
	}
	port->dirty = true;
}

static void forward(struct switch_port *from, const uint8_t *frame, size_t len)
{
	struct net_switch *sw = from->sw;
	uint64_t source = mac_at(frame + MAC_LEN);
	uint16_t entry;

	if (!(frame[MAC_LEN] & 1) && source) /* groups and nobody do not send */
		learn(from, source);
	entry = frame[0] & 1 ? NONE : *find_mac(sw, mac_at(frame));
	if (entry != NONE) {
		sw->stats.forwarded++;
		if (entry / SWITCH_PORT_MACS != from->index)
			send_to(&sw->ports[entry / SWITCH_PORT_MACS], frame, len);
		return;
	}
	sw->stats.flooded++;
	for (unsigned i = 0; i < SWITCH_PORTS_MAX; i++)
		if (sw->ports[i].used && i != from->index)
			send_to(&sw->ports[i], frame, len);
}

static void flush_port(struct switch_port *port)
{
	int ret = net_stream_flush(&port->stream);
	bool waits = ret == -EAGAIN;

	port->dirty = false;
	if (ret < 0 && !waits) {
		end_port(port);
		return;
	}
	if (waits != port->waits &&
	    loop_fd_modify(port->source, EPOLLIN | (waits ? EPOLLOUT : 0)) == 0)
		port->waits = waits;
}

static void port_event(void *arg, uint32_t events)
{
	struct switch_port *port = arg;
	struct net_switch *sw = port->sw;
	const uint8_t *frame;
	ssize_t n = 0;
	int ret;

	if (events & EPOLLOUT)
		flush_port(port);
	if (!port->used || !(events & ~(uint32_t)EPOLLOUT))
		return;
	ret = net_stream_read(&port->stream);
	while (ret == 0 && (n = net_stream_take(&port->stream, &frame)) > 0)
		forward(port, frame, (size_t)n);
	if (n < 0)
		log_debug("port %u: does not send frames", port->index);
	if (n < 0 || (ret < 0 && ret != -EAGAIN))
		end_port(port);
	for (unsigned i = 0; i < SWITCH_PORTS_MAX; i++)
		if (sw->ports[i].dirty && !sw->ports[i].waits)
			flush_port(&sw->ports[i]);
}

/* ---- ports ---- */

/* Takes @fd over when it succeeds. */
static int add_port(struct net_switch *sw, int fd)
{
	struct switch_port *port = NULL;
	int ret;

	for (unsigned i = 0; i < SWITCH_PORTS_MAX && !port; i++)
		if (!sw->ports[i].used)
			port = &sw->ports[i];
	if (!port)
		return -EUSERS;
	ret = net_stream_init(&port->stream, fd, RING_SIZE);
	if (ret < 0)
		return ret;
	ret = loop_fd_add(sw->loop, fd, EPOLLIN, port_event, port, &port->source);
	if (ret < 0) {
		port->stream.fd = -1;
		net_stream_done(&port->stream);
		return ret;
	}
	port->used = true;
	port->next_mac = 0;
	sw->stats.ports++;
	log_debug("port %u: connected", port->index);
	return 0;
}

static void accept_port(void *arg, uint32_t events)
{
	struct net_switch *sw = arg;
	int fd = accept4(sw->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK), ret;

	if (fd < 0)
		return;
	ret = add_port(sw, fd);
	if (ret < 0) {
		log_debug("a connection is refused: %s", strerror(-ret));
		close(fd);
	}
}

static int listen_at(struct net_switch *sw, const char *path, struct err *err)
{
	int ret = unix_listen(path, SWITCH_PORTS_MAX, err);

	if (ret < 0)
		return ret;
	sw->listen_fd = ret;
	sw->path = strdup(path);
	if (!sw->path)
		return err_set(err, ENOMEM, "'%s': out of memory", path);
	ret = loop_fd_add(sw->loop, sw->listen_fd, EPOLLIN, accept_port, sw, &sw->listen_source);
	return ret < 0 ? err_set(err, -ret, "'%s': %s", path, strerror(-ret)) : 0;
}

int switch_new(struct loop *loop, const char *path, struct net_switch **ret_sw, struct err *err)
{
	struct net_switch *sw = calloc(1, sizeof(*sw));
	int ret;

	if (!sw)
		return err_set(err, ENOMEM, "out of memory");
	sw->loop = loop;
	sw->listen_fd = -1;
	memset(sw->buckets, 0xff, sizeof(sw->buckets));
	for (unsigned i = 0; i < SWITCH_PORTS_MAX; i++)
		sw->ports[i] =
		    (struct switch_port) { .sw = sw, .index = i, .stream = { .fd = -1 } };
	ret = listen_at(sw, path, err);
	if (ret < 0) {
		switch_free(sw);
		return ret;
	}
	*ret_sw = sw;
	return 0;
}

int switch_join(struct net_switch *sw, const char *path, struct err *err)
{
	struct sockaddr_un addr;
	int ret = unix_address(path, &addr, err), fd;

	if (ret < 0)
		return ret;
	fd = unix_connect(&addr);
	ret = fd < 0 ? fd : add_port(sw, fd);
	if (ret < 0 && fd >= 0)
		close(fd);
	return ret < 0 ? err_set(err, -ret, "'%s': %s", path, strerror(-ret)) : 0;
}

void switch_free(struct net_switch *sw)
{
	if (!sw)
		return;
	for (unsigned i = 0; i < SWITCH_PORTS_MAX; i++)
		if (sw->ports[i].used)
			end_port(&sw->ports[i]);
	loop_fd_del(sw->listen_source);
	if (sw->listen_fd >= 0) {
		close(sw->listen_fd);
	}
	if (sw->path)
		unlink(sw->path);
	free(sw->path);
	free(sw);
}

void switch_get_stats(const struct net_switch *sw, struct switch_stats *ret_stats)
{
	*ret_stats = sw->stats;
}
