/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/image.h"

#include <dirent.h>
#include <gnutls/crypto.h>
#include <stdio.h>

#include "base/util.h"

#define ID_BEGINNING 12

static const char *const kinds[PART_KINDS] = { "kernel", "initrd", "disk" };

static int compare_id(const void *item, const void *key)
{
	return strcmp(((const struct image *)item)->id, key);
}

static struct image *by_id(struct manager *m, const char *id)
{
	size_t at = list_find(&m->images, compare_id, id);
	struct image *img = at < m->images.count ? m->images.items[at] : NULL;

	return img && !strcmp(img->id, id) ? img : NULL;
}

static struct image *by_name(struct manager *m, const char *name, unsigned *ret_at)
{
	for (size_t i = 0; i < m->images.count; i++) {
		struct image *img = m->images.items[i];

		for (unsigned k = 0; k < img->name_count; k++)
			if (!strcmp(img->names[k], name)) {
				*ret_at = k;
				return img;
			}
	}
	return NULL;
}

struct image *image_find(struct manager *m, const char *name)
{
	size_t len = strlen(name), at;
	unsigned place;
	struct image *img = by_name(m, name, &place);

	if (img || len < ID_BEGINNING)
		return img;
	at = list_find(&m->images, compare_id, name);
	img = at < m->images.count ? m->images.items[at] : NULL;
	if (!img || strncmp(img->id, name, len))
		return NULL;
	if (at + 1 < m->images.count &&
	    !strncmp(((struct image *)m->images.items[at + 1])->id, name, len))
		return NULL;
	return img;
}

void image_part_path(const struct manager *m, const struct image_part *part, char out[PATH_SIZE])
{
	snprintf(out, PATH_SIZE, "%s/blobs/%s", m->paths.data, part->digest);
}

/* ---- manifests ---- */

static bool digest_is(const char *text)
{
	return text && strlen(text) == DIGEST_SIZE - 1 &&
	       strspn(text, "0123456789abcdef") == DIGEST_SIZE - 1;
}

static int take_part(struct image *img, const json_t *part)
{
	const char *kind = json_string_value(json_object_get(part, "kind"));
	const char *digest = json_string_value(json_object_get(part, "digest"));
	json_int_t size = json_integer_value(json_object_get(part, "size_bytes"));

	for (unsigned k = 0; kind && k < PART_KINDS; k++) {
		if (strcmp(kind, kinds[k]))
			continue;
		if (!digest_is(digest) || size <= 0 || *img->parts[k].digest)
			return -EINVAL;
		snprintf(img->parts[k].digest, DIGEST_SIZE, "%s", digest);
		img->parts[k].size_bytes = (uint64_t)size;
		return 0;
	}
	return -EINVAL;
}

static int parse(const char *manifest, struct image *img)
{
	json_t *json = json_loads(manifest, 0, NULL), *part;
	const char *cmdline = json_string_value(json_object_get(json, "cmdline"));
	const char *format = json_string_value(json_object_get(json, "disk_format"));
	json_int_t disk = json_integer_value(json_object_get(json, "disk_bytes"));
	int ret = cmdline && format && disk >= 0 ? 0 : -EINVAL;
	size_t i;

	if (ret == 0) {
		snprintf(img->cmdline, sizeof(img->cmdline), "%s", cmdline);
		snprintf(img->disk_format, sizeof(img->disk_format), "%s", format);
		img->disk_bytes = (uint64_t)disk;
		img->agent = json_is_true(json_object_get(json, "agent"));
	}
	json_array_foreach(json_object_get(json, "parts"), i, part) if (ret == 0) ret =
	    take_part(img, part);
	if (ret == 0 && (!*img->parts[PART_KERNEL].digest ||
			 !*img->parts[PART_DISK].digest != !img->disk_bytes))
		ret = -EINVAL;
	json_decref(json);
	return ret;
}

static void digest_of(const char *text, char out[DIGEST_SIZE])
{
	uint8_t hash[32];

	gnutls_hash_fast(GNUTLS_DIG_SHA256, text, strlen(text), hash);
	for (unsigned i = 0; i < sizeof(hash); i++)
		snprintf(out + 2 * i, 3, "%02x", hash[i]);
}

static void free_image(struct image *img)
{
	free(img->names);
	free(img);
}

static int add_name(struct image *img, const char *name)
{
	char(*names)[128] = realloc(img->names, (img->name_count + 1) * sizeof(*names));

	if (!names)
		return -ENOMEM;
	img->names = names;
	snprintf(names[img->name_count++], sizeof(*names), "%s", name);
	return 0;
}

/* ---- the store ---- */

static bool part_is_used(struct manager *m, const struct image_part *part)
{
	for (size_t i = 0; i < m->images.count; i++) {
		struct image *img = m->images.items[i];

		for (unsigned k = 0; k < PART_KINDS; k++)
			if (!strcmp(img->parts[k].digest, part->digest))
				return true;
	}
	return false;
}

struct loading {
	struct manager *m;
	struct err *err;
	int ret;
};

static bool load_image(void *arg, struct store_row *row)
{
	struct loading *l = arg;
	struct image *img = calloc(1, sizeof(*img));

	if (!img || parse(store_text(row, 2), img) < 0) {
		free(img);
		l->ret = err_set(l->err, EUCLEAN, "store: image '%s': its manifest is wrong",
				 store_text(row, 0));
		return false;
	}
	snprintf(img->id, sizeof(img->id), "%s", store_text(row, 0));
	img->created_ms = (uint64_t)store_int(row, 1);
	if (list_insert(&l->m->images, l->m->images.count, img) < 0)
		l->ret = err_set(l->err, ENOMEM, "out of memory");
	return l->ret == 0;
}

static bool load_name(void *arg, struct store_row *row)
{
	struct loading *l = arg;
	struct image *img = by_id(l->m, store_text(row, 1));

	if (img && add_name(img, store_text(row, 0)) < 0)
		l->ret = err_set(l->err, ENOMEM, "out of memory");
	return l->ret == 0;
}

/* What is of no image: of jobs that were interrupted, or of a removal that was. */
static void remove_strays(struct manager *m)
{
	char path[DIR_SIZE + 16];
	struct dirent *e;
	DIR *dir;

	snprintf(path, sizeof(path), "%s/blobs", m->paths.data);
	dir = opendir(path);
	while (dir && (e = readdir(dir))) {
		struct image_part part = { 0 };

		snprintf(part.digest, sizeof(part.digest), "%.64s", e->d_name);
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..") && !part_is_used(m, &part))
			unlinkat(dirfd(dir), e->d_name, 0);
	}
	if (dir)
		closedir(dir);
}

int images_load(struct manager *m, struct err *err)
{
	struct loading l = { .m = m, .err = err };

	store_read(m->store, load_image, &l,
		   "SELECT id, created_ms, manifest FROM images ORDER BY id", "");
	if (l.ret == 0)
		store_read(m->store, load_name, &l,
			   "SELECT name, image FROM image_names ORDER BY name", "");
	if (l.ret == 0)
		remove_strays(m);
	return l.ret;
}

void image_drop_temporary(struct manager *m, const char *id)
{
	static const char *const ends[] = { "", "-initrd" };
	char path[PATH_SIZE];

	for (unsigned i = 0; i < ARRAY_SIZE(ends); i++) {
		snprintf(path, sizeof(path), "%s/blobs/.new-%s%s", m->paths.data, id, ends[i]);
		unlink(path);
	}
}

void images_free(struct manager *m)
{
	for (size_t i = 0; i < m->images.count; i++)
		free_image(m->images.items[i]);
	free(m->images.items);
}

static int set_name(struct manager *m, struct image *img, const char *name)
{
	unsigned at;
	struct image *old = by_name(m, name, &at);

	if (old == img)
		return 0;
	if (add_name(img, name) < 0)
		return -ENOMEM;
	if (old) {
		old->name_count--;
		memmove(old->names + at, old->names + at + 1,
			(old->name_count - at) * sizeof(*old->names));
	}
	store_write(m->store, "INSERT OR REPLACE INTO image_names VALUES (?, ?)", "tt", name,
		    img->id);
	return 0;
}

int image_take(struct manager *m, const char *manifest, const char *name, struct image **ret,
	       struct err *err)
{
	struct image *img = calloc(1, sizeof(*img)), *known;

	if (!img || parse(manifest, img) < 0) {
		free(img);
		return err_set(err, EINVAL, "image: its manifest is wrong");
	}
	for (unsigned k = 0; k < PART_KINDS; k++) {
		char path[PATH_SIZE];

		image_part_path(m, &img->parts[k], path);
		if (*img->parts[k].digest && access(path, R_OK) < 0) {
			free(img);
			return err_set(err, EIO, "image: '%s': %s", path, strerror(errno));
		}
	}
	digest_of(manifest, img->id);
	known = by_id(m, img->id);
	if (known) {
		free_image(img);
		img = known;
	} else {
		img->created_ms = time_now_ms();
		if (list_insert(&m->images, list_find(&m->images, compare_id, img->id), img) < 0) {
			free_image(img);
			return err_set(err, ENOMEM, "out of memory");
		}
		store_write(m->store, "INSERT INTO images VALUES (?, ?, ?)", "tit", img->id,
			    (int64_t)img->created_ms, manifest);
		event_emit(m, "image.created", NULL, name ? name : img->id, "{}");
	}
	if (name && set_name(m, img, name) < 0)
		return err_set(err, ENOMEM, "out of memory");
	*ret = img;
	return 0;
}

void image_remove(struct manager *m, struct image *img)
{
	char path[PATH_SIZE];

	store_write(m->store, "DELETE FROM image_names WHERE image = ?", "t", img->id);
	store_write(m->store, "DELETE FROM images WHERE id = ?", "t", img->id);
	event_emit(m, "image.deleted", NULL, img->name_count ? img->names[0] : img->id, "{}");
	list_remove(&m->images, list_find(&m->images, compare_id, img->id));
	/* what is in no manifest may go, and not before */
	if (store_commit(m->store) == 0)
		for (unsigned k = 0; k < PART_KINDS; k++)
			if (*img->parts[k].digest && !part_is_used(m, &img->parts[k])) {
				image_part_path(m, &img->parts[k], path);
				unlink(path);
			}
	free_image(img);
}

void image_text(const struct image *img, struct text *out)
{
	uint64_t size = 0;
	bool any = false;

	for (unsigned k = 0; k < PART_KINDS; k++)
		size += img->parts[k].size_bytes;
	text_printf(out, "{\"id\":\"%s\",\"names\":[", img->id);
	for (unsigned i = 0; i < img->name_count; i++)
		text_printf(out, "%s\"%s\"", i ? "," : "", img->names[i]);
	text_printf(out, "],\"created_at\":");
	text_time(out, img->created_ms);
	text_printf(out, ",\"size_bytes\":%llu,\"disk_bytes\":%llu,\"parts\":[",
		    (unsigned long long)size, (unsigned long long)img->disk_bytes);
	for (unsigned k = 0; k < PART_KINDS; k++) {
		if (!*img->parts[k].digest)
			continue;
		text_printf(out, "%s{\"kind\":\"%s\",\"digest\":\"%s\",\"size_bytes\":%llu}",
			    any ? "," : "", kinds[k], img->parts[k].digest,
			    (unsigned long long)img->parts[k].size_bytes);
		any = true;
	}
	text_printf(out, "],\"cmdline\":");
	text_string(out, img->cmdline, strlen(img->cmdline));
	text_printf(out, ",\"agent\":%s,\"used_by\":%u}", img->agent ? "true" : "false",
		    img->instances);
}
