/* SPDX-License-Identifier: Apache-2.0 */
/*
 * usage: fuzz-NAME-replay [-m MUTATIONS] DIRECTORY
 *
 * Runs a fuzzer's target on every file of its corpus, then on MUTATIONS
 * variations of them made from a fixed seed: the same in every run, so that a
 * failure can be repeated. A corpus that is missing or empty is an error.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INPUT_MAX 8192
#define FILES_MAX 512

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct input {
	uint8_t *data;
	size_t size;
} inputs[FILES_MAX];
static unsigned input_count;

static uint32_t rng_state = 2463534242u;

static uint32_t rng(void)
{
	rng_state ^= rng_state << 13;
	rng_state ^= rng_state >> 17;
	rng_state ^= rng_state << 5;
	return rng_state;
}

static int read_input(const char *dir, const char *name)
{
	struct input *in = &inputs[input_count];
	char path[4096];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "rb");
	in->data = malloc(INPUT_MAX);
	if (!f || !in->data) {
		fprintf(stderr, "cannot read '%s'\n", path);
		if (f)
			fclose(f);
		return -1;
	}
	in->size = fread(in->data, 1, INPUT_MAX, f);
	fclose(f);
	input_count++;
	return 0;
}

static int read_corpus(const char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *e;
	int ret = 0;

	if (!d) {
		fprintf(stderr, "no corpus '%s'\n", dir);
		return -1;
	}
	while (!ret && (e = readdir(d)) && input_count < FILES_MAX)
		if (e->d_name[0] != '.')
			ret = read_input(dir, e->d_name);
	closedir(d);
	if (!ret && !input_count) {
		fprintf(stderr, "corpus '%s' is empty\n", dir);
		ret = -1;
	}
	return ret;
}

/* The target gets a block of exactly its size, so that a sanitizer sees a read beyond it. */
static void run(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size ? size : 1);

	if (!copy)
		abort();
	memcpy(copy, data, size);
	LLVMFuzzerTestOneInput(copy, size);
	free(copy);
}

/* Change some bytes, or splice two inputs together */
static size_t mutate(uint8_t *buf)
{
	static const uint8_t interesting[] = { 0, 1, 0x7f, 0x80, 0xfe, 0xff, 0x10, 0x40 };
	const struct input *a = &inputs[rng() % input_count], *b = &inputs[rng() % input_count];
	size_t size = a->size;
	unsigned changes = 1 + rng() % 16;

	memcpy(buf, a->data, size);
	if (rng() % 3 == 0 && b->size) {
		size_t at = size ? rng() % size : 0, from = rng() % b->size, len = b->size - from;

		if (len > INPUT_MAX - at)
			len = INPUT_MAX - at;
		memcpy(buf + at, b->data + from, len);
		size = at + len;
	}
	while (size && changes--) {
		uint8_t *p = &buf[rng() % size];

		switch (rng() % 3) {
		case 0:
			*p = (uint8_t)rng();
			break;
		case 1:
			*p ^= (uint8_t)(1u << rng() % 8);
			break;
		default:
			*p = interesting[rng() % sizeof(interesting)];
			break;
		}
	}
	return rng() % 8 ? size : size - (size ? rng() % size : 0);
}

int main(int argc, char **argv)
{
	static uint8_t buf[INPUT_MAX];
	unsigned long mutations = 0;

	if (argc == 4 && !strcmp(argv[1], "-m")) {
		mutations = strtoul(argv[2], NULL, 10);
		argv += 2;
	} else if (argc != 2) {
		fprintf(stderr, "usage: %s [-m MUTATIONS] DIRECTORY\n", argv[0]);
		return 2;
	}
	if (read_corpus(argv[1]))
		return 1;
	for (unsigned i = 0; i < input_count; i++)
		run(inputs[i].data, inputs[i].size);
	for (unsigned long i = 0; i < mutations; i++)
		run(buf, mutate(buf));
	printf("%u inputs, %lu mutations\n", input_count, mutations);
	for (unsigned i = 0; i < input_count; i++)
		free(inputs[i].data);
	return 0;
}
