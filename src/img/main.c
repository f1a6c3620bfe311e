/* SPDX-License-Identifier: Apache-2.0 */
/* eyot-img: work on disk images. Finds the verb, and is the one place that prints errors. */
#include <signal.h>
#include <stdio.h>

#include "base/log.h"
#include "base/util.h"
#include "img/img.h"
#include "version.h"

static const struct {
	const char *name;
	img_verb *run;
} verbs[] = {
	{ "create", cmd_create },   { "overlay", cmd_overlay },	  { "info", cmd_info },
	{ "check", cmd_check },	    { "convert", cmd_convert },	  { "resize", cmd_resize },
	{ "compare", cmd_compare }, { "snapshot", cmd_snapshot },
};

static const char usage[] =
    "usage: eyot-img VERB [OPTION]... ARGUMENT...\n"
    "Work on disk images that no machine uses.\n"
    "\n"
    "  create [--format raw|qcow2] FILE SIZE     make an empty image\n"
    "  overlay -b BACKING [-F FORMAT] FILE [SIZE]\n"
    "                                            make an image that keeps changes to another\n"
    "  info [--json] [-f FORMAT] FILE            tell about an image\n"
    "  check [--repair leaks|all] [--json] FILE  look for errors in a qcow2 image\n"
    "  convert [-f FORMAT] [-O FORMAT] [-c] [--snapshot NAME] FROM TO\n"
    "                                            copy to another format\n"
    "  resize [--shrink] FILE [+|-]SIZE          change the size\n"
    "  compare [-f FORMAT] [-F FORMAT] A B       tell whether the contents are the same\n"
    "  snapshot list|create|apply|delete FILE [NAME]\n"
    "                                            snapshots inside of a qcow2 image\n"
    "  --help, --version\n"
    "\n"
    "New qcow2 images: --cluster SIZE, --compat 2|3, --refcount-bits N,\n"
    "--compression zlib|zstd; --force overwrites a file.\n"
    "\n"
    "Exit status: 0 good, 1 the contents differ or the image has errors, 2 bad usage or\n"
    "failure, 3 the image has leaked space only.\n";

int main(int argc, char **argv)
{
	struct err err = { .text = "" };
	int ret;

	log_init("eyot-img", LOG_INFO);
	signal(SIGXFSZ, SIG_IGN);
	if (argc >= 2 && !strcmp(argv[1], "--help")) {
		fputs(usage, stdout);
		return fflush(stdout) == 0 ? IMG_GOOD : IMG_FAILED;
	}
	if (argc >= 2 && !strcmp(argv[1], "--version")) {
		puts("eyot-img " EYOT_VERSION);
		return fflush(stdout) == 0 ? IMG_GOOD : IMG_FAILED;
	}
	for (unsigned i = 0; argc >= 2 && i < ARRAY_SIZE(verbs); i++) {
		if (strcmp(argv[1], verbs[i].name))
			continue;
		ret = verbs[i].run(argc - 1, argv + 1, &err);
		if (fflush(stdout) != 0 && ret >= 0)
			ret = err_set(&err, EIO, "standard output: cannot be written");
		if (ret < 0)
			log_error("%s", err.text);
		return ret < 0 ? IMG_FAILED : ret;
	}
	log_error("%s%s%s; see eyot-img --help", argc < 2 ? "no verb" : "verb '",
		  argc < 2 ? "" : argv[1], argc < 2 ? "" : "': unknown");
	return IMG_FAILED;
}
