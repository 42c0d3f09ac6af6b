; lapic_timer: the local APIC's timer: one-shot, periodic, and TSC-deadline where CPUID offers it; the current count goes down.
; expect: exit 10h
%include "guest.inc"
%define LAPIC 0xfee00000
start:  mov esp, 0x80000
        GATE32 0x40, tick
        GATE32 0xff, spurious
        lidt [idtr]
        PIC_INIT 0xff
        mov dword [LAPIC + 0xf0], 0x1ff
        mov dword [LAPIC + 0x80], 0
        mov dword [LAPIC + 0x3e0], 0x3          ; divide by 16
        ; the count goes down
        mov dword [LAPIC + 0x320], 0x10040      ; masked one-shot
        mov dword [LAPIC + 0x380], 0x7fffffff
        mov eax, [LAPIC + 0x390]
.down:  cmp [LAPIC + 0x390], eax
        jae .down
        mov dword [LAPIC + 0x380], 0
        ; one-shot
        xor ecx, ecx
        mov dword [LAPIC + 0x320], 0x40
        mov dword [LAPIC + 0x380], 100000
        sti
.one:   hlt
        cmp ecx, 1
        jb .one
        cmp dword [LAPIC + 0x390], 0
        EXPECT e, 0x20
        ; periodic
        mov dword [LAPIC + 0x320], 0x20040
        mov dword [LAPIC + 0x380], 100000
.five:  hlt
        cmp ecx, 6
        jb .five
        cli
        mov dword [LAPIC + 0x380], 0
        ; TSC deadline
        mov eax, 1
        xor ecx, ecx
        cpuid
        bt ecx, 24
        jnc .done
        xor ecx, ecx
        mov dword [LAPIC + 0x320], 0x40040
        mfence
        rdtsc
        add eax, 10000000
        adc edx, 0
        mov ebp, eax
        mov edi, edx
        mov ecx, 0x6e0
        wrmsr
        xor ecx, ecx
        sti
.dead:  hlt
        cmp ecx, 1
        jb .dead
        cli
        rdtsc
        sub eax, ebp
        sbb edx, edi
        EXPECT nc, 0x21                         ; not before the deadline
.done:  PASS
tick:   inc ecx
        mov dword [LAPIC + 0xb0], 0
        iret
spurious:
        iret
idtr:   dw 0x100 * 8 - 1
        dd IDT
