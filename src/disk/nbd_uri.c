/* SPDX-License-Identifier: Apache-2.0 */
/* The URI scheme of the NBD protocol (doc/uri.md of the protocol's authors; RFC 3986). */
#include "disk/nbd_uri.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/util.h"

#define NBD_PORT "10809"

static const struct scheme {
	const char *text;
	bool tls, is_unix;
} schemes[] = {
	{ "nbd://", false, false },
	{ "nbds://", true, false },
	{ "nbd+unix://", false, true },
	{ "nbds+unix://", true, true },
};

static const struct scheme *scheme_of(const char *text)
{
	for (unsigned i = 0; i < ARRAY_SIZE(schemes); i++)
		if (!strncmp(text, schemes[i].text, strlen(schemes[i].text)))
			return &schemes[i];
	return NULL;
}

bool nbd_uri_is(const char *text)
{
	return scheme_of(text) != NULL;
}

static int hex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = (char)tolower((unsigned char)c);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* %XX becomes a byte, which may not be 0; -EINVAL as well when it does not fit. */
static int decode(const char *text, size_t len, char *buf, size_t size)
{
	size_t n = 0;

	for (size_t i = 0; i < len; i++) {
		int c = (unsigned char)text[i];

		if (c == '%') {
			int high = len - i > 2 ? hex(text[i + 1]) : -1;
			int low = len - i > 2 ? hex(text[i + 2]) : -1;

			if (high < 0 || low < 0)
				return -EINVAL;
			c = high << 4 | low;
			i += 2;
		}
		if (c < ' ' || c == 0x7f || n + 1 >= size)
			return -EINVAL;
		buf[n++] = (char)c;
	}
	buf[n] = '\0';
	return 0;
}

static int bad(struct err *err, const char *what)
{
	return err_set(err, EINVAL, "%s", what);
}

/* [USER@]HOST[:PORT], HOST perhaps an IPv6 address in brackets */
static int parse_server(const char *text, size_t len, bool is_unix, struct nbd_uri *u,
			struct err *err)
{
	const char *at = memchr(text, '@', len), *end = text + len, *colon, *host_end;
	unsigned long port = 0;

	if (at) {
		if (at == text || decode(text, (size_t)(at - text), u->user, sizeof(u->user)) < 0)
			return bad(err, "the user's name makes no sense");
		text = at + 1;
	}
	if (is_unix)
		return text == end ? 0
				   : bad(err, "a UNIX socket has no host: "
					      "nbd+unix:///EXPORT?socket=PATH");
	if (text < end && *text == '[') {
		host_end = memchr(text, ']', (size_t)(end - text));
		if (!host_end)
			return bad(err, "a bracket is open");
		text++;
		colon = host_end + 1;
	} else {
		colon = memchr(text, ':', (size_t)(end - text));
		host_end = colon = colon ? colon : end;
	}
	if (host_end == text ||
	    decode(text, (size_t)(host_end - text), u->host, sizeof(u->host)) < 0)
		return bad(err, "the host's name makes no sense");
	snprintf(u->port, sizeof(u->port), NBD_PORT);
	if (colon == end)
		return 0;
	if (*colon != ':' || end - colon < 2 || end - colon > 6)
		return bad(err, "the port is no number from 1 to 65535");
	for (const char *p = colon + 1; p < end; p++)
		port = *p >= '0' && *p <= '9' ? port * 10 + (unsigned long)(*p - '0') : 65536;
	if (port < 1 || port > 65535)
		return bad(err, "the port is no number from 1 to 65535");
	snprintf(u->port, sizeof(u->port), "%lu", port);
	return 0;
}

/* Of the parts behind the question mark only socket=PATH is known. */
static int parse_query(const char *query, bool is_unix, struct nbd_uri *u, struct err *err)
{
	static const char key[] = "socket=";

	if (!is_unix)
		return query ? bad(err, "nothing may follow a '?' here") : 0;
	if (!query || strncmp(query, key, sizeof(key) - 1) || strchr(query, '&'))
		return bad(err, "wants ?socket=PATH and nothing else at its end");
	query += sizeof(key) - 1;
	if (!*query || decode(query, strlen(query), u->socket, sizeof(u->socket)) < 0)
		return bad(err, "the socket's path makes no sense or is too long");
	return 0;
}

int nbd_uri_parse(const char *text, struct nbd_uri *ret, struct err *err)
{
	const struct scheme *scheme = scheme_of(text);
	const char *query, *slash, *end;
	struct nbd_uri u = { 0 };
	int ret_code;

	if (!scheme)
		return bad(err, "is no address of an NBD server");
	if (strchr(text, '#'))
		return bad(err, "has a fragment ('#')");
	text += strlen(scheme->text);
	query = strchr(text, '?');
	end = query ? query : text + strlen(text);
	slash = memchr(text, '/', (size_t)(end - text));
	slash = slash ? slash : end;
	u.tls = scheme->tls;
	ret_code = parse_server(text, (size_t)(slash - text), scheme->is_unix, &u, err);
	if (ret_code == 0 && slash < end &&
	    decode(slash + 1, (size_t)(end - slash - 1), u.export, sizeof(u.export)) < 0)
		ret_code = bad(err, "the export's name makes no sense or is too long");
	if (ret_code == 0)
		ret_code = parse_query(query ? query + 1 : NULL, scheme->is_unix, &u, err);
	if (ret_code == 0)
		*ret = u;
	return ret_code;
}
