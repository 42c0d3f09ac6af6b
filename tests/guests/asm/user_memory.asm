; user_memory: what ring 3 may see and change of memory, while ring 0 protects, remaps, unmaps, shares and copies its pages: accessed and dirty bits,
; faults with their error codes, INVLPG, CR3, PCIDs and INVPCID, code that is written in three ways, large pages, many small mappings.
; expect: exit 10h; else the step
%include "user.inc"
%define DATA 4                  ; page
%define ADDRESS PAGE(DATA)
%define A_BIT 0x20
%define D_BIT 0x40
%define FLAT_PAGE 0x84          ; of the guest's tables: where page tables of the second space lie
%define TABLES 0x308000
%define BOTH (A_BIT | D_BIT)
%define PTE_AT(n) (VIRT_PT + 8 * (n))
%macro FLUSH 1
        mov rax, PAGE(%1)
        invlpg [rax]
%endmacro
%macro FLUSH_ALL 0
        mov rax, cr3
        mov cr3, rax
%endmacro
; The A and D bits of page %1 are %2.
%macro BITS_ARE 3
        mov eax, [PTE_AT(%1)]
        and eax, BOTH
        cmp eax, %2
        EXPECT e, %3
%endmacro
%macro READ_IS 3
        CALL_USER u_read, %1
        ENDED SYSTEM_CALL, %3
        cmp qword [gs:U_RAX], %2
        EXPECT e, %3
%endmacro
%macro WRITES 3
        CALL_USER u_write, %1, %2
        ENDED SYSTEM_CALL, %3
%endmacro

main:   call user_setup
        mov r12d, 3                     ; all of it some times: with mappings of the time before
.again: call accessed_dirty
        call protection
        call remapping
        call code
        call spaces
        call large
        call large_parts
        call huge_parts
        call many
        call edges
        dec r12d
        jnz .again
        PASS

accessed_dirty:
        mov dword [FRAME(DATA)], 77
        PTE DATA, FRAME(DATA) + READ_WRITE
        FLUSH DATA
        READ_IS ADDRESS, 77, 0x20
        BITS_ARE DATA, A_BIT, 0x21
        WRITES ADDRESS, 78, 0x22
        BITS_ARE DATA, BOTH, 0x23
        READ_IS ADDRESS, 78, 0x24
        cmp dword [FRAME(DATA)], 78
        EXPECT e, 0x25
        mov r13d, 6
.clear: and dword [PTE_AT(DATA)], ~BOTH
        test r13d, 1
        jz .all
        FLUSH DATA
        jmp .cut
.all:   FLUSH_ALL
.cut:   READ_IS ADDRESS, 78, 0x26
        BITS_ARE DATA, A_BIT, 0x27
        WRITES ADDRESS, 78, 0x28
        BITS_ARE DATA, BOTH, 0x29
        and dword [PTE_AT(DATA)], ~D_BIT
        FLUSH DATA
        WRITES ADDRESS, 78, 0x2a
        BITS_ARE DATA, BOTH, 0x2b
        dec r13d
        jnz .clear
        ret

protection:
        mov r13d, 6
.turn:  PTE DATA, FRAME(DATA) + READ_WRITE
        FLUSH DATA
        WRITES ADDRESS, 5, 0x30
        PTE DATA, FRAME(DATA) + READ_ONLY
        test r13d, 1
        jz .all
        FLUSH DATA
        jmp .cut
.all:   FLUSH_ALL
.cut:   CALL_USER u_write, ADDRESS, 6
        FAULTED 7, ADDRESS, 0x31
        cmp dword [FRAME(DATA)], 5
        EXPECT e, 0x32
        READ_IS ADDRESS, 5, 0x33
        CALL_USER u_add, ADDRESS, 6
        FAULTED 7, ADDRESS, 0x34
        PTE DATA, 0
        FLUSH DATA
        CALL_USER u_read, ADDRESS
        FAULTED 4, ADDRESS, 0x35
        CALL_USER u_write, ADDRESS, 6
        FAULTED 6, ADDRESS, 0x36
        PTE DATA, FRAME(DATA) + 3       ; the kernel's; from absent to present needs no flush
        CALL_USER u_read, ADDRESS
        FAULTED 5, ADDRESS, 0x37
        PTE DATA, FRAME(DATA) + READ_WRITE + NO_EXECUTE
        FLUSH DATA
        READ_IS ADDRESS, 5, 0x38
        mov byte [FRAME(DATA) + 0x100], 0xc3
        CALL_USER u_call, ADDRESS + 0x100
        FAULTED 0x15, ADDRESS + 0x100, 0x39
        mov rax, ADDRESS + 0x100
        cmp [gs:U_RIP], rax
        EXPECT e, 0x3a
        PTE DATA, FRAME(DATA) + READ_WRITE
        FLUSH DATA
        CALL_USER u_call, ADDRESS + 0x100
        ENDED SYSTEM_CALL, 0x3b
        dec r13d
        jnz .turn
        ret

remapping:
        mov r13d, 40
        mov dword [FRAME(5)], 50
        mov dword [FRAME(6)], 60
.turn:  PTE DATA, FRAME(5) + READ_WRITE
        FLUSH DATA
        READ_IS ADDRESS, 50, 0x40
        PTE DATA, FRAME(6) + READ_WRITE
        test r13d, 1
        jz .all
        FLUSH DATA
        jmp .cut
.all:   FLUSH_ALL
.cut:   READ_IS ADDRESS, 60, 0x41
        WRITES ADDRESS, 60, 0x42
        dec r13d
        jnz .turn
        cmp dword [FRAME(5)], 50
        EXPECT e, 0x43
        ret

; mov eax, number; ret: written by ring 3 where it runs, written through another page, written by ring 0.
code:   mov dword [FRAME(7)], 0xb8
        mov dword [FRAME(7) + 4], 0xc300
        PTE 7, FRAME(7) + READ_WRITE
        PTE 8, FRAME(7) + READ_WRITE + NO_EXECUTE
        FLUSH_ALL
        mov r13d, 60
.turn:  CALL_USER u_patch_call, PAGE(7), r13
        ENDED SYSTEM_CALL, 0x50
        cmp [gs:U_RAX], r13
        EXPECT e, 0x51
        dec r13d
        jnz .turn
        PTE 7, FRAME(7) + READ_ONLY
        FLUSH_ALL
        mov r13d, 60
.alias: CALL_USER u_patch_alias, PAGE(7), r13
        ENDED SYSTEM_CALL, 0x52
        cmp [gs:U_RAX], r13
        EXPECT e, 0x53
        dec r13d
        jnz .alias
        mov r13d, 60
.other: mov [FRAME(7) + 1], r13d
        CALL_USER u_call, PAGE(7)
        ENDED SYSTEM_CALL, 0x54
        cmp [gs:U_RAX], r13
        EXPECT e, 0x55
        dec r13d
        jnz .other
        CALL_USER u_patch_call, PAGE(7), 1
        FAULTED 7, PAGE(7) + 1, 0x56
        mov r13d, 20                    ; another page with other code
        mov rax, [FRAME(7)]
        mov [FRAME(9)], rax
        mov dword [FRAME(9) + 1], 1234
.move:  PTE 7, FRAME(9) + READ_ONLY
        FLUSH 7
        CALL_USER u_call, PAGE(7)
        ENDED SYSTEM_CALL, 0x57
        cmp qword [gs:U_RAX], 1234
        EXPECT e, 0x58
        PTE 7, FRAME(7) + READ_ONLY
        FLUSH 7
        CALL_USER u_call, PAGE(7)
        ENDED SYSTEM_CALL, 0x59
        cmp qword [gs:U_RAX], 1
        EXPECT e, 0x5a
        dec r13d
        jnz .move
        CALL_USER u_self                ; code and data on one writable page, a loop
        PTE 7, FRAME(7) + READ_WRITE
        FLUSH 7
        mov esi, u_loop
        mov edi, FRAME(7) + 0x200
        mov ecx, u_loop_end - u_loop
        rep movsb
        mov dword [FRAME(7) + 0x800], 0
        CALL_USER u_call, PAGE(7) + 0x200, PAGE(7) + 0x800
        ENDED SYSTEM_CALL, 0x5b
        cmp dword [FRAME(7) + 0x800], 1000
        EXPECT e, 0x5c
        ret

; Copy on write between two address spaces, without PCIDs and with them.
spaces: mov esi, PML4
        mov edi, TABLES
        mov ecx, 0x1000 * 6 / 4
        rep movsd
        mov dword [TABLES], TABLES + 0x1000 + 7
        mov dword [TABLES + 0x1008], TABLES + 0x4000 + 7
        mov dword [TABLES + 0x4000], TABLES + 0x5000 + 7
        mov r13d, 8
.turn:  xor r14d, r14d                  ; PCIDs of the two spaces in bits 0 to 11 of CR3, and bit 63
        xor r15d, r15d
        cmp r13d, 4
        ja .plain
        mov eax, 1
        cpuid
        bt ecx, 17
        jnc near .out
        mov rax, cr4
        bts rax, 17
        mov cr4, rax
        mov r14d, 1
        mov r15d, 2
        bts r14, 63
        bts r15, 63
.plain: mov dword [FRAME(5)], 100
        PTE DATA, FRAME(5) + READ_ONLY
        mov [TABLES + 0x5000 + 8 * DATA], rax
        FLUSH_ALL
        lea rax, [r14 + PML4]
        btr rax, 63
        mov cr3, rax
        lea rax, [r15 + TABLES]
        btr rax, 63
        mov cr3, rax
        READ_IS ADDRESS, 100, 0x60
        mov rax, r14
        add rax, PML4
        mov cr3, rax
        READ_IS ADDRESS, 100, 0x61
        CALL_USER u_write, ADDRESS, 101
        FAULTED 7, ADDRESS, 0x62
        mov eax, [FRAME(5)]
        mov [FRAME(6)], eax
        PTE DATA, FRAME(6) + READ_WRITE
        FLUSH DATA
        WRITES ADDRESS, 101, 0x63
        mov rax, r15
        add rax, TABLES
        mov cr3, rax
        READ_IS ADDRESS, 100, 0x64
        mov rax, r14
        add rax, PML4
        mov cr3, rax
        READ_IS ADDRESS, 101, 0x65
        cmp dword [FRAME(5)], 100
        EXPECT e, 0x66
        test r14, r14
        jz .next
        mov eax, 7
        xor ecx, ecx
        cpuid
        bt ebx, 10
        jnc .next
        PTE DATA, FRAME(5) + READ_ONLY  ; the other space's pages are flushed from here
        mov dword [FRAME(9)], 99
        mov rax, FRAME(9) + READ_ONLY
        mov [TABLES + 0x5000 + 8 * DATA], rax
        mov qword [FRAME(10)], 2
        mov rax, ADDRESS
        mov [FRAME(10) + 8], rax
        mov ecx, r13d
        and ecx, 1                      ; one address, one PCID
        mov eax, FRAME(10)
        invpcid rcx, [rax]
        FLUSH DATA
        READ_IS ADDRESS, 100, 0x67
        mov rax, r15
        add rax, TABLES
        mov cr3, rax
        READ_IS ADDRESS, 99, 0x68
        mov rax, r14
        add rax, PML4
        mov cr3, rax
.next:  dec r13d
        jnz .turn
.out:   mov eax, PML4
        mov cr3, rax
        mov rax, cr4
        btr rax, 17
        mov cr4, rax
        mov eax, PML4
        mov cr3, rax
        ret

large:  mov eax, 0x800087
        mov [0x304008], rax
        FLUSH_ALL
        mov dword [0x812344], 9
        READ_IS VIRT + 0x212344, 9, 0x70
        test dword [0x304008], D_BIT
        EXPECT z, 0x71
        CALL_USER u_fill, VIRT + 0x200000, 0x200000
        ENDED SYSTEM_CALL, 0x72
        test dword [0x304008], D_BIT
        EXPECT nz, 0x73
        mov edi, 0x800000
        mov ecx, 0x200000
.look:  cmp byte [rdi], 0x5a
        EXPECT e, 0x74
        add edi, 997
        cmp edi, 0xa00000
        jb .look
        mov qword [0x304008], 0
        FLUSH_ALL
        CALL_USER u_read, VIRT + 0x212344
        FAULTED 4, VIRT + 0x212344, 0x75
        ret

; One INVLPG is for all of a large page, wherever in it: moved, made read-only, taken away.
large_parts:
        mov r13d, 6
.turn:  mov ecx, 512
        mov edi, 0x800000
.mark:  mov dword [rdi], 80
        mov dword [rdi + 0x200000], 100
        add edi, 0x1000
        loop .mark
        mov eax, 0x8000e7
        mov [0x304008], rax
        FLUSH_ALL
        CALL_USER u_fill_first, VIRT + 0x200000, 512
        ENDED SYSTEM_CALL, 0x90
        mov eax, 0xa000e7
        mov [0x304008], rax
        mov rax, VIRT + 0x345000
        invlpg [rax]
        CALL_USER u_sum, VIRT + 0x200000, 512
        ENDED SYSTEM_CALL, 0x91
        cmp qword [gs:U_RAX], 512 * 100
        EXPECT e, 0x92
        CALL_USER u_fill_first, VIRT + 0x200000, 512
        ENDED SYSTEM_CALL, 0x93
        mov eax, 0xa000e5
        mov [0x304008], rax
        mov rax, VIRT + 0x345000
        invlpg [rax]
        CALL_USER u_write, VIRT + 0x212000, 7
        FAULTED 7, VIRT + 0x212000, 0x94
        READ_IS VIRT + 0x212000, 80, 0x95
        mov qword [0x304008], 0
        mov rax, VIRT + 0x345000
        invlpg [rax]
        CALL_USER u_read, VIRT + 0x3ff000
        FAULTED 4, VIRT + 0x3ff000, 0x96
        dec r13d
        jnz .turn
        ret

; … and of 1 GiB, from the start of the RAM.
huge_parts:
        mov eax, 0x80000001
        cpuid
        bt edx, 26
        jnc near .out
        mov r13d, 4
.turn:  mov dword [0x812000], 81
        mov dword [0xa12000], 82
        mov eax, 0xe7
        mov [PDPT + 16], rax
        FLUSH_ALL
        READ_IS 0x80812000, 81, 0x98
        READ_IS 0x80a12000, 82, 0x99
        WRITES 0x80a12000, 82, 0x9a
        mov eax, 0xe5
        mov [PDPT + 16], rax
        mov eax, 0x80000000
        invlpg [rax]
        CALL_USER u_write, 0x80a12000, 7
        FAULTED 7, 0x80a12000, 0x9b
        READ_IS 0x80812000, 81, 0x9c
        mov qword [PDPT + 16], 0
        mov eax, 0x80000000
        invlpg [rax]
        CALL_USER u_read, 0x80812000
        FAULTED 4, 0x80812000, 0x9d
        dec r13d
        jnz .turn
.out:   ret

; 400 pages in the wrong order: no two of them make one mapping.
many:   xor ecx, ecx
.page:  mov eax, 0x9ff000
        mov edx, ecx
        shl edx, 12
        sub eax, edx
        mov [rax], ecx
        add eax, READ_WRITE
        mov [VIRT_PT + 8 * 64 + rcx * 8], rax
        inc ecx
        cmp ecx, 400
        jb .page
        FLUSH_ALL
        mov r13d, 3
.turn:  CALL_USER u_sum, PAGE(64), 400
        ENDED SYSTEM_CALL, 0x78
        cmp qword [gs:U_RAX], 400 * 399 / 2
        EXPECT e, 0x79
        dec r13d
        jnz .turn
        mov edi, VIRT_PT + 8 * 64
        mov ecx, 400
        xor eax, eax
        rep stosq
        FLUSH_ALL
        CALL_USER u_read, PAGE(64 + 399)
        FAULTED 4, PAGE(64 + 399), 0x7a
        ret

edges:  PTE 10, FRAME(10) + READ_WRITE
        PTE 11, FRAME(11) + READ_ONLY
        PTE 12, 0
        FLUSH_ALL
        mov qword [FRAME(10) + 0xff8], 0
        CALL_USER u_write8, PAGE(11) - 4, -1
        FAULTED 7, PAGE(11), 0x80
        cmp dword [FRAME(10) + 0xffc], 0
        EXPECT e, 0x81
        CALL_USER u_read, PAGE(12) - 2
        FAULTED 4, PAGE(12), 0x82
        CALL_USER u_read, 0x800000000000
        ENDED 13, 0x83
        CALL_USER u_read, -4096
        FAULTED 4, -4096, 0x84
        CALL_USER u_read, 0
        FAULTED 5, 0, 0x85              ; the kernel's own
        CALL_USER u_call, 0xffffffffff600000
        ENDED 14, 0x86
        CALL_USER u_call, 0x100000
        FAULTED 0x15, 0x100000, 0x87
        mov rax, 0x7fff12345000
        mov [gs:U_RBX], rax
        CALL_USER u_read, [gs:U_RBX]
        mov rbx, 0x7fff12345000
        FAULTED 4, rbx, 0x88
        ret

        align 16
user:
u_read: mov eax, [rdi]
        syscall
u_write:
        mov [rdi], esi
        mov eax, [rdi]
        syscall
u_write8:
        mov [rdi], rsi
        syscall
u_add:  lock add [rdi], esi
        syscall
u_call: call rdi
        syscall
u_patch_call:
        mov [rdi + 1], esi
        call rdi
        syscall
u_patch_alias:
        mov [rdi + 0x1001], esi
        call rdi
        syscall
u_self: syscall
u_fill: mov ecx, esi
        mov al, 0x5a
        rep stosb
        syscall
; The first word of each page from rdi on.
u_fill_first:
        mov dword [rdi], 80
        add rdi, 0x1000
        dec esi
        jnz u_fill_first
        syscall
u_sum:  xor eax, eax
.next:  add eax, [rdi]
        add rdi, 0x1000
        dec esi
        jnz .next
        syscall
u_loop: mov ecx, 1000
.next:  inc dword [rsi]
        loop .next
        ret
u_loop_end:
user_end:
