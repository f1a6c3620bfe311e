/* SPDX-License-Identifier: Apache-2.0 */
/*
 * 1. One writer, one connection: SQLITE_BUSY does not occur, as the folder is locked by the
 * process.
 * 2. synchronous=FULL: a commit is on the disk (SQLite, "PRAGMA synchronous").
 * 3. Statements are prepared once and found by the address of their text.
 * 4. Migrations are a list of scripts; PRAGMA user_version counts those that were run. Each runs in
 *    a transaction of its own, after the database was copied (VACUUM INTO) beside itself.
 */
#include "manager/store.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/util.h"

#define STATEMENTS_MAX 64

struct store {
	struct loop *loop;
	sqlite3 *db;
	bool in_transaction, commit_asked, failed;
	void (*on_failure)(void *arg, const char *text);
	void *arg;
	struct {
		const char *sql;
		sqlite3_stmt *stmt;
	} kept[STATEMENTS_MAX];
	unsigned kept_count;
};

static const char *const migrations[] = {
	/* 1 */
	"CREATE TABLE projects (name TEXT PRIMARY KEY, created_ms INTEGER NOT NULL) WITHOUT ROWID;"
	"CREATE TABLE images (id TEXT PRIMARY KEY, created_ms INTEGER NOT NULL, manifest TEXT NOT "
	"NULL) WITHOUT ROWID;"
	"CREATE TABLE image_names (name TEXT PRIMARY KEY, image TEXT NOT NULL REFERENCES "
	"images(id)) WITHOUT ROWID;"
	"CREATE TABLE instances (id TEXT PRIMARY KEY, project TEXT NOT NULL REFERENCES "
	"projects(name), name TEXT NOT NULL, image TEXT NOT NULL REFERENCES images(id), image_name "
	"TEXT NOT NULL, state TEXT NOT NULL, want_running INTEGER NOT NULL, asked_stop INTEGER NOT "
	"NULL, spec TEXT NOT NULL, created_ms INTEGER NOT NULL, changed_ms INTEGER NOT NULL, "
	"started_ms INTEGER NOT NULL, restarts INTEGER NOT NULL, restart_ms INTEGER NOT NULL, "
	"started_spec TEXT, last_exit TEXT, UNIQUE (project, name)) WITHOUT ROWID;"
	"CREATE INDEX instances_by_image ON instances(image);"
	"CREATE TABLE jobs (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, "
	"kind TEXT NOT NULL, target TEXT NOT NULL, state TEXT NOT NULL, text TEXT NOT NULL, "
	"created_ms INTEGER NOT NULL, ended_ms INTEGER NOT NULL);"
	"CREATE INDEX jobs_by_state ON jobs(state);"
	"CREATE TABLE events (number INTEGER PRIMARY KEY AUTOINCREMENT, instance TEXT, text TEXT "
	"NOT NULL);"
	"CREATE TABLE audit (number INTEGER PRIMARY KEY AUTOINCREMENT, at_ms INTEGER NOT NULL, uid "
	"INTEGER NOT NULL, pid INTEGER NOT NULL, request TEXT NOT NULL, target TEXT NOT NULL, "
	"status INTEGER NOT NULL, detail TEXT NOT NULL);"
	"CREATE TRIGGER audit_stays BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit "
	"log is append-only'); END;"
	"CREATE TRIGGER audit_is_fixed BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit "
	"log is append-only'); END;"
	"CREATE TABLE answers (uid INTEGER NOT NULL, key TEXT NOT NULL, request TEXT NOT NULL, "
	"at_ms INTEGER NOT NULL, status INTEGER NOT NULL, location TEXT, body TEXT NOT NULL, "
	"PRIMARY KEY (uid, key)) WITHOUT ROWID;"
	"INSERT INTO projects VALUES ('default', CAST(strftime('%s', 'now') AS INTEGER) * 1000);",
};

static void fail(struct store *s, const char *what)
{
	char text[400];

	if (s->failed)
		return;
	snprintf(text, sizeof(text), "store: %s: %s", what, sqlite3_errmsg(s->db));
	s->failed = true;
	s->on_failure(s->arg, text);
}

static bool run(struct store *s, const char *sql)
{
	return sqlite3_exec(s->db, sql, NULL, NULL, NULL) == SQLITE_OK;
}

static sqlite3_stmt *statement(struct store *s, const char *sql)
{
	sqlite3_stmt *stmt = NULL;

	for (unsigned i = 0; i < s->kept_count; i++)
		if (s->kept[i].sql == sql)
			return s->kept[i].stmt;
	if (s->kept_count == STATEMENTS_MAX ||
	    sqlite3_prepare_v3(s->db, sql, -1, SQLITE_PREPARE_PERSISTENT, &stmt, NULL) !=
		SQLITE_OK) {
		fail(s, sql);
		return NULL;
	}
	s->kept[s->kept_count].sql = sql;
	s->kept[s->kept_count++].stmt = stmt;
	return stmt;
}

static void bind(sqlite3_stmt *stmt, const char *types, va_list ap)
{
	for (int i = 0; types[i]; i++) {
		if (types[i] == 't')
			sqlite3_bind_text(stmt, i + 1, va_arg(ap, const char *), -1,
					  SQLITE_TRANSIENT);
		else
			sqlite3_bind_int64(stmt, i + 1, va_arg(ap, int64_t));
	}
}

static void commit_soon(void *arg)
{
	struct store *s = arg;

	s->commit_asked = false;
	store_commit(s);
}

int64_t store_write(struct store *s, const char *sql, const char *types, ...)
{
	sqlite3_stmt *stmt;
	va_list ap;

	if (s->failed)
		return 0;
	if (!s->in_transaction) {
		s->in_transaction = run(s, "BEGIN IMMEDIATE");
		if (!s->in_transaction) {
			fail(s, "begin");
			return 0;
		}
		if (!s->commit_asked)
			s->commit_asked = loop_call(s->loop, commit_soon, s) == 0;
	}
	stmt = statement(s, sql);
	if (!stmt)
		return 0;
	va_start(ap, types);
	bind(stmt, types, ap);
	va_end(ap);
	if (sqlite3_step(stmt) != SQLITE_DONE)
		fail(s, sql);
	sqlite3_reset(stmt);
	sqlite3_clear_bindings(stmt);
	return sqlite3_last_insert_rowid(s->db);
}

static void read_rows(struct store *s, bool (*fn)(void *arg, struct store_row *row), void *arg,
		      const char *sql, const char *types, va_list ap)
{
	sqlite3_stmt *stmt = statement(s, sql);
	int ret = SQLITE_DONE;

	if (!stmt)
		return;
	bind(stmt, types, ap);
	while ((ret = sqlite3_step(stmt)) == SQLITE_ROW)
		if (!fn(arg, (struct store_row *)stmt))
			break;
	if (ret != SQLITE_ROW && ret != SQLITE_DONE)
		fail(s, sql);
	sqlite3_reset(stmt);
	sqlite3_clear_bindings(stmt);
}

void store_read(struct store *s, bool (*fn)(void *arg, struct store_row *row), void *arg,
		const char *sql, const char *types, ...)
{
	va_list ap;

	va_start(ap, types);
	read_rows(s, fn, arg, sql, types, ap);
	va_end(ap);
}

static bool take_count(void *arg, struct store_row *row)
{
	*(int64_t *)arg = store_int(row, 0);
	return false;
}

int64_t store_count(struct store *s, const char *sql, const char *types, ...)
{
	int64_t count = 0;
	va_list ap;

	va_start(ap, types);
	read_rows(s, take_count, &count, sql, types, ap);
	va_end(ap);
	return count;
}

const char *store_text(struct store_row *row, int i)
{
	return (const char *)sqlite3_column_text((sqlite3_stmt *)row, i);
}

int64_t store_int(struct store_row *row, int i)
{
	return sqlite3_column_int64((sqlite3_stmt *)row, i);
}

int store_commit(struct store *s)
{
	if (s->failed)
		return -EIO;
	if (s->in_transaction) {
		if (!run(s, "COMMIT"))
			fail(s, "commit");
		s->in_transaction = false;
	}
	return s->failed ? -EIO : 0;
}

/* ---- opening ---- */

static int number(struct store *s, const char *sql)
{
	sqlite3_stmt *stmt = NULL;
	int n = -1;

	if (sqlite3_prepare_v2(s->db, sql, -1, &stmt, NULL) == SQLITE_OK &&
	    sqlite3_step(stmt) == SQLITE_ROW)
		n = sqlite3_column_int(stmt, 0);
	sqlite3_finalize(stmt);
	return n;
}

/*
 * Copies of the file and its log as they are, since SQLite may not be able to read them; the first
 * ones are kept.
 */
static void keep_damaged(const char *path)
{
	static const char *const parts[] = { "", "-wal" };
	char from[4200], to[4300];

	for (unsigned i = 0; i < ARRAY_SIZE(parts); i++) {
		int in, out = -1;
		char buf[65536];
		ssize_t n;

		snprintf(from, sizeof(from), "%s%s", path, parts[i]);
		snprintf(to, sizeof(to), "%s.damaged%s", path, parts[i]);
		in = open(from, O_RDONLY | O_CLOEXEC);
		if (in >= 0)
			out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		while (out >= 0 && (n = read(in, buf, sizeof(buf))) > 0)
			if (write(out, buf, (size_t)n) != n)
				break;
		if (in >= 0)
			close(in);
		if (out >= 0)
			close(out);
	}
}

static int check(struct store *s, const char *path, struct err *err)
{
	sqlite3_stmt *stmt = NULL;
	char verdict[200] = "cannot be read";

	if (sqlite3_prepare_v2(s->db, "PRAGMA quick_check(1)", -1, &stmt, NULL) == SQLITE_OK &&
	    sqlite3_step(stmt) == SQLITE_ROW)
		snprintf(verdict, sizeof(verdict), "%s",
			 (const char *)sqlite3_column_text(stmt, 0));
	else
		snprintf(verdict, sizeof(verdict), "%s", sqlite3_errmsg(s->db));
	sqlite3_finalize(stmt);
	if (!strcmp(verdict, "ok") && number(s, "PRAGMA user_version") >= 0)
		return 0;
	for (char *p = verdict; *p; p++)
		if (*p == '\n')
			*p = ' ';
	keep_damaged(path);
	return err_set(err, EUCLEAN,
		       "store '%s': damaged: %s; a copy of it was kept beside it, nothing was "
		       "changed",
		       path, verdict);
}

static int migrate(struct store *s, const char *path, struct err *err)
{
	int at = number(s, "PRAGMA user_version");
	char text[4400];

	if (at > (int)ARRAY_SIZE(migrations))
		return err_set(err, EPROTO,
			       "store '%s': of version %d, and this program knows up to %zu", path,
			       at, ARRAY_SIZE(migrations));
	if (at > 0 && at < (int)ARRAY_SIZE(migrations)) {
		snprintf(text, sizeof(text), "%s.version-%d", path, at);
		unlink(text);
		char *sql = sqlite3_mprintf("VACUUM INTO %Q", text);
		bool copied = sql && run(s, sql);

		sqlite3_free(sql);
		if (!copied)
			return err_set(err, EIO, "store '%s': no copy before its migration: %s",
				       path, sqlite3_errmsg(s->db));
	}
	for (; at < (int)ARRAY_SIZE(migrations); at++) {
		snprintf(text, sizeof(text), "PRAGMA user_version = %d; COMMIT", at + 1);
		if (!run(s, "BEGIN IMMEDIATE") || !run(s, migrations[at]) || !run(s, text))
			return err_set(err, EIO, "store '%s': migration %d: %s", path, at + 1,
				       sqlite3_errmsg(s->db));
	}
	return 0;
}

int store_open(struct loop *loop, const char *dir, void (*failed)(void *arg, const char *text),
	       void *arg, struct store **ret_store, struct err *err)
{
	struct store *s = calloc(1, sizeof(*s));
	char path[4096];
	int ret = 0;

	if (!s)
		return err_set(err, ENOMEM, "store: out of memory");
	s->loop = loop;
	s->on_failure = failed;
	s->arg = arg;
	snprintf(path, sizeof(path), "%s/eyot.db", dir);
	if (sqlite3_open_v2(path, &s->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL) !=
	    SQLITE_OK)
		ret = err_set(err, EIO, "store '%s': %s", path,
			      s->db ? sqlite3_errmsg(s->db) : "out of memory");
	if (ret == 0)
		ret = check(s, path, err);
	if (ret == 0 &&
	    (!run(s, "PRAGMA journal_mode = WAL") || !run(s, "PRAGMA synchronous = FULL") ||
	     !run(s, "PRAGMA foreign_keys = ON")))
		ret = err_set(err, EIO, "store '%s': %s", path, sqlite3_errmsg(s->db));
	if (ret == 0)
		ret = migrate(s, path, err);
	if (ret < 0) {
		s->failed = true;
		store_close(s);
		return ret;
	}
	*ret_store = s;
	return 0;
}

void store_close(struct store *s)
{
	if (!s)
		return;
	store_commit(s);
	for (unsigned i = 0; i < s->kept_count; i++)
		sqlite3_finalize(s->kept[i].stmt);
	sqlite3_close(s->db);
	free(s);
}
