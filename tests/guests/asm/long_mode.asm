; long_mode: builds 4-level tables, enters 64-bit mode; 64-bit arithmetic, #PF with CR2 and error codes, NX, A and D bits.
; expect: exit 10h
%include "guest.inc"
%define PML4 0x300000
%define PDPT 0x301000
%define PD   0x302000
%define PT   0x303000   ; maps 2 MiB at 40000000h
%define IDT64 0x210000
start:  mov esp, 0x80000
        mov edi, PML4
        xor eax, eax
        mov ecx, 0x5000 / 4
        rep stosd
        mov dword [PML4], PDPT + 7
        mov dword [PDPT], PD + 7
        mov dword [PDPT + 8], 0x304000 + 7      ; 1 GiB and up
        mov dword [0x304000], PT + 7
        mov eax, 0x83                           ; 2 MiB pages, supervisor
        mov edi, PD
        mov ecx, 8
.fill:  mov [edi], eax
        add eax, 0x200000
        add edi, 8
        loop .fill
        mov dword [PT], 0x400000 + 3            ; writable
        mov dword [PT + 8], 0x401000 + 1        ; read-only
        mov dword [PT + 24], 0x400000 + 3       ; no execute
        mov dword [PT + 28], 0x80000000
        mov eax, cr4
        or eax, 0x20
        mov cr4, eax
        mov eax, PML4
        mov cr3, eax
        mov ecx, 0xc0000080
        rdmsr
        or eax, (1 << 8) | (1 << 11)
        wrmsr
        mov eax, cr0
        or eax, 0x80010000                      ; PG, WP
        mov cr0, eax
        lgdt [gdtr]
        jmp 0x08:wide
        bits 64
wide:   mov ax, 0x10
        mov ds, ax
        mov es, ax
        mov ss, ax
        mov rsp, 0x80000
        mov ecx, 0xc0000080
        rdmsr
        test eax, 1 << 10                       ; EFER.LMA
        EXPECT nz, 0x20
        mov rax, 0x123456789
        imul rax, rax, 0x1001
        mov rbx, 0x123456789 * 0x1001
        cmp rax, rbx
        EXPECT e, 0x21
        ; gate 14
        mov rax, fault
        mov rdi, IDT64 + 14 * 16
        mov [rdi], ax
        mov word [rdi + 2], 0x08
        mov word [rdi + 4], 0x8e00
        shr rax, 16
        mov [rdi + 6], ax
        shr rax, 16
        mov [rdi + 8], eax
        mov dword [rdi + 12], 0
        lidt [idtr]
        ; accessed and dirty bits
        mov rdi, 0x40000000
        mov rax, [rdi]
        test byte [PT], 0x20
        EXPECT nz, 0x22
        test byte [PT], 0x40
        EXPECT z, 0x23
        mov [rdi], rax
        test byte [PT], 0x40
        EXPECT nz, 0x24
        ; write to a read-only page: error code 3
        mov rdi, 0x40001008
        lea r15, [rel .after1]
        mov r14, -1
        mov [rdi], rax
.after1: cmp r14, 3
        EXPECT e, 0x25
        mov rax, cr2
        cmp rax, rdi
        EXPECT e, 0x26
        ; page not present, read: error code 0
        mov rdi, 0x40002ff0
        lea r15, [rel .after2]
        mov r14, -1
        mov rax, [rdi]
.after2: cmp r14, 0
        EXPECT e, 0x27
        mov rax, cr2
        cmp rax, rdi
        EXPECT e, 0x28
        ; fetch from a no-execute page: error code 11h
        mov rdi, 0x40003000
        lea r15, [rel .after3]
        mov r14, -1
        jmp rdi
.after3: cmp r14, 0x11
        EXPECT e, 0x29
        ; a write that crosses into an absent page reports the second page
        mov rdi, 0x40001ffc
        lea r15, [rel .after4]
        mov rax, [rdi]
        mov r14, -1
.after4: mov rax, cr2
        mov rbx, 0x40002000
        cmp rax, rbx
        EXPECT e, 0x2a
        PASS
fault:  pop r14                                 ; error code
        mov [rsp], r15
        iretq
        align 8
gdt:    dq 0, 0x00af9b000000ffff, 0x00cf93000000ffff
gdtr:   dw 23
        dq gdt
idtr:   dw 15 * 16 - 1
        dq IDT64
