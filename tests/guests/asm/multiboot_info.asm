; multiboot_info: the boot information that ebx points to.
; expect: exit 10h
%include "guest.inc"
start:  mov esp, 0x80000
        cmp eax, 0x2badb002
        EXPECT e, 0x20
        test dword [ebx], 1 << 6        ; memory map
        EXPECT nz, 0x21
        cmp dword [ebx + 8], (16 << 10) - 1024
        EXPECT e, 0x22
        mov esi, [ebx + 48]
        cmp dword [esi], 20
        EXPECT e, 0x23
        test dword [ebx], 1 << 2        ; command line
        EXPECT nz, 0x24
        PASS
