/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The trial: a VM of 64 KiB whose one vCPU is put into 64-bit ring 0 with
 * paging, without any boot. Three loops run one after the other:
 *   plain    arithmetic, memory and stack; the same bytes also run natively
 *   kernel   what kernels do all the time and half-hearted hypervisors do badly
 *   exit     port writes, each a trip to us and back
 *
 * A brief trial begins with the second one, where broken hypervisors fail at once, and leaves out
 * the third.
 *
 * An interval timer ends each loop; its handler sets immediate_exit, so that a signal that comes
 * outside of KVM_RUN ends the next one.
 */
#include "accel/kvm/kvm_trial.h"

#include <errno.h>
#include <linux/futex.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "accel/kvm/kvm_sys.h"
#include "base/util.h"

/* clang-format off */
/*
 * rdi: data; data[0] counts rounds of the first two loops. `trial_plain` is a function that does
 * PLAIN_TURNS turns of PLAIN_INSNS instructions.
 */
__asm__(".pushsection .rodata.trial, \"a\"\n"
	".globl trial_code, trial_plain, trial_kernel, trial_exit, trial_code_end\n"
	".hidden trial_code, trial_plain, trial_kernel, trial_exit, trial_code_end\n"
	"trial_code:\n"
	"1:	call	trial_plain\n"
	"	incq	(%rdi)\n"
	"	jmp	1b\n"
	"trial_plain:\n"
	"	mov	$32, %ecx\n"
	"1:	mov	16(%rdi), %rax\n"
	"	add	$7, %rax\n"
	"	imul	$3, %rax, %rdx\n"
	"	xor	%rdx, %rax\n"
	"	mov	%rax, 16(%rdi)\n"
	"	push	%rax\n"
	"	pop	%rdx\n"
	"	test	$1, %dl\n"
	"	lea	1(%rdx), %rdx\n"
	"	jz	2f\n"
	"	xchg	%rdx, %rsi\n"
	"2:	dec	%ecx\n"
	"	jnz	1b\n"
	"	ret\n"
	"trial_kernel:\n"
	"1:	mov	32(%rdi), %rax\n"
	"	mov	40(%rdi), %rdx\n"
	"	lea	1(%rax), %rbx\n"
	"	mov	%rdx, %rcx\n"
	"	lock cmpxchg16b 32(%rdi)\n"
	"	mov	$0xc0000102, %ecx\n" /* kernel GS base */
	"	xor	%eax, %eax\n"
	"	xor	%edx, %edx\n"
	"	wrmsr\n"
	"	swapgs\n"
	"	pushf\n"
	"	cli\n"
	"	popf\n"
	"	mov	%cr3, %rax\n"
	"	mov	%rax, %cr3\n"
	"	invlpg	(%rdi)\n"
	"	mov	%cr0, %rax\n"
	"	incq	(%rdi)\n"
	"	jmp	1b\n"
	"trial_exit:\n"
	"1:	out	%al, $0xf4\n"
	"	jmp	1b\n"
	"trial_code_end:\n"
	".popsection\n");
/* clang-format on */

#define PLAIN_TURNS 32
#define PLAIN_INSNS 12.5

extern const char trial_code[], trial_plain[], trial_kernel[], trial_exit[], trial_code_end[];

/* The guest's memory, pages of its own each */
#define RAM_SIZE 0x10000u
#define AT_CODE 0x1000u
#define AT_PML4 0x2000u
#define AT_PDPT 0x3000u
#define AT_PD 0x4000u
#define AT_DATA 0x5000u
#define AT_STACK 0x8000u /* grows down */

#define PLAIN_US 3000
#define KERNEL_US 2000
#define EXIT_US 1500
#define NATIVE_NS 1000000u
#define EXITS_MAX 500
#define NATIVE_CALLS 64
#define KERNEL_TRIES 3

struct guest {
	int vm_fd, fd;
	struct kvm_run *run;
	uint8_t *ram;
	struct trial *t;
};

static struct kvm_run *volatile timed_run; /* of the process that tries */

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* What this process spent, guest included: a busy host does not look like a slow one. */
static uint64_t spent_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void on_alarm(int signo)
{
	if (timed_run)
		timed_run->immediate_exit = 1;
}

void trial_add(struct trial *t, uint32_t bits)
{
	__atomic_fetch_or(&t->known, bits, __ATOMIC_RELEASE);
	syscall(SYS_futex, &t->known, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static _Noreturn void give_up(struct trial *t)
{
	t->verdict = "broken";
	t->errnum = ENODEV;
	trial_add(t, TRIAL_FAILED | TRIAL_END);
	_exit(1);
}

static void fail(struct trial *t, const char *what, int errnum)
{
	snprintf(t->why, sizeof(t->why), "/dev/kvm is there but fails: %s: %s", what,
		 strerror(errnum));
	give_up(t);
}

static void fail_exit(struct trial *t, const char *what, const struct kvm_run *run)
{
	size_t len;

	snprintf(t->why, sizeof(t->why), "/dev/kvm is there but fails: %s ends in ", what);
	len = strlen(t->why);
	if (run->exit_reason == KVM_EXIT_SHUTDOWN)
		snprintf(t->why + len, sizeof(t->why) - len, "a triple fault");
	else if (run->exit_reason == KVM_EXIT_INTERNAL_ERROR)
		snprintf(t->why + len, sizeof(t->why) - len, "an internal error, suberror %u",
			 run->internal.suberror);
	else
		snprintf(t->why + len, sizeof(t->why) - len, "KVM exit %u", run->exit_reason);
	len = strlen(t->why);
	if (t->known & TRIAL_PLAIN)
		snprintf(t->why + len, sizeof(t->why) - len,
			 " (plain ring-0 code: %.4g million instructions/s)", t->ring0_mips);
	give_up(t);
}

static int need(struct guest *g, int fd, unsigned long request, const char *name, void *arg)
{
	int ret = kvm_sys_call(fd, request, (uintptr_t)arg);

	if (ret < 0)
		fail(g->t, name, -ret);
	return ret;
}
#define NEED(g, fd, request, arg) need(g, fd, request, #request, arg)

/* ---- making the guest ---- */

static void fill_ram(uint8_t *ram)
{
	memcpy(ram + AT_CODE, trial_code, (size_t)(trial_code_end - trial_code));
	put_le64(ram + AT_PML4, AT_PDPT | 3);
	put_le64(ram + AT_PDPT, AT_PD | 3);
	put_le64(ram + AT_PD, 0x83); /* the first 2 MiB, one large page */
}

static void set_registers(struct guest *g)
{
	struct kvm_segment code = {
		.type = 11, .present = 1, .s = 1, .l = 1, .g = 1, .limit = 0xffffffff, .selector = 8
	};
	struct kvm_segment data = { .type = 3,
				    .present = 1,
				    .s = 1,
				    .db = 1,
				    .g = 1,
				    .limit = 0xffffffff,
				    .selector = 16 };
	struct kvm_sregs s;

	NEED(g, g->fd, KVM_GET_SREGS, &s);
	s.cs = code;
	s.ds = s.es = s.ss = s.fs = s.gs = data;
	s.cr3 = AT_PML4;
	s.cr4 = 1u << 5;			   /* physical address extension */
	s.cr0 = 1u | 1u << 4 | 1u << 5 | 1u << 31; /* protection, paging */
	s.efer = 1u << 8 | 1u << 10;		   /* long mode, active */
	NEED(g, g->fd, KVM_SET_SREGS, &s);
}

static void make_guest(struct guest *g, int kvm_fd)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 room[256];
	} *cpuid = calloc(1, sizeof(*cpuid));
	struct kvm_userspace_memory_region region = { .memory_size = RAM_SIZE };
	int size;

	g->ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!cpuid || g->ram == MAP_FAILED)
		fail(g->t, "trial", ENOMEM);
	fill_ram(g->ram);
	g->vm_fd = NEED(g, kvm_fd, KVM_CREATE_VM, NULL);
	region.userspace_addr = (uintptr_t)g->ram;
	NEED(g, g->vm_fd, KVM_SET_TSS_ADDR, (void *)0xfeffd000ul);
	NEED(g, g->vm_fd, KVM_SET_USER_MEMORY_REGION, &region);
	g->fd = NEED(g, g->vm_fd, KVM_CREATE_VCPU, NULL);
	size = NEED(g, kvm_fd, KVM_GET_VCPU_MMAP_SIZE, NULL);
	g->run = kvm_sys_map(g->fd, (size_t)size);
	if (!g->run)
		fail(g->t, "trial", errno);
	cpuid->head.nent = 256;
	NEED(g, kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid);
	NEED(g, g->fd, KVM_SET_CPUID2, cpuid);
	set_registers(g);
	free(cpuid);
}

/* ---- running it ---- */

static void begin(struct guest *g, const char *entry, int us)
{
	struct kvm_regs regs = { .rip = AT_CODE + (uint64_t)(entry - trial_code),
				 .rdi = AT_DATA,
				 .rsp = AT_STACK,
				 .rflags = 2 };
	/* It repeats, in case of a hypervisor that does not take the first one for an answer. */
	struct itimerval it = { .it_value = { .tv_usec = us }, .it_interval = { .tv_usec = 1000 } };

	NEED(g, g->fd, KVM_SET_REGS, &regs);
	memset(g->ram + AT_DATA, 0, 64);
	g->run->immediate_exit = 0;
	timed_run = g->run;
	setitimer(ITIMER_REAL, &it, NULL);
}

/* Up to @count port writes, or until the time is over; how many there were. */
static unsigned run(struct guest *g, unsigned count, const char *what)
{
	unsigned exits = 0;

	while (exits < count) {
		int ret = kvm_sys_call(g->fd, KVM_RUN, 0);

		if (ret == -EINTR)
			break;
		if (ret < 0)
			fail(g->t, what, -ret);
		if (g->run->exit_reason != KVM_EXIT_IO)
			fail_exit(g->t, what, g->run);
		exits++;
	}
	timed_run = NULL;
	setitimer(ITIMER_REAL, &(struct itimerval) { 0 }, NULL);
	return exits;
}

/* The function pushes: step over what the compiler may keep below the stack. */
static void call_plain(const uint8_t *code, uint64_t *data)
{
	__asm__ volatile("lea -128(%%rsp), %%rsp\n\tcall *%0\n\tlea 128(%%rsp), %%rsp"
			 :
			 : "r"(code), "D"(data)
			 : "rax", "rcx", "rdx", "rsi", "memory", "cc");
}

static double native_mips(void)
{
	uint64_t data[8] = { 0 }, begun = 0, ns, rounds = 0;
	size_t len = (size_t)(trial_code_end - trial_code);
	uint8_t *code = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (code == MAP_FAILED)
		return 0;
	memcpy(code, trial_code, len);
	if (mprotect(code, len, PROT_READ | PROT_EXEC) < 0)
		return 0;
	code += trial_plain - trial_code;
	do {
		/* Reading the clock costs as much as many calls. */
		for (unsigned i = 0; i < NATIVE_CALLS; i++)
			call_plain(code, data);
		if (!begun) { /* the first round only brings in the page */
			begun = spent_ns();
			ns = 0;
			continue;
		}
		rounds += NATIVE_CALLS;
		ns = spent_ns() - begun;
	} while (ns < NATIVE_NS);
	return (double)rounds * PLAIN_TURNS * PLAIN_INSNS * 1000 / (double)ns;
}

static double rounds_per_ns(struct guest *g, const char *entry, int us, const char *what)
{
	uint64_t begun, ns;

	begin(g, entry, us);
	begun = spent_ns();
	run(g, 1, what);
	ns = spent_ns() - begun;
	return ns ? (double)get_le64(g->ram + AT_DATA) / (double)ns : 0;
}

/*
 * A rate that is good needs no second look, one that is hopeless twice no third. The first time the
 * host may touch much that KVM needs; and where the host is itself a guest, the time that it is not
 * given counts as spent, so what lies between is tried as long as there is time.
 */
static bool plain_settled(const struct trial *t, unsigned tries)
{
	double share = t->native_mips > 0 ? t->ring0_mips / t->native_mips : 0;

	if (!tries)
		return false;
	return share >= TRIAL_SHARE_MIN ||
	       (tries > 1 && share > 0 && share < TRIAL_SHARE_MIN / 20) || now_ns() >= t->until_ns;
}

static void measure_plain(struct guest *g, struct trial *t)
{
	t->native_mips = native_mips();
	for (unsigned i = 0; !plain_settled(t, i); i++) {
		double mips = rounds_per_ns(g, trial_code, PLAIN_US, "ring-0 code") * PLAIN_TURNS *
			      PLAIN_INSNS * 1000;

		t->ring0_mips = mips > t->ring0_mips ? mips : t->ring0_mips;
	}
	trial_add(t, TRIAL_PLAIN);
}

static void measure_kernel(struct guest *g, struct trial *t)
{
	for (unsigned i = 0; i < KERNEL_TRIES && t->rounds_per_ms < TRIAL_ROUNDS_MIN; i++)
		t->rounds_per_ms =
		    rounds_per_ns(g, trial_kernel, KERNEL_US, "privileged code") * 1e6;
	trial_add(t, TRIAL_KERNEL);
}

static void measure_exit(struct guest *g, struct trial *t)
{
	uint64_t begun, ns;
	unsigned exits;

	begin(g, trial_exit, EXIT_US);
	begun = now_ns();
	exits = run(g, EXITS_MAX, "port output");
	ns = now_ns() - begun;
	t->exit_ns = exits ? ns / exits : 0;
	trial_add(t, TRIAL_EXIT);
}

void trial_run(int kvm_fd, struct trial *t)
{
	struct sigaction sa = { .sa_handler = on_alarm };
	struct guest g = { .t = t };
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGALRM);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	sigaction(SIGALRM, &sa, NULL);
	make_guest(&g, kvm_fd);
	if (t->brief) {
		measure_kernel(&g, t);
		if (t->rounds_per_ms >= TRIAL_ROUNDS_MIN)
			measure_plain(&g, t);
	} else {
		measure_plain(&g, t);
		measure_kernel(&g, t);
		measure_exit(&g, t);
	}
	trial_add(t, TRIAL_END);
}

/* ---- who starts it and waits ---- */

int trial_start(void (*try)(struct trial *t), struct trial *t, pid_t *ret_pid)
{
	pid_t pid = fork();

	if (pid < 0)
		return -errno;
	if (pid == 0) {
		prctl(PR_SET_NAME, "eyot-kvm-trial");
		try(t);
		_exit(0);
	}
	*ret_pid = pid;
	return 0;
}

uint32_t trial_wait(struct trial *t, uint64_t deadline_ns)
{
	uint32_t known;

	while (!((known = __atomic_load_n(&t->known, __ATOMIC_ACQUIRE)) & TRIAL_END)) {
		uint64_t now = now_ns(), left = deadline_ns > now ? deadline_ns - now : 0;
		struct timespec ts = { .tv_sec = (time_t)(left / 1000000000u),
				       .tv_nsec = (long)(left % 1000000000u) };

		if (!left)
			return known;
		syscall(SYS_futex, &t->known, FUTEX_WAIT, known, &ts, NULL, 0);
	}
	return known;
}

static void *reap(void *arg)
{
	pid_t pid = (pid_t)(intptr_t)arg;

	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	return NULL;
}

/* Tearing a VM down takes the kernel some milliseconds: nobody else shall wait for that. */
void trial_end(pid_t pid)
{
	pthread_attr_t attr;
	pthread_t thread;

	kill(pid, SIGKILL);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, KIB(64));
	if (pthread_create(&thread, &attr, reap, (void *)(intptr_t)pid))
		reap((void *)(intptr_t)pid);
	pthread_attr_destroy(&attr);
}
