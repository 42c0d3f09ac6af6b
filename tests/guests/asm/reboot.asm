; reboot: marks CMOS memory and resets through port CF9h; the second start finds RAM cleared and the mark, then resets through the
; keyboard controller; the third start ends.
; expect: two resets, then exit 10h
%include "guest.inc"
%macro CMOS_READ 1
        OUTB 0x70, %1
        in al, 0x71
%endmacro
start:  mov esp, 0x80000
        cmp dword [0x400000], 0         ; RAM is zero at every start
        EXPECT e, 0x20
        mov dword [0x400000], 0x12345678
        CMOS_READ 0x40
        cmp al, 0x51
        je second
        cmp al, 0x52
        je third
        OUTB 0x70, 0x40
        OUTB 0x71, 0x51
        OUTB 0xcf9, 0x06
        jmp stop
second: OUTB 0x70, 0x40
        OUTB 0x71, 0x52
        OUTB 0x64, 0xfe
stop:   cli
        hlt
        jmp stop
third:  PASS
