; exceptions32: #DE, #UD, #GP with its error code, INT n and #BP through 32-bit gates; saved EIP and flags are exact.
; expect: exit 10h
%include "guest.inc"
start:  mov esp, 0x80000
        GATE32 0, divide
        GATE32 3, breakpoint
        GATE32 6, undefined
        GATE32 13, protection
        GATE32 0x30, software
        lidt [idtr]
        xor ecx, ecx            ; counts handlers
        xor edx, edx
        mov eax, 1
        xor ebx, ebx
        mov ebp, at_div
at_div: div ebx
        cmp ecx, 1
        EXPECT e, 0x20
        mov ebp, at_ud
at_ud:  ud2
        cmp ecx, 2
        EXPECT e, 0x21
        mov ebp, at_gp
        mov ax, 0x48            ; beyond the GDT
at_gp:  mov ds, ax
        cmp ecx, 3
        EXPECT e, 0x22
        mov ebp, after_int
        int 0x30
after_int:
        cmp ecx, 4
        EXPECT e, 0x23
        mov ebp, after_bp
        int3
after_bp:
        cmp ecx, 5
        EXPECT e, 0x24
        PASS
divide: cmp [esp], ebp
        EXPECT e, 0x30
        cmp dword [esp + 4], 0x10
        EXPECT e, 0x31
        add dword [esp], 2
        inc ecx
        iret
undefined:
        cmp [esp], ebp
        EXPECT e, 0x32
        add dword [esp], 2
        inc ecx
        iret
protection:
        cmp dword [esp], 0x48
        EXPECT e, 0x33
        add esp, 4
        cmp [esp], ebp
        EXPECT e, 0x34
        add dword [esp], 2
        inc ecx
        iret
software:
        cmp [esp], ebp
        EXPECT e, 0x35
        inc ecx
        iret
breakpoint:
        cmp [esp], ebp
        EXPECT e, 0x36
        inc ecx
        iret
idtr:   dw 0x31 * 8 - 1
        dd IDT
