// StubCode: all the code that a stub process has besides the guest's: the signal handler, the way back in, and the helper thread.
//
// Copied into the first page of the stub's area (stub_layout.h); it addresses the pages behind it relative to itself. Guest code can jump to any
// byte of it with any registers, so nothing here may trust a register, or the reports page, for anything but the guest's own state: what decides
// is read from the orders pages, which the stub cannot write, and what a system call may do is fixed by the filter of the thread that makes it.
    .set orders, 0x1000
    .set gate, orders + 0x00
    .set sleeping, orders + 0x04
    .set map_go, orders + 0x08
    .set map_count, orders + 0x0c
    .set no_signals, orders + 0x10
    .set ram_fd, orders + 0x18
    .set vector_mask, orders + 0x1c
    .set registers, orders + 0x20
    .set guest_rflags, orders + 0xa0
    .set guest_rip, orders + 0xa8
    .set guest_fs, orders + 0xb0
    .set guest_gs, orders + 0xb8
    .set guest_program, orders + 0xc0
    .set helper_program, orders + 0xd0
    .set xsave, orders + 0x100
    .set maps, orders + 0x2000
    .set reports, 0x5000
    .set done, reports + 0x00
    .set entered, reports + 0x04
    .set map_done, reports + 0x08
    .set map_failed, reports + 0x0c
    .set context, reports + 0x10
    .set seen_fs, reports + 0x18
    .set seen_gs, reports + 0x20
    .set signal, reports + 0x28
    .set selectors, reports + 0x30
    .set area_end, 0xa000

    .set SYS_mmap, 9
    .set SYS_munmap, 11
    .set SYS_rt_sigprocmask, 14
    .set SYS_clone, 56
    .set SYS_futex, 202
    .set CLONE_FLAGS, 0x50f00            // VM, FS, FILES, SIGHAND, THREAD, SYSVSEM
    .set SYS_seccomp, 317

    .text
    .balign 64
    .globl strata_stub_begin
strata_stub_begin:
    // Where a place of the area is, from here.
#define AT(place) strata_stub_begin + place(%rip)

// A signal: edi its number, rdx the context that the kernel saved. All signals are blocked.
    .globl strata_stub_handler
strata_stub_handler:
    rdfsbase %rax
    movq %rax, AT(seen_fs)
    rdgsbase %rax
    movq %rax, AT(seen_gs)
    movq %rdx, AT(context)
    movl %edi, AT(signal)
    movl %ds, %eax
    movw %ax, AT(selectors)
    movl %es, %eax
    movw %ax, AT(selectors + 2)
    movl %fs, %eax
    movw %ax, AT(selectors + 4)
    movl %gs, %eax
    movw %ax, AT(selectors + 6)
announce:
    movl $1, %eax
    xchgl %eax, AT(done)
    cmpl $0, AT(sleeping)
    je wait
    leaq AT(done), %rdi
    movl $1, %esi
    movl $1, %edx
    xorl %r10d, %r10d
    xorl %r8d, %r8d
    xorl %r9d, %r9d
    movl $SYS_futex, %eax
    syscall
    .globl strata_stub_wake_call
strata_stub_wake_call:

// Until the gate shows a number that was not entered yet.
wait:
    movl AT(gate), %edx
    testl %edx, %edx
    jz 1f
    cmpl AT(entered), %edx
    jne enter
1:  leaq AT(gate), %rdi
    xorl %esi, %esi
    xorl %r10d, %r10d
    xorl %r8d, %r8d
    xorl %r9d, %r9d
    movl $SYS_futex, %eax
    syscall
    .globl strata_stub_wait_call
strata_stub_wait_call:
    jmp wait

// From here to the last jump a signal finds the guest's registers as they are in the orders.
    .globl strata_stub_enter
strata_stub_enter:
enter:
    movl %edx, AT(entered)
    movq AT(registers + 8 * 4), %rsp
    movl $2, %edi
    leaq AT(no_signals), %rsi
    xorl %edx, %edx
    movl $8, %r10d
    movl $SYS_rt_sigprocmask, %eax
    syscall
    .globl strata_stub_mask_call
strata_stub_mask_call:
    xorl %eax, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %fs
    movl %eax, %gs
    movq AT(guest_fs), %rax
    wrfsbase %rax
    movq AT(guest_gs), %rax
    wrgsbase %rax
    movl AT(vector_mask), %eax
    xorl %edx, %edx
    xrstor64 AT(xsave)
    leaq AT(guest_rflags), %rsp
    popfq
    movq AT(registers + 8 * 0), %rax
    movq AT(registers + 8 * 1), %rcx
    movq AT(registers + 8 * 2), %rdx
    movq AT(registers + 8 * 3), %rbx
    movq AT(registers + 8 * 4), %rsp
    movq AT(registers + 8 * 5), %rbp
    movq AT(registers + 8 * 6), %rsi
    movq AT(registers + 8 * 7), %rdi
    movq AT(registers + 8 * 8), %r8
    movq AT(registers + 8 * 9), %r9
    movq AT(registers + 8 * 10), %r10
    movq AT(registers + 8 * 11), %r11
    movq AT(registers + 8 * 12), %r12
    movq AT(registers + 8 * 13), %r13
    movq AT(registers + 8 * 14), %r14
    movq AT(registers + 8 * 15), %r15
    jmp *AT(guest_rip)
    .globl strata_stub_enter_end
strata_stub_enter_end:

// Where the first thread begins, on no stack: makes the helper thread, and leaves nothing mapped but the area.
    .globl strata_stub_start
strata_stub_start:
    movl $CLONE_FLAGS, %edi
    xorl %esi, %esi
    xorl %edx, %edx
    xorl %r10d, %r10d
    xorl %r8d, %r8d
    movl $SYS_clone, %eax
    syscall
    testl %eax, %eax
    jz helper
    js failed
    xorl %edi, %edi
    leaq AT(0), %rsi
    movl $SYS_munmap, %eax
    syscall
    testl %eax, %eax
    jnz failed
    leaq AT(area_end), %rdi
    movabsq $0x7ffffffff000, %rsi
    subq %rdi, %rsi
    movl $SYS_munmap, %eax
    syscall
    testl %eax, %eax
    jnz failed
    movl $1, %edi
    xorl %esi, %esi
    leaq AT(guest_program), %rdx
    movl $SYS_seccomp, %eax
    syscall
    testl %eax, %eax
    jnz failed
    movl $0, AT(signal)
    jmp announce
failed:
    ud2

// The helper thread: maps and unmaps what the orders say, when they say so. It has no stack and is given no signals.
helper:
    movl $1, %edi
    xorl %esi, %esi
    leaq AT(helper_program), %rdx
    movl $SYS_seccomp, %eax
    syscall
    testl %eax, %eax
    jnz failed
    xorl %ebx, %ebx                 // the last number served
helper_wait:
    movl AT(map_go), %edx
    cmpl %ebx, %edx
    jne serve
    leaq AT(map_go), %rdi
    xorl %esi, %esi
    xorl %r10d, %r10d
    movl $SYS_futex, %eax
    syscall
    .globl strata_stub_helper_wait_call
strata_stub_helper_wait_call:
    jmp helper_wait
serve:
    movl %edx, %ebx
    xorl %ebp, %ebp                 // what failed
    movl AT(map_count), %r12d
    leaq AT(maps), %r13
1:  subl $1, %r12d
    jc served
    movq 0(%r13), %rdi
    movq 8(%r13), %rsi
    movq 16(%r13), %r9
    movl 24(%r13), %edx
    movl 28(%r13), %r10d
    movl AT(ram_fd), %r8d
    addq $32, %r13
    testl %r10d, %r10d
    jz unmap
    movq %rdi, %r14
    movl $SYS_mmap, %eax
    syscall
    cmpq %r14, %rax
    je 1b
    orl $1, %ebp
    jmp 1b
unmap:
    movl $SYS_munmap, %eax
    syscall
    orl %eax, %ebp
    jmp 1b
served:
    movl %ebp, AT(map_failed)
    movl %ebx, %eax
    xchgl %eax, AT(map_done)
    cmpl $0, AT(sleeping)
    je helper_wait
    leaq AT(map_done), %rdi
    movl $1, %esi
    movl $1, %edx
    xorl %r10d, %r10d
    movl $SYS_futex, %eax
    syscall
    jmp helper_wait

    .globl strata_stub_end
strata_stub_end:
    .section .note.GNU-stack, "", @progbits
