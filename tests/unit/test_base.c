/* SPDX-License-Identifier: Apache-2.0 */
/* base: errors and saved state. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/err.h"
#include "base/log.h"
#include "base/snap.h"
#include "base/util.h"

static void test_err_texts(void **state)
{
	struct err err;
	char longer[600];

	assert_int_equal(err_set(&err, ENOENT, "disk '%s'", "a"), -ENOENT);
	assert_string_equal(err.text, "disk 'a'");
	assert_int_equal(err_prefix(&err, -EIO, "machine %d", 7), -EIO);
	assert_string_equal(err.text, "machine 7: disk 'a'");
	assert_int_equal(err_set(NULL, EINVAL, "nobody reads this"), -EINVAL);
	assert_int_equal(err_prefix(NULL, -EINVAL, "nor this"), -EINVAL);
	memset(longer, 'x', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = '\0';
	err_set(&err, EINVAL, "%s", longer);
	assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
	err_prefix(&err, -EINVAL, "%s", longer);
	assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
}

static void test_log_levels(void **state)
{
	enum log_level level = LOG_ERROR;

	assert_int_equal(log_level_parse("debug", &level), 0);
	assert_int_equal(level, LOG_DEBUG);
	assert_int_equal(log_level_parse("verbose", &level), -EINVAL);
	assert_int_equal(level, LOG_DEBUG);
}

static void test_snap_round_trip(void **state)
{
	struct snap_writer w;
	struct snap_reader r;
	struct err err;
	uint32_t version;
	uint8_t big[10000], back[10000];

	for (unsigned i = 0; i < sizeof(big); i++)
		big[i] = (uint8_t)(i * 7);
	snap_writer_init(&w);
	snap_begin(&w, "first", 3);
	snap_put_u8(&w, 0x12);
	snap_put_u16(&w, 0x3456);
	snap_put_u32(&w, 0x789abcde);
	snap_put_u64(&w, 0x1122334455667788);
	snap_put_bytes(&w, big, sizeof(big));
	snap_close(&w);
	snap_begin(&w, "empty", 1);
	snap_close(&w);
	assert_false(w.failed);

	snap_reader_init(&r, w.data, w.len);
	assert_int_equal(snap_open(&r, "first", 3, &version, &err), 0);
	assert_int_equal(version, 3);
	assert_int_equal(snap_get_u8(&r), 0x12);
	assert_int_equal(snap_get_u16(&r), 0x3456);
	assert_int_equal(snap_get_u32(&r), 0x789abcde);
	assert_true(snap_get_u64(&r) == 0x1122334455667788);
	snap_get_bytes(&r, back, sizeof(back));
	assert_memory_equal(back, big, sizeof(big));
	assert_int_equal(snap_end(&r, &err), 0);
	assert_int_equal(snap_open(&r, "empty", 1, &version, &err), 0);
	assert_int_equal(snap_end(&r, &err), 0);
	assert_int_equal(snap_open(&r, "more", 1, &version, &err), -EBADMSG);
	snap_writer_done(&w);
}

static void test_snap_misuse(void **state)
{
	struct snap_writer w;

	snap_writer_init(&w);
	snap_begin(&w, "a", 1);
	snap_begin(&w, "b", 1); /* sections do not nest */
	assert_true(w.failed);
	snap_writer_done(&w);
	snap_writer_init(&w);
	snap_close(&w);
	assert_true(w.failed);
	snap_writer_done(&w);
}

static void test_snap_refuses(void **state)
{
	struct snap_writer w;
	struct snap_reader r;
	struct err err;
	uint32_t version;

	snap_writer_init(&w);
	snap_begin(&w, "dev", 2);
	snap_put_u32(&w, 1);
	snap_close(&w);

	snap_reader_init(&r, w.data, w.len);
	assert_int_equal(snap_open(&r, "other", 2, &version, &err), -EBADMSG);
	assert_int_equal(snap_open(&r, "dev", 2, &version, &err),
			 -EBADMSG); /* once bad, always bad */
	snap_reader_init(&r, w.data, w.len);
	assert_int_equal(snap_open(&r, "dev", 1, &version, &err), -EBADMSG);
	assert_non_null(strstr(err.text, "newer"));

	/* Reading past the end of a section gives zeros and is told at its end. */
	snap_reader_init(&r, w.data, w.len);
	assert_int_equal(snap_open(&r, "dev", 2, &version, &err), 0);
	assert_true(snap_get_u64(&r) == 0);
	assert_int_equal(snap_get_u8(&r), 0);
	assert_int_equal(snap_end(&r, &err), -EBADMSG);
	/* So is stopping short of it. */
	snap_reader_init(&r, w.data, w.len);
	assert_int_equal(snap_open(&r, "dev", 2, &version, &err), 0);
	assert_int_equal(snap_get_u16(&r), 1);
	assert_int_equal(snap_end(&r, &err), -EBADMSG);

	/* Every truncation is noticed. */
	for (size_t len = 0; len < w.len; len++) {
		snap_reader_init(&r, w.data, len);
		assert_int_equal(snap_open(&r, "dev", 2, &version, &err), -EBADMSG);
	}
	snap_writer_done(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_err_texts),	cmocka_unit_test(test_log_levels),
		cmocka_unit_test(test_snap_round_trip), cmocka_unit_test(test_snap_misuse),
		cmocka_unit_test(test_snap_refuses),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
