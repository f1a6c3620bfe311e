/* SPDX-License-Identifier: Apache-2.0 */
/* Small things every folder uses: sizes, alignment, access in both byte orders, cleanup. */
#ifndef EYOT_BASE_UTIL_H
#define EYOT_BASE_UTIL_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

#define KIB(n) ((uint64_t)(n) << 10)
#define MIB(n) ((uint64_t)(n) << 20)
#define GIB(n) ((uint64_t)(n) << 30)

#define PAGE_SHIFT 12
#define PAGE_SIZE 4096u

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline uint64_t max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/** align_up() - round @v up to a multiple of @align, a power of two */
static inline uint64_t align_up(uint64_t v, uint64_t align)
{
	return (v + align - 1) & ~(align - 1);
}

/** align_down() - round @v down to a multiple of @align, a power of two */
static inline uint64_t align_down(uint64_t v, uint64_t align)
{
	return v & ~(align - 1);
}

/* Little-endian, unaligned access; x86-64 hosts only, so a plain copy does. */
#define DEFINE_LE(bits)                                                                            \
	static inline uint##bits##_t get_le##bits(const void *p)                                   \
	{                                                                                          \
		uint##bits##_t v;                                                                  \
		__builtin_memcpy(&v, p, sizeof(v));                                                \
		return v;                                                                          \
	}                                                                                          \
	static inline void put_le##bits(void *p, uint##bits##_t v)                                 \
	{                                                                                          \
		__builtin_memcpy(p, &v, sizeof(v));                                                \
	}
DEFINE_LE(16)
DEFINE_LE(32)
DEFINE_LE(64)
#undef DEFINE_LE

/* Big-endian, unaligned access. */
#define DEFINE_BE(bits)                                                                            \
	static inline uint##bits##_t get_be##bits(const void *p)                                   \
	{                                                                                          \
		return __builtin_bswap##bits(get_le##bits(p));                                     \
	}                                                                                          \
	static inline void put_be##bits(void *p, uint##bits##_t v)                                 \
	{                                                                                          \
		put_le##bits(p, __builtin_bswap##bits(v));                                         \
	}
DEFINE_BE(16)
DEFINE_BE(32)
DEFINE_BE(64)
#undef DEFINE_BE

static inline void cleanup_free(void *p)
{
	free(*(void **)p);
}

static inline void cleanup_close(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

#define _cleanup_free_ __attribute__((cleanup(cleanup_free)))
#define _cleanup_close_ __attribute__((cleanup(cleanup_close)))

#endif
