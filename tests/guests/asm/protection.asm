; protection: segmentation and privilege in 32-bit mode: limits (also expand-down), types, null and absent segments, LAR, LSL, VERR, VERW, ARPL, ring 3 by
; IRET, call gates with parameters copied, conforming code, RETF outwards, IOPL and the I/O permission bitmap. SDM 3A, chapters 3, 5 and 6; SDM 1, 19.5.
; expect: exit 10h
%include "guest.inc"
%define LIMITED 0x20            ; data, 1000h bytes from DATA_AT
%define DOWN 0x28               ; expand-down above fffh
%define READ_ONLY 0x30
%define CODE_ONLY 0x38          ; execute-only
%define ABSENT 0x40
%define USER_CODE 0x4b
%define USER_DATA 0x53
%define CONFORMING 0x58
%define GATE 0x60               ; call gate for ring 3, two parameters
%define TSS_SEG 0x68
%define GATE0 0x70              ; call gate for ring 0 only
%define DATA_AT 0x400000
%define USER_STACK 0x78000
%define RING0_STACK 0x7c000

; Runs the instructions until %1 is jumped to; there the vector must be %2 and the error code %3.
%assign step 0
%macro FAULTS 4+                ; label, vector, error, the instruction
        mov dword [resume_at], %1
        mov dword [vector], -1
        %4
        FAIL 0x100 + step
%1:     cmp dword [vector], %2
        EXPECT e, 0x200 + step
        cmp dword [error], %3
        EXPECT e, 0x300 + step
%assign step step + 1
%endmacro

start:  mov esp, 0x80000
        mov eax, tss
        mov [gdt + TSS_SEG + 2], ax
        shr eax, 16
        mov [gdt + TSS_SEG + 4], al
        mov eax, gate_target
        mov [gdt + GATE], ax
        mov [gdt + GATE0], ax
        shr eax, 16
        mov [gdt + GATE + 6], ax
        mov [gdt + GATE0 + 6], ax
        mov dword [tss + 4], RING0_STACK
        mov dword [tss + 8], 0x18
        lgdt [gdtr]
        GATE32 6, on_ud
        GATE32 11, on_np
        GATE32 12, on_ss
        GATE32 13, on_gp
        GATE32 0x30, service
        mov byte [IDT + 8 * 0x30 + 5], 0xee     ; for ring 3
        lidt [idtr]
        mov ax, TSS_SEG
        ltr ax

        ; limits: the last byte of an access counts
        mov ax, LIMITED
        mov es, ax
        mov dword [DATA_AT + 0xffc], 0x12345678
        cmp dword [es:0xffc], 0x12345678
        EXPECT e, 0x1000 + __LINE__
        FAULTS l1, 13, 0, mov eax, [es:0xffd]
        FAULTS l2, 13, 0, mov [es:0x1000], al
        FAULTS l3, 13, 0, mov al, [es:0xffffffff]
        mov ax, DOWN
        mov es, ax
        mov al, [es:0x1000]
        mov eax, [es:0xfffffffc]
        FAULTS l4, 13, 0, mov al, [es:0xfff]
        FAULTS l5, 13, 0, mov eax, [es:0xfffffffd]
        ; a stack segment's limit is #SS
        mov bx, LIMITED
        mov ecx, esp
        mov ss, bx
        mov esp, 0x800
        FAULTS l6, 12, 0, mov eax, [ss:0x1000]
        mov ebp, 0xffe
        FAULTS l7, 12, 0, inc dword [ebp]
        mov bx, 0x18
        mov ss, bx
        mov esp, ecx
        ; types
        mov ax, READ_ONLY
        mov es, ax
        mov al, [es:0]
        FAULTS t1, 13, 0, mov [es:0], al
        FAULTS t2, 13, 0, inc byte [cs:start]
        mov ax, CODE_ONLY
        FAULTS t3, 13, CODE_ONLY, mov es, ax
        mov ax, READ_ONLY
        FAULTS t4, 13, READ_ONLY, mov ss, ax
        mov ax, ABSENT
        FAULTS t5, 11, ABSENT, mov fs, ax
        FAULTS t6, 12, ABSENT, mov ss, ax
        FAULTS t7, 13, 0xfff8, jmp 0xfff8:0
        FAULTS t8, 13, 0x18, call 0x18:0        ; data is no code
        FAULTS t9, 6, -1, db 0x8e, 0xc8         ; mov cs, ax
        FAULTS t10, 13, 0x33 & ~3, jmp 0x33:0   ; not even by another RPL
        ; null: may be loaded, not used; SS not even loaded
        xor eax, eax
        mov gs, ax
        FAULTS n1, 13, 0, mov al, [gs:0]
        FAULTS n2, 13, 0, mov ss, ax
        FAULTS n3, 13, 0, jmp 0:0
        mov ax, 3
        mov gs, ax                              ; null with any RPL

        ; looking at descriptors
        mov bx, LIMITED
        lsl eax, bx
        EXPECT z, 0x1000 + __LINE__
        cmp eax, 0xfff
        EXPECT e, 0x1000 + __LINE__
        lar eax, bx
        EXPECT z, 0x1000 + __LINE__
        cmp eax, 0x00409300
        EXPECT e, 0x1000 + __LINE__
        mov bx, 0x18
        lsl eax, bx
        cmp eax, 0xffffffff
        EXPECT e, 0x1000 + __LINE__
        mov bx, 0xfff8
        lsl eax, bx
        EXPECT nz, 0x1000 + __LINE__
        mov bx, GATE
        lsl eax, bx
        EXPECT nz, 0x1000 + __LINE__
        lar eax, bx
        EXPECT z, 0x1000 + __LINE__
        mov bx, READ_ONLY
        verr bx
        EXPECT z, 0x1000 + __LINE__
        verw bx
        EXPECT nz, 0x1000 + __LINE__
        mov bx, CODE_ONLY
        verr bx
        EXPECT nz, 0x1000 + __LINE__
        mov bx, 0x1b
        verr bx                                 ; RPL 3 for a ring 0 segment
        EXPECT nz, 0x1000 + __LINE__
        mov ax, 0x18
        mov bx, 3
        arpl ax, bx
        EXPECT z, 0x1000 + __LINE__
        cmp ax, 0x1b
        EXPECT e, 0x1000 + __LINE__
        arpl ax, bx
        EXPECT nz, 0x1000 + __LINE__

        ; conforming code keeps the privilege
        call CONFORMING:conforming
        cmp ax, CONFORMING
        EXPECT e, 0x1000 + __LINE__
        ; a call gate without a change of privilege: no parameters, no stack
        mov edx, esp
        push dword 7
        push dword 8
        call GATE0:0x12345678                   ; the offset is ignored
        cmp esi, 0x10
        EXPECT e, 0x1000 + __LINE__
        cmp esp, edx
        EXPECT e, 0x1000 + __LINE__

        ; ring 3
        push dword USER_DATA
        push dword USER_STACK
        push dword 2
        push dword USER_CODE
        push dword user
        iret

conforming: mov ax, cs
        retf

gate_target:
        mov si, cs
        movzx esi, si
        mov edi, esp
        mov ebx, [esp + 8]
        retf 8

        ; --- ring 3
user:   mov ax, cs
        cmp ax, USER_CODE
        EXPECT e, 0x1000 + __LINE__
        cmp esp, USER_STACK
        EXPECT e, 0x1000 + __LINE__
        ; what is left of segments that ring 3 may not have: null
        mov ax, ds
        test ax, ax
        EXPECT z, 0x1000 + __LINE__
        mov ax, USER_DATA
        mov ds, ax
        mov es, ax
        ; privileged and IOPL-sensitive instructions
        FAULTS u1, 13, 0, hlt
        FAULTS u2, 13, 0, cli
        FAULTS u3, 13, 0, mov eax, cr0
        FAULTS u4, 13, 0, lgdt [gdtr]
        FAULTS u5, 13, 0, in al, 0x80           ; forbidden by the bitmap
        FAULTS u6, 13, 0, out 0xf8, al          ; its byte of the bitmap is beyond the limit only in part: set
        FAULTS u7, 13, 0x20 * 8 + 2, int 0x20   ; no gate there
        FAULTS u8, 13, 13 * 8 + 2, int 13       ; a gate for ring 0
        FAULTS u9, 13, 0x18, mov es, word [selector_18]
        FAULTS u10, 13, GATE0, call GATE0:0
        FAULTS u11, 13, 0x10, call 0x10:start
        pushfd
        or dword [esp], 0x3200                  ; IF and IOPL: ignored
        popfd
        pushfd
        pop eax
        test eax, 0x3200
        EXPECT z, 0x1000 + __LINE__
        ; the gate: ring 0, two parameters on its stack, and back
        push dword 0x1111
        push dword 0x2222
        call GATE | 3:0
        mov ax, USER_DATA                       ; RETF took what ring 3 may not have; DS was ours
        mov ds, ax
        cmp esi, 0x10
        EXPECT e, 0x1000 + __LINE__
        cmp ebx, 0x2222
        EXPECT e, 0x1000 + __LINE__
        cmp edi, RING0_STACK - 24               ; SS, ESP, two parameters, CS, EIP
        EXPECT e, 0x1000 + __LINE__
        cmp esp, USER_STACK                     ; RETF 8 freed the parameters on both stacks
        EXPECT e, 0x1000 + __LINE__
        call CONFORMING | 3:conforming
        cmp ax, CONFORMING | 3
        EXPECT e, 0x1000 + __LINE__
        ; INT changes the stack and comes back
        int 0x30
        cmp eax, RING0_STACK - 20
        EXPECT e, 0x1000 + __LINE__
        cmp esp, USER_STACK
        EXPECT e, 0x1000 + __LINE__
        PASS                                    ; the bitmap lets port f4h pass

service: mov eax, esp
        iret
; Handlers: the vector, the error code (-1: none), then on at [resume_at] with the flags as they are and all registers kept.
on_ud:  push dword -1
        push dword 6
        jmp fault
on_np:  push dword 11
        jmp fault
on_ss:  push dword 12
        jmp fault
on_gp:  push dword 13
fault:  push eax
        push ds
        mov ax, 0x18
        mov ds, ax
        mov eax, [esp + 8]
        mov [vector], eax
        mov eax, [esp + 12]
        mov [error], eax
        mov eax, [resume_at]
        mov [esp + 16], eax
        pop ds
        pop eax
        add esp, 8
        iret
        align 8
gdt:    dq 0, 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
        dq 0x0040934000000fff                   ; 20 LIMITED
        dq 0x00c0970000000000                   ; 28 DOWN: limit fffh
        dq 0x00cf91000000ffff                   ; 30 READ_ONLY
        dq 0x00cf99000000ffff                   ; 38 CODE_ONLY
        dq 0x00cf13000000ffff                   ; 40 ABSENT
        dq 0x00cffb000000ffff                   ; 48
        dq 0x00cff3000000ffff                   ; 50
        dq 0x00cf9f000000ffff                   ; 58 CONFORMING
        dq 0x0000ec0200100000                   ; 60 GATE
        dq 0x0000890000000000 | 135              ; 68 TSS
        dq 0x00008c0000100000                   ; 70 GATE0
gdtr:   dw gdtr - gdt - 1
        dd gdt
idtr:   dw 0x31 * 8 - 1
        dd IDT
selector_18: dw 0x18
vector: dd 0
error:  dd 0
resume_at: dd 0
        align 16
tss:    times 102 db 0
        dw 104                                  ; the bitmap: only port f4h to f7h is free
        times 30 db 0xff
        db 0x0f, 0xff
