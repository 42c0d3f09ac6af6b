// strata_soft_run_stub(HostFrame* rdi, const void* rsi): registers in, stub, registers out. See host_stub.h for the frame.
    .text
    .globl strata_soft_run_stub
    .type strata_soft_run_stub, @function
strata_soft_run_stub:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    pushq %rdi
    pushq %rsi
    pushq 128(%rdi)
    popfq
    movq 0(%rdi), %rax
    movq 8(%rdi), %rcx
    movq 16(%rdi), %rdx
    movq 24(%rdi), %rbx
    movq 40(%rdi), %rbp
    movq 48(%rdi), %rsi
    movq 64(%rdi), %r8
    movq 72(%rdi), %r9
    movq 80(%rdi), %r10
    movq 88(%rdi), %r11
    movq 96(%rdi), %r12
    movq 104(%rdi), %r13
    movq 112(%rdi), %r14
    movq 120(%rdi), %r15
    movq 56(%rdi), %rdi
    call *(%rsp)
1:  movq %rax, (%rsp)
    movq 8(%rsp), %rax
    movq %rcx, 8(%rax)
    movq %rdx, 16(%rax)
    movq %rbx, 24(%rax)
    movq %rbp, 40(%rax)
    movq %rsi, 48(%rax)
    movq %rdi, 56(%rax)
    movq %r8, 64(%rax)
    movq %r9, 72(%rax)
    movq %r10, 80(%rax)
    movq %r11, 88(%rax)
    movq %r12, 96(%rax)
    movq %r13, 104(%rax)
    movq %r14, 112(%rax)
    movq %r15, 120(%rax)
    pushfq
    popq 128(%rax)
    movq (%rsp), %rcx
    movq %rcx, 0(%rax)
    addq $16, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret
    .size strata_soft_run_stub, .-strata_soft_run_stub

// Where the signal handler continues after a fault in the stub: as if the stub had returned.
    .globl strata_soft_stub_fault
    .type strata_soft_stub_fault, @function
strata_soft_stub_fault:
    leaq 8(%rsp), %rsp
    jmp 1b
    .size strata_soft_stub_fault, .-strata_soft_stub_fault
    .section .note.GNU-stack, "", @progbits
