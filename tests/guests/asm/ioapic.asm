; ioapic: PIT ticks through IOAPIC pin 2 to the local APIC (edge), and the test device's line at pin 10 as a level: remote IRR,
; one delivery, a second one at EOI while the line is still up.
; expect: exit 10h
%include "guest.inc"
%define IOAPIC 0xfec00000
%define LAPIC 0xfee00000
%macro IOWRITE 2
        mov dword [IOAPIC], %1
        mov dword [IOAPIC + 0x10], %2
%endmacro
start:  mov esp, 0x80000
        GATE32 0x40, tick
        GATE32 0x50, level
        GATE32 0xff, spurious
        lidt [idtr]
        PIC_INIT 0xff
        mov dword [LAPIC + 0xf0], 0x1ff
        mov dword [LAPIC + 0x80], 0
        mov dword [IOAPIC], 1
        mov eax, [IOAPIC + 0x10]
        shr eax, 16
        cmp al, 23                      ; 24 pins
        EXPECT e, 0x20
        IOWRITE 0x15, 0
        IOWRITE 0x14, 0x40
        PIT_START 2, 11932
        xor ecx, ecx
        xor ebp, ebp
        sti
.wait:  hlt
        cmp ecx, 5
        jb .wait
        cli
        IOWRITE 0x14, 0x10040           ; mask
        ; level
        IOWRITE 0x25, 0
        IOWRITE 0x24, 0x8050
        OUTB 0x200a, 1
        sti
        mov edi, 1000000
.again: pause
        cmp ebp, 2
        je .twice
        dec edi
        jnz .again
        FAIL 0x21
.twice: cli
        ; the handler lowered the line in its second run: no more
        sti
        mov edi, 1000
.more:  in al, 0x80
        dec edi
        jnz .more
        cli
        cmp ebp, 2
        EXPECT e, 0x22
        mov dword [IOAPIC], 0x24
        test dword [IOAPIC + 0x10], 0x4000      ; remote IRR
        EXPECT z, 0x23
        PASS
tick:   inc ecx
        mov dword [LAPIC + 0xb0], 0
        iret
level:  pushad
        mov dword [IOAPIC], 0x24
        test dword [IOAPIC + 0x10], 0x4000
        EXPECT nz, 0x24
        cmp ebp, 1
        jb .keep
        OUTB 0x200a, 0
.keep:  popad
        inc ebp
        mov dword [LAPIC + 0xb0], 0
        iret
spurious:
        iret
idtr:   dw 0x100 * 8 - 1
        dd IDT
