; pci_config: the host bridge through ports CF8h/CFCh and through ECAM is the same one; an empty slot reads as all ones.
; expect: exit 10h
%include "guest.inc"
%define ECAM 0xe0000000
start:  mov esp, 0x80000
        mov dx, 0xcf8
        mov eax, 0x80000000
        out dx, eax
        mov dx, 0xcfc
        in eax, dx
        cmp eax, 0xffffffff
        EXPECT ne, 0x20
        cmp [ECAM], eax
        EXPECT e, 0x21
        mov dx, 0xcf8
        mov eax, 0x80000000 | (31 << 11)
        out dx, eax
        mov dx, 0xcfc
        in eax, dx
        cmp eax, 0xffffffff
        EXPECT e, 0x22
        cmp dword [ECAM + (31 << 15)], 0xffffffff
        EXPECT e, 0x23
        ; the class of the bridge
        mov eax, [ECAM + 8]
        shr eax, 16
        cmp eax, 0x0600
        EXPECT e, 0x24
        PASS
