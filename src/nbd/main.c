/* SPDX-License-Identifier: Apache-2.0 */
/*
 * eyot-nbd: started by a machine for each remote disk, with the machine's socket
 * and the memory they share. It confines itself before it says the first word to the server.
 */
#include <fcntl.h>
#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/log.h"
#include "nbd/client.h"
#include "sandbox/sandbox.h"

#define SHOWN_MAX 9

/* The names of hosts are resolved again with each connection. */
static const char *const resolver_files[] = { "/etc/resolv.conf", "/etc/hosts",
					      "/etc/nsswitch.conf", "/etc/host.conf",
					      "/etc/gai.conf" };

static int resolve_once(const struct nbd_uri *u, struct err *err)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *list;
	int ret = getaddrinfo(u->host, u->port, &hints, &list);

	if (ret)
		return err_set(err, EIO, "%s: %s", u->host, gai_strerror(ret));
	freeaddrinfo(list);
	return 0;
}

static int confine(const struct nbd_start *st, struct err *err)
{
	struct confinement c = { .host_network = true };
	const char *shown[SHOWN_MAX] = { NULL };
	struct sandbox_filters *filters;
	char folder[PATH_MAX], *slash;
	unsigned count = 0;
	int ret;

	if (st->uri.host[0]) {
		/* Libraries that resolve names are loaded while they can be. */
		ret = resolve_once(&st->uri, err);
		if (ret < 0)
			return ret;
		for (unsigned i = 0; i < ARRAY_SIZE(resolver_files); i++)
			shown[count++] = resolver_files[i];
	} else {
		/* The folder: a server that comes back makes the socket anew. */
		snprintf(folder, sizeof(folder), "%s", st->uri.socket);
		slash = strrchr(folder, '/');
		if (!slash || slash == folder)
			return err_set(err, EINVAL, "socket '%s': stands in no folder",
				       st->uri.socket);
		*slash = '\0';
		shown[count++] = folder;
	}
	if (st->tls_certs[0])
		shown[count++] = st->tls_certs;
	if (st->tls_psk[0])
		shown[count++] = st->tls_psk;
	c.shown = shown;
	ret = sandbox_confine(&c, err);
	if (ret == 0)
		ret = sandbox_filters_new(1u << SANDBOX_NBD, &filters, err);
	if (ret < 0)
		return ret;
	ret = sandbox_filter_thread(filters, SANDBOX_NBD);
	if (ret < 0)
		return err_set(err, -ret, "sandbox: filter: %s", strerror(-ret));
	if (sandbox_test_hook)
		sandbox_test_hook(SANDBOX_NBD);
	return 0;
}

static int start(struct nbd_start *st, uint8_t **ret_memory, struct err *err)
{
	void *p = mmap(NULL, (size_t)NBD_SLOTS * NBD_SLOT_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED,
		       NBD_FD_MEMORY, 0);

	if (p == MAP_FAILED)
		return err_set(err, errno, "shared memory: %s", strerror(errno));
	close(NBD_FD_MEMORY);
	*ret_memory = p;
	return st->sandbox ? confine(st, err) : 0;
}

int main(int argc, char **argv)
{
	struct nbd_start *st = calloc(1, sizeof(*st));
	struct nbd_hello hello = { 0 };
	struct client *c = NULL;
	uint8_t *memory = NULL;
	struct stat s;
	int ret;

	log_init(NBD_PROGRAM, LOG_INFO);
	if (!st || argc != 1 || fstat(NBD_FD_SOCKET, &s) < 0 || !S_ISSOCK(s.st_mode)) {
		log_error("is started by eyot-vmm and eyot-img, for disks on NBD servers");
		free(st);
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	signal(SIGINT, SIG_IGN); /* typed for the machine, which tells us by closing */
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	if (recv(NBD_FD_SOCKET, st, sizeof(*st), MSG_WAITALL) != sizeof(*st)) {
		free(st);
		return 8;
	}
	log_init(NBD_PROGRAM, st->log_level);
	ret = start(st, &memory, &hello.err);
	if (ret == 0)
		ret = client_new(st, memory, &c, &hello, &hello.err);
	hello.ret = ret;
	if (send(NBD_FD_SOCKET, &hello, sizeof(hello), MSG_NOSIGNAL) != sizeof(hello))
		ret = -EPIPE;
	if (ret == 0)
		ret = client_run(c);
	client_free(c);
	free(st);
	return ret < 0 ? 8 : 0;
}
