/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The store: an SQLite database that one process has for itself. Loop thread.
 *
 * Writes of one turn of the event loop are one transaction: the first begins it, store_commit()
 * ends it, at the latest before the loop sleeps. Whoever lets something be seen outside (an answer,
 * a process) commits first. A store that could not write takes nothing more, and the program ends:
 * memory must not be ahead of the disk, and what is on the disk is whole.
 */
#ifndef EYOT_MANAGER_STORE_H
#define EYOT_MANAGER_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "loop/loop.h"

struct store;
struct store_row;

/**
 * store_open() - open the database in @dir, make or migrate it
 * @failed: called once when a write failed; what follows is not written
 *
 * Return: 0; -EUCLEAN: it is damaged, -EPROTO: it is of a newer version; other -errno.
 */
int store_open(struct loop *loop, const char *dir, void (*failed)(void *arg, const char *text),
	       void *arg, struct store **ret_store, struct err *err);
void store_close(struct store *store); /* commits; NULL is fine */

/**
 * store_write() - run a statement that changes something
 * @sql: a string constant: statements are kept by its address
 * @types: one letter for each parameter: 't' const char * (NULL: null), 'i' int64_t
 *
 * Return: the row ID of the last insertion.
 */
int64_t store_write(struct store *store, const char *sql, const char *types, ...);

/** store_read() - run a query; @fn gets each row, and ends it by returning false */
void store_read(struct store *store, bool (*fn)(void *arg, struct store_row *row), void *arg,
		const char *sql, const char *types, ...);

/** store_count() - the number that a query answers with; 0 when there is no row */
int64_t store_count(struct store *store, const char *sql, const char *types, ...);

/** store_text() - column @i of a row, borrowed until the next one; NULL: null */
const char *store_text(struct store_row *row, int i);
int64_t store_int(struct store_row *row, int i);

/** store_commit() - 0; -EIO: the store has failed */
int store_commit(struct store *store);

#endif
