; smp_sipi: INIT and SIPI to all others; each starts in real mode at 8000h, takes a number under a lock and halts; an IPI wakes them.
; expect: exit 10h (run with 4 vCPUs)
%include "guest.inc"
%define LAPIC 0xfee00000
%define COUNT 0x6000
%define LOCK 0x6004
%define WOKEN 0x6008
%define NUMBER 0x600c
%define SUM 0x6010
%define VCPUS 4
start:  mov esp, 0x80000
        mov dword [COUNT], 0
        mov dword [LOCK], 0
        mov dword [WOKEN], 0
        mov dword [NUMBER], 0
        mov dword [SUM], 0
        mov esi, ap_start
        mov edi, REAL_CODE
        mov ecx, ap_end - ap_start
        rep movsb
        GATE32 0x60, wake
        lidt [idtr]
        mov dword [LAPIC + 0xf0], 0x1ff
        mov dword [LAPIC + 0x300], 0xc4500      ; INIT, all but self
        mov ecx, 1000
.pause: in al, 0x80
        loop .pause
        mov dword [LAPIC + 0x300], 0xc4600 | (REAL_CODE >> 12)
.wait:  pause
        cmp dword [COUNT], VCPUS - 1
        jb .wait
        ; every AP took a different number: the sum tells
        cmp dword [SUM], 1 + 2 + 3
        EXPECT e, 0x20
        mov dword [LAPIC + 0x300], 0xc4060      ; vector 60h, all but self
.woken: pause
        cmp dword [WOKEN], VCPUS - 1
        jb .woken
        PASS
        bits 16
ap_start:
        xor ax, ax
        mov ds, ax
        lgdt [cs:ap_gdtr - ap_start]
        mov eax, cr0
        or eax, 1
        mov cr0, eax
        jmp dword 0x10:ap32
ap_gdtr:
        dw 31
        dd gdt
ap_end:
        bits 32
ap32:   mov ax, 0x18
        mov ds, ax
        mov es, ax
        mov ss, ax
.take:  lock bts dword [LOCK], 0
        jc .take
        mov eax, [NUMBER]
        inc eax
        mov [NUMBER], eax
        add [SUM], eax
        mov esp, eax
        shl esp, 12
        add esp, 0x60000
        mov dword [LOCK], 0
        lidt [idtr]
        mov dword [LAPIC + 0xf0], 0x1ff
        lock inc dword [COUNT]
.sleep: sti
        hlt
        jmp .sleep
wake:   lock inc dword [WOKEN]
        mov dword [LAPIC + 0xb0], 0
        iret
        align 8
gdt:    dq 0, 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
idtr:   dw 0x100 * 8 - 1
        dd IDT
