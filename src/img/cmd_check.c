/* SPDX-License-Identifier: Apache-2.0 */
/* eyot-img check [--repair leaks|all] [--json] FILE */
#include <getopt.h>
#include <jansson.h>
#include <stdio.h>

#include "base/util.h"
#include "disk/qcow2_check.h"
#include "img/img.h"

#define FINDINGS_MAX 200 /* shown; all are counted */

struct check_args {
	enum qcow2_repair repair;
	enum disk_format format;
	bool json;
	unsigned shown;
};

static int take(void *arg, int letter, const char *value, struct err *err)
{
	struct check_args *a = arg;

	if (letter == 'f')
		return img_format(value, &a->format, err);
	if (letter == 'j')
		a->json = true;
	else if (!strcmp(value, "leaks"))
		a->repair = QCOW2_REPAIR_LEAKS;
	else if (!strcmp(value, "all"))
		a->repair = QCOW2_REPAIR_ALL;
	else
		return img_usage(err, "repair '%s': neither leaks nor all", value);
	return 0;
}

static void show(void *arg, const char *text)
{
	struct check_args *a = arg;

	if (a->shown++ < FINDINGS_MAX)
		puts(text);
	else if (a->shown == FINDINGS_MAX + 1)
		puts("(more of them are only counted)");
}

static void print_json(const struct qcow2_check_result *r)
{
	json_t *o = json_pack(
	    "{s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "errors", (json_int_t)r->errors, "leaks",
	    (json_int_t)r->leaks, "errors_fixed", (json_int_t)r->errors_fixed, "leaks_fixed",
	    (json_int_t)r->leaks_fixed, "clusters", (json_int_t)r->clusters, "allocated",
	    (json_int_t)r->allocated, "compressed", (json_int_t)r->compressed);

	json_dumpf(o, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(o);
}

static void print_people(const struct qcow2_check_result *r)
{
	if (r->errors_fixed || r->leaks_fixed)
		printf("repaired: %llu errors, %llu leaked clusters\n",
		       (unsigned long long)r->errors_fixed, (unsigned long long)r->leaks_fixed);
	if (r->errors)
		printf("%llu errors: data may be lost\n", (unsigned long long)r->errors);
	if (r->leaks)
		printf("%llu leaked clusters: space is wasted, data is not in danger\n",
		       (unsigned long long)r->leaks);
	if (!r->errors && !r->leaks)
		puts("the image is consistent");
	printf("%llu of %llu clusters are allocated, %llu of them compressed\n",
	       (unsigned long long)r->allocated, (unsigned long long)r->clusters,
	       (unsigned long long)r->compressed);
}

int cmd_check(int argc, char **argv, struct err *err)
{
	static const struct option options[] = { { "repair", required_argument, NULL, 'r' },
						 { "format", required_argument, NULL, 'f' },
						 { "json", no_argument, NULL, 'j' },
						 { 0 } };
	struct qcow2_check_result result;
	struct check_args a = { 0 };
	struct qcow2_report report = { show, &a };
	enum disk_format format;
	struct file file;
	char what[300];
	int at, ret = img_options(argc, argv, "r:f:", options, take, &a, &at, err);

	if (ret < 0)
		return ret;
	if (argc - at != 1)
		return img_usage(err, "check: wants a file");
	ret = img_open_file(argv[at], a.repair != QCOW2_REPAIR_NONE, a.format, &file, &format, err);
	if (ret < 0)
		return ret;
	if (format != DISK_FORMAT_QCOW2) {
		close(file.fd);
		return err_set(err, ENOTSUP, "disk '%s': a raw image has nothing to check",
			       argv[at]);
	}
	snprintf(what, sizeof(what), "disk '%.280s'", argv[at]);
	ret = qcow2_check(&file, what, a.repair, a.json ? NULL : &report, &result, err);
	close(file.fd);
	if (ret < 0)
		return ret;
	if (a.json)
		print_json(&result);
	else
		print_people(&result);
	return result.errors ? IMG_NO : result.leaks ? IMG_LEAKS : IMG_GOOD;
}
