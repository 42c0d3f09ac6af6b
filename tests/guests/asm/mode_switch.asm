; mode_switch: round after round through all modes: real, 16- and 32-bit protected, 32-bit paging, PAE, compatibility, 64-bit and back down to real mode, with a
; check of width, addressing and control bits in each; unreal mode; and the refused ways: LME with paging on, PG without PE, PAE off in long mode, paging
; off in 64-bit code, 64-bit CS with D, bad PDPTEs. SDM 3A, 2.5, 4.1, 9.8 and 9.9.
; expect: exit 10h
%include "guest.inc"
%define PML4 0x300000
%define PDPT 0x301000
%define PD 0x302000
%define PAE_PDPT 0x303000
%define PD32 0x304000
%define IDT64 0x210000
%define MARK 0x500000
%define REAL(label) (REAL_CODE + (label) - low_code)

start:  mov esp, 0x80000
        mov esi, low_code
        mov edi, REAL_CODE
        mov ecx, low_end - low_code
        rep movsb
        mov edi, PML4
        xor eax, eax
        mov ecx, 0x5000 / 4
        rep stosd
        mov dword [PML4], PDPT + 3
        mov dword [PDPT], PD + 3
        mov dword [PD], 0x83
        mov dword [PD + 8], 0x200083
        mov dword [PD + 16], 0x400083
        mov dword [PAE_PDPT], PD + 1
        mov dword [PD32], 0x83                  ; 4 MiB pages
        mov dword [PD32 + 4], 0x400083
        lgdt [gdtr]
        GATE32 13, refused
        lidt [idtr]
        mov eax, refused64
        mov edi, IDT64 + 13 * 16
        mov [edi], ax
        mov word [edi + 2], 0x28
        mov word [edi + 4], 0x8e00
        shr eax, 16
        mov [edi + 6], ax
        mov dword [edi + 8], 0
        mov dword [rounds], 50
next_round:
        ; 32-bit paging with large pages
        mov eax, cr4
        and eax, ~0x20
        or eax, 0x10
        mov cr4, eax
        mov eax, PD32
        mov cr3, eax
        mov eax, cr0
        or eax, 0x80000000
        mov cr0, eax
        mov dword [MARK], 0x32323232
        test byte [PD32 + 4], 0x40              ; D
        EXPECT nz, 0x20
        ; LME cannot be set now
        mov ecx, 0xc0000080
        rdmsr
        or eax, 0x100
        mov dword [resume_at], .r1
        wrmsr
        FAIL 0x21
.r1:    mov eax, cr0
        and eax, 0x7fffffff
        mov cr0, eax
        ; PG without PE, NW without CD
        mov ebx, eax
        mov dword [resume_at], .r2
        mov eax, 0x80000000
        mov cr0, eax
        FAIL 0x22
.r2:    mov dword [resume_at], .r3
        mov eax, ebx
        or eax, 1 << 29
        mov cr0, eax
        FAIL 0x23
.r3:    ; PAE; reserved bits in a PDPTE are found when CR3 is loaded
        mov eax, cr4
        or eax, 0x20
        mov cr4, eax
        mov eax, PAE_PDPT
        mov cr3, eax
        mov eax, ebx
        or eax, 0x80000000
        mov cr0, eax
        cmp dword [MARK], 0x32323232
        EXPECT e, 0x24
        mov dword [PAE_PDPT + 8], PD + 3        ; R/W is reserved here
        mov dword [resume_at], .r4
        mov eax, PAE_PDPT
        mov cr3, eax
        FAIL 0x25
.r4:    mov dword [PAE_PDPT + 8], 0
        mov eax, ebx
        mov cr0, eax
        ; long mode: compatibility first
        mov eax, PML4
        mov cr3, eax
        mov ecx, 0xc0000080
        rdmsr
        or eax, 0x100
        wrmsr
        rdmsr
        test eax, 0x400
        EXPECT z, 0x26
        mov eax, ebx
        or eax, 0x80000000
        mov cr0, eax
        rdmsr
        test eax, 0x400
        EXPECT nz, 0x27
        mov eax, cs
        inc eax
        cmp eax, 0x11                           ; 40h is no prefix here
        EXPECT e, 0x28
        jmp 0x28:wide
        bits 64
wide:   mov rax, 0x123456789abcdef0
        rol rax, 8
        cmp al, 0x12
        EXPECT e, 0x29
        lidt [idtr64]
        ; in 64-bit mode neither PAE nor paging goes away
        mov qword [resume_at], .r5
        mov rax, cr4
        and eax, ~0x20
        mov cr4, rax
        FAIL 0x2a
.r5:    mov qword [resume_at], .r6
        mov rax, cr0
        btr rax, 31
        mov cr0, rax
        FAIL 0x2b
.r6:    mov qword [resume_at], .r7
        mov rax, cr0
        bts rax, 32
        mov cr0, rax
        FAIL 0x2c
.r7:    mov qword [resume_at], .r8
        push 0x30                               ; L and D
        push .r8
        o64 retf
.r8:    mov eax, esp
        and eax, ~15
        mov esp, eax
        push 0x10
        push back
        o64 retf
        bits 32
back:   mov ax, 0x18                            ; compatibility mode
        mov ss, ax
        mov esp, 0x80000
        mov eax, cr0
        and eax, 0x7fffffff
        mov cr0, eax                            ; leaves long mode
        mov ecx, 0xc0000080
        rdmsr
        test eax, 0x400
        EXPECT z, 0x2d
        and eax, ~0x100
        wrmsr
        lidt [idtr]
        ; down to real mode and up again
        jmp 0x20:REAL(narrow)
up:     mov ax, 0x18
        mov ds, ax
        mov es, ax
        mov ss, ax
        mov fs, ax
        mov esp, 0x80000
        lidt [idtr]
        cmp dword [MARK + 4], 0x16161616
        EXPECT e, 0x2e
        dec dword [rounds]
        jnz next_round
        PASS

refused: add esp, 4
        push eax
        mov eax, [resume_at]
        mov [esp + 4], eax
        pop eax
        iret

        bits 16
low_code:
narrow: mov eax, 0x11111111                     ; 16-bit protected: the segments are still flat
        mov ax, 0x2222
        cmp eax, 0x11112222
        jne bad
        mov ax, 0x38                            ; 64 KiB of data
        mov ds, ax
        mov es, ax
        mov ss, ax
        mov eax, cr0
        and eax, ~1
        mov cr0, eax
        jmp 0:REAL(real)
real:   xor ax, ax
        mov ds, ax
        mov ss, ax
        mov sp, 0x7000
        mov bx, 0xffff                          ; wraps within 16 bits
        mov byte [bx + 0x7001 - 0xffff], 0x5a
        cmp byte [0x7001], 0x5a
        jne bad
        mov eax, 0x12345678                     ; 32-bit operands work here, too
        push eax
        pop cx
        pop dx
        cmp cx, 0x5678
        jne bad
        ; the A20 gate is open: 10000h past the first megabyte
        mov ax, 0xffff
        mov es, ax
        mov ax, [es:0x10]                       ; 100000h: the multiboot header
        cmp ax, 0xb002
        jne bad
        ; unreal mode: FS keeps its 4 GiB limit
        lgdt [cs:REAL(low_gdtr)]
        mov eax, cr0
        or al, 1
        mov cr0, eax
        jmp short .on
.on:    mov bx, 0x18
        mov fs, bx
        and al, ~1
        mov cr0, eax
        jmp short .off
.off:   mov dword [fs:dword MARK + 4], 0x16161616
        or al, 1
        mov cr0, eax
        jmp dword 0x10:up
bad:    mov al, 0x2f
        mov dx, 0xf4
        out dx, al
low_gdtr: dw gdtr - gdt - 1
        dd gdt
low_end:
        bits 64
refused64: add rsp, 8
        push rax
        mov rax, [resume_at]
        mov [rsp + 8], rax
        pop rax
        iretq
        align 8
gdt:    dq 0, 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
        dq 0x00009b000000ffff                   ; 20: 16-bit code
        dq 0x00af9b000000ffff                   ; 28: 64-bit code
        dq 0x00ef9b000000ffff                   ; 30: L and D
        dq 0x000093000000ffff                   ; 38: 64 KiB
gdtr:   dw gdtr - gdt - 1
        dd gdt
idtr:   dw 14 * 8 - 1
        dd IDT
idtr64: dw 14 * 16 - 1
        dq IDT64
rounds: dd 0
resume_at: dq 0
