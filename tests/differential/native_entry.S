# native_entry: loads a whole register state and jumps into the code under test; the way back is the signal handler's.
#
# void strata_native_enter(const struct { u64 gpr[16]; u64 rip; u64 rflags; }* start, const void* xsave, void** saved_rsp)
# Saves the callee-saved registers on the stack and rsp in *saved_rsp; strata_native_resume (with rsp = *saved_rsp) returns to its caller.
    .text
    .globl strata_native_enter
    .type strata_native_enter, @function
strata_native_enter:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%rdx)
    mov $-1, %eax
    mov $-1, %edx
    xrstor64 (%rsi)
    mov %rdi, %r15
    mov 0x80(%r15), %rax
    mov %rax, strata_native_target(%rip)
    pushq 0x88(%r15)
    popfq
    mov 0x00(%r15), %rax
    mov 0x08(%r15), %rcx
    mov 0x10(%r15), %rdx
    mov 0x18(%r15), %rbx
    mov 0x20(%r15), %rsp
    mov 0x28(%r15), %rbp
    mov 0x30(%r15), %rsi
    mov 0x38(%r15), %rdi
    mov 0x40(%r15), %r8
    mov 0x48(%r15), %r9
    mov 0x50(%r15), %r10
    mov 0x58(%r15), %r11
    mov 0x60(%r15), %r12
    mov 0x68(%r15), %r13
    mov 0x70(%r15), %r14
    mov 0x78(%r15), %r15
    jmp *strata_native_target(%rip)
    .size strata_native_enter, . - strata_native_enter

    .globl strata_native_resume
    .type strata_native_resume, @function
strata_native_resume:
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret
    .size strata_native_resume, . - strata_native_resume

    .bss
    .balign 8
strata_native_target:
    .skip 8
    .section .note.GNU-stack, "", @progbits
