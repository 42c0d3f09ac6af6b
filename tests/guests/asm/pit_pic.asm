; pit_pic: five ticks of the PIT through the 8259, waiting in HLT; an unmasked line again after EOI only.
; expect: exit 10h
%include "guest.inc"
start:  mov esp, 0x80000
        GATE32 0x20, tick
        lidt [idtr]
        PIC_INIT 0xfe
        PIT_START 2, 11932
        xor ecx, ecx
        sti
.wait:  hlt
        cmp ecx, 5
        jb .wait
        cli
        ; in service until EOI: ISR bit 0 is clear now
        OUTB 0x20, 0x0b
        in al, 0x20
        test al, 1
        EXPECT z, 0x20
        ; masked: no further tick arrives
        OUTB 0x21, 0xff
        mov esi, ecx
        sti
        mov edi, 20000
.spin:  in al, 0x80
        dec edi
        jnz .spin
        cli
        cmp ecx, esi
        EXPECT e, 0x21
        PASS
tick:   inc ecx
        push eax
        push edx
        OUTB 0x20, 0x20
        pop edx
        pop eax
        iret
idtr:   dw 0x31 * 8 - 1
        dd IDT
