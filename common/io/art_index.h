/*
 * art_index.h - the optional last frame: where each data frame starts (private to common/io)
 *
 * An LZ4 skippable frame: entries of two u64 (file offset, number of the first record in it), then a 32-byte footer
 * {u64 entries, u64 XXH3-64 of the entry bytes, u64 size of the whole skippable frame, "adzeindx"}.  All little-endian.
 * The footer is last so that a seekable file is indexed from its end.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ADZE_ART_INDEX_H
#define ADZE_ART_INDEX_H
#include <stdint.h>

#define LZ4_MAGIC 0x184D2204u
#define SKIP_MAGIC 0x184D2A50u      /* ..5F */
#define INDEX_MAGIC "adzeindx"
#define INDEX_FOOTER 32
#define INDEX_MAX ((uint64_t)256 << 20)

struct art_entry {
	uint64_t offset, record;
};

static inline void put_le(uint8_t *p, uint64_t v, int n)
{
	for (int i = 0; i < n; i++)
		p[i] = (uint8_t)(v >> (8 * i));
}

static inline uint64_t get_le(const uint8_t *p, int n)
{
	uint64_t v = 0;
	for (int i = n; i-- > 0;)
		v = v << 8 | p[i];
	return v;
}
#endif
