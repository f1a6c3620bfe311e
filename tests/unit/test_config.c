/* SPDX-License-Identifier: Apache-2.0 */
/* monitor: options and JSON settings. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <stdio.h>

#include "base/parse.h"
#include "base/util.h"
#include "monitor/config.h"

static struct config cfg;
static struct err err;
static enum config_action action;

static int setup(void **state)
{
	return config_init(&cfg, &err);
}

static int teardown(void **state)
{
	config_done(&cfg);
	return 0;
}

#define ARGS(...)                                                                                  \
	config_parse_args(&cfg, (int)ARRAY_SIZE(((char *[]) { "eyot-vmm", __VA_ARGS__ })),         \
			  (char *[]) { "eyot-vmm", __VA_ARGS__ }, &action, &err)
#define JSON(text) config_parse_json(&cfg, "f", text, strlen(text), &err)

static void test_probe(void **state)
{
	assert_int_equal(ARGS("--probe"), 0);
	assert_int_equal(action, CONFIG_PROBE);
	assert_false(cfg.json);
	assert_int_equal(ARGS("--probe", "--json"), 0);
	assert_int_equal(action, CONFIG_PROBE);
	assert_true(cfg.json);
	assert_int_equal(ARGS("--probe", "--cpus"), -EINVAL);
	assert_int_equal(ARGS("--probe", "--json", "x"), -EINVAL);
	assert_non_null(strstr(err.text, "'x'"));
	assert_int_equal(ARGS("--json"), -EINVAL);
}

static void test_sizes(void **state)
{
	uint64_t n;

	assert_int_equal(size_parse("512M", &n), 0);
	assert_true(n == MIB(512));
	assert_int_equal(size_parse("2G", &n), 0);
	assert_true(n == GIB(2));
	assert_int_equal(size_parse("64k", &n), 0);
	assert_true(n == KIB(64));
	assert_int_equal(size_parse("4096", &n), 0);
	assert_true(n == 4096);
	assert_int_equal(size_parse("", &n), -EINVAL);
	assert_int_equal(size_parse("-1M", &n), -EINVAL);
	assert_int_equal(size_parse(" 1M", &n), -EINVAL);
	assert_int_equal(size_parse("1MB", &n), -EINVAL);
	assert_int_equal(size_parse("1.5G", &n), -EINVAL);
	assert_int_equal(size_parse("99999999999999999999", &n), -ERANGE);
	assert_int_equal(size_parse("99999999999T", &n), -ERANGE);
}

static void test_vsock(void **state)
{
	assert_int_equal(ARGS("--vsock", "cid=3,path=/a,,b"), 0);
	assert_int_equal(cfg.vsock.cid, 3);
	assert_string_equal(cfg.vsock.path, "/a,b");
	assert_int_equal(JSON("{\"vsock\":{\"cid\":4294967294,\"path\":\"x,y\"}}"), 0);
	assert_int_equal(cfg.vsock.cid, 4294967294u);
	assert_string_equal(cfg.vsock.path, "x,y");
	assert_int_equal(JSON("{\"vsock\":\"cid=5,path=z\"}"), 0);
	assert_int_equal(cfg.vsock.cid, 5);
	assert_int_equal(JSON("{\"vsock\":{\"cid\":[],\"path\":\"x\"}}"), -EINVAL);
	assert_int_equal(JSON("{\"vsock\":{}}"), -EINVAL);
	assert_int_equal(JSON("{\"vsock\":7}"), -EINVAL);
	assert_int_equal(ARGS("--vsock", "cid=2,path=x"), -EINVAL);
	assert_int_equal(ARGS("--vsock", "cid=4294967295,path=x"), -EINVAL);
	assert_int_equal(ARGS("--vsock", "cid=9,path="), -EINVAL);
	assert_int_equal(ARGS("--vsock", "cid=9"), -EINVAL);
	assert_int_equal(ARGS("--vsock", "path=x"), -EINVAL);
	assert_int_equal(ARGS("--vsock", "cid=9,cid=9,path=x"), -EINVAL);
	assert_int_equal(ARGS("--vsock", "cid=9,path=x,more=y"), -EINVAL);
	assert_int_equal(ARGS("--vsock", "cid"), -EINVAL);
	assert_int_equal(cfg.vsock.cid, 5); /* what was there stays */
}

static void test_genid(void **state)
{
	static const uint8_t id[16] = { 0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66,
					0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff };
	static const char *const bad[] = {
		"00112233-4455-6677-8899-aabbccddeef",	"00112233-4455-6677-8899-aabbccddeeff0",
		"0011223-34455-6677-8899-aabbccddeeff", "00112233--455-6677-8899-aabbccddeeff",
		"00112233445566778899aabbccddeeff",	"{00112233-4455-6677-8899-aabbccddeeff",
		"00112233-4455-6677-8899-aabbccddeefg", "none"
	};

	assert_int_equal(ARGS("--genid", "00112233-4455-6677-8899-AABBccddeeff"), 0);
	assert_true(cfg.has_genid && !cfg.no_genid);
	assert_memory_equal(cfg.genid, id, 16);
	assert_int_equal(JSON("{\"genid\":\"off\"}"), 0);
	assert_true(!cfg.has_genid && cfg.no_genid);
	assert_int_equal(JSON("{\"genid\":\"{00112233-4455-6677-8899-aabbccddeeff}\"}"), 0);
	assert_memory_equal(cfg.genid, id, 16);
	assert_int_equal(ARGS("--genid", "auto"), 0);
	assert_true(!cfg.has_genid && !cfg.no_genid);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(ARGS("--genid", (char *)bad[i]), -EINVAL);
}

static void test_balloon(void **state)
{
	cfg.kernel = strdup("k");
	assert_false(cfg.balloon);
	assert_int_equal(ARGS("--balloon", "on"), 0);
	assert_true(cfg.balloon && !cfg.balloon_bytes);
	assert_int_equal(ARGS("--balloon", "256M", "--memory", "512M"), 0);
	assert_true(cfg.balloon && cfg.balloon_bytes == MIB(256));
	assert_int_equal(config_check(&cfg, &err), 0);
	assert_int_equal(ARGS("--memory", "128M"), 0);
	assert_int_equal(config_check(&cfg, &err), -EINVAL);
	assert_int_equal(JSON("{\"balloon\":false}"), 0);
	assert_false(cfg.balloon);
	assert_int_equal(JSON("{\"balloon\":true}"), 0);
	assert_true(cfg.balloon && !cfg.balloon_bytes);
	assert_int_equal(JSON("{\"balloon\":65536}"), 0);
	assert_true(cfg.balloon_bytes == KIB(64));
	assert_int_equal(JSON("{\"balloon\":[]}"), -EINVAL);
	assert_int_equal(ARGS("--balloon", "0"), -EINVAL);
	assert_int_equal(ARGS("--balloon", "1000"), -EINVAL);
	assert_int_equal(ARGS("--balloon", "much"), -EINVAL);
}

static void test_options(void **state)
{
	assert_int_equal(ARGS("--kernel", "k", "--initrd=i", "--cmdline", "--odd", "--cpus", "64",
			      "--memory=1G", "--disk", "a,,b,snapshot", "--disk", "c,readonly",
			      "--console", "unix:/s", "--debug-exit", "--no-reboot", "--name",
			      "a-b.c_1", "--log", "debug", "--accel", "bt", "--accel-debug", "x"),
			 0);
	assert_int_equal(action, CONFIG_RUN);
	assert_string_equal(cfg.kernel, "k");
	assert_string_equal(cfg.initrd, "i");
	assert_string_equal(cfg.cmdline, "--odd");
	assert_int_equal(cfg.cpus, 64);
	assert_true(cfg.memory_bytes == GIB(1));
	assert_int_equal(cfg.disk_count, 2);
	assert_string_equal(cfg.disks[0].path, "a,b");
	assert_true(cfg.disks[0].o.snapshot && !cfg.disks[0].o.readonly);
	assert_true(!cfg.disks[1].o.snapshot && cfg.disks[1].o.readonly);
	assert_int_equal(cfg.console, CONSOLE_UNIX);
	assert_string_equal(cfg.console_path, "/s");
	assert_true(cfg.debug_exit && cfg.no_reboot && cfg.sandbox);
	assert_string_equal(cfg.name, "a-b.c_1");
	assert_int_equal(cfg.log, LOG_DEBUG);
	assert_string_equal(cfg.accel_debug, "x");
	assert_int_equal(config_check(&cfg, &err), 0);
}

static void test_defaults(void **state)
{
	assert_string_equal(cfg.accel, "auto");
	assert_string_equal(cfg.cmdline, "console=ttyS0");
	assert_int_equal(cfg.cpus, 1);
	assert_int_equal(config_check(&cfg, &err), -EINVAL);
	assert_non_null(strstr(err.text, "--kernel"));
	assert_int_equal(ARGS("--cpus", "2", "--help"), 0);
	assert_int_equal(action, CONFIG_HELP);
	assert_int_equal(ARGS("--version"), 0);
	assert_int_equal(action, CONFIG_VERSION);
}

static void test_bad_options(void **state)
{
#define BAD(want, ...)                                                                             \
	do {                                                                                       \
		assert_int_equal(ARGS(__VA_ARGS__), -EINVAL);                                      \
		assert_string_equal(err.text, want);                                               \
	} while (0)
	BAD("option '--kernels': unknown; see --help", "--kernels", "x");
	BAD("option '--kern': unknown; see --help", "--kern=x");
	BAD("option '--accel_debug': unknown; see --help", "--accel_debug", "x");
	BAD("argument 'x': not an option; see --help", "x");
	BAD("argument '-k': not an option; see --help", "-k");
	BAD("option '--cpus': its value is missing", "--cpus");
	BAD("option '--no-reboot': takes no value", "--no-reboot=1");
	BAD("cpu 'best': unknown model 'best'; there are host, portable, x86-64-v1 to x86-64-v4",
	    "--cpu", "best");
	BAD("cpu 'host,+fast': unknown feature 'fast'", "--cpu", "host,+fast");
	BAD("cpus '0': not a number from 1 to 64", "--cpus", "0");
	BAD("cpus '65': not a number from 1 to 64", "--cpus", "65");
	BAD("cpus '+1': not a number from 1 to 64", "--cpus", "+1");
	BAD("memory '1T': not from 2M to 64G", "--memory", "1T");
	BAD("memory '1M': not from 2M to 64G", "--memory", "1M");
	BAD("memory '5000001': not a multiple of 4K", "--memory", "5000001");
	BAD("memory 'much': not a size such as 512M or 2G", "--memory", "much");
	BAD("accel 'xen': not one of auto, bt, kvm", "--accel", "xen");
	BAD("console 'file:': not one of stdio, pty, file:PATH, unix:PATH", "--console", "file:");
	BAD("disk 'd': unknown key 'ro'", "--disk", "d,ro");
	BAD("disk 'd': unknown key ''", "--disk", "d,");
	BAD("disk 'd': 'readonly' takes no value", "--disk", "d,readonly=on");
	BAD("disk 'd': 'format' needs a value", "--disk", "d,format");
	BAD("disk 'd': format 'vmdk': not one of auto, raw, qcow2", "--disk", "d,format=vmdk");
	BAD("disk 'd': cache 'x': not one of writeback, none, unsafe", "--disk", "d,cache=x");
	BAD("disk 'd': discard 'yes': neither on nor off", "--disk", "d,discard=yes");
	BAD("disk 'd': queues '0': not a number from 1 to 64", "--disk", "d,queues=0");
	BAD("disk 'd': iops '-1': not a number from 1 to 1099511627776", "--disk", "d,iops=-1");
	BAD("disk 'd': serial '123456789012345678901': not from 1 to 20 characters", "--disk",
	    "d,serial=123456789012345678901");
	BAD("disk 'd': burst without iops or bps", "--disk", "d,burst=2");
	BAD("disk 'd': readonly and snapshot exclude each other", "--disk", "d,readonly,snapshot");
	BAD("disk '': must not be empty", "--disk", ",readonly");
	BAD("kernel '': must not be empty", "--kernel", "");
	BAD("name 'a b': only letters, digits, '.', '_' and '-'", "--name", "a b");
	BAD("log 'loud': not one of error, warn, info, debug", "--log", "loud");
#undef BAD
}

static void test_json(void **state)
{
	assert_int_equal(
	    JSON("{\"kernel\":\"k\",\"cpus\":3,\"memory\":\"128M\",\"debug_exit\":true,"
		 "\"no_reboot\":false,\"console\":\"file:/"
		 "o\",\"accel_debug\":\"z\",\"sandbox\":\"off\","
		 "\"disks\":[\"a,readonly\",{\"file\":\"b,c\",\"snapshot\":true}]}"),
	    0);
	assert_int_equal(cfg.cpus, 3);
	assert_true(cfg.memory_bytes == MIB(128));
	assert_true(cfg.debug_exit && !cfg.no_reboot && !cfg.sandbox);
	assert_int_equal(cfg.disk_count, 2);
	assert_true(cfg.disks[0].o.readonly);
	assert_string_equal(cfg.disks[1].path, "b,c");
	assert_true(cfg.disks[1].o.snapshot);
	assert_int_equal(JSON("{\"memory\":134217728}"), 0);
	assert_int_equal(JSON("{\"cpu\":\"x86-64-v2,+pcid\"}"), 0);
	assert_string_equal(cpu_model_name(cfg.cpu.base), "x86-64-v2");
	assert_int_equal(cfg.cpu.count, 1);
	assert_int_equal(JSON("{\"disks\":[{\"file\":\"a\",\"format\":\"qcow2\",\"discard\":false,"
			      "\"iops\":100,\"bps\":\"1M\",\"burst\":3,\"cache\":\"none\"}]}"),
			 0);
	assert_int_equal(cfg.disks[0].o.format, DISK_FORMAT_QCOW2);
	assert_int_equal(cfg.disks[0].o.cache, DISK_CACHE_NONE);
	assert_true(cfg.disks[0].o.no_discard);
	assert_int_equal(cfg.disks[0].o.limits.iops, 100);
	assert_int_equal(cfg.disks[0].o.limits.bps, MIB(1));
	assert_int_equal(cfg.disks[0].o.limits.burst_s, 3);
	assert_int_equal(ARGS("--disk", "a,serial=x=1,queues=4,cache=unsafe,discard=on"), 0);
	assert_string_equal(cfg.disks[0].serial, "x=1");
	assert_int_equal(cfg.disks[0].queues, 4);
	assert_int_equal(cfg.disks[0].o.cache, DISK_CACHE_UNSAFE);
}

static uint16_t port_of(const struct sockaddr_storage *ss)
{
	return ntohs(((const struct sockaddr_in *)ss)->sin_port);
}

static void test_nets(void **state)
{
	struct net_config *n = &cfg.nets[0].net;
	char addr[64];

	assert_int_equal(ARGS("--net",
			      "user,forward=tcp:2222:22,forward=udp:0.0.0.0:53:10.0.2.9:5353,"
			      "forward=tcp:[::1]:80:[fec0::5]:8080,restrict=on,"
			      "host-loopback=off,mac=02:1a:FF:00:00:01,rate=10M,pcap=a,,b",
			      "--net", "tap", "--net", "tap,fd=5,fd=6,mtu=9000", "--net",
			      "switch,path=/s,queues=8"),
			 0);
	assert_int_equal(cfg.net_count, 4);
	assert_int_equal(n->kind, NET_USER);
	assert_int_equal(n->forward_count, 3);
	assert_false(n->forwards[0].udp);
	assert_int_equal(port_of(&n->forwards[0].host), 2222);
	assert_int_equal(port_of(&n->forwards[0].guest), 22);
	inet_ntop(AF_INET, &((struct sockaddr_in *)&n->forwards[0].host)->sin_addr, addr, 64);
	assert_string_equal(addr, "127.0.0.1");
	assert_true(n->forwards[1].udp);
	inet_ntop(AF_INET, &((struct sockaddr_in *)&n->forwards[1].guest)->sin_addr, addr, 64);
	assert_string_equal(addr, "10.0.2.9");
	assert_int_equal(n->forwards[2].guest.ss_family, AF_INET6);
	assert_int_equal(port_of(&n->forwards[2].guest), 8080);
	assert_true(n->restricted && n->no_host_loopback);
	assert_memory_equal(cfg.nets[0].mac, "\x02\x1a\xff\0\0\1", 6);
	assert_true(cfg.nets[0].rate == MIB(10));
	assert_string_equal(cfg.nets[0].pcap, "a,b");
	assert_int_equal(cfg.nets[1].net.queues, 1);
	assert_false(cfg.nets[1].has_mac);
	assert_int_equal(cfg.nets[2].net.queues, 2);
	assert_int_equal(cfg.nets[2].net.fds[1], 6);
	assert_int_equal(cfg.nets[2].net.mtu, 9000);
	assert_string_equal(cfg.nets[3].net.path, "/s");
	assert_int_equal(
	    JSON("{\"nets\":[\"tap,ifname=t\",{\"type\":\"user\",\"forward\":[\"tcp:1:2\","
		 "\"udp:3:4\"],\"mtu\":1400,\"host_loopback\":false,\"restrict\":true}]}"),
	    0);
	assert_int_equal(cfg.net_count, 2);
	assert_string_equal(cfg.nets[0].net.ifname, "t");
	n = &cfg.nets[1].net;
	assert_true(n->forward_count == 2 && n->mtu == 1400 && n->restricted &&
		    n->no_host_loopback);
}

static void test_bad_nets(void **state)
{
#define BAD(want, spec)                                                                            \
	do {                                                                                       \
		assert_int_equal(ARGS("--net", spec), -EINVAL);                                    \
		assert_string_equal(err.text, want);                                               \
		assert_int_equal(cfg.net_count, 0);                                                \
	} while (0)
#define BAD_FORWARD(spec)                                                                          \
	BAD("net 'user': forward '" spec "': not {tcp|udp}:[ADDRESS:]PORT:[ADDRESS:]PORT",         \
	    "user,forward=" spec)
	BAD("net '': not one of user, tap, switch", "");
	BAD("net 'users': not one of user, tap, switch", "users");
	BAD("net 'user': '' is not KEY=VALUE", "user,");
	BAD("net 'user': 'mac' is not KEY=VALUE", "user,mac");
	BAD("net 'user': unknown key 'macs'", "user,macs=1");
	BAD("net 'user': unknown key ''", "user,=1");
	BAD("net 'user': has no key 'path'", "user,path=/s");
	BAD("net 'user': 'mtu' is given twice", "user,mtu=1500,mtu=1500");
	BAD("net 'user': mtu '67': not a number from 68 to 65521", "user,mtu=67");
	BAD("net 'user': mtu '65522': not a number from 68 to 65521", "user,mtu=65522");
	BAD("net 'user': queues '9': not a number from 1 to 8", "user,queues=9");
	BAD("net 'user': mac '01:00:00:00:00:00': is the address of a group",
	    "user,mac=01:00:00:00:00:00");
	BAD("net 'user': mac '2:0:0:0:0:1': not six bytes as 02:12:34:56:78:9a",
	    "user,mac=2:0:0:0:0:1");
	BAD("net 'user': mac '02:00:00:00:00:0x': not six bytes as 02:12:34:56:78:9a",
	    "user,mac=02:00:00:00:00:0x");
	BAD("net 'user': rate '0': not bytes a second such as 10M, from 1000 on", "user,rate=0");
	BAD("net 'user': restrict 'yes': neither on nor off", "user,restrict=yes");
	BAD_FORWARD("22:22");
	BAD_FORWARD("tcp:");
	BAD_FORWARD("tcp:22");
	BAD_FORWARD("tcp:0:22");
	BAD_FORWARD("tcp:22:65536");
	BAD_FORWARD("tcp:22:22:22");
	BAD_FORWARD("tcp:1.2.3:22:22");
	BAD_FORWARD("tcp:[::1:22:22");
	BAD_FORWARD("tcp:22: 22");
	BAD("net 'user': forward 'tcp:[::1]:22:22': an IPv6 end needs the other one's IPv6 address",
	    "user,forward=tcp:[::1]:22:22");
	BAD("net 'tap': fd 'x': not the number of a descriptor", "tap,fd=x");
	BAD("net 'tap': 'fd' excludes 'ifname' and 'bridge'", "tap,fd=4,bridge=b");
	BAD("net 'tap': 3 queues and 2 descriptors", "tap,fd=4,fd=5,queues=3");
	BAD("net 'switch': 'path' is missing", "switch");
	BAD("net 'switch': path '': must not be empty", "switch,path=");
#undef BAD
#undef BAD_FORWARD
	for (unsigned i = 0; i < CONFIG_NETS_MAX; i++)
		cfg.nets[cfg.net_count++] = (struct config_net) { .net.queues = 1 };
	assert_int_equal(JSON("{\"nets\":[\"tap\",\"tap\",\"tap\",\"tap\",\"tap\",\"tap\",\"tap\","
			      "\"tap\",\"tap\"]}"),
			 -EINVAL);
	assert_string_equal(err.text, "config 'f': net 'tap': more than 8 cards");
}

static void test_bad_json(void **state)
{
#define BAD(want, json)                                                                            \
	do {                                                                                       \
		assert_int_equal(JSON(json), -EINVAL);                                             \
		assert_string_equal(err.text, want);                                               \
	} while (0)
	BAD("config 'f': unknown key 'kernels'", "{\"kernels\":\"k\"}");
	BAD("config 'f': unknown key 'debug-exit'", "{\"debug-exit\":true}");
	BAD("config 'f': unknown key 'disk'", "{\"disk\":\"k\"}");
	BAD("config 'f': unknown key 'config'", "{\"config\":\"k\"}");
	BAD("config 'f': 'debug_exit' is neither true nor false", "{\"debug_exit\":1}");
	BAD("config 'f': 'kernel' has the wrong type", "{\"kernel\":5}");
	BAD("config 'f': cpus '-1': not a number from 1 to 64", "{\"cpus\":-1}");
	BAD("config 'f': 'cpus' has the wrong type", "{\"cpus\":1.5}");
	BAD("config 'f': 'disks' is not a list", "{\"disks\":\"a\"}");
	BAD("config 'f': disks: unknown key 'path'", "{\"disks\":[{\"path\":\"a\"}]}");
	BAD("config 'f': disks: 'file' is missing", "{\"disks\":[{\"readonly\":true}]}");
	BAD("config 'f': disks: 'readonly' has the wrong type",
	    "{\"disks\":[{\"file\":\"a\",\"readonly\":1}]}");
	BAD("config 'f': unknown key 'net'", "{\"net\":\"user\"}");
	BAD("config 'f': 'nets' is not a list", "{\"nets\":\"user\"}");
	BAD("config 'f': nets: neither a string nor an object", "{\"nets\":[1]}");
	BAD("config 'f': nets: 'type' is missing", "{\"nets\":[{\"mtu\":1500}]}");
	BAD("config 'f': unknown key 'host-loopback'",
	    "{\"nets\":[{\"type\":\"user\",\"host-loopback\":true}]}");
	BAD("config 'f': 'mtu' has the wrong type", "{\"nets\":[{\"type\":\"user\",\"mtu\":1.5}]}");
	BAD("config 'f': net 'user': has no key 'fd'",
	    "{\"nets\":[{\"type\":\"user\",\"fd\":[1]}]}");
	BAD("config 'f': not a JSON object", "[]");
#undef BAD
	assert_int_equal(JSON("{\"cpus\":1,\"cpus\":2}"), -EINVAL); /* twice */
	assert_int_equal(JSON("{"), -EINVAL);
	assert_int_equal(JSON(""), -EINVAL);
}

static void test_options_win(void **state)
{
	char path[] = "/tmp/eyot-config-XXXXXX";
	const char text[] = "{\"cpus\":3,\"kernel\":\"k\",\"disks\":[\"a\",\"b\"]}";
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
	assert_int_equal(ARGS("--cpus", "5", "--disk", "c", "--config", path), 0);
	assert_int_equal(cfg.cpus, 5);
	assert_string_equal(cfg.kernel, "k");
	assert_int_equal(cfg.disk_count, 1);
	assert_string_equal(cfg.disks[0].path, "c");
	unlink(path);
	assert_int_equal(ARGS("--config", path), -ENOENT);
	assert_int_equal(ARGS("--config", "/tmp"), -EINVAL);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_sizes),	  T(test_options),  T(test_defaults),	 T(test_bad_options),
		T(test_json),	  T(test_bad_json), T(test_options_win), T(test_nets),
		T(test_bad_nets), T(test_probe),    T(test_vsock),	 T(test_balloon),
		T(test_genid),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
