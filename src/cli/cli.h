/* SPDX-License-Identifier: Apache-2.0 */
/* What the verbs of eyot share. One thread. */
#ifndef EYOT_CLI_CLI_H
#define EYOT_CLI_CLI_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/err.h"

/* Exit statuses; man/eyot.1 explains them. */
enum {
	CLI_DONE = 0,
	CLI_USAGE = 2,
	CLI_NOT_FOUND = 3,
	CLI_REFUSED = 4, /* by the daemon, or its job failed */
	CLI_TIMEOUT = 5,
	CLI_HOST = 8,	      /* no daemon, no connection, no memory */
	CLI_EXEC_ERROR = 125, /* of run, exec and shell, whose status is else the command's */
	CLI_INTERRUPTED = 130,
};

#define CLI_SOCKET_MAX 512

enum cli_format { FORMAT_TABLE, FORMAT_COMPACT, FORMAT_JSON, FORMAT_CSV, FORMAT_YAML };

struct http;

struct cli {
	enum cli_format format;
	bool quiet, dry_run, system;
	const char *project;	     /* "default" */
	const char *given_socket;    /* by option or environment; NULL: none */
	char socket[CLI_SOCKET_MAX]; /* "": not looked up yet */
	struct http *http;	     /* NULL: nothing was asked yet */
};

/* ---- the command line ---- */

/* What a word or an option's value names, for shell completion */
enum cli_complete {
	COMPLETE_NOTHING,
	COMPLETE_INSTANCE,
	COMPLETE_IMAGE,
	COMPLETE_NETWORK,
	COMPLETE_JOB,
	COMPLETE_FILE,
	COMPLETE_COPY, /* a file, or INSTANCE: */
};

struct cli_option {
	const char *name; /* without its hyphens */
	char letter;	  /* 0: none */
	const char *arg;  /* what its value is called; NULL: it takes none */
	const char *help;
	enum cli_complete complete;
	const char *choices; /* "a|b"; for completion */
};

#define CLI_GIVEN_MAX 256

/* What was given: options in their order, and words. Borrowed from argv. */
struct cli_args {
	struct {
		const struct cli_option *option;
		const char *value;
	} given[CLI_GIVEN_MAX];
	unsigned given_count;
	char **words;
	int count;
	int command; /* of verbs that take one: how many words stand before it; else @count */
};

struct cli_verb {
	const char *name;  /* "ls", "image ls" */
	const char *words; /* for people: "NAME..." */
	const char *summary;
	const char *about; /* more for --help, lines ended by \n; may be NULL */
	int (*run)(struct cli *cli, const struct cli_args *args, struct err *err);
	const struct cli_option *options; /* ended by an empty one; may be NULL */
	int min, max;			  /* number of words before a command; max -1: any */
	enum cli_complete complete;
	bool changes; /* takes --dry-run */
	bool command; /* words behind the first @max ones are a command of the guest's */
	bool status;  /* its exit status is the command's, failures are CLI_EXEC_ERROR */
};

/* All verbs, ended by an empty one; verbs.c */
extern const struct cli_verb cli_verbs[];
extern const struct cli_option cli_common_options[], cli_dry_run_options[];

/** cli_find_verb() - by the words at @argv; @ret_used: how many of them name it; NULL: there is
 * none */
const struct cli_verb *cli_find_verb(int argc, char **argv, int *ret_used);

/**
 * cli_parse() - options and words of a verb
 * @argv: behind the verb's name; its words are put in order
 * @ret_help: --help was among them, and nothing else was looked at
 * Return: 0; -EINVAL with a text.
 */
int cli_parse(struct cli *cli, const struct cli_verb *verb, int argc, char **argv,
	      struct cli_args *ret_args, bool *ret_help, struct err *err);

/** cli_take_common() - an option that all verbs have; 1: it is none of them; -EINVAL with a text */
int cli_take_common(struct cli *cli, const struct cli_option *option, const char *value,
		    struct err *err);

void cli_print_help(void);
void cli_print_group_help(const char *group); /* "image" */
bool cli_is_group(const char *word);
void cli_print_verb_help(const struct cli_verb *verb);

bool arg_has(const struct cli_args *args, const char *name);
/** arg_value() - the last value given for an option, or NULL */
const char *arg_value(const struct cli_args *args, const char *name);
/** arg_next() - values in their order; *@pos begins as 0; NULL: no more */
const char *arg_next(const struct cli_args *args, const char *name, unsigned *pos);
/** arg_number() - an option's number; @ret keeps its value when the option was not given */
int arg_number(const struct cli_args *args, const char *name, int64_t min, int64_t max,
	       int64_t *ret, struct err *err);

/** cli_usage() - an error of usage; -EINVAL */
int cli_usage(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/** cli_status() - the exit status of what a verb returned */
int cli_status(const struct cli_verb *verb, int ret);

/* ---- Ctrl-C ---- */

/**
 * signals_init() - SIGINT, SIGTERM and SIGHUP end what waits, by cli_interrupted()
 * A second SIGINT ends the program at once.
 */
int signals_init(struct err *err);
bool cli_interrupted(void);
void cli_forget_interrupt(void);
int signals_fd(void); /* readable once a signal has come; for poll(2) */
/** cli_sleep_ms() - or less, when a signal comes; 0 or -EINTR */
int cli_sleep_ms(unsigned ms);

/* ---- the daemon ---- */

/** daemon_socket() - where the daemon listens: fills @cli->socket */
int daemon_socket(struct cli *cli, struct err *err);

/**
 * daemon_reach() - make sure that somebody listens at the socket
 *
 * A user's own daemon is started when none runs. Any number of processes may do so at a time: the
 * lock on the daemon's folder decides, and the others wait for its socket.
 */
int daemon_reach(struct cli *cli, struct err *err);

#define URL_SIZE 2048

struct url {
	char text[URL_SIZE];
	size_t len; /* URL_SIZE: it did not fit */
	bool query;
};

void url_init(struct url *u, const char *path);
void url_add(struct url *u, const char *name); /* "/" and the name, escaped */
void url_append(struct url *u, const char *path);
void url_param(struct url *u, const char *key, const char *value);
void url_param_number(struct url *u, const char *key, int64_t value);

/** url_instance() - /v1/instances/NAME@action, of the chosen project */
void url_instance(const struct cli *cli, struct url *u, const char *name, const char *action);

/**
 * api_get() - read something; @ret: a new reference
 * Return: 0; -ENOENT, -EREMOTEIO: refused, with the daemon's words; -EINTR: Ctrl-C; other -errno:
 * no connection.
 */
int api_get(struct cli *cli, const struct url *u, json_t **ret, struct err *err);

/**
 * api_get_all() - all items of a list, page by page; @ret_items: a new array
 */
int api_get_all(struct cli *cli, const struct url *u, json_t **ret_items, struct err *err);

/** api_get_text() - text as it is; @ret to be freed; @ret_next: the next offset, may be NULL */
int api_get_text(struct cli *cli, const struct url *u, char **ret, size_t *ret_len,
		 uint64_t *ret_next, struct err *err);

/**
 * api_change() - change something, with --dry-run as it was given
 * @body: taken over; NULL: none
 * @ret: a new reference, NULL when the answer has no body
 *
 * The request has an idempotency key, so it is safe to repeat when the connection broke.
 */
int api_change(struct cli *cli, const char *method, const struct url *u, json_t *body, json_t **ret,
	       struct err *err);

/**
 * api_stream() - server-sent events until the stream ends
 * @on_event: a parsed event; nonzero ends it and is returned
 */
int api_stream(struct cli *cli, const struct url *u, int (*on_event)(void *arg, json_t *event),
	       void *arg, struct err *err);

void http_free(struct http *h);

/* ---- jobs ---- */

/**
 * job_wait() - until it has ended, with a progress bar on a terminal
 * @job: the answer to a change, taken over; a plan is printed
 * @title: for the bar
 * @ret_result: a new reference; NULL: there is none, or it was a dry run; may be NULL
 *
 * Ctrl-C cancels the job. Return: 0; -EINTR; otherwise as api_get().
 */
int job_wait(struct cli *cli, json_t *job, const char *title, json_t **ret_result, struct err *err);

/** job_run() - api_change() and job_wait() */
int job_run(struct cli *cli, const char *method, const struct url *u, json_t *body,
	    const char *title, json_t **ret_result, struct err *err);

/** progress_show() - one line on a terminal; @fraction < 0: it cannot be told */
void progress_show(const struct cli *cli, const char *title, double fraction, const char *message);
void progress_clear(void);

/* ---- output ---- */

enum column_kind {
	COLUMN_TEXT,
	COLUMN_BYTES,
	COLUMN_TIME,  /* for people: how long ago */
	COLUMN_ID,    /* for people: the first 12 characters */
	COLUMN_LIST,  /* texts, with commas */
	COLUMN_PORTS, /* of network cards */
};

struct column {
	const char *title;
	const char *path; /* "image.name" */
	enum column_kind kind;
};

/** out_list() - @columns are ended by an empty one; --quiet prints the first alone */
int out_list(const struct cli *cli, const struct column *columns, const json_t *items,
	     struct err *err);

/** out_object() - one thing with all its members */
int out_object(const struct cli *cli, const json_t *object, struct err *err);

/** out_results() - what a change made of instances and the like: a line each, or their JSON */
int out_results(const struct cli *cli, const json_t *items, struct err *err);

/** out_plan() - what a dry run said */
int out_plan(const struct cli *cli, const json_t *plan, struct err *err);

/** out_line() - an item of an endless list: a line of JSON, of values, or what @text says */
int out_line(const struct cli *cli, const json_t *item, const char *text, struct err *err);

/** out_yaml() - a YAML document on standard output */
int out_yaml(const json_t *value, struct err *err);

/** json_text() - the text at a path "a.b", or "" */
const char *json_text(const json_t *object, const char *path);
const json_t *json_at(const json_t *object, const char *path);

void text_clean(char *text); /* nothing in it moves the cursor */
const char *text_age(const char *time, char *buf, size_t size);
int64_t text_seconds(const char *time); /* RFC 3339 to seconds since 1970; -1 */

/* ---- instances ---- */

extern const struct cli_option create_options[], run_options[], set_options[];

/** spec_from_args() - the members that options ask for are put into @spec */
int spec_from_args(const struct cli_args *args, json_t *spec, struct err *err);

/** spec_forward() - "[ADDRESS:]HOST:GUEST[/udp]" to a new object */
int spec_forward(const char *text, json_t **ret, struct err *err);

/** image_ensure() - build a Debian image that is not there yet; @ret: the image, a new reference */
int image_ensure(struct cli *cli, const char *name, json_t **ret, struct err *err);

/** create_instance() - @spec is taken over; @ret: the instance, NULL for a dry run */
int create_instance(struct cli *cli, const char *image, json_t *spec, json_t **ret,
		    struct err *err);

int instance_get(struct cli *cli, const char *name, json_t **ret, struct err *err);

/** get_each() - get and print what the words name, below @path; NULL: instances */
int get_each(struct cli *cli, const struct cli_args *args, const char *path, struct err *err);

typedef int cli_run(struct cli *cli, const struct cli_args *args, struct err *err);

cli_run cmd_run, cmd_create, cmd_start, cmd_stop, cmd_restart, cmd_pause, cmd_resume, cmd_rm,
    cmd_ls, cmd_info, cmd_console, cmd_shell, cmd_exec, cmd_cp, cmd_logs, cmd_top, cmd_events,
    cmd_wait, cmd_rename, cmd_set, cmd_port_ls, cmd_port_add, cmd_port_rm, cmd_image_ls,
    cmd_image_info, cmd_image_build, cmd_image_import, cmd_image_rm, cmd_image_prune,
    cmd_network_ls, cmd_network_info, cmd_job_ls, cmd_job_info, cmd_job_cancel, cmd_project_ls,
    cmd_host_info, cmd_host_check, cmd_audit, cmd_version, cmd_completion;

/** completion_answer() - what could stand at the end of @argv, a line each; the exit status */
int completion_answer(struct cli *cli, int argc, char **argv);

#endif
