/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reports for people and case files for later runs. A case file is text, a
 * line a field: the name and hexadecimal numbers; what is not named is zero
 * (x87 control word 37f, mxcsr 1f80, flags 202). '#' begins a comment.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "oracle.h"

static const char *const gpr_names[16] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
					   "r8",  "r9",	 "r10", "r11", "r12", "r13", "r14", "r15" };

static void write_bytes(FILE *f, const char *name, int index, const uint8_t *p, unsigned n)
{
	bool any = false;

	for (unsigned i = 0; i < n; i++)
		any |= p[i];
	if (!any)
		return;
	fprintf(f, "%s", name);
	if (index >= 0)
		fprintf(f, "%d", index);
	for (unsigned i = 0; i < n; i++)
		fprintf(f, " %02x", p[i]);
	fputc('\n', f);
}

static void write_number(FILE *f, const char *name, uint64_t v, uint64_t usual)
{
	if (v != usual)
		fprintf(f, "%s %" PRIx64 "\n", name, v);
}

static void write_fields(const struct oracle_case *c, FILE *f)
{
	const struct oracle_state *s = &c->in;
	uint32_t mxcsr;

	fprintf(f, "mode %s\n", c->mode == ORACLE_64 ? "64" : "32");
	write_bytes(f, "code", -1, c->code, c->code_len);
	fprintf(f, "rip %" PRIx64 "\n", s->rip);
	for (unsigned i = 0; i < 16; i++)
		write_number(f, gpr_names[i], s->gpr[i], 0);
	write_number(f, "rflags", s->rflags, 0x202);
	write_number(f, "fs_base", s->fs_base, 0);
	write_number(f, "gs_base", s->gs_base, 0);
	write_number(f, "fcw", s->xsave[0] | s->xsave[1] << 8, 0x37f);
	write_number(f, "fsw", s->xsave[2] | s->xsave[3] << 8, 0);
	write_number(f, "ftw", s->xsave[4], 0);
	memcpy(&mxcsr, s->xsave + XS_MXCSR, 4);
	write_number(f, "mxcsr", mxcsr, 0x1f80);
	for (int i = 0; i < 8; i++)
		write_bytes(f, "st", i, s->xsave + XS_ST + i * 16, 10);
	for (int i = 0; i < 16; i++)
		write_bytes(f, "xmm", i, s->xsave + XS_XMM + i * 16, 16);
	for (int i = 0; i < 16; i++)
		write_bytes(f, "ymmh", i, s->xsave + XS_YMMH + i * 16, 16);
	write_number(f, "data_seed", c->data_seed, 0);
}

int case_write(const struct oracle_case *c, const char *path, const char *comment)
{
	FILE *f = fopen(path, "w");

	if (!f)
		return -errno;
	if (comment)
		fprintf(f, "# %s\n", comment);
	write_fields(c, f);
	return fclose(f) ? -errno : 0;
}

static unsigned read_bytes(const char *p, uint8_t *to, unsigned max)
{
	unsigned n = 0;
	int used, v;

	while (n < max && sscanf(p, "%x%n", (unsigned *)&v, &used) == 1) {
		to[n++] = v;
		p += used;
	}
	return n;
}

static int indexed(const char *name, const char *prefix, int max)
{
	size_t n = strlen(prefix);
	char *end;
	long i;

	if (strncmp(name, prefix, n) || !name[n])
		return -1;
	i = strtol(name + n, &end, 10);
	return *end || i < 0 || i >= max ? -1 : (int)i;
}

static int read_field(struct oracle_case *c, const char *name, const char *rest)
{
	struct oracle_state *s = &c->in;
	uint64_t v = strtoull(rest, NULL, 16);
	uint32_t v32 = v;
	int i;

	for (i = 0; i < 16; i++) {
		if (!strcmp(name, gpr_names[i])) {
			s->gpr[i] = v;
			return 0;
		}
	}
	if (!strcmp(name, "mode"))
		c->mode = v == 0x32 ? ORACLE_32 : ORACLE_64;
	else if (!strcmp(name, "code"))
		c->code_len = read_bytes(rest, c->code, ORACLE_CODE_MAX);
	else if (!strcmp(name, "rip"))
		s->rip = v;
	else if (!strcmp(name, "rflags"))
		s->rflags = v;
	else if (!strcmp(name, "fs_base"))
		s->fs_base = v;
	else if (!strcmp(name, "gs_base"))
		s->gs_base = v;
	else if (!strcmp(name, "fcw"))
		memcpy(s->xsave + XS_FCW, &v32, 2);
	else if (!strcmp(name, "fsw"))
		memcpy(s->xsave + XS_FSW, &v32, 2);
	else if (!strcmp(name, "ftw"))
		s->xsave[XS_FTW] = v32;
	else if (!strcmp(name, "mxcsr"))
		memcpy(s->xsave + XS_MXCSR, &v32, 4);
	else if (!strcmp(name, "data_seed"))
		c->data_seed = v;
	else if ((i = indexed(name, "st", 8)) >= 0)
		read_bytes(rest, s->xsave + XS_ST + i * 16, 10);
	else if ((i = indexed(name, "xmm", 16)) >= 0)
		read_bytes(rest, s->xsave + XS_XMM + i * 16, 16);
	else if ((i = indexed(name, "ymmh", 16)) >= 0)
		read_bytes(rest, s->xsave + XS_YMMH + i * 16, 16);
	else
		return -EINVAL;
	return 0;
}

int case_read(struct oracle_case *c, const char *path)
{
	FILE *f = fopen(path, "r");
	char line[1024], name[32];
	unsigned number = 0;
	int used, ret = 0;

	memset(c, 0, sizeof(*c));
	if (!f) {
		fprintf(stderr, "eyot-oracle: case '%s': %s\n", path, strerror(errno));
		return -errno;
	}
	c->in.rflags = 0x202;
	c->in.xsave[XS_FCW] = 0x7f;
	c->in.xsave[XS_FCW + 1] = 0x03;
	c->in.xsave[XS_MXCSR] = 0x80;
	c->in.xsave[XS_MXCSR + 1] = 0x1f;
	c->in.xsave[XS_BV] = 7;
	while (fgets(line, sizeof(line), f)) {
		number++;
		if (line[0] == '#' || sscanf(line, "%31s%n", name, &used) != 1)
			continue;
		ret = read_field(c, name, line + used);
		if (ret < 0) {
			fprintf(stderr, "eyot-oracle: case '%s': line %u: unknown field '%s'\n",
				path, number, name);
			break;
		}
	}
	fclose(f);
	if (!ret && (!c->code_len || c->in.rip < CODE_BASE || c->in.rip >= CODE_BASE + 2 * PAGE)) {
		fprintf(stderr,
			"eyot-oracle: case '%s': no code, or rip outside of the code pages\n",
			path);
		ret = -EINVAL;
	}
	if (ret < 0)
		return ret;
	c->in.ss = SEL_USER_DS;
	c->in.cs = c->mode == ORACLE_64 ? SEL_USER64_CS : SEL_USER32_CS;
	if (c->mode == ORACLE_32)
		c->in.ds = c->in.es = c->in.fs = c->in.gs = SEL_USER_DS;
	gen_describe(c);
	return 0;
}

static void print_end(const char *who, const struct oracle_result *r, FILE *out)
{
	if (r->status == RES_OK)
		fprintf(out,
			"  %s ended: vector %u, error %#x, cr2 %#" PRIx64 ", rip %#" PRIx64
			", pages changed %#x\n",
			who, r->vector, r->error, r->cr2, r->out.rip, r->changed);
	else
		fprintf(out, "  %s ended: status %u %s\n", who, r->status, r->text);
}

void report_mismatch(const struct oracle_case *c, const struct oracle_result *native,
		     const struct oracle_result *guest, FILE *out)
{
	unsigned kinds;

	fprintf(out, "mismatch: %s (case %" PRIu64 ")\n", c->name, c->number);
	gen_disasm(c, out);
	oracle_compare(c, native, guest, out, &kinds);
	print_end("native", native, out);
	print_end("guest", guest, out);
	fputs("  case:\n", out);
	write_fields(c, out);
	fputc('\n', out);
}
