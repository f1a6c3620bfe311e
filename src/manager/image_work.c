/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs in worker processes. A part gets its name, the digest, when it is whole and on the disk; a
 * file that was begun is called .new-ID, after the job, and is removed when the job has ended.
 *
 * Data is copied where the source has data (SEEK_DATA), so sparse files stay so; what is hashed is
 * the whole content.
 */
#include <dirent.h>
#include <fcntl.h>
#include <gnutls/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/util.h"
#include "manager/archive.h"
#include "manager/image.h"
#include "manager/worker.h"

#define CHUNK MIB(1)
#define DEBIAN_CMDLINE "console=ttyS0 root=/dev/vda rw"

struct copying {
	struct worker *w;
	const char *what;
	int in, out;
	uint64_t size, done, data_end; /* data_end: how far there is data without a hole */
	gnutls_hash_hd_t hash;
	uint8_t *buf;
};

/* What is at c->done: data up to c->data_end, or a hole up to the next data */
static uint64_t hole_length(struct copying *c)
{
	off_t data = lseek(c->in, (off_t)c->done, SEEK_DATA), hole;

	if (data < 0)
		return errno == ENXIO ? c->size - c->done : 0;
	hole = lseek(c->in, data, SEEK_HOLE);
	c->data_end = hole < 0 ? c->size : (uint64_t)hole;
	return min_u64((uint64_t)data, c->size) - c->done;
}

static int copy_chunk(struct copying *c, struct err *err)
{
	uint64_t zeros = c->done < c->data_end ? 0 : hole_length(c);
	size_t len = min_u64(CHUNK, zeros ? zeros : c->size - c->done);
	ssize_t n = (ssize_t)len;

	if (zeros) {
		memset(c->buf, 0, len);
	} else {
		n = pread(c->in, c->buf, len, (off_t)c->done);
		if (n <= 0)
			return err_set(err, EIO, "'%s': cannot be read to its end", c->what);
		if (pwrite(c->out, c->buf, (size_t)n, (off_t)c->done) != n)
			return err_set(err, errno ? errno : EIO, "image store: %s",
				       strerror(errno));
	}
	gnutls_hash(c->hash, c->buf, (size_t)n);
	c->done += (uint64_t)n;
	worker_tell(c->w, (double)c->done / (double)c->size, "reading %s", c->what);
	return 0;
}

static int copy_all(struct copying *c, const char *dir, const char *id, struct image_part *part,
		    struct err *err)
{
	char temporary[PATH_SIZE + 160], final[PATH_SIZE + 160];
	uint8_t digest[32];
	int ret = 0, dir_fd;

	snprintf(temporary, sizeof(temporary), "%.400s/.new-%s", dir, id);
	c->out = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0400);
	if (c->out < 0)
		return err_set(err, errno, "'%s': %s", temporary, strerror(errno));
	if (ftruncate(c->out, (off_t)c->size) < 0)
		ret = err_set(err, errno, "'%s': %s", temporary, strerror(errno));
	while (ret == 0 && c->done < c->size)
		ret = copy_chunk(c, err);
	gnutls_hash_output(c->hash, digest);
	for (unsigned i = 0; i < sizeof(digest); i++)
		snprintf(part->digest + 2 * i, 3, "%02x", digest[i]);
	part->size_bytes = c->size;
	snprintf(final, sizeof(final), "%.400s/%s", dir, part->digest);
	if (ret == 0 && fsync(c->out) < 0)
		ret = err_set(err, errno, "'%s': %s", temporary, strerror(errno));
	close(c->out);
	if (ret == 0 && access(final, F_OK) == 0)
		unlink(temporary);
	else if (ret == 0 && rename(temporary, final) < 0)
		ret = err_set(err, errno, "'%s': %s", final, strerror(errno));
	if (ret < 0)
		unlink(temporary);
	dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir_fd >= 0) {
		fsync(dir_fd);
		close(dir_fd);
	}
	return ret;
}

static int store_part(struct worker *w, const struct image_order *order, const char *path,
		      struct image_part *part, struct err *err)
{
	struct copying c = { .w = w, .what = path };
	char dir[DIR_SIZE + 16];
	struct stat st;
	int ret;

	snprintf(dir, sizeof(dir), "%s/blobs", order->m->paths.data);

	c.in = open(path, O_RDONLY | O_CLOEXEC);
	if (c.in < 0 || fstat(c.in, &st) < 0)
		return err_set(err, errno, "'%s': %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode) || st.st_size == 0) {
		close(c.in);
		return err_set(err, EINVAL, "'%s': no file, or an empty one", path);
	}
	c.size = (uint64_t)st.st_size;
	c.buf = malloc(CHUNK);
	if (!c.buf || gnutls_hash_init(&c.hash, GNUTLS_DIG_SHA256) < 0)
		ret = err_set(err, ENOMEM, "out of memory");
	else
		ret = copy_all(&c, dir, order->id, part, err);
	free(c.buf);
	close(c.in);
	return ret;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The modules in the order in which they are loaded, which is that of their names */
static int add_modules(struct text *t, const char *dir, struct err *err)
{
	char path[PATH_SIZE + 300], name[300], *names[64];
	DIR *d = opendir(dir);
	struct dirent *e;
	size_t count = 0;
	int ret = 0;

	if (!d)
		return err_set(err, errno, "'%s': %s", dir, strerror(errno));
	while (count < ARRAY_SIZE(names) && (e = readdir(d)))
		if (e->d_name[0] != '.')
			names[count++] = strdup(e->d_name);
	closedir(d);
	qsort(names, count, sizeof(*names), by_name);
	archive_folder(t, "modules");
	for (size_t i = 0; i < count; i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
		snprintf(name, sizeof(name), "modules/%s", names[i]);
		if (ret == 0)
			ret = archive_file(t, name, false, path, err);
		free(names[i]);
	}
	return ret;
}

/* The small initial RAM disk that finds a virtio disk; see tools/guest/init.c */
static int make_initrd(struct manager *m, const char *modules, const char *path, struct err *err)
{
	static const char *const folders[] = { "dev", "proc", "run", "eyot" };
	char init[PATH_SIZE + 16];
	struct text t = { 0 };
	int ret, fd;

	for (unsigned i = 0; i < ARRAY_SIZE(folders); i++)
		archive_folder(&t, folders[i]);
	snprintf(init, sizeof(init), "%s/eyot-init", m->paths.guest);
	ret = archive_file(&t, "init", true, init, err);
	if (ret == 0)
		ret = add_modules(&t, modules, err);
	archive_end(&t);
	if (ret == 0 && t.failed)
		ret = err_set(err, ENOMEM, "out of memory");
	if (ret == 0) {
		fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		if (fd < 0 || write(fd, t.data, t.len) != (ssize_t)t.len)
			ret = err_set(err, errno, "'%s': %s", path, strerror(errno));
		if (fd >= 0)
			close(fd);
	}
	text_done(&t);
	return ret;
}

static int build(struct worker *w, struct image_order *order, struct err *err)
{
	struct manager *m = order->m;
	struct image_source *src = &order->source;
	const char *argv[] = { m->paths.guest_image, "--flavour", "run", NULL };
	char modules[PATH_SIZE + 32];
	struct text folder = { 0 };
	int ret = worker_exec(w, argv, &folder, true, err);

	if (ret == 0 && (!folder.len || folder.len > 480))
		ret = err_set(err, EIO, "guest-image: says no folder");
	if (ret == 0) {
		folder.data[strcspn(folder.data, "\n")] = '\0';
		snprintf(src->kernel, sizeof(src->kernel), "%.480s/vmlinuz-cloud", folder.data);
		snprintf(src->disk, sizeof(src->disk), "%.480s/disk.img", folder.data);
		snprintf(modules, sizeof(modules), "%s/modules-cloud", folder.data);
		snprintf(src->initrd, sizeof(src->initrd), "%s/blobs/.new-%s-initrd", m->paths.data,
			 order->id);
		snprintf(src->cmdline, sizeof(src->cmdline), DEBIAN_CMDLINE);
		snprintf(src->disk_format, sizeof(src->disk_format), "raw");
		ret = make_initrd(m, modules, src->initrd, err);
	}
	text_done(&folder);
	return ret;
}

/* The size of a disk as guests see it */
static int disk_size(struct worker *w, struct manager *m, const struct image_source *src,
		     uint64_t *ret, struct err *err)
{
	const char *argv[] = { m->paths.img,	 "info",    "--json", "-f",
			       src->disk_format, src->disk, NULL };
	struct text out = { 0 };
	int r = worker_exec(w, argv, &out, false, err);
	json_t *info = r == 0 && out.data ? json_loadb(out.data, out.len, 0, NULL) : NULL;
	json_int_t size = json_integer_value(json_object_get(info, "size"));

	if (r == 0 && size <= 0)
		r = err_set(err, EIO, "eyot-img: says no size of '%s'", src->disk);
	/* It would name files of the host for as long as the image is there. */
	if (r == 0 && (json_is_string(json_object_get(info, "backing")) ||
		       json_is_string(json_object_get(info, "data_file"))))
		r = err_set(err, EINVAL, "disk '%s': refers to other files; convert it first",
			    src->disk);
	*ret = (uint64_t)size;
	json_decref(info);
	text_done(&out);
	return r;
}

int image_work(struct worker *w, void *arg, struct text *ret_result, struct err *err)
{
	static const char *const kinds[PART_KINDS] = { "kernel", "initrd", "disk" };
	struct image_order *order = arg;
	struct image_source *src = &order->source;
	const char *paths[PART_KINDS] = { src->kernel, src->initrd, src->disk };
	struct image_part parts[PART_KINDS] = { 0 };
	uint64_t size = 0;
	bool any = false;
	int ret = src->build ? build(w, order, err) : 0;

	if (ret == 0 && *src->disk)
		ret = disk_size(w, order->m, src, &size, err);
	for (unsigned k = 0; ret == 0 && k < PART_KINDS; k++)
		if (*paths[k])
			ret = store_part(w, order, paths[k], &parts[k], err);
	if (ret < 0)
		return ret;
	text_printf(ret_result, "{\"agent\":%s,\"cmdline\":", src->build ? "true" : "false");
	text_string(ret_result, src->cmdline, strlen(src->cmdline));
	text_printf(ret_result, ",\"disk_bytes\":%llu,\"disk_format\":\"%s\",\"parts\":[",
		    (unsigned long long)size, src->disk_format);
	for (unsigned k = 0; k < PART_KINDS; k++) {
		if (!*parts[k].digest)
			continue;
		text_printf(ret_result, "%s{\"kind\":\"%s\",\"digest\":\"%s\",\"size_bytes\":%llu}",
			    any ? "," : "", kinds[k], parts[k].digest,
			    (unsigned long long)parts[k].size_bytes);
		any = true;
	}
	text_printf(ret_result, "]}");
	return 0;
}
