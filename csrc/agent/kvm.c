/*
 * Host only: does /dev/kvm run code, and as fast as a CPU? A nested or paravirtual host may let a machine be created, and then
 * emulate every instruction, or give up at the first that it does not know.
 * Layouts and numbers: include/uapi/linux/kvm.h and arch/x86/include/uapi/asm/kvm.h, which musl has not.
 */
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__x86_64__)

struct region {
	uint32_t slot, flags;
	uint64_t guest_address, size, host_address;
};
struct regs {
	uint64_t rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8_15[8], rip, rflags;
};
struct segment {
	uint64_t base;
	uint32_t limit;
	uint16_t selector;
	uint8_t type, present, dpl, db, s, l, g, avl, unusable, padding;
};
struct sregs {
	struct segment cs, ds, es, fs, gs, ss, tr, ldt;
	uint64_t tables[4]; /* GDT and IDT, each a base, a limit and padding */
	uint64_t cr0, cr2, cr3, cr4, cr8, efer, apic_base, interrupts[4];
};
struct cpuid {
	uint32_t count, padding;
	uint8_t entries[256][40];
};
_Static_assert(sizeof(struct regs) == 144 && sizeof(struct sregs) == 312, "layout of kvm.h");

#define KVM_GET_API_VERSION 0xae00
#define KVM_CREATE_VM 0xae01
#define KVM_GET_VCPU_MMAP_SIZE 0xae04
#define KVM_GET_SUPPORTED_CPUID 0xc008ae05
#define KVM_CREATE_VCPU 0xae41
#define KVM_SET_USER_MEMORY_REGION 0x4020ae46
#define KVM_RUN 0xae80
#define KVM_SET_REGS 0x4090ae82
#define KVM_GET_SREGS 0x8138ae83
#define KVM_SET_SREGS 0x4138ae84
#define KVM_SET_CPUID2 0x4008ae90

enum { MEMORY_BYTES = 1 << 16, PML4 = 0x1000, PDPT = 0x2000, PD = 0x3000, CODE = 0x4000, DATA = 0x5000, STEPS = 100000 };
enum { EXIT_HLT = 5, EXIT_INTERNAL_ERROR = 17, EXIT_REASON_AT = 8, SUBERROR_AT = 32 };

/* 1: dec %ecx; jnz 1b; lock cmpxchg16b (%rsi), which kernels use and simple emulators do not know; hlt */
static const uint8_t code[] = {0xff, 0xc9, 0x75, 0xfc, 0xf0, 0x48, 0x0f, 0xc7, 0x0e, 0xf4};

static int checked(int result, const char *what)
{
	if (result >= 0)
		return result;
	printf("fails %s: %s\n", what, strerror(errno));
	fflush(stdout);
	_exit(1);
}

/* 64-bit mode with the first 2 MiB mapped to themselves, as the processor manuals ask for it. */
static void long_mode(int cpu, uint8_t *memory)
{
	struct sregs state;
	checked(ioctl(cpu, KVM_GET_SREGS, &state), "KVM_GET_SREGS");
	*(uint64_t *)(memory + PML4) = PDPT | 3, *(uint64_t *)(memory + PDPT) = PD | 3, *(uint64_t *)(memory + PD) = 0x83;
	state.cr3 = PML4, state.cr4 = 0x20, state.cr0 = 0x80000011, state.efer = 0x500;
	struct segment segment = {.limit = 0xffffffff, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1};
	state.cs = segment;
	segment.type = 3, segment.selector = 16, segment.l = 0, segment.db = 1;
	state.ds = state.es = state.fs = state.gs = state.ss = segment;
	checked(ioctl(cpu, KVM_SET_SREGS, &state), "KVM_SET_SREGS");
}

static void *map(int fd, size_t size, int flags)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);
	checked(at == MAP_FAILED ? -1 : 0, "mmap");
	return at;
}

static void give_features(int kvm, int cpu)
{
	static struct cpuid features = {.count = 256};
	checked(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &features), "KVM_GET_SUPPORTED_CPUID");
	checked(ioctl(cpu, KVM_SET_CPUID2, &features), "KVM_SET_CPUID2");
}

/* Print `runs NS`, the time of STEPS turns of a loop, or `fails WHY`. */
int kvm_probe(void)
{
	int kvm = checked(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
	int vm = checked(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
	uint8_t *memory = map(-1, MEMORY_BYTES, MAP_PRIVATE | MAP_ANONYMOUS);
	struct region region = {.size = MEMORY_BYTES, .host_address = (uintptr_t)memory};
	checked(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
	int cpu = checked(ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
	uint8_t *run = map(cpu, (size_t)checked(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE"), MAP_SHARED);
	give_features(kvm, cpu);
	long_mode(cpu, memory);
	memcpy(memory + CODE, code, sizeof code);
	struct regs regs = {.rcx = STEPS, .rsi = DATA, .rsp = MEMORY_BYTES, .rip = CODE, .rflags = 2};
	checked(ioctl(cpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
	uint64_t start_ns = now_ns();
	checked(ioctl(cpu, KVM_RUN, 0), "KVM_RUN");
	uint64_t took_ns = now_ns() - start_ns;
	uint32_t reason = *(uint32_t *)(run + EXIT_REASON_AT);
	if (reason == EXIT_HLT)
		printf("runs %llu\n", (unsigned long long)took_ns);
	else if (reason == EXIT_INTERNAL_ERROR)
		printf("fails internal error of KVM, suberror %u, at an instruction that kernels use\n", *(uint32_t *)(run + SUBERROR_AT));
	else
		printf("fails exit %u of KVM where the program should have halted\n", reason);
	return 0;
}

#else

int kvm_probe(void)
{
	puts("fails not known on this architecture");
	return 0;
}

#endif
