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
		bool usable = accel_list[i]->probe(&p, PROBE_FIGURES_MS, NULL) == 0;

		if (usable && !*ret_chosen)
			*ret_chosen = accel_list[i]->name;
		json_array_append_new(
		    list, json_pack("{s:s, s:b, s:s, s:s, s:o, s:o, s:o, s:f, s:f}", "name",
				    accel_list[i]->name, "usable", usable, "verdict", p.verdict,
				    "reason", p.reason, "ring0_mips", positive(p.ring0_mips),
				    "native_mips", positive(p.native_mips), "exit_ns",
				    p.exit_ns ? json_integer((json_int_t)p.exit_ns) : json_null(),
				    "probe_ms", p.took_us / 1000.0, "probe_waited_ms",
				    p.waited_us / 1000.0));
	}
	return list;
}

/* ---- what guests' CPUs can be ---- */

static json_t *features(const uint32_t word[CPU_WORDS])
{
	json_t *list = json_array();
	char buf[32];

	for (unsigned w = 0; w < CPU_WORDS; w++)
		for (unsigned b = 0; b < 32; b++)
			if (word[w] >> b & 1)
				json_array_append_new(
				    list, json_string(cpu_feature_name(w, b, buf, sizeof(buf))));
	return list;
}

/* What the model at @index shows, or what it lacks. */
static json_t *model(unsigned index, const struct cpu_id *offered, const char *where)
{
	struct cpu_model m = { .base = index };
	uint32_t lacks[CPU_WORDS];
	struct cpu_id id;

	if (cpu_model_apply(&m, offered, where, &id, NULL) == 0)
		return json_pack("{s:b, s:o}", "usable", 1, "features", features(id.word));
	cpu_model_lacks(index, offered, lacks);
	return json_pack("{s:b, s:o}", "usable", 0, "lacks", features(lacks));
}

/* By accelerator and model; an accelerator that is of no use here is left out. */
static json_t *cpu_models(json_t *accels)
{
	json_t *all = json_object();

	for (unsigned i = 0; accel_list[i]; i++) {
		json_t *models = json_object();
		struct cpu_id offered;
		const char *name;

		if (!json_is_true(json_object_get(json_array_get(accels, i), "usable")) ||
		    accel_list[i]->cpu_offer(NULL, &offered, NULL) < 0) {
			json_decref(models);
			continue;
		}
		for (unsigned k = 0; (name = cpu_model_name(k)); k++)
			json_object_set_new(models, name, model(k, &offered, accel_list[i]->name));
		json_object_set_new(all, accel_list[i]->name, models);
	}
	return all;
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

static void print_models(FILE *out, json_t *models)
{
	const char *accel, *name;
	json_t *list, *item;

	json_object_foreach(models, accel, list)
	{
		fprintf(out, "--cpu on %-11s", accel);
		json_object_foreach(list, name, item)
		{
			if (json_is_true(json_object_get(item, "usable")))
				fprintf(out, " %s", name);
		}
		fputc('\n', out);
	}
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
	print_models(out, json_object_get(root, "cpu_models"));
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
	json_t *root = json_pack("{s:s, s:o, s:o, s:o}", "version", EYOT_VERSION, "accelerators",
				 list, "cpu_models", cpu_models(list), "chosen",
				 chosen ? json_string(chosen) : json_null());

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
