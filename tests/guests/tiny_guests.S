# Tiny guests: code that the engine contract suite copies into guest RAM at 0x1000 (application processors: 0x7000) and runs.
#
# Long-mode guests start with paging on, 4 GiB mapped one to one, rsp 0x8000, an IDT at 0x3000 whose gates for vectors 0..63 lie at
# 0x4000 + 16 * vector: each pushes its number and jumps to the guest's own handler at the address in [0x2ff8].
# A guest ends by writing to port 0xf4.

#define APIC 0xfee00000

.macro guest name
    .globl tiny_\name\()_begin
tiny_\name\()_begin:
.endm
.macro end_guest name
    .globl tiny_\name\()_end
tiny_\name\()_end:
.endm
.macro finish
    outb %al, $0xf4
1:  jmp 1b
.endm

.section .rodata

# Real mode: reads a byte from port 0x10, adds one, writes it to port 0x11; writes "abc" to port 0x12 with REP OUTSB.
.code16
guest real_ports
    inb $0x10, %al
    incb %al
    outb %al, $0x11
    movw $0x100, %si
    movb $'a', 0x100
    movb $'b', 0x101
    movb $'c', 0x102
    movw $3, %cx
    movw $0x12, %dx
    cld
    rep outsb
    finish
end_guest real_ports

# Real mode: never ends.
guest real_spin
1:  incl %ecx
    jmp 1b
end_guest real_spin

# Real mode: sleeps with interrupts off.
guest real_halt
    cli
1:  hlt
    jmp 1b
end_guest real_halt

# Real mode, started by SIPI at 0x7000: tells the other one through memory, then sleeps.
guest real_ap
    xorw %ax, %ax
    movw %ax, %ds
    movw $0x5a5a, 0x6000
1:  cli
    hlt
    jmp 1b
end_guest real_ap

.code64
# An undefined instruction without a usable IDT.
guest triple_fault
    lidt 1f(%rip)
    ud2
1:  .word 0
    .quad 0
end_guest triple_fault

# Reads and writes device memory in four sizes at 0xd0000000.
guest mmio
    movl $0xd0000000, %ebx
    movb (%rbx), %al
    movb %al, 1(%rbx)
    movw 2(%rbx), %ax
    movw %ax, 4(%rbx)
    movl 8(%rbx), %eax
    movl %eax, 12(%rbx)
    movq 16(%rbx), %rax
    movq %rax, 24(%rbx)
    finish
end_guest mmio

# Switches the APIC on, says so on port 0x11, sleeps until an interrupt came; the handler writes its vector to port 0x12.
guest halt
    leaq 2f(%rip), %rax
    movq %rax, 0x2ff8
    movl $APIC, %ebx
    movl $0x1ff, 0xf0(%rbx)
    movl $0, 0x80(%rbx)
    outb %al, $0x11
1:  sti
    hlt
    cli
    cmpb $0, 0x2ff0
    je 1b
    finish
2:  popq %rax
    outb %al, $0x12
    movb $1, 0x2ff0
    movl $APIC, %ebx
    movl $0, 0xb0(%rbx)
    iretq
end_guest halt

# As above, but for an interrupt of the 8259s: LINT0 is ExtINT, and there is no EOI to the APIC.
guest external
    leaq 2f(%rip), %rax
    movq %rax, 0x2ff8
    movl $APIC, %ebx
    movl $0x1ff, 0xf0(%rbx)
    movl $0x700, 0x350(%rbx)
    outb %al, $0x11
1:  sti
    hlt
    cli
    cmpb $0, 0x2ff0
    je 1b
    finish
2:  popq %rax
    outb %al, $0x12
    movb $1, 0x2ff0
    iretq
end_guest external

# Spins with interrupts on until one came: the interrupt must break into running code. Same handler as above.
guest spin_external
    leaq 2f(%rip), %rax
    movq %rax, 0x2ff8
    movl $APIC, %ebx
    movl $0x1ff, 0xf0(%rbx)
    movl $0x700, 0x350(%rbx)
    sti
    outb %al, $0x11
1:  pause
    cmpb $0, 0x2ff0
    je 1b
    finish
2:  popq %rax
    outb %al, $0x12
    movb $1, 0x2ff0
    iretq
end_guest spin_external

# Arms the TSC-deadline timer and sleeps until it fires at vector 0x31.
guest deadline
    leaq 2f(%rip), %rax
    movq %rax, 0x2ff8
    movl $APIC, %ebx
    movl $0x1ff, 0xf0(%rbx)
    movl $0x40031, 0x320(%rbx)
    rdtsc
    addl $2000000, %eax
    adcl $0, %edx
    movl $0x6e0, %ecx
    wrmsr
1:  sti
    hlt
    cli
    cmpb $0, 0x2ff0
    je 1b
    finish
2:  popq %rax
    outb %al, $0x12
    movb $1, 0x2ff0
    movl $APIC, %ebx
    movl $0, 0xb0(%rbx)
    iretq
end_guest deadline

# Starts vCPU 1 with INIT and SIPI at 0x7000, waits for its word at 0x6000.
guest start_ap
    movl $APIC, %ebx
    movl $0x1ff, 0xf0(%rbx)
    movl $0x01000000, 0x310(%rbx)
    movl $0x4500, 0x300(%rbx)
1:  testl $0x1000, 0x300(%rbx)
    jnz 1b
    movl $0x01000000, 0x310(%rbx)
    movl $0x4607, 0x300(%rbx)
2:  pause
    cmpw $0x5a5a, 0x6000
    jne 2b
    finish
end_guest start_ap

# Writes one byte into each of the pages 0x50 and 0x52.
guest dirty
    movb $1, 0x50123
    movb $1, 0x52fff
    finish
end_guest dirty

# Puts values into registers of every kind, stops at port 0x11, and afterwards writes a checksum of them to port 0x12.
guest registers
    movl $0x11111111, %ebx
    movabsq $0x123456789abcdef, %r15
    movq %r15, %xmm7
    fldpi
    movl $0xc0000102, %ecx
    movl $0x22222222, %eax
    movl $0x3333, %edx
    wrmsr
    stc
    outb %al, $0x11
    setc %al
    movzbl %al, %esi
    addl %ebx, %esi
    movq %xmm7, %rax
    cmpq %rax, %r15
    jne 1f
    addl $0x100, %esi
1:  fldpi
    fcompp
    fnstsw %ax
    testb $0x40, %ah
    jz 1f
    addl $0x200, %esi
1:  movl $0xc0000102, %ecx
    rdmsr
    addl %eax, %esi
    addl %edx, %esi
    movl %esi, %eax
    outl %eax, $0x12
    finish
end_guest registers

# INT3: the handler writes its vector to port 0x12 and goes on.
guest breakpoint
    leaq 2f(%rip), %rax
    movq %rax, 0x2ff8
    int3
    finish
2:  popq %rax
    outb %al, $0x12
    iretq
end_guest breakpoint

# XSAVE, spoiled registers, XRSTOR: the values come back. Writes the low half of xmm1 to port 0x12.
guest xrstor
    movq %cr4, %rax
    orl $0x40600, %eax
    movq %rax, %cr4
    xorl %ecx, %ecx
    xorl %edx, %edx
    movl $3, %eax
    xsetbv
    movl $0x600d, %eax
    movd %eax, %xmm1
    movl $0x60000, %ebx
    movl $3, %eax
    xsave (%rbx)
    pxor %xmm1, %xmm1
    movl $3, %eax
    xrstor (%rbx)
    movd %xmm1, %eax
    outl %eax, $0x12
    finish
end_guest xrstor

# A 16-byte SSE store to device memory.
guest wide_mmio
    movq %cr4, %rax
    orl $0x600, %eax
    movq %rax, %cr4
    movl $0xd0000000, %ebx
    movabsq $0x1122334455667788, %rax
    movq %rax, %xmm0
    movlhps %xmm0, %xmm0
    movdqu %xmm0, (%rbx)
    finish
end_guest wide_mmio

# Divides by zero: the handler writes the vector to port 0x12 and ends.
guest divide
    leaq 2f(%rip), %rax
    movq %rax, 0x2ff8
    xorl %ecx, %ecx
    xorl %edx, %edx
    divl %ecx
2:  popq %rax
    outb %al, $0x12
    finish
end_guest divide

# What sits at 0x4000: 64 gates of 16 bytes.
.balign 16
guest gates
    .set vector, 0
    .rept 64
    .balign 16
    pushq $vector
    jmpq *0x2ff8
    .set vector, vector + 1
    .endr
    .balign 16
end_guest gates

.section .note.GNU-stack,"",@progbits
