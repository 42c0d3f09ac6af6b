; power_button: enables the fixed power button, says so, and takes its SCI as a level interrupt through IOAPIC pin 9: once.
; expect: the host presses the button at "ready"; exit 10h
%include "guest.inc"
%define IOAPIC 0xfec00000
%define LAPIC 0xfee00000
start:  mov esp, 0x80000
        mov esi, [0xe0000 + 24]         ; XSDT
        mov esi, [esi + 36]             ; FADT
        cmp dword [esi], 'FACP'
        EXPECT e, 0x20
        mov ebp, [esi + 56]             ; PM1a_EVT_BLK
        GATE32 0x49, pressed
        GATE32 0xff, spurious
        lidt [idtr]
        PIC_INIT 0xff
        mov dword [LAPIC + 0xf0], 0x1ff
        mov dword [LAPIC + 0x80], 0
        mov dword [IOAPIC], 0x23
        mov dword [IOAPIC + 0x10], 0
        mov dword [IOAPIC], 0x22
        mov dword [IOAPIC + 0x10], 0x8049
        lea edx, [ebp + 2]
        mov ax, 0x100                   ; PWRBTN_EN
        out dx, ax
        xor ecx, ecx
        mov esi, ready
        mov dx, COM1
.say:   lodsb
        test al, al
        jz .wait
        out dx, al
        jmp .say
.wait:  sti
        hlt
        cli
        test ecx, ecx
        jz .wait
        sti
        mov edi, 1000
.more:  in al, 0x80
        dec edi
        jnz .more
        cli
        cmp ecx, 1
        EXPECT e, 0x21
        PASS
pressed:
        pushad
        mov edx, ebp
        in ax, dx
        test ax, 0x100                  ; PWRBTN_STS
        EXPECT nz, 0x22
        mov ax, 0x100
        out dx, ax                      ; written ones clear
        in ax, dx
        test ax, 0x100
        EXPECT z, 0x23
        popad
        inc ecx
        mov dword [LAPIC + 0xb0], 0
        iret
spurious:
        iret
ready:  db "ready", 10, 0
idtr:   dw 0x100 * 8 - 1
        dd IDT
