/* SPDX-License-Identifier: Apache-2.0 */
#include "hw/genid.h"

#include <ctype.h>
#include <sys/random.h>

#include "base/util.h"

#define SNAP_NAME "genid"
#define SNAP_VERSION 1

struct genid {
	const struct guest_mem *mem;
	uint64_t gpa;
	struct pm *pm;
	bool is_fixed;
	uint8_t id[GENID_LEN];
};

int genid_parse(const char *text, uint8_t *ret_id)
{
	/* The first three fields are numbers, least byte first. */
	static const uint8_t place[GENID_LEN] = { 3, 2, 1,  0,	5,  4,	7,  6,
						  8, 9, 10, 11, 12, 13, 14, 15 };
	static const char digits[] = "0123456789abcdef";
	uint8_t id[GENID_LEN] = { 0 };
	bool braces = *text == '{';
	unsigned n = 0;

	text += braces;
	for (; n < 2 * GENID_LEN; text++) {
		const char *d = *text ? strchr(digits, tolower((unsigned char)*text)) : NULL;

		if (*text == '-' && (n == 8 || n == 12 || n == 16 || n == 20) && text[-1] != '-')
			continue;
		if (!d || ((n == 8 || n == 12 || n == 16 || n == 20) && text[-1] != '-'))
			return -EINVAL;
		id[place[n / 2]] |= (uint8_t)((d - digits) << (n % 2 ? 0 : 4));
		n++;
	}
	if (strcmp(text, braces ? "}" : ""))
		return -EINVAL;
	memcpy(ret_id, id, GENID_LEN);
	return 0;
}

static int renew(struct genid *g, struct err *err)
{
	if (g->is_fixed)
		return 0;
	/* sandbox: loop vcpu: getrandom */
	if (getrandom(g->id, GENID_LEN, 0) != GENID_LEN)
		return err_set(err, EIO, "generation ID: no random numbers");
	return 0;
}

int genid_new(const struct guest_mem *mem, uint64_t gpa, struct pm *pm, const uint8_t *fixed,
	      struct genid **ret_genid, struct err *err)
{
	struct genid *g = calloc(1, sizeof(*g));
	int ret;

	if (!g)
		return err_set(err, ENOMEM, "generation ID: out of memory");
	*g = (struct genid) { .mem = mem, .gpa = gpa, .pm = pm, .is_fixed = fixed };
	if (fixed)
		memcpy(g->id, fixed, GENID_LEN);
	ret = renew(g, err);
	if (ret < 0)
		free(g);
	else
		*ret_genid = g;
	return ret;
}

void genid_free(struct genid *g)
{
	free(g);
}

void genid_store(struct genid *g)
{
	uint8_t *at = guest_mem_ptr(g->mem, g->gpa, GENID_LEN);

	if (!at)
		return; /* so little RAM that there are no ACPI tables either */
	memcpy(at, g->id, GENID_LEN);
	guest_mem_note_write(g->mem, g->gpa, GENID_LEN);
}

void genid_save(struct genid *g, struct snap_writer *w)
{
	snap_begin(w, SNAP_NAME, SNAP_VERSION);
	snap_put_bytes(w, g->id, GENID_LEN);
	snap_close(w);
}

int genid_load(struct genid *g, struct snap_reader *r, struct err *err)
{
	uint8_t saved[GENID_LEN];
	uint32_t version;
	int ret = snap_open(r, SNAP_NAME, SNAP_VERSION, &version, err);

	if (ret < 0)
		return ret;
	snap_get_bytes(r, saved, GENID_LEN);
	ret = snap_end(r, err);
	if (ret == 0)
		ret = renew(g, err);
	if (ret < 0)
		return ret;
	genid_store(g);
	if (memcmp(saved, g->id, GENID_LEN))
		pm_gpe_raise(g->pm, PM_GPE_GENID);
	return 0;
}
