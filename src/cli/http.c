/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HTTP by libcurl over the daemon's UNIX socket.
 *
 * One connection, one request at a time. The wait is on curl's descriptors and on the pipe of
 * signals, so Ctrl-C ends it at once. An answer has at most ANSWER_MAX bytes, and one that is no
 * JSON where it should be is refused: whoever listens there is checked like anybody else.
 *
 * A daemon that was away for a moment is reached again, once a request: what changes nothing may be
 * repeated, and what changes something has an idempotency key.
 */
#include <curl/curl.h>
#include <string.h>
#include <sys/random.h>

#include "base/util.h"
#include "cli/cli.h"

#define ANSWER_MAX MIB(256)
#define LIST_LIMIT 1000
#define ITEMS_MAX 1000000

struct http {
	CURL *easy;
	CURLM *multi;
};

/* An answer, or what has come of it */
struct answer {
	long status;
	char *text;
	size_t len, cap;
	bool too_large;
	uint64_t next_offset;
	/* of a stream: what is done with each event; else NULL */
	int (*on_event)(void *arg, json_t *event);
	void *arg;
	int ret;
	CURL *easy;
};

void http_free(struct http *h)
{
	if (!h)
		return;
	curl_multi_cleanup(h->multi);
	curl_easy_cleanup(h->easy);
	free(h);
	curl_global_cleanup();
}

static int http_open(struct cli *cli, struct err *err)
{
	if (cli->http)
		return 0;
	cli->http = calloc(1, sizeof(*cli->http));
	if (!cli->http || curl_global_init(CURL_GLOBAL_NOTHING))
		return err_set(err, ENOMEM, "out of memory");
	cli->http->easy = curl_easy_init();
	cli->http->multi = curl_multi_init();
	if (!cli->http->easy || !cli->http->multi)
		return err_set(err, ENOMEM, "out of memory");
	return 0;
}

/* ---- what comes ---- */

static bool grow(struct answer *a, size_t more)
{
	size_t want = a->len + more + 1, cap = a->cap ? a->cap : 4096;
	char *text;

	if (want <= a->cap)
		return true;
	while (cap < want)
		cap *= 2;
	text = want <= ANSWER_MAX ? realloc(a->text, cap) : NULL;
	if (!text) {
		a->too_large = true;
		return false;
	}
	a->text = text;
	a->cap = cap;
	return true;
}

/* Whole lines of a stream; "data:" begins an event, the rest is told in it as well. */
static void take_lines(struct answer *a)
{
	static const char data[] = "data: ";
	char *line = a->text, *end;

	while (a->ret == 0 && (end = memchr(line, '\n', a->len - (size_t)(line - a->text)))) {
		json_t *event = NULL;

		if ((size_t)(end - line) > sizeof(data) - 1 &&
		    !memcmp(line, data, sizeof(data) - 1))
			event = json_loadb(line + sizeof(data) - 1,
					   (size_t)(end - line) - (sizeof(data) - 1), 0, NULL);
		if (event)
			a->ret = a->on_event(a->arg, event);
		json_decref(event);
		line = end + 1;
	}
	a->len -= (size_t)(line - a->text);
	memmove(a->text, line, a->len);
}

static size_t on_body(char *bytes, size_t size, size_t count, void *arg)
{
	struct answer *a = arg;
	size_t len = size * count;

	if (!grow(a, len))
		return 0;
	memcpy(a->text + a->len, bytes, len);
	a->len += len;
	a->text[a->len] = '\0';
	if (a->on_event) {
		curl_easy_getinfo(a->easy, CURLINFO_RESPONSE_CODE, &a->status);
		if (a->status == 200)
			take_lines(a);
	}
	return a->ret ? 0 : len;
}

static size_t on_header(char *bytes, size_t size, size_t count, void *arg)
{
	static const char name[] = "Eyot-Next-Offset:";
	struct answer *a = arg;
	char line[64];
	size_t len = size * count;

	if (len < sizeof(line) && len > sizeof(name) &&
	    !strncasecmp(bytes, name, sizeof(name) - 1)) {
		memcpy(line, bytes, len);
		line[len] = '\0';
		a->next_offset = strtoull(line + sizeof(name) - 1, NULL, 10);
	}
	return len;
}

/* ---- a request ---- */

static CURLcode perform(struct http *h)
{
	struct curl_waitfd signals = { .fd = signals_fd(), .events = CURL_WAIT_POLLIN };
	CURLcode code = CURLE_OK;
	bool done = false;

	if (curl_multi_add_handle(h->multi, h->easy))
		return CURLE_OUT_OF_MEMORY;
	while (!done && !cli_interrupted()) {
		CURLMsg *msg;
		int running, left;

		if (curl_multi_perform(h->multi, &running)) {
			code = CURLE_OUT_OF_MEMORY;
			break;
		}
		while ((msg = curl_multi_info_read(h->multi, &left)))
			if (msg->msg == CURLMSG_DONE) {
				code = msg->data.result;
				done = true;
			}
		if (!done)
			curl_multi_poll(h->multi, &signals, 1, 1000, NULL);
	}
	curl_multi_remove_handle(h->multi, h->easy);
	return done ? code : code ? code : CURLE_ABORTED_BY_CALLBACK;
}

static struct curl_slist *make_headers(const char *key, bool has_body, bool stream)
{
	struct curl_slist *list = curl_slist_append(NULL, "Expect:");
	char line[160];

	if (has_body)
		list = curl_slist_append(list, "Content-Type: application/json");
	if (stream)
		list = curl_slist_append(list, "Accept: text/event-stream");
	if (key) {
		snprintf(line, sizeof(line), "Idempotency-Key: %s", key);
		list = curl_slist_append(list, line);
	}
	return list;
}

static CURLcode request_once(struct cli *cli, const char *method, const struct url *u,
			     const char *body, const char *key, struct answer *a)
{
	CURL *easy = cli->http->easy;
	struct curl_slist *headers = make_headers(key, body != NULL, a->on_event != NULL);
	char url[URL_SIZE + 24];
	CURLcode code;

	snprintf(url, sizeof(url), "http://localhost%s", u->text);
	curl_easy_reset(easy);
	curl_easy_setopt(easy, CURLOPT_URL, url);
	curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http");
	curl_easy_setopt(easy, CURLOPT_PROXY, "");
	curl_easy_setopt(easy, CURLOPT_UNIX_SOCKET_PATH, cli->socket);
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, method);
	if (strcmp(method, "GET")) {
		curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body ? body : "");
		curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, method);
	}
	curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(easy, CURLOPT_WRITEDATA, a);
	curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
	curl_easy_setopt(easy, CURLOPT_HEADERDATA, a);
	a->easy = easy;
	code = perform(cli->http);
	curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &a->status);
	curl_slist_free_all(headers);
	return code;
}

static bool may_repeat(CURLcode code)
{
	return code == CURLE_COULDNT_CONNECT || code == CURLE_GOT_NOTHING ||
	       code == CURLE_RECV_ERROR || code == CURLE_SEND_ERROR;
}

static void answer_done(struct answer *a)
{
	free(a->text);
}

static int request(struct cli *cli, const char *method, const struct url *u, const char *body,
		   const char *key, struct answer *a, struct err *err)
{
	CURLcode code = CURLE_COULDNT_CONNECT;
	int ret = u->len >= URL_SIZE ? cli_usage(err, "a name is too long") : 0;

	if (ret == 0)
		ret = http_open(cli, err);
	for (unsigned tries = 0; ret == 0 && tries < 2 && may_repeat(code); tries++) {
		ret = daemon_reach(cli, err);
		a->len = 0;
		if (ret == 0)
			code = request_once(cli, method, u, body, key, a);
	}
	if (ret < 0)
		return ret;
	if (cli_interrupted())
		return err_set(err, EINTR, "interrupted");
	if (a->ret)
		return a->ret;
	if (a->too_large)
		return err_set(err, EMSGSIZE, "daemon '%s': its answer is too large", cli->socket);
	if (code)
		return err_set(err, EIO, "daemon '%s': %s", cli->socket, curl_easy_strerror(code));
	return 0;
}

/* The daemon's words for a refusal */
static int refused(const struct answer *a, const char *socket, struct err *err)
{
	json_t *problem = a->len ? json_loadb(a->text, a->len, 0, NULL) : NULL;
	const char *detail = json_text(problem, "detail"), *code = json_text(problem, "code");
	int ret = a->status == 404 ? -ENOENT : -EREMOTEIO;

	if (*detail)
		err_set(err, EREMOTEIO, "%s", detail);
	else
		err_set(err, EREMOTEIO, "daemon '%s': status %ld", socket, a->status);
	if (!strcmp(code, "unavailable"))
		ret = -EIO;
	text_clean(err->text);
	json_decref(problem);
	return ret;
}

static int take_json(const struct answer *a, const char *socket, json_t **ret, struct err *err)
{
	if (a->status >= 400 || a->status < 200)
		return refused(a, socket, err);
	*ret = NULL;
	if (a->status == 204)
		return 0;
	*ret = json_loadb(a->text ? a->text : "", a->len, 0, NULL);
	return *ret ? 0 : err_set(err, EPROTO, "daemon '%s': its answer is no JSON", socket);
}

int api_get(struct cli *cli, const struct url *u, json_t **ret, struct err *err)
{
	struct answer a = { 0 };
	int r = request(cli, "GET", u, NULL, NULL, &a, err);

	if (r == 0)
		r = take_json(&a, cli->socket, ret, err);
	answer_done(&a);
	return r;
}

int api_get_all(struct cli *cli, const struct url *u, json_t **ret_items, struct err *err)
{
	json_t *items = json_array();
	char after[256] = "";
	int ret = items ? 0 : err_set(err, ENOMEM, "out of memory");

	while (ret == 0) {
		struct url page = *u;
		json_t *list;

		url_param_number(&page, "limit", LIST_LIMIT);
		if (*after)
			url_param(&page, "after", after);
		ret = api_get(cli, &page, &list, err);
		if (ret < 0)
			break;
		if (json_array_extend(items, json_object_get(list, "items")) < 0 ||
		    json_array_size(items) > ITEMS_MAX)
			ret =
			    err_set(err, EPROTO, "daemon '%s': its answer is no list", cli->socket);
		snprintf(after, sizeof(after), "%s", json_text(list, "next"));
		json_decref(list);
		if (!*after)
			break;
	}
	if (ret < 0)
		json_decref(items);
	else
		*ret_items = items;
	return ret;
}

int api_get_text(struct cli *cli, const struct url *u, char **ret, size_t *ret_len,
		 uint64_t *ret_next, struct err *err)
{
	struct answer a = { 0 };
	int r = request(cli, "GET", u, NULL, NULL, &a, err);

	if (r == 0 && a.status != 200)
		r = refused(&a, cli->socket, err);
	if (r < 0) {
		answer_done(&a);
		return r;
	}
	*ret = a.text;
	*ret_len = a.len;
	if (ret_next)
		*ret_next = a.next_offset;
	return 0;
}

int api_change(struct cli *cli, const char *method, const struct url *u, json_t *body, json_t **ret,
	       struct err *err)
{
	_cleanup_free_ char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
	struct answer a = { 0 };
	struct url full = *u;
	uint64_t random[2];
	char key[40];
	int r;

	r = body && !text ? err_set(err, ENOMEM, "out of memory") : 0;
	json_decref(body);
	if (getrandom(random, sizeof(random), 0) != sizeof(random))
		r = err_set(err, EIO, "no random numbers");
	snprintf(key, sizeof(key), "%016llx%016llx", (unsigned long long)random[0],
		 (unsigned long long)random[1]);
	if (cli->dry_run)
		url_param(&full, "dry_run", "true");
	if (r == 0)
		r = request(cli, method, &full, text, key, &a, err);
	if (r == 0)
		r = take_json(&a, cli->socket, ret, err);
	answer_done(&a);
	return r;
}

int api_stream(struct cli *cli, const struct url *u, int (*on_event)(void *arg, json_t *event),
	       void *arg, struct err *err)
{
	struct answer a = { .on_event = on_event, .arg = arg };
	int ret = request(cli, "GET", u, NULL, NULL, &a, err);

	if (ret == 0 && a.status != 200)
		ret = refused(&a, cli->socket, err);
	answer_done(&a);
	return ret;
}
