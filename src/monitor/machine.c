/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Devices stand in machine->table in the order of reset, save and load. What
 * the platform asks of the machine becomes a request (vm.h), which any vCPU
 * thread may make.
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/random.h>
#include <time.h>

#include "base/util.h"
#include "monitor/machine_priv.h"
#include "vm/acpi.h"

#define ERROR_GAP_NS 1000000000ull
#define FLUSH_WAIT_NS 2000000000ull
/* Intel SDM 3A, 10.11: physical destination, delivery mode NMI */
#define MSI_ADDRESS 0xfee00000ull
#define MSI_DEST_SHIFT 12
#define MSI_DATA_NMI 0x400

/* ---- what the platform asks for ---- */

static void on_reset(void *opaque)
{
	vm_request(((struct machine *)opaque)->vm, VM_RESET, 0, "reset by the guest");
}

static void on_power_off(void *opaque)
{
	vm_request(((struct machine *)opaque)->vm, VM_POWEROFF, 0, "powered off by the guest");
}

static void tell_crash_kernel(void *opaque)
{
	struct machine *m = opaque;

	if (m->events.crash_kernel)
		m->events.crash_kernel(m->events.arg);
}

static void on_panic(void *opaque, unsigned events)
{
	struct machine *m = opaque;

	/* A crash kernel that is about to run is the guest's own affair. */
	if (events & PVPANIC_PANICKED)
		vm_request(m->vm, VM_CRASH, 0, "the guest's kernel panicked (pvpanic)");
	else if (!atomic_exchange(&m->crash_told, true))
		loop_call(m->vm->loop, tell_crash_kernel, m);
}

static void on_debug_exit(void *opaque, uint32_t value)
{
	vm_request(((struct machine *)opaque)->vm, VM_DEBUG_EXIT, value, "debug exit with %#x",
		   value);
}

/* ---- what the frame asks for ---- */

static int boot(void *opaque, struct vcpu_state *state, struct err *err)
{
	struct machine *m = opaque;
	struct acpi_config acpi = { .cpu_count = m->vm->cpu_count,
				    .hotplug_slots = machine_hotplug_slots(),
				    .has_genid = m->genid };
	struct boot_config cfg = { .kernel = &m->kernel,
				   .initrd = m->initrd.fd >= 0 ? &m->initrd : NULL,
				   .cmdline = m->cfg->cmdline };
	uint8_t *area = guest_mem_ptr(&m->vm->mem, ACPI_AREA_BASE, ACPI_AREA_SIZE);
	struct boot_info info;
	int ret;

	if (!area)
		return err_set(err, EINVAL, "memory: too little for the ACPI tables");
	ret = acpi_build(&acpi, area, &cfg.rsdp_gpa, err);
	if (m->genid)
		genid_store(m->genid);
	if (ret == 0)
		ret = boot_load(&cfg, &m->vm->mem, state, &info, err);
	if (ret == 0)
		log_debug("kernel '%s': %s, entry %#llx", m->cfg->kernel,
			  boot_protocol_name(info.protocol), (unsigned long long)info.entry);
	return ret;
}

static void stopped(void *opaque, const struct vm_request *req)
{
	struct machine *m = opaque;

	m->events.stopped(m->events.arg, req);
}

static void was_reset(void *opaque)
{
	struct machine *m = opaque;

	m->boots++;
	machine_finish_removals(m);
	atomic_store(&m->crash_told, false);
	if (m->events.reset)
		m->events.reset(m->events.arg);
}

static void stop_time(void *opaque, bool is_stopped)
{
	guest_clock_stop(((struct machine *)opaque)->guest_clock, is_stopped);
}

static const struct vm_ops vm_ops = {
	.boot = boot, .stopped = stopped, .stop_time = stop_time, .was_reset = was_reset
};

/* ---- console ---- */

static size_t uart_output(void *opaque, const uint8_t *bytes, size_t len)
{
	return console_output(((struct machine *)opaque)->con, bytes, len);
}

static void input_ready(void *opaque)
{
	console_input_ready(((struct machine *)opaque)->con);
}

static size_t uart_port_receive(void *dev, const uint8_t *bytes, size_t len)
{
	return uart_receive(dev, bytes, len);
}

/* Both consoles write to the same place; input follows the guest when it begins to use this one. */
static size_t vcon_output(void *opaque, const uint8_t *bytes, size_t len)
{
	struct machine *m = opaque;

	if (!m->input_to_vcon) {
		m->input_to_vcon = true;
		console_attach(m->con, &m->vcon_port);
	}
	return console_output(m->con, bytes, len);
}

static size_t vcon_port_receive(void *dev, const uint8_t *bytes, size_t len)
{
	return virtio_console_receive(dev, bytes, len);
}

void machine_flush_console(struct machine *m)
{
	uint64_t until = clock_now_ns() + FLUSH_WAIT_NS;

	while (m->uart && uart_flush(m->uart) && clock_now_ns() < until)
		/* sandbox: loop: clock_nanosleep */
		nanosleep(&(struct timespec) { .tv_nsec = 5000000 }, NULL);
}

/* ---- assembly ---- */

/* Rows of the device table, with one cast each for the devices' own types. */
#define DEVICE_GLUE(type)                                                                          \
	static void type##_row_reset(void *dev)                                                    \
	{                                                                                          \
		type##_reset(dev);                                                                 \
	}                                                                                          \
	static void type##_row_save(void *dev, struct snap_writer *w)                              \
	{                                                                                          \
		type##_save(dev, w);                                                               \
	}                                                                                          \
	static int type##_row_load(void *dev, struct snap_reader *r, struct err *err)              \
	{                                                                                          \
		return type##_load(dev, r, err);                                                   \
	}
DEVICE_GLUE(uart)
DEVICE_GLUE(pit)
DEVICE_GLUE(rtc)
DEVICE_GLUE(kbc)
DEVICE_GLUE(pm)
DEVICE_GLUE(pci_host)
DEVICE_GLUE(hotplug)
DEVICE_GLUE(fw_cfg)
DEVICE_GLUE(testdev)
#undef DEVICE_GLUE

static void genid_row_save(void *dev, struct snap_writer *w)
{
	genid_save(dev, w);
}

static int genid_row_load(void *dev, struct snap_reader *r, struct err *err)
{
	return genid_load(dev, r, err);
}

static void virtio_row_reset(void *dev)
{
	virtio_dev_reset(dev);
}

static void virtio_row_freeze(void *dev)
{
	virtio_dev_freeze(dev);
}

static void virtio_row_thaw(void *dev)
{
	virtio_dev_thaw(dev);
}

static void virtio_row_save(void *dev, struct snap_writer *w)
{
	virtio_dev_save(dev, w);
}

static int virtio_row_load(void *dev, struct snap_reader *r, struct err *err)
{
	return virtio_dev_load(dev, r, err);
}

static void add_virtio_row(struct machine *m, const char *name, struct virtio_dev *dev)
{
	m->table[m->table_count++] = (struct vm_device) { .name = name,
							  .dev = dev,
							  .reset = virtio_row_reset,
							  .freeze = virtio_row_freeze,
							  .thaw = virtio_row_thaw,
							  .save = virtio_row_save,
							  .load = virtio_row_load };
}

#define ROW(title, type, device)                                                                   \
	{                                                                                          \
		.name = title, .dev = device, .reset = type##_row_reset, .save = type##_row_save,  \
		.load = type##_row_load,                                                           \
	}

void machine_fill_table(struct machine *m)
{
	const struct vm_device rows[] = {
		ROW("pci", pci_host, m->pci),
		ROW("serial port", uart, m->uart),
		ROW("timer", pit, m->pit),
		ROW("clock", rtc, m->rtc),
		ROW("keyboard controller", kbc, m->kbc),
		ROW("power management", pm, m->pm),
		ROW("hot plug", hotplug, m->hotplug),
	};

	memcpy(m->table, rows, sizeof(rows));
	m->table_count = ARRAY_SIZE(rows);
	if (m->genid) /* after the registers by which it tells */
		m->table[m->table_count++] = (struct vm_device) { .name = "generation ID",
								  .dev = m->genid,
								  .save = genid_row_save,
								  .load = genid_row_load };
	if (m->cfg->debug_exit) {
		const struct vm_device test_rows[TEST_ROWS] = {
			ROW("firmware configuration", fw_cfg, m->fw_cfg),
			ROW("test device", testdev, m->testdev),
		};

		memcpy(m->table + m->table_count, test_rows, sizeof(test_rows));
		m->table_count += TEST_ROWS;
	}
	add_virtio_row(m, "entropy", m->rng);
	if (m->vcon)
		add_virtio_row(m, "console", m->vcon);
	for (unsigned i = 0; i < CONFIG_DISKS_MAX; i++)
		if (m->blks[i])
			add_virtio_row(m, m->disk_cfg[i]->path, m->blks[i]);
	for (unsigned i = 0; i < CONFIG_NETS_MAX; i++)
		if (m->nets[i])
			add_virtio_row(m, "network", m->nets[i]);
	for (unsigned i = 0; i < m->cfg->share_count; i++)
		add_virtio_row(m, m->cfg->shares[i].tag, m->shares[i]);
	if (m->vsock)
		add_virtio_row(m, "sockets", m->vsock);
	if (m->balloon)
		add_virtio_row(m, "balloon", m->balloon);
	vm_set_devices(m->vm, m->table, m->table_count);
}

static int add_platform(struct machine *m, struct err *err)
{
	struct vm *vm = m->vm;
	uint64_t low = vm->mem.slots[0].size;
	int ret;

	ret = pci_host_new(&vm->pio, &vm->mmio, &vm->irq, &m->platform, &m->pci, err);
	if (ret == 0)
		ret = uart_new(&vm->pio, PORT_COM1, &vm->irq, GSI_COM1, &m->host_clock,
			       &m->uart_backend, &m->uart, err);
	if (ret == 0)
		ret = pit_new(&vm->pio, &vm->irq, &m->clock, &m->pit, err);
	if (ret == 0)
		ret = rtc_new(&vm->pio, &vm->irq, &m->clock, low, vm->mem.size - low, &m->rtc, err);
	if (ret == 0)
		ret = kbc_new(&vm->pio, &m->platform, &m->kbc, err);
	if (ret == 0)
		ret = pm_new(&vm->pio, &vm->irq, &m->clock, &m->platform, &m->pm, err);
	if (ret == 0)
		ret = machine_add_hotplug(m, err);
	if (ret == 0 && !m->cfg->no_genid)
		ret = genid_new(&vm->mem, ACPI_GENID_GPA, m->pm,
				m->cfg->has_genid ? m->cfg->genid : NULL, &m->genid, err);
	if (ret == 0) {
		ret = pvpanic_add(&vm->pio, &m->platform, err);
		m->has_pvpanic = ret == 0;
	}
	if (ret == 0 && m->cfg->debug_exit) {
		ret = debug_exit_add(&vm->pio, &m->platform, err);
		m->has_debug_exit = ret == 0;
		if (ret == 0)
			ret = fw_cfg_new(&vm->pio, &vm->mem, vm->cpu_count, &m->fw_cfg, err);
		if (ret == 0)
			ret = testdev_new(&vm->pio, &vm->mmio, &vm->irq, &m->testdev, err);
	}
	return ret;
}

/* A second console would only get a second login prompt: it is there when the guest is told of it.
 */
static bool wants_virtio_console(const struct config *cfg)
{
	return strstr(cfg->cmdline, "hvc0") != NULL;
}

static struct virtio_env virtio_env(struct machine *m)
{
	return (struct virtio_env) { .mem = &m->vm->mem,
				     .pci = m->pci,
				     .loop = m->vm->loop,
				     .connect = m->cfg->connect,
				     .connect_arg = m->cfg->connect_arg,
				     .doorbells = m->vm->mmio.doorbell != NULL };
}

/* A dying disk fails thousands of requests a second. */
static void disk_failed(void *arg, enum disk_op op, int ret)
{
	struct machine_disk_watch *w = arg;
	uint64_t now = clock_now_ns();
	char id[MACHINE_ID_SIZE];

	if (w->told_ns && now - w->told_ns < ERROR_GAP_NS) {
		w->missed++;
		return;
	}
	w->told_ns = now;
	if (w->m->events.disk_error)
		w->m->events.disk_error(w->m->events.arg, machine_disk_id(w->m, w->index, id), op,
					ret, w->missed);
	w->missed = 0;
}

int machine_make_disk(struct machine *m, unsigned index, struct err *err)
{
	const struct virtio_env env = virtio_env(m);
	const struct config_disk *d = m->disk_cfg[index];
	char serial[20];
	int ret;

	ret = machine_check_id(m, SLOT_DISKS + index, err);
	if (ret < 0)
		return ret;
	ret = disk_open(env.loop, d->path, &d->o, &m->disks[index], err);
	if (ret < 0)
		return ret;
	m->watches[index] = (struct machine_disk_watch) { .m = m, .index = index };
	disk_on_error(m->disks[index], disk_failed, &m->watches[index]);
	snprintf(serial, sizeof(serial), "disk%u", index);
	return virtio_blk_new(&env, SLOT_DISKS + index, m->disks[index],
			      d->serial ? d->serial : serial,
			      d->queues ? d->queues : m->vm->cpu_count, &m->blks[index], err);
}

/*
 * A locally administered address: the same at each start for a machine that has a name, so that
 * its DHCP lease stays, else a random one, so that machines on one segment differ.
 */
static void default_mac(const char *name, unsigned index, uint8_t *mac)
{
	uint64_t hash = 0xcbf29ce484222325ull + index; /* FNV-1a */

	for (const char *p = name; p && *p; p++)
		hash = (hash ^ (uint8_t)*p) * 0x100000001b3ull;
	if (!name && getrandom(&hash, sizeof(hash), 0) != sizeof(hash))
		hash = clock_now_ns() * 0x100000001b3ull + index;
	hash ^= hash >> 32;
	mac[0] = 0x02;
	mac[1] = (uint8_t)index;
	put_le32(mac + 2, (uint32_t)hash);
}

int machine_make_net(struct machine *m, unsigned index, struct err *err)
{
	const struct virtio_env env = virtio_env(m);
	const struct config_net *n = m->net_cfg[index];
	struct virtio_net_options opt = { .queue_pairs = n->net.queues,
					  .rate = n->rate,
					  .pcap = n->pcap };
	struct net_backend *be;
	int ret = machine_check_id(m, SLOT_NETS + index, err);

	if (ret < 0)
		return ret;
	ret = net_open(env.loop, &n->net, &be, err);
	if (ret < 0)
		return err_prefix(err, ret, "net '%s'", net_kind_name(n->net.kind));
	memcpy(opt.mac, n->mac, sizeof(opt.mac));
	if (!n->has_mac)
		default_mac(m->cfg->name, index, opt.mac);
	ret = virtio_net_new(&env, SLOT_NETS + index, be, &opt, &m->nets[index], err);
	if (ret < 0)
		net_free(be);
	return ret;
}

static int add_virtio(struct machine *m, struct err *err)
{
	struct virtio_env env = virtio_env(m);
	int ret = virtio_rng_new(&env, SLOT_RNG, &m->rng, err);

	if (ret == 0 && wants_virtio_console(m->cfg))
		ret = virtio_console_new(&env, SLOT_CONSOLE, &m->vcon_backend, &m->vcon, err);
	if (ret == 0)
		ret = machine_give_places(m, err);
	for (unsigned i = 0; i < CONFIG_DISKS_MAX && ret == 0; i++)
		if (m->disk_cfg[i])
			ret = machine_make_disk(m, i, err);
	for (unsigned i = 0; i < CONFIG_NETS_MAX && ret == 0; i++)
		if (m->net_cfg[i])
			ret = machine_make_net(m, i, err);
	for (unsigned i = 0; i < m->cfg->share_count && ret == 0; i++)
		ret = virtio_fs_new(&env, SLOT_SHARES + i, m->cfg->shares[i].tag,
				    m->cfg->shares[i].path, m->cfg->shares[i].readonly,
				    &m->shares[i], err);
	if (ret == 0 && m->cfg->vsock.path)
		ret = virtio_vsock_new(&env, SLOT_VSOCK, m->cfg->vsock.cid, m->cfg->vsock.path,
				       &m->vsock, err);
	if (ret == 0 && m->cfg->balloon)
		ret = virtio_balloon_new(&env, SLOT_BALLOON,
					 m->cfg->balloon_bytes ? m->cfg->balloon_bytes
							       : m->cfg->memory_bytes,
					 &m->balloon, err);
	return ret;
}

int machine_new(const struct config *cfg, struct loop *loop, const struct accel_ops *accel,
		struct console *con, const struct machine_events *events,
		struct machine **ret_machine, struct err *err)
{
	struct machine *m = calloc(1, sizeof(*m));
	struct vm_config vc = { .accel = accel,
				.accel_debug = cfg->accel_debug,
				.memory_bytes = cfg->memory_bytes,
				.cpu_count = cfg->cpus,
				.cpu = &cfg->cpu,
				.no_reboot = cfg->no_reboot,
				.loop = loop,
				.ops = &vm_ops,
				.opaque = m };
	int ret;

	if (!m)
		return err_set(err, ENOMEM, "machine: out of memory");
	m->cfg = cfg;
	m->con = con;
	m->events = *events;
	m->kernel.fd = m->initrd.fd = m->load_fd = -1;
	m->platform = (struct platform_ops) { .reset = on_reset,
					      .power_off = on_power_off,
					      .panic = on_panic,
					      .debug_exit = on_debug_exit,
					      .opaque = m };
	m->uart_backend = (struct uart_backend) { uart_output, input_ready, m };
	m->vcon_backend = (struct virtio_console_backend) { vcon_output, input_ready, m };
	hw_clock_init_loop(&m->host_clock, loop);
	m->guest_clock = guest_clock_new(loop);
	if (!m->guest_clock) {
		free(m);
		return err_set(err, ENOMEM, "machine: out of memory");
	}
	guest_clock_init(m->guest_clock, &m->clock);

	ret = boot_file_open("kernel", cfg->kernel, &m->kernel, err);
	if (ret == 0 && cfg->initrd)
		ret = boot_file_open("initrd", cfg->initrd, &m->initrd, err);
	if (ret == 0 && cfg->load) {
		m->load_fd = open(cfg->load, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
		if (m->load_fd < 0)
			ret = err_set(err, errno, "load '%s': %s", cfg->load, strerror(errno));
	}
	if (ret == 0)
		ret = vm_new(&vc, &m->vm, err);
	if (ret == 0)
		ret = add_platform(m, err);
	if (ret == 0)
		ret = add_virtio(m, err);
	if (ret < 0) {
		machine_free(m);
		return ret;
	}
	machine_fill_table(m);
	m->uart_port = (struct console_port) { uart_port_receive, m->uart };
	m->vcon_port = (struct console_port) { vcon_port_receive, m->vcon };
	*ret_machine = m;
	return 0;
}

void machine_free(struct machine *m)
{
	if (!m)
		return;
	machine_save_abort(m);
	if (m->con)
		console_attach(m->con, NULL);
	if (vm_stop(m->vm) < 0)
		return; /* a vCPU may still use everything; the process is about to end */
	if (m->has_pvpanic)
		pvpanic_del(&m->vm->pio, &m->platform);
	if (m->has_debug_exit)
		debug_exit_del(&m->vm->pio, &m->platform);
	for (unsigned i = 0; i < CONFIG_DISKS_MAX; i++) {
		virtio_dev_free(m->blks[i]);
		disk_close(m->disks[i]);
		machine_forget_config(m, SLOT_DISKS + i);
	}
	for (unsigned i = 0; i < CONFIG_NETS_MAX; i++) {
		virtio_dev_free(m->nets[i]);
		machine_forget_config(m, SLOT_NETS + i);
	}
	for (unsigned i = 0; i < CONFIG_SHARES_MAX; i++)
		virtio_dev_free(m->shares[i]);
	virtio_dev_free(m->vsock);
	virtio_dev_free(m->balloon);
	virtio_dev_free(m->vcon);
	virtio_dev_free(m->rng);
	testdev_free(m->testdev);
	fw_cfg_free(m->fw_cfg);
	hotplug_free(m->hotplug);
	genid_free(m->genid);
	pm_free(m->pm);
	kbc_free(m->kbc);
	rtc_free(m->rtc);
	pit_free(m->pit);
	uart_free(m->uart);
	pci_host_free(m->pci);
	vm_free(m->vm);
	boot_file_close(&m->kernel);
	boot_file_close(&m->initrd);
	guest_clock_free(m->guest_clock);
	if (m->load_fd >= 0)
		close(m->load_fd);
	free(m);
}

int machine_start(struct machine *m, struct err *err)
{
	int ret = 0;

	for (unsigned i = 0; i < m->cfg->share_count && ret == 0; i++)
		ret = virtio_fs_start(m->shares[i], err);
	if (ret == 0 && m->load_fd < 0)
		ret = vm_start(m->vm, err);
	else if (ret == 0)
		ret = vm_start_to_load(m->vm, err);
	if (ret == 0 && m->load_fd >= 0) {
		ret = machine_load(m, err);
		if (ret == 0)
			vm_resume(m->vm);
	}
	if (ret < 0)
		return ret;
	/* Not before: power-on would lose what the port had taken. */
	console_attach(m->con, &m->uart_port);
	m->started_ns = clock_now_ns();
	m->boots = 1;
	return 0;
}

void machine_power_button(struct machine *m)
{
	pm_power_button(m->pm);
}

int machine_pause(struct machine *m, struct err *err)
{
	int ret;

	if (m->paused)
		return 0;
	ret = vm_pause(m->vm, err);
	m->paused = ret == 0;
	return ret;
}

void machine_resume(struct machine *m)
{
	if (m->paused)
		vm_resume(m->vm);
	m->paused = false;
}

void machine_nmi(struct machine *m)
{
	/* One message each: every processor gets it, whatever mode its APIC is in. */
	for (unsigned i = 0; i < m->vm->cpu_count; i++)
		irq_msi(&m->vm->irq, MSI_ADDRESS | (uint64_t)i << MSI_DEST_SHIFT, MSI_DATA_NMI);
}

struct vm *machine_vm(struct machine *m)
{
	return m->vm;
}
