/* SPDX-License-Identifier: Apache-2.0 */
#include "base/util.h"
#include "manager/manager.h"

size_t list_find(const struct list *list, int (*cmp)(const void *item, const void *key),
		 const void *key)
{
	size_t low = 0, high = list->count;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (cmp(list->items[mid], key) < 0)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

int list_insert(struct list *list, size_t at, void *item)
{
	if (list->count == list->cap) {
		size_t cap = list->cap ? 2 * list->cap : 64;
		void **items = realloc(list->items, cap * sizeof(*items));

		if (!items)
			return -ENOMEM;
		list->items = items;
		list->cap = cap;
	}
	memmove(list->items + at + 1, list->items + at, (list->count - at) * sizeof(void *));
	list->items[at] = item;
	list->count++;
	return 0;
}

void list_remove(struct list *list, size_t at)
{
	list->count--;
	memmove(list->items + at, list->items + at + 1, (list->count - at) * sizeof(void *));
}
