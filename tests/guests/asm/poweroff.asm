; poweroff: finds the FADT by the root pointer, and writes SLP_TYP 5 and SLP_EN into PM1a_CNT.
; expect: power off
%include "guest.inc"
start:  mov esp, 0x80000
        mov esi, 0xe0000
        cmp dword [esi], 'RSD '
        EXPECT e, 0x20
        mov esi, [esi + 24]             ; XSDT
        cmp dword [esi], 'XSDT'
        EXPECT e, 0x21
        mov esi, [esi + 36]
        cmp dword [esi], 'FACP'
        EXPECT e, 0x22
        mov edx, [esi + 64]             ; PM1a_CNT_BLK
        in ax, dx
        test ax, 1                      ; SCI_EN
        EXPECT nz, 0x23
        mov ax, (5 << 10) | 0x2000
        out dx, ax
stop:   cli
        hlt
        jmp stop
