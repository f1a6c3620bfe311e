/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ways between privilege levels: SYSCALL/SYSRET, SYSENTER/SYSEXIT, INT, and what
 * single step and the debug registers do around them (Intel SDM 3B, chapter "Debug, Branch
 * Profile, TSC"). SYSCALL from 32-bit code and SYSENTER in long mode depend on the vendor.
 */
#include "rt.h"

#define VA 0x10000000000ul

/* ---- SYSCALL ---- */
u64 sc_rcx, sc_r11, sc_rsp, sc_rflags, sc_cs, sc_ss, sc_kstack;
/* The kernel's end: notes what it sees and ends by the runtime's gate from CPL 0. */
__asm__(".text\n"
	"sc_entry: movq %rcx, sc_rcx; movq %r11, sc_r11; movq %rsp, sc_rsp; movq sc_kstack, %rsp; "
	"pushfq; popq sc_rflags\n"
	"mov %cs, %ecx; movq %rcx, sc_cs; mov %ss, %ecx; movq %rcx, sc_ss\n"
	"int $0x42\n"
	/* notes, then goes back by SYSRET */
	"sc_return: movq %rcx, sc_rcx; movq %r11, sc_r11; movq %rsp, sc_rsp; sysretq\n"
	"sc_return32: movq %rcx, sc_rcx; movq %r11, sc_r11; sysretl\n"
	"sc_cstar: movq %rcx, sc_rcx; movq sc_kstack, %rsp; int $0x43\n");
extern u8 sc_entry[], sc_return[], sc_return32[], sc_cstar[];

USER_TEXT __attribute__((naked)) static void u_syscall(void)
{
	__asm__("syscall; .globl after_syscall; after_syscall: pushfq; popq %rax; mov %cs, %edx; "
		"mov %ss, %ebx; int $0x40");
}
extern u8 after_syscall[];
__asm__(".section .user.text,\"ax\"\n.code32\nu_syscall32: movl %esp, %ebp; syscall; "
	"after_syscall32: mov %cs, %eax; mov %ss, %ebx; int $0x40\n"
	"u_sysenter32: sysenter; int $0x40\nu_back32: mov %cs, %eax; mov %ss, %ebx; int "
	"$0x40\nu_int80: movl $5, %eax; int $0x80; int $0x40\n.code64\n.text\n");
extern u8 u_syscall32[], after_syscall32[], u_sysenter32[], u_back32[], u_int80[];
USER_TEXT __attribute__((naked)) static void u_sysenter(void)
{
	__asm__("sysenter; int $0x40");
}
USER_TEXT __attribute__((naked)) static void u_back(void)
{
	__asm__("mov %cs, %eax; mov %ss, %ebx; int $0x40");
}

static bool intel(void)
{
	return cpuid(0, 0).b == 0x756e6547;
}

static void syscalls(void)
{
	wrmsr(MSR_STAR, (u64)(UCS32 & ~3) << 48 | (u64)KCS << 32);
	wrmsr(MSR_LSTAR, (ulong)sc_entry);
	wrmsr(MSR_SFMASK, 0x47700);
	sc_kstack = (ulong)cpus[0].ist_stack[1] + 4096;
	user_run_flags(u_syscall, 0, 0, 0xcd5 & ~0x400);
	check_eq("syscall: enters at LSTAR", trap.vector, 0x42);
	check_eq("syscall: RCX is the next RIP", sc_rcx, (ulong)after_syscall);
	check_eq("syscall: R11 is RFLAGS", sc_r11 & 0xfd5, 0x8d5);
	check_eq("syscall: CS", sc_cs, KCS);
	check_eq("syscall: SS", sc_ss, KCS + 8);
	check_eq("syscall: RSP is the user's", sc_rsp, (ulong)user_stack + USTACK_SIZE - 64);
	check_eq("syscall: flags outside the mask stay", sc_rflags & 0x8d5, 0x8d5);
	wrmsr(MSR_SFMASK, 0x8d5 | 0x47700);
	user_run_flags(u_syscall, 0, 0, 0x8d5 | 0x3200);
	check(trap.vector == 0x42 && (sc_rflags & 0xbd5) == 0 && (sc_r11 & 0x3ad5) == 0x3ad5,
	      "syscall: flags inside the mask are cleared", "vector %u flags %#llx r11 %#llx",
	      trap.vector, (unsigned long long)sc_rflags, (unsigned long long)sc_r11);
	wrmsr(MSR_SFMASK, 0x47700);
	wrmsr(MSR_LSTAR, (ulong)sc_return);
	user_run_flags(u_syscall, 0, 0, 0x8d5);
	check(trap.vector == V_USER_RET && (trap.regs.ax & 0x8d5) == 0x8d5 &&
		  (trap.regs.dx & 0xffff) == UCS && (trap.regs.bx & 0xffff) == UDS,
	      "sysret: to 64-bit code", "vector %u flags %#lx cs %#lx ss %#lx", trap.vector,
	      trap.regs.ax, trap.regs.dx, trap.regs.bx);
	/* many times round */
	bool good = true;
	for (unsigned i = 0; i < 200; i++) {
		user_run_flags(u_syscall, 0, 0, 0);
		good &= trap.vector == V_USER_RET;
	}
	check(good, "sysret: 200 times", "vector %u", trap.vector);

	u64 efer = rdmsr(MSR_EFER);
	wrmsr(MSR_EFER, efer & ~(u64)EFER_SCE);
	user_run(u_syscall, 0, 0);
	expect("syscall: #UD without SCE", V_UD, 0, AT_INSN);
	TRY("sysretq", ::: "rcx", "r11", "memory");
	expect("sysret: #UD without SCE", V_UD, 0, AT_INSN);
	wrmsr(MSR_EFER, efer);
	try_wrmsr(MSR_LSTAR, 0x8000000000000000);
	expect("LSTAR: not canonical is #GP", V_GP, 0, AT_INSN);
	try_wrmsr(MSR_CSTAR, 0x8000000000000000);
	expect("CSTAR: not canonical is #GP", V_GP, 0, AT_INSN);
	try_wrmsr(MSR_SYSENTER_EIP, 0x8000000000000000);
	if (intel())
		expect("SYSENTER_EIP: not canonical is #GP", V_GP, 0, AT_INSN);
	else
		skip("SYSENTER_EIP: not canonical is #GP", "32 bits on AMD");
	wrmsr(MSR_LSTAR, (ulong)sc_entry);

	/* sysret flags: RF and VM are cleared, IF and IOPL come from R11 */
	TRY("movq %0, %%rcx; movq %1, %%r11; movq %2, %%rsp; sysretq", ::"r"(u_back),
	    "r"(0x13ad7ul), "r"((ulong)user_stack + USTACK_SIZE - 64)
	    : "rax", "rbx", "rcx", "r11", "memory", "cc");
	check(trap.vector == V_USER_RET && (trap.flags & 0x3ad5) == 0x3ad5 &&
		  (trap.regs.bx & 0xffff) == UDS,
	      "sysret: flags from R11, RF clear", "vector %u flags %#lx ss %#lx", trap.vector,
	      trap.flags, trap.regs.bx);
	cli();
	TRY("movq %0, %%rcx; movq $2, %%r11; movq %1, %%rsp; sysretl", ::"r"(u_back32),
	    "r"((ulong)user_stack + USTACK_SIZE - 64)
	    : "rax", "rbx", "rcx", "r11", "memory", "cc");
	check(trap.vector == V_USER_RET && trap.cs == UCS32 && (trap.regs.bx & 0xffff) == UDS,
	      "sysret: to 32-bit code", "vector %u cs %#lx ss %#lx", trap.vector, trap.cs,
	      trap.regs.bx);
	/* RCX not canonical: #GP at CPL 0 (Intel) or a fault at CPL 3 (AMD) */
	trap_ist(true);
	TRY("movq %0, %%rcx; movq $2, %%r11; movq %1, %%rsp; sysretq", ::"r"(0x8000000000000000ul),
	    "r"((ulong)user_stack + USTACK_SIZE - 64)
	    : "rax", "rbx", "rcx", "r11", "memory", "cc");
	trap_ist(false);
	check(trap.vector == V_GP && trap.error == 0, "sysret: RCX not canonical is #GP",
	      "vector %u error %#lx", trap.vector, trap.error);
	if (intel())
		check_eq("sysret: that #GP is at CPL 0", trap.cs, KCS);

	/* from 32-bit code */
	wrmsr(MSR_CSTAR, (ulong)sc_cstar);
	user32_run(u_syscall32, 0, 0, 0);
	if (intel()) {
		check(trap.vector == V_UD, "syscall: #UD in 32-bit code", "vector %u", trap.vector);
	} else {
		check(trap.vector == 0x43 && sc_rcx == (ulong)after_syscall32,
		      "syscall: 32-bit code enters at CSTAR", "vector %u error %#lx rcx %#llx",
		      trap.vector, trap.error, (unsigned long long)sc_rcx);
		wrmsr(MSR_CSTAR, (ulong)sc_return32);
		user32_run(u_syscall32, 0, 0, 0);
		check(trap.vector == V_USER_RET && trap.cs == UCS32 &&
			  (trap.regs.bx & 0xffff) == UDS,
		      "syscall: and back by sysretl", "vector %u cs %#lx", trap.vector, trap.cs);
	}
	idt_set(0x80,
		(void *)(ulong)(((ulong)idt[0x80].off2 << 32) | ((ulong)idt[0x80].off1 << 16) |
				idt[0x80].off0),
		3, 0);
	user32_run(u_int80, 0, 0, 0);
	check(trap.vector == 0x80 && trap.cs == UCS32 && trap.ip == (ulong)u_int80 + 7 &&
		  trap.regs.ax == 5,
	      "int 0x80 from 32-bit code", "vector %u cs %#lx", trap.vector, trap.cs);
	idt_default(0x80);
}

/* ---- SYSENTER ---- */
u64 se_sp;
__asm__(".text\nse_entry: movq %rsp, se_sp; mov %cs, %eax; mov %ss, %ebx; pushfq; popq %rdx; int "
	"$0x42\n");
extern u8 se_entry[];

static void sysenter(void)
{
	if (!intel()) {
		/* AMD: not in long mode, not even in 32-bit code */
		user_run(u_sysenter, 0, 0);
		check(trap.vector == V_UD, "sysenter: #UD in long mode (AMD)", "vector %u",
		      trap.vector);
		user32_run(u_sysenter32, 0, 0, 0);
		check(trap.vector == V_UD, "sysenter: #UD in 32-bit code of long mode (AMD)",
		      "vector %u", trap.vector);
		return;
	}
	ulong ksp = (ulong)cpus[0].ist_stack[1] + 4096;

	wrmsr(MSR_SYSENTER_CS, 0);
	user_run(u_sysenter, 0, 0);
	expect("sysenter: #GP with a null CS MSR", V_GP, 0, AT_INSN);
	wrmsr(MSR_SYSENTER_CS, KCS);
	wrmsr(MSR_SYSENTER_ESP, ksp);
	wrmsr(MSR_SYSENTER_EIP, (ulong)se_entry);
	user_run_flags(u_sysenter, 0, 0, 0x200);
	check(trap.vector == 0x42 && (trap.regs.ax & 0xffff) == KCS &&
		  (trap.regs.bx & 0xffff) == KCS + 8 && se_sp == ksp && !(trap.regs.dx & FL_IF),
	      "sysenter: from 64-bit code", "vector %u cs %#lx ss %#lx", trap.vector, trap.regs.ax,
	      trap.regs.bx);
	user32_run(u_sysenter32, 0, 0, 0x200);
	check(trap.vector == 0x42 && (trap.regs.ax & 0xffff) == KCS && se_sp == ksp,
	      "sysenter: from 32-bit code", "vector %u", trap.vector);
	TRY("movq %0, %%rdx; movq %1, %%rcx; sysexitq", ::"r"(u_back),
	    "r"((ulong)user_stack + USTACK_SIZE - 64)
	    : "rax", "rbx", "rcx", "rdx", "memory");
	check(trap.vector == V_USER_RET && trap.cs == (KCS + 32 + 3) &&
		  (trap.regs.bx & 0xffff) == (KCS + 40 + 3),
	      "sysexit: to 64-bit code", "vector %u cs %#lx", trap.vector, trap.cs);
	TRY("movq %0, %%rdx; movq %1, %%rcx; sysexitl", ::"r"(u_back32),
	    "r"((ulong)user_stack + USTACK_SIZE - 64)
	    : "rax", "rbx", "rcx", "rdx", "memory");
	check(trap.vector == V_USER_RET && trap.cs == (KCS + 16 + 3), "sysexit: to 32-bit code",
	      "vector %u cs %#lx", trap.vector, trap.cs);
	trap_ist(true);
	TRY("movq %0, %%rdx; movq %1, %%rcx; sysexitq", ::"r"(0x8000000000000000ul),
	    "r"((ulong)user_stack)
	    : "rax", "rbx", "rcx", "rdx", "memory");
	trap_ist(false);
	check(trap.vector == V_GP, "sysexit: RDX not canonical is #GP", "vector %u", trap.vector);
	wrmsr(MSR_SYSENTER_CS, 0);
	TRY("sysexitq", ::"d"(0ul), "c"(0ul) : "memory");
	expect("sysexit: #GP with a null CS MSR", V_GP, 0, AT_INSN);
}

/* ---- single step ---- */
static volatile unsigned steps;
static volatile ulong step_ip[32], step_dr6[32];
static void on_db(struct frame *f)
{
	unsigned i = steps % 32;

	step_ip[i] = f->ip;
	step_dr6[i] = read_dr6();
	steps++;
	write_dr6(0xffff0ff0);
	if (steps > 500)
		f->flags &= ~FL_TF;
}
static void step_begin(void)
{
	steps = 0;
	write_dr6(0xffff0ff0);
}
/* code between is stepped; %rax is lost */
#define TF_ON "pushfq; orq $0x100, (%%rsp); popfq; "
#define TF_OFF "pushfq; andq $~0x100, (%%rsp); popfq; "

USER_TEXT __attribute__((naked)) static void u_step_syscall(void)
{
	__asm__("nop; syscall; .globl after_step_syscall; after_step_syscall: nop; int $0x40");
}
extern u8 after_step_syscall[];

static void single_step(void)
{
	ulong a, b, c;

	on_vector(V_DB, on_db);
	step_begin();
	__asm__ volatile(TF_ON "1: nop; 2: nop; 3: " TF_OFF
			       "lea 1b(%%rip), %0; lea 2b(%%rip), %1; lea 3b(%%rip), %2"
			 : "=r"(a), "=r"(b), "=r"(c)::"memory", "cc");
	check(steps >= 3 && step_ip[0] == b && step_ip[1] == c,
	      "TF: traps after each instruction, not after popf", "steps %u first at %ld", steps,
	      step_ip[0] - b);
	check(step_dr6[0] & 0x4000, "TF: DR6.BS", "%#lx", step_dr6[0]);
	check(steps == 5, "TF: the popf that clears it traps a last time", "steps %u", steps);
	step_begin();
	__asm__ volatile(TF_ON "1: cpuid; 2: rdtsc; 3: " TF_OFF
			       "lea 2b(%%rip), %0; lea 3b(%%rip), %1"
			 : "=&r"(a), "=&r"(b)
			 : "a"(0)
			 : "memory", "cc", "rbx", "rcx", "rdx");
	check(step_ip[0] == a && step_ip[1] == b, "TF: cpuid and rdtsc trap behind themselves",
	      "%#lx %#lx", step_ip[0], step_ip[1]);
	step_begin();
	__asm__ volatile("mov %%ss, %1; " TF_ON "1: mov %1, %%ss; 2: nop; 3: nop; 4: " TF_OFF
			 "lea 3b(%%rip), %0"
			 : "=&r"(a), "=&r"(b)::"memory", "cc");
	check(step_ip[0] == a, "TF: held off after mov ss for one instruction", "first at %ld",
	      step_ip[0] - a);
	step_begin();
	__asm__ volatile(TF_ON "1: jmp 2f; nop; 2: nop; 3: " TF_OFF "lea 2b(%%rip), %0"
			 : "=r"(a)::"memory", "cc");
	check(step_ip[0] == a, "TF: a jump traps at its target", "%ld", step_ip[0] - a);
	step_begin();
	static u8 buf[16];
	__asm__ volatile("movl $4, %%ecx; movq %1, %%rdi; " TF_ON "1: rep stosb; 2: nop; " TF_OFF
			 "lea 1b(%%rip), %0"
			 : "=&r"(a)
			 : "r"(buf)
			 : "rax", "rcx", "rdi", "memory", "cc");
	check(step_ip[0] == a && step_ip[1] == a && step_ip[2] == a && step_ip[3] == a + 2,
	      "TF: rep traps after each iteration", "%ld %ld %ld %ld", step_ip[0] - a,
	      step_ip[1] - a, step_ip[2] - a, step_ip[3] - a);
	/* a software interrupt clears TF in its handler, and iret brings it back */
	step_begin();
	on_vector(0x45, on_db);
	__asm__ volatile(TF_ON "1: int $0x45; 2: nop; 3: nop; 4: " TF_OFF
			       "lea 2b(%%rip), %0; lea 3b(%%rip), %1"
			 : "=r"(a), "=r"(b)::"memory", "cc");
	on_vector(0x45, NULL);
	check(step_ip[0] == a && step_ip[1] == b, "TF: off in a handler, on again after its iret",
	      "%ld %ld", step_ip[0] - a, step_ip[1] - b);
	/* a fault while stepping saves TF */
	TRY(TF_ON "ud2", ::: "memory", "cc");
	check(trap.vector == V_UD && (trap.flags & FL_TF), "TF: saved by a fault",
	      "vector %u flags %#lx", trap.vector, trap.flags);
	/* iretq that sets TF: trap after the instruction at its target */
	step_begin();
	__asm__ volatile("mov %%rsp, %%rax; pushq %1; pushq %%rax; pushq $0x102; pushq %2; lea "
			 "1f(%%rip), %%rax; push %%rax; iretq; 1: nop; 2: nop;" TF_OFF
			 "lea 2b(%%rip), %0"
			 : "=r"(a)
			 : "r"((ulong)KDS), "r"((ulong)KCS)
			 : "rax", "memory", "cc");
	check(step_ip[0] == a, "TF: set by iret, traps after the next instruction", "%ld",
	      step_ip[0] - a);

	/* in CPL 3 */
	step_begin();
	user_run_flags(u_back, 0, 0, FL_TF);
	check(steps >= 2 && step_ip[0] == (ulong)u_back + 2, "TF: in CPL 3", "steps %u %ld", steps,
	      step_ip[0] - (ulong)u_back);
	/* syscall with TF masked: no trap in the kernel; sysret restores TF: trap after the next
	 * instruction */
	wrmsr(MSR_LSTAR, (ulong)sc_return);
	wrmsr(MSR_SFMASK, 0x47700);
	step_begin();
	user_run_flags(u_step_syscall, 0, 0, FL_TF);
	bool kernel = false;
	for (unsigned i = 0; i < steps && i < 32; i++)
		kernel |= step_ip[i] < 0x800000;
	check(trap.vector == V_USER_RET && !kernel, "TF: cleared by the syscall mask",
	      "vector %u steps %u %#lx", trap.vector, steps, step_ip[1]);
	/* sysret with TF in R11 traps at once on AMD and on Intel: the trap is pending after sysret
	 */
	check(steps >= 2 && (step_ip[1] == (ulong)after_step_syscall ||
			     step_ip[1] == (ulong)after_step_syscall + 1),
	      "TF: restored by sysret", "steps %u second at %ld", steps,
	      step_ip[1] - (ulong)after_step_syscall);
	on_vector(V_DB, NULL);
}

/* ---- debug registers ---- */
static volatile u64 watched[4];

static void debug_regs(void)
{
	/* instruction breakpoint: fault before the instruction; RF in the frame lets it run */
	extern u8 bp_here[];
	step_begin();
	write_dr0((ulong)bp_here);
	write_dr7(0x402); /* G0, execute */
	on_vector(V_DB, NULL);
	TRY("nop; .globl bp_here; bp_here: nop; nop", ::: "memory");
	check(trap.vector == V_DB && trap.ip == (ulong)bp_here,
	      "DR: instruction breakpoint faults before it", "vector %u ip %ld", trap.vector,
	      trap.ip - (ulong)bp_here);
	check_eq("DR: DR6.B0", read_dr6() & 0xf, 1);
	check(!(read_dr6() & 0x4000), "DR: not BS", "%#lx", read_dr6());
	check(!(trap.flags & FL_RF), "DR: RF clear in the frame", "%#lx", trap.flags);
	write_dr6(0xffff0ff0);
	write_dr7(0x400);
}

__asm__(".text\nrf_loop: incq %rcx; nop; cmpq $10, %rcx; jb rf_loop; jmp *%rdx\n");
extern u8 rf_loop[];

/* A loop whose first instruction is the breakpoint, entered by iret with RF clear, then set. */
static void rf(void)
{
	write_dr0((ulong)rf_loop);
	for (unsigned set = 0; set < 2; set++) {
		ulong flags = set ? 0x10002 : 2, n = 0;

		write_dr6(0xffff0ff0);
		write_dr7(0x402);
		TRY("mov %%rsp, %%rax; lea 1f(%%rip), %%rdx; pushq %1; pushq %%rax; pushq %3; "
		    "pushq %2; pushq $rf_loop; iretq; 1:",
		    : "+c"(n)
		    : "r"((ulong)KDS), "r"((ulong)KCS), "r"(flags)
		    : "rax", "rdx", "memory", "cc");
		write_dr7(0x400);
		check(trap.hit && trap.vector == V_DB && trap.ip == (ulong)rf_loop &&
			  trap.regs.cx == set,
		      set ? "DR: RF lets one instruction through, then it hits"
			  : "DR: without RF it hits at once",
		      "hit %d vector %u at %ld, %lu rounds", trap.hit, trap.vector,
		      trap.ip - (ulong)rf_loop, trap.regs.cx);
	}
	write_dr6(0xffff0ff0);
}

static void data_breakpoints(void)
{
	ulong next, a;

	on_vector(V_DB, on_db);
	write_dr0((ulong)&watched[1]);
	/* write, 8 bytes */
	write_dr7(0x400 | 2 | 1ul << 16 | 2ul << 18);
	step_begin();
	__asm__ volatile("movq $5, (%1); 1: nop; lea 1b(%%rip), %0"
			 : "=r"(next)
			 : "r"(&watched[1])
			 : "memory");
	check(steps == 1 && step_ip[0] == next && watched[1] == 5,
	      "DR: write breakpoint traps after it", "steps %u at %ld value %llu", steps,
	      step_ip[0] - next, (unsigned long long)watched[1]);
	check_eq("DR: DR6 of a data breakpoint", step_dr6[0] & 0x400f, 1);
	step_begin();
	__asm__ volatile("movq (%0), %%rax" ::"r"(&watched[1]) : "rax", "memory");
	check_eq("DR: a read does not hit a write breakpoint", steps, 0);
	__asm__ volatile("movb $1, 7(%0)" ::"r"(&watched[1]) : "memory");
	check_eq("DR: a byte inside hits", steps, 1);
	step_begin();
	__asm__ volatile("movq $0, 8(%0); movb $0, -1(%0)" ::"r"(&watched[1]) : "memory");
	check_eq("DR: neighbours do not", steps, 0);
	__asm__ volatile("movq $0, -4(%0)" ::"r"(&watched[1]) : "memory");
	check_eq("DR: an overlapping access hits", steps, 1);
	step_begin();
	__asm__ volatile("movq (%0), %%rax; lock incq (%0)" ::"r"(&watched[1])
			 : "rax", "memory", "cc");
	check_eq("DR: locked read-modify-write hits", steps, 1);
	/* read or write, 4 bytes */
	write_dr7(0x400 | 2 | 3ul << 16 | 3ul << 18);
	step_begin();
	__asm__ volatile("movl (%0), %%eax" ::"r"(&watched[1]) : "rax", "memory");
	check_eq("DR: read-write breakpoint hits a read", steps, 1);
	step_begin();
	__asm__ volatile("push (%0); pop %%rax" ::"r"(&watched[1]) : "rax", "memory");
	check_eq("DR: a push of it hits", steps, 1);
	step_begin();
	__asm__ volatile("cld; movq %0, %%rdi; movl $8, %%ecx; 1: rep stosb; nop; lea 1b(%%rip), %1"
			 :
			 : "r"((ulong)&watched[1] - 2), "r"(0)
			 : "rax", "rcx", "rdi", "memory");
	check(steps >= 1, "DR: rep stosb hits", "steps %u", steps);
	/* two at once */
	write_dr1((ulong)&watched[2]);
	write_dr7(0x400 | 2 | 8 | 1ul << 16 | 2ul << 18 | 1ul << 20 | 2ul << 22);
	step_begin();
	__asm__ volatile("movups %%xmm0, (%0)" ::"r"(&watched[1]) : "memory");
	check(steps == 1 && (step_dr6[0] & 3) == 3, "DR: two hit by one access",
	      "steps %u DR6 %#lx", steps, step_dr6[0]);
	/* with single step: both causes */
	write_dr7(0x400 | 2 | 1ul << 16 | 2ul << 18);
	step_begin();
	__asm__ volatile(TF_ON "movq $1, (%1); 1:" TF_OFF "lea 1b(%%rip), %0"
			 : "=&r"(a)
			 : "r"(&watched[1])
			 : "memory", "cc");
	check(step_ip[0] == a && (step_dr6[0] & 0x4001) == 0x4001, "DR: with TF both bits",
	      "at %ld DR6 %#lx", step_ip[0] - a, step_dr6[0]);
	/* mov ss holds it off */
	step_begin();
	__asm__ volatile("mov %%ss, %%eax; movw %%ax, (%1); nop"
			 : "=&r"(a)
			 : "r"(&watched[1])
			 : "rax", "memory");
	check_eq("DR: (control) store of ss", steps, 1);
	watched[1] = KDS;
	write_dr7(0x400 | 2 | 3ul << 16 | 2ul << 18);
	step_begin();
	__asm__ volatile("mov (%1), %%ss; nop; 1: nop; lea 1b(%%rip), %0"
			 : "=&r"(a)
			 : "r"(&watched[1])
			 : "memory");
	check((steps == 1 && step_ip[0] == a) || steps == 0,
	      "DR: data breakpoint on mov ss is held off by one instruction (or lost)",
	      "steps %u at %ld", steps, step_ip[0] - a);
	write_dr7(0x400);
	step_begin();
	watched[1] = 9;
	check_eq("DR: disabled", steps, 0);
	/* local enable bits work, too */
	write_dr7(0x400 | 1 | 1ul << 16 | 2ul << 18);
	watched[1] = 10;
	check_eq("DR: local enable", steps, 1);
	/* GD */
	on_vector(V_DB, NULL);
	write_dr7(0x400 | 1ul << 13);
	TRY("mov %%dr0, %%rax", ::: "rax", "memory");
	check(trap.vector == V_DB && trap.ip == trap_insn && (read_dr6() & 0x2000),
	      "DR: GD catches a read", "vector %u DR6 %#lx", trap.vector, read_dr6());
	check(!(read_dr7() & 0x2000), "DR: GD cleared for the handler", "%#lx", read_dr7());
	write_dr7(0x400);
	write_dr6(0xffff0ff0);
	TRY("mov %0, %%dr7", ::"r"(1ul << 32) : "memory");
	expect("DR: upper half of DR7 is #GP", V_GP, 0, AT_INSN);
	TRY("mov %0, %%dr6", ::"r"(1ul << 32) : "memory");
	expect("DR: upper half of DR6 is #GP", V_GP, 0, AT_INSN);
	write_dr7(0);
	check_eq("DR: bit 10 of DR7 is always 1", read_dr7(), 0x400);
	write_dr6(0);
	check((read_dr6() & 0xfffe0ff0) == 0xfffe0ff0, "DR: fixed ones of DR6", "%#lx", read_dr6());
	write_cr4(read_cr4() | CR4_DE);
	TRY(".byte 0x0f, 0x21, 0xe0", ::: "rax", "memory"); /* mov %dr4, %rax */
	expect("DR: DR4 with CR4.DE is #UD", V_UD, 0, AT_INSN);
	write_cr4(read_cr4() & ~CR4_DE);
	write_dr6(0xffff0ff1);
	ulong v = 0;
	TRY(".byte 0x0f, 0x21, 0xe0", : "=a"(v)::"memory");
	check(!trap.hit && v == read_dr6(), "DR: DR4 is DR6 without CR4.DE", "%#lx", v);
	write_dr0(0x8000123412341234);
	check_eq("DR: DR0 holds 64 bits", read_dr0(), 0x8000123412341234);
	write_dr0(0);
	write_dr1(0);
	write_dr6(0xffff0ff0);
}

int main(void)
{
	syscalls();
	sysenter();
	single_step();
	debug_regs();
	rf();
	data_breakpoints();
	return 0;
}
