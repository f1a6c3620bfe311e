/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Network cards: KIND[,KEY=VALUE]... as an option, an object of the same keys
 * in JSON. Each key stands in one table with the kinds that have it.
 */
#include "monitor/config_net.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>

#include "base/parse.h"
#include "base/util.h"
#include "monitor/config.h"

#define RATE_MIN 1000

#define USER (1u << NET_USER)
#define TAP (1u << NET_TAP)
#define SWITCH (1u << NET_SWITCH)
#define ALL (USER | TAP | SWITCH)

static int set_text(char **where, const char *key, const char *text, struct err *err)
{
	char *copy;

	if (!*text)
		return err_set(err, EINVAL, "%s '': must not be empty", key);
	copy = strdup(text);
	if (!copy)
		return err_set(err, ENOMEM, "%s '%s': out of memory", key, text);
	free(*where);
	*where = copy;
	return 0;
}

static int parse_number(const char *text, unsigned long max, unsigned long *ret_n)
{
	char *end;

	errno = 0;
	*ret_n = strtoul(text, &end, 10);
	return isdigit((unsigned char)*text) && !*end && !errno && *ret_n <= max ? 0 : -EINVAL;
}

static int set_mac(struct config_net *n, const char *text, struct err *err)
{
	const char *p = text;

	for (unsigned i = 0; i < 6; i++, p += 3) {
		if (!isxdigit((unsigned char)p[0]) || !isxdigit((unsigned char)p[1]) ||
		    p[2] != (i < 5 ? ':' : '\0'))
			return err_set(err, EINVAL, "mac '%s': not six bytes as 02:12:34:56:78:9a",
				       text);
		n->mac[i] = (uint8_t)strtoul(p, NULL, 16);
	}
	if (n->mac[0] & 1)
		return err_set(err, EINVAL, "mac '%s': is the address of a group", text);
	n->has_mac = true;
	return 0;
}

static int set_mtu(struct config_net *n, const char *text, struct err *err)
{
	unsigned long mtu;

	if (parse_number(text, NET_MTU_MAX, &mtu) < 0 || mtu < NET_MTU_MIN)
		return err_set(err, EINVAL, "mtu '%s': not a number from %u to %u", text,
			       NET_MTU_MIN, NET_MTU_MAX);
	n->net.mtu = (unsigned)mtu;
	return 0;
}

static int set_queues(struct config_net *n, const char *text, struct err *err)
{
	unsigned long queues;

	if (parse_number(text, NET_QUEUES_MAX, &queues) < 0 || !queues)
		return err_set(err, EINVAL, "queues '%s': not a number from 1 to %u", text,
			       NET_QUEUES_MAX);
	n->net.queues = (unsigned)queues;
	return 0;
}

static int set_rate(struct config_net *n, const char *text, struct err *err)
{
	if (size_parse(text, &n->rate) < 0 || n->rate < RATE_MIN || n->rate > INT64_MAX)
		return err_set(err, EINVAL,
			       "rate '%s': not bytes a second such as 10M, from 1000 on", text);
	return 0;
}

static int set_id(struct config_net *n, const char *text, struct err *err)
{
	if (config_id_check(text) < 0)
		return err_set(err, EINVAL,
			       "id '%.80s': not 1 to %d letters, digits, '.', '_' and '-'", text,
			       CONFIG_ID_MAX);
	return set_text(&n->id, "id", text, err);
}

static int set_place(struct config_net *n, const char *text, struct err *err)
{
	unsigned long place;

	if (parse_number(text, NET_PLACES - 1, &place) < 0)
		return err_set(err, EINVAL, "place '%s': not a number from 0 to %u", text,
			       NET_PLACES - 1);
	n->place = (unsigned)place + 1;
	return 0;
}

static int set_pcap(struct config_net *n, const char *text, struct err *err)
{
	return set_text(&n->pcap, "pcap", text, err);
}

static int set_ifname(struct config_net *n, const char *text, struct err *err)
{
	return set_text(&n->net.ifname, "ifname", text, err);
}

static int set_bridge(struct config_net *n, const char *text, struct err *err)
{
	return set_text(&n->net.bridge, "bridge", text, err);
}

static int set_path(struct config_net *n, const char *text, struct err *err)
{
	return set_text(&n->net.path, "path", text, err);
}

static int set_fd(struct config_net *n, const char *text, struct err *err)
{
	unsigned long fd;

	if (parse_number(text, 1u << 20, &fd) < 0)
		return err_set(err, EINVAL, "fd '%s': not the number of a descriptor", text);
	if (n->net.fd_count == NET_QUEUES_MAX)
		return err_set(err, EINVAL, "fd '%s': more than %u", text, NET_QUEUES_MAX);
	n->net.fds[n->net.fd_count++] = (int)fd;
	return 0;
}

static int set_switch(bool *where, const char *key, const char *text, struct err *err)
{
	if (strcmp(text, "on") && strcmp(text, "off"))
		return err_set(err, EINVAL, "%s '%s': neither on nor off", key, text);
	*where = !strcmp(text, "on");
	return 0;
}

static int set_restrict(struct config_net *n, const char *text, struct err *err)
{
	return set_switch(&n->net.restricted, "restrict", text, err);
}

static int set_host_loopback(struct config_net *n, const char *text, struct err *err)
{
	bool on = true;
	int ret = set_switch(&on, "host-loopback", text, err);

	n->net.no_host_loopback = !on;
	return ret;
}

/* [ADDRESS:]PORT, an IPv6 address in brackets; *text moves behind it and a following colon */
static bool take_end(const char **text, struct sockaddr_storage *ss, bool *ret_has_addr)
{
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ss;
	struct sockaddr_in *in = (struct sockaddr_in *)ss;
	char addr[INET6_ADDRSTRLEN] = "";
	const char *p = *text;
	unsigned long port;
	size_t len;
	char *end;

	memset(ss, 0, sizeof(*ss));
	ss->ss_family = AF_INET;
	if (*p == '[') {
		len = strcspn(++p, "]");
		if (len >= sizeof(addr) || p[len] != ']' || p[len + 1] != ':')
			return false;
		memcpy(addr, p, len);
		ss->ss_family = AF_INET6;
		p += len + 2;
	} else {
		len = strcspn(p, ":");
		if (memchr(p, '.', len)) {
			if (len >= sizeof(addr) || p[len] != ':')
				return false;
			memcpy(addr, p, len);
			p += len + 1;
		}
	}
	*ret_has_addr = *addr;
	if (*addr && inet_pton(ss->ss_family, addr,
			       ss->ss_family == AF_INET ? (void *)&in->sin_addr
							: (void *)&in6->sin6_addr) != 1)
		return false;
	if (!isdigit((unsigned char)*p))
		return false;
	port = strtoul(p, &end, 10);
	if (!port || port > 65535 || (*end && *end != ':'))
		return false;
	in->sin_port = htons((uint16_t)port); /* in both families at the same place */
	*text = end + (*end == ':');
	return true;
}

/* tcp|udp:[ADDRESS:]PORT:[ADDRESS:]PORT, the host's end first */
static int set_forward(struct config_net *n, const char *text, struct err *err)
{
	bool has_host = false, has_guest = false;
	const char *p = text + 4;
	struct net_forward *f;

	if (n->net.forward_count == NET_FORWARDS_MAX)
		return err_set(err, EINVAL, "forward '%s': more than %u", text, NET_FORWARDS_MAX);
	f = &n->net.forwards[n->net.forward_count];
	if ((strncmp(text, "tcp:", 4) && strncmp(text, "udp:", 4)) ||
	    !take_end(&p, &f->host, &has_host) || !take_end(&p, &f->guest, &has_guest) || *p)
		return err_set(err, EINVAL,
			       "forward '%s': not {tcp|udp}:[ADDRESS:]PORT:[ADDRESS:]PORT", text);
	if (f->host.ss_family == AF_INET6 ? f->guest.ss_family != AF_INET6
					  : f->guest.ss_family != AF_INET)
		return err_set(err, EINVAL,
			       "forward '%s': an IPv6 end needs the other one's IPv6 address",
			       text);
	f->udp = text[0] == 'u';
	/* The guest's address: libslirp takes the one that DHCP gave it. */
	if (!has_host)
		((struct sockaddr_in *)&f->host)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	n->net.forward_count++;
	return 0;
}

static const struct {
	const char *name;
	unsigned kinds;
	bool repeats;
	int (*set)(struct config_net *n, const char *text, struct err *err);
} keys[] = {
	{ "id", ALL, false, set_id },
	{ "place", ALL, false, set_place },
	{ "mac", ALL, false, set_mac },
	{ "mtu", ALL, false, set_mtu },
	{ "queues", ALL, false, set_queues },
	{ "rate", ALL, false, set_rate },
	{ "pcap", ALL, false, set_pcap },
	{ "forward", USER, true, set_forward },
	{ "restrict", USER, false, set_restrict },
	{ "host-loopback", USER, false, set_host_loopback },
	{ "ifname", TAP, false, set_ifname },
	{ "bridge", TAP, false, set_bridge },
	{ "fd", TAP, true, set_fd },
	{ "path", SWITCH, false, set_path },
};

static int init(struct config_net *n, const char *kind, struct err *err)
{
	memset(n, 0, sizeof(*n));
	n->net.queues = 1;
	for (unsigned i = 0; i < NET_KINDS; i++) {
		if (!strcmp(kind, net_kind_name(i))) {
			n->net.kind = (enum net_kind)i;
			return 0;
		}
	}
	return err_set(err, EINVAL, "net '%s': not one of user, tap, switch", kind);
}

static int set_key(struct config_net *n, const char *key, const char *text, struct err *err)
{
	const char *kind = net_kind_name(n->net.kind);

	for (unsigned i = 0; i < ARRAY_SIZE(keys); i++) {
		int ret;

		if (strcmp(key, keys[i].name))
			continue;
		if (!(keys[i].kinds >> n->net.kind & 1))
			return err_set(err, EINVAL, "net '%s': has no key '%s'", kind, key);
		if (n->given >> i & 1 && !keys[i].repeats)
			return err_set(err, EINVAL, "net '%s': '%s' is given twice", kind, key);
		n->given |= 1u << i;
		ret = keys[i].set(n, text, err);
		return ret < 0 ? err_prefix(err, ret, "net '%s'", kind) : 0;
	}
	return err_set(err, EINVAL, "net '%s': unknown key '%s'", kind, key);
}

static int check(struct config_net *n, struct err *err)
{
	struct net_config *net = &n->net;

	if (net->kind == NET_SWITCH && !net->path)
		return err_set(err, EINVAL, "net 'switch': 'path' is missing");
	if (net->fd_count && (net->ifname || net->bridge))
		return err_set(err, EINVAL, "net 'tap': 'fd' excludes 'ifname' and 'bridge'");
	if (net->fd_count && net->queues != 1 && net->queues != net->fd_count)
		return err_set(err, EINVAL, "net 'tap': %u queues and %u descriptors", net->queues,
			       net->fd_count);
	if (net->fd_count)
		net->queues = net->fd_count;
	return 0;
}

int config_net_parse(struct config_net *n, const char *text, struct err *err)
{
	_cleanup_free_ char *word = malloc(strlen(text) + 1);
	int ret;

	memset(n, 0, sizeof(*n));
	if (!word)
		return err_set(err, ENOMEM, "net '%s': out of memory", text);
	list_next(&text, word);
	ret = init(n, word, err);
	while (ret == 0 && text) {
		char *eq;

		list_next(&text, word);
		eq = strchr(word, '=');
		if (!eq) {
			ret = err_set(err, EINVAL, "net '%s': '%s' is not KEY=VALUE",
				      net_kind_name(n->net.kind), word);
			break;
		}
		*eq = '\0';
		ret = set_key(n, word, eq + 1, err);
	}
	if (ret == 0)
		ret = check(n, err);
	if (ret < 0)
		config_net_done(n);
	return ret;
}

/* A value of JSON as the text that an option would have */
static int json_set(struct config_net *n, const char *key, json_t *value, struct err *err)
{
	char name[32], number[32];
	json_t *item;
	size_t i;
	int ret = 0;

	if (json_is_array(value)) {
		json_array_foreach(value, i, item)
		{
			ret = json_is_array(item)
				  ? err_set(err, EINVAL, "'%s' has the wrong type", key)
				  : json_set(n, key, item, err);
			if (ret < 0)
				return ret;
		}
		return 0;
	}
	if (strlen(key) >= sizeof(name) || strchr(key, '-'))
		return err_set(err, EINVAL, "unknown key '%s'", key);
	for (i = 0; i <= strlen(key); i++)
		name[i] = key[i] == '_' ? '-' : key[i];
	if (json_is_string(value))
		return set_key(n, name, json_string_value(value), err);
	if (json_is_boolean(value))
		return set_key(n, name, json_is_true(value) ? "on" : "off", err);
	if (!json_is_integer(value))
		return err_set(err, EINVAL, "'%s' has the wrong type", key);
	snprintf(number, sizeof(number), "%" JSON_INTEGER_FORMAT, json_integer_value(value));
	return set_key(n, name, number, err);
}

int config_net_json(struct config_net *n, json_t *object, struct err *err)
{
	json_t *type = json_object_get(object, "type"), *value;
	const char *key;
	int ret;

	memset(n, 0, sizeof(*n));
	if (!json_is_string(type))
		return err_set(err, EINVAL, "nets: 'type' is missing");
	ret = init(n, json_string_value(type), err);
	json_object_foreach(object, key, value)
	{
		if (ret < 0)
			break;
		if (value != type)
			ret = json_set(n, key, value, err);
	}
	if (ret == 0)
		ret = check(n, err);
	if (ret < 0)
		config_net_done(n);
	return ret;
}

void config_net_done(struct config_net *n)
{
	free(n->net.ifname);
	free(n->net.bridge);
	free(n->net.path);
	free(n->pcap);
	free(n->id);
	memset(n, 0, sizeof(*n));
}
