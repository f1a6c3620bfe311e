/* SPDX-License-Identifier: Apache-2.0 */
/* Everything goes into one JSON object; people get lines made from it. */
#include "monitor/probe.h"

#include <string.h>

#include "accel/accel.h"
#include "version.h"

/* ---- accelerators ---- */

static json_t *positive(double v)
{
	return v > 0 ? json_real(v) : json_null();
}

static json_t *accelerators(const char **ret_chosen)
{
	json_t *list = json_array();

	*ret_chosen = NULL;
	for (unsigned i = 0; accel_list[i]; i++) {
		struct accel_probe p = { 0 };
		bool usable = accel_list[i]->probe(&p, PROBE_ASKED_MS, NULL) == 0;

		if (usable && !*ret_chosen)
			*ret_chosen = accel_list[i]->name;
		json_array_append_new(
		    list, json_pack("{s:s, s:b, s:s, s:s, s:o, s:o, s:o}", "name",
				    accel_list[i]->name, "usable", usable, "verdict", p.verdict,
				    "reason", p.reason, "ring0_mips", positive(p.ring0_mips),
				    "native_mips", positive(p.native_mips), "exit_ns",
				    p.exit_ns ? json_integer((json_int_t)p.exit_ns) : json_null()));
	}
	return list;
}

/* ---- for people ---- */

static const char *text_of(json_t *obj, const char *key)
{
	const char *s = json_string_value(json_object_get(obj, key));

	return s ? s : "none";
}

static const char *yes_no(json_t *obj, const char *key)
{
	json_t *v = json_object_get(obj, key);

	return json_is_null(v) ? "unknown" : json_is_true(v) ? "yes" : "no";
}

static void print_text(FILE *out, json_t *root)
{
	json_t *cpu_obj = json_object_get(root, "cpu"), *item;
	json_t *nested_obj = json_object_get(root, "nested");
	json_t *pages = json_object_get(root, "huge_pages");
	size_t i;

	json_array_foreach(json_object_get(root, "accelerators"), i, item)
	{
		fprintf(out, "accelerator %-8s %s: %s\n", text_of(item, "name"),
			text_of(item, "verdict"), text_of(item, "reason"));
	}
	fprintf(out, "auto takes           %s\n", text_of(root, "chosen"));
	fprintf(out, "processor            %lld x %s\n",
		(long long)json_integer_value(json_object_get(cpu_obj, "count")),
		text_of(cpu_obj, "model"));
	fprintf(out, "features            ");
	json_array_foreach(json_object_get(cpu_obj, "features"), i, item)
	{
		fprintf(out, " %s", json_string_value(item));
	}
	fprintf(out, "\nprotection keys      %s\n", yes_no(cpu_obj, "pku"));
	fprintf(out, "host is a guest of   %s\n", text_of(nested_obj, "host_is_guest_of"));
	fprintf(out, "KVM offers nesting   %s\n", yes_no(nested_obj, "kvm_offers_nested"));
	fprintf(out, "huge pages           transparent %s, in shared memory %s, reserved %lld\n",
		text_of(pages, "transparent"), text_of(pages, "shared_memory"),
		(long long)json_integer_value(json_object_get(pages, "reserved_2m")));
	fprintf(out, "cgroups              version %lld\n",
		(long long)json_integer_value(json_object_get(root, "cgroup")));
	fprintf(out, "user namespaces      %s\n", yes_no(root, "user_namespaces"));
	fprintf(out, "/dev/net/tun         %s\n", text_of(root, "tun"));
	fprintf(out, "io_uring             %s\n", yes_no(root, "io_uring"));
}

int probe_host(FILE *out, bool json, struct err *err)
{
	const char *chosen;
	json_t *list = accelerators(&chosen);
	json_t *root = json_pack("{s:s, s:o, s:o}", "version", EYOT_VERSION, "accelerators", list,
				 "chosen", chosen ? json_string(chosen) : json_null());

	if (!root || probe_os(root) < 0) {
		json_decref(root);
		return err_set(err, ENOMEM, "probe: out of memory");
	}
	if (json) {
		json_dumpf(root, out, JSON_INDENT(2));
		fputc('\n', out);
	} else {
		print_text(out, root);
	}
	json_decref(root);
	return fflush(out) == 0 ? 0 : err_set(err, errno, "probe: output: %s", strerror(errno));
}
