/* SPDX-License-Identifier: Apache-2.0 */
/* vm/cpu_model: choices by name, what they mean on a host, and what saved state may need. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "vm/cpu_model.h"

#define XSAVE (1u << 26)
#define AVX (1u << 28)
#define AVX2 (1u << 5)

/* All that the third level has, and a few features more */
static struct cpu_id haswell(void)
{
	struct cpu_id id = { .vendor = { 'G', 'e', 'n', 'u', 'i', 'n', 'e', 'I', 'n', 't', 'e',
					 'l' },
			     .signature = 0x306c1,
			     .phys_bits = 46,
			     .max_leaf = 0x16,
			     .max_ext_leaf = 0x80000008,
			     .xstate_offset = { [2] = 576, [5] = 1088 } };

	memset(id.word, 0xff, sizeof(id.word));
	for (unsigned i = 0; i < CPU_WORDS; i++)
		id.word[i] &= cpu_word_features(i);
	id.word[CPU_7B] &= ~(1u << 16); /* avx512f, and so what needs it */
	return id;
}

static int choose(const char *text, const struct cpu_id *offered, struct cpu_id *ret, char *why)
{
	struct cpu_model m;
	struct err err = { "" };
	int code = cpu_model_parse(text, &m, &err);

	if (code == 0)
		code = cpu_model_apply(&m, offered, "this test", ret, &err);
	strcpy(why, err.text);
	return code;
}

static void refused(const char *text, const struct cpu_id *offered, int code, const char *word)
{
	struct cpu_id id;
	char why[1024];

	assert_int_equal(choose(text, offered, &id, why), code);
	if (!strstr(why, word))
		fail_msg("'%s' does not name '%s'", why, word);
}

static void test_names(void **state)
{
	struct cpu_id offered = haswell();

	refused("haswell", &offered, -EINVAL, "haswell");
	refused("", &offered, -EINVAL, "unknown model");
	refused("host,avx", &offered, -EINVAL, "'avx'");
	refused("host,+avx9", &offered, -EINVAL, "avx9");
	refused("host,-", &offered, -EINVAL, "'-'");
	refused("host,", &offered, -EINVAL, "''");
	/* Bits that are no features cannot be chosen by number. */
	refused("host,+cpuid-1.0-ecx-27", &offered, -EOPNOTSUPP, "cpuid-1.0-ecx-27");
	refused(
	    "host,+a,+a,+a,+a,+a,+a,+a,+a,+a,+a,+a,+a,+a,+a,+a,+a,+a,+a,+a,+a,+a,+a,+a,+a,+a,+a,"
	    "+a,+a,+a,+a,+a,+a,+a",
	    &offered, -EINVAL, "'a'");
	refused(
	    "host,+fpu,+fpu,+fpu,+fpu,+fpu,+fpu,+fpu,+fpu,+fpu,+fpu,+fpu,+fpu,+fpu,+fpu,+fpu,+fpu,"
	    "+fpu,+fpu,+fpu,+fpu,+fpu,+fpu,+fpu,+fpu,+fpu,+fpu,+fpu,+fpu,+fpu,+fpu,+fpu,+fpu,+fpu",
	    &offered, -EINVAL, "more than 32");
}

/* Each name leads back to its bit, so no two are alike. */
static void test_names_are_unique(void **state)
{
	char buf[32], text[48];

	for (unsigned w = 0; w < CPU_WORDS; w++) {
		for (unsigned b = 0; b < 32; b++) {
			struct cpu_model m;

			snprintf(text, sizeof(text), "host,-%s",
				 cpu_feature_name(w, b, buf, sizeof(buf)));
			assert_int_equal(cpu_model_parse(text, &m, NULL), 0);
			assert_int_equal(m.items[0].word, w);
			assert_int_equal(m.items[0].bit, b);
		}
	}
}

static void test_levels(void **state)
{
	struct cpu_id offered = haswell(), id, other;
	char why[1024];

	assert_int_equal(choose("x86-64-v3", &offered, &id, why), 0);
	assert_true(id.word[CPU_7B] & AVX2);
	assert_int_equal(id.phys_bits, 39);
	assert_int_equal(cpu_id_xcr0(&id), 7);
	refused("x86-64-v4", &offered, -EOPNOTSUPP, "avx512f");

	/* the best that is there */
	assert_int_equal(choose("portable", &offered, &other, why), 0);
	assert_memory_equal(&id, &other, sizeof(id));
	offered.word[CPU_7B] &= ~AVX2;
	refused("x86-64-v3", &offered, -EOPNOTSUPP, "avx2");
	assert_int_equal(choose("portable", &offered, &other, why), 0);
	assert_int_equal(choose("x86-64-v2", &offered, &id, why), 0);
	assert_memory_equal(&id, &other, sizeof(id));
	assert_int_equal(id.word[CPU_1C] & (XSAVE | AVX), 0);
	assert_int_equal(cpu_id_xcr0(&id), 1);

	/* the same from another host that has more */
	offered = haswell();
	offered.word[CPU_88B] = 0;
	assert_int_equal(choose("x86-64-v2", &offered, &other, why), 0);
	assert_memory_equal(&id, &other, sizeof(id));
}

static void test_items(void **state)
{
	struct cpu_id offered = haswell(), id;
	char why[1024];

	assert_int_equal(choose("host", &offered, &id, why), 0);
	assert_int_equal(id.phys_bits, 46);
	assert_int_equal(id.word[CPU_1C], offered.word[CPU_1C]);
	/* what the host itself shows without its base goes, too */
	assert_int_equal(id.word[CPU_7B] & 1u << 31, 0);
	assert_int_equal(choose("host,-xsave", &offered, &id, why), 0);
	assert_int_equal(id.word[CPU_1C] & (XSAVE | AVX), 0);
	assert_int_equal(id.word[CPU_7B] & AVX2, 0);
	assert_int_equal(id.word[CPU_D1A], 0);
	assert_int_equal(choose("x86-64-v2,+smap,+pcid", &offered, &id, why), 0);
	assert_true(id.word[CPU_7B] & 1u << 20);
	assert_true(id.word[CPU_1C] & 1u << 17);
	refused("x86-64-v2,+avx2", &offered, -EOPNOTSUPP, "avx2 needs avx");
	refused("x86-64-v2,+avx", &offered, -EOPNOTSUPP, "avx needs xsave");
	assert_int_equal(choose("x86-64-v2,+xsave,+avx,+avx2", &offered, &id, why), 0);
	assert_true(id.word[CPU_7B] & AVX2);
	offered.word[CPU_1C] &= ~(1u << 17);
	refused("x86-64-v2,+pcid", &offered, -EOPNOTSUPP, "pcid");
}

/* What AMD repeats in its own leaf follows the first place. */
static void test_amd_repeats(void **state)
{
	struct cpu_id offered = haswell(), id;
	char why[1024];

	memcpy(offered.vendor, "AuthenticAMD", 12);
	offered.max_ext_leaf = 0x80000021;
	assert_int_equal(choose("x86-64-v1", &offered, &id, why), 0);
	assert_int_equal(id.word[CPU_81D] & 0x0183f3ff, id.word[CPU_1D] & 0x0183f3ff);
	assert_true(id.word[CPU_81D] & 1);
	assert_int_equal(choose("x86-64-v1,-mmx", &offered, &id, why), 0);
	assert_int_equal(id.word[CPU_81D] & 1u << 23, 0);
}

static int check(const struct cpu_id *saved, const struct cpu_id *offered, const char *word)
{
	struct err err = { "" };
	int ret = cpu_id_check(saved, offered, "this test", &err);

	if (!strstr(err.text, word))
		fail_msg("'%s' does not name '%s'", err.text, word);
	return ret;
}

static void test_check(void **state)
{
	struct cpu_id saved = haswell(), offered = haswell();

	assert_int_equal(check(&saved, &offered, ""), 0);
	saved.word[CPU_7B] &= ~AVX2;
	assert_int_equal(check(&saved, &offered, ""), 0);
	offered.word[CPU_1C] &= ~(1u << 17);
	assert_int_equal(check(&saved, &offered, "pcid"), -EOPNOTSUPP);
	offered = haswell();
	offered.phys_bits = 39;
	assert_int_equal(check(&saved, &offered, "46 bits"), -EOPNOTSUPP);
	offered = haswell();
	offered.xstate_offset[2] = 640;
	assert_int_equal(check(&saved, &offered, "part 2"), -EOPNOTSUPP);
	memcpy(offered.vendor, "AuthenticAMD", 12);
	assert_int_equal(check(&saved, &offered, "AuthenticAMD"), -EOPNOTSUPP);
}

static int load(const struct cpu_id *id, size_t len, struct cpu_id *ret)
{
	struct snap_writer w;
	struct snap_reader r;
	struct err err = { "" };
	int code;

	snap_writer_init(&w);
	cpu_id_save(id, &w);
	snap_reader_init(&r, w.data, len ? len : w.len);
	code = cpu_id_load(ret, &r, &err);
	if (code == 0)
		assert_int_equal(r.pos, r.len);
	else
		assert_true(err.text[0]);
	snap_writer_done(&w);
	return code;
}

static void test_saved_form(void **state)
{
	struct cpu_id id = haswell(), got, bad;

	assert_int_equal(load(&id, 0, &got), 0);
	assert_memory_equal(&id, &got, sizeof(id));
	assert_int_equal(load(&id, 40, &got), -EBADMSG);
	bad = id;
	bad.word[CPU_1C] |= 1u << 27; /* OSXSAVE is a vCPU's state */
	assert_int_equal(load(&bad, 0, &got), -EBADMSG);
	bad = id;
	bad.phys_bits = 64;
	assert_int_equal(load(&bad, 0, &got), -EBADMSG);
	bad = id;
	bad.vendor[3] = '\n';
	assert_int_equal(load(&bad, 0, &got), -EBADMSG);
	bad = id;
	bad.max_ext_leaf = 0x40000000;
	assert_int_equal(load(&bad, 0, &got), -EBADMSG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names),	    cmocka_unit_test(test_names_are_unique),
		cmocka_unit_test(test_levels),	    cmocka_unit_test(test_items),
		cmocka_unit_test(test_amd_repeats), cmocka_unit_test(test_check),
		cmocka_unit_test(test_saved_form),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
