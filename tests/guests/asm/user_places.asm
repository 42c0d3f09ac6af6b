; user_places: ring 3 at addresses that are not like others: of the upper half, which a host keeps for itself; pages of devices, of nothing, behind the RAM;
; page tables that ring 3 writes itself and that are no tables; more mappings than a host allows.
; expect: exit 10h; else the step
%include "user.inc"
%define ADDRESS PAGE(4)
%define DATA FRAME(4)
%define UPPER 0xffff900000000000
%define VSYSCALL 0xffffffffff600000
%define MANY_PT 0x310000                ; of 128 table pages that are all this one
%define MANY_TABLES 128

main:   call user_setup
        PTE 4, DATA + READ_WRITE
        mov r12d, 2
.again: call upper
        call outside
        call own_tables
        dec r12d
        jnz .again
        call many
        PASS

; What ran has to fetch the mapping of page 4 anew.
unmapped_once:
        PTE 4, 0
        mov rax, ADDRESS
        invlpg [rax]
        PTE 4, DATA + READ_WRITE
        ret

; Addresses that a host keeps for itself are what the guest's tables say.
upper:  mov r13d, 5
.turn:  CALL_USER u_odd_stack, ADDRESS, 1               ; what a trap leaves behind must not matter
        mov rdi, UPPER
        CALL_USER u_load, rdi
        FAULTED 4, UPPER, 0x58
        mov rdi, VSYSCALL
        CALL_USER u_load, rdi
        FAULTED 4, VSYSCALL, 0x59
        mov rdi, VSYSCALL
        CALL_USER u_jump, rdi, UADDR(u_jump.behind)
        FAULTED 0x14, VSYSCALL, 0x5a
        mov rax, VSYSCALL
        cmp [gs:U_RIP], rax
        EXPECT e, 0x5b
        mov rax, USTACK_TOP - 8
        cmp [gs:U_RSP], rax
        EXPECT e, 0x5c
        call unmapped_once
        mov qword [gs:U_RBX], 8
        mov rdi, VSYSCALL + 0x400
        CALL_USER u_jump_without_stack, rdi, ADDRESS
        FAULTED 0x14, VSYSCALL + 0x400, 0x5d
        cmp qword [gs:U_RSP], 8
        EXPECT e, 0x5e
        mov rdi, UPPER
        CALL_USER u_jump, rdi, 0
        FAULTED 0x14, UPPER, 0x5f
        mov rdi, 0x7ffffffff000
        CALL_USER u_load, rdi
        FAULTED 4, 0x7ffffffff000, 0x60
        dec r13d
        jnz near .turn
        ret

; Page tables that lead to devices, to nothing, and that have reserved bits.
outside:
        PTE 10, LAPIC + READ_WRITE
        PTE 11, 0xd0000000 + READ_WRITE
        CALL_USER u_load, PAGE(10) + 0x20
        ENDED SYSTEM_CALL, 0x68
        mov eax, LAPIC
        mov eax, [rax + 0x20]
        cmp [gs:U_RAX], rax
        EXPECT e, 0x69
        CALL_USER u_store, PAGE(10) + 0x80, 0x20        ; the task priority
        ENDED SYSTEM_CALL, 0x6a
        mov eax, LAPIC
        cmp dword [rax + 0x80], 0x20
        EXPECT e, 0x6b
        mov dword [rax + 0x80], 0
        CALL_USER u_load, PAGE(11)
        ENDED SYSTEM_CALL, 0x6c
        cmp dword [gs:U_RAX], -1
        EXPECT e, 0x6d
        CALL_USER u_store, PAGE(11), 1
        ENDED SYSTEM_CALL, 0x6e
        mov eax, 0x80000008
        cpuid
        cmp al, 51
        ja .all
        mov rax, (1 << 51) + FRAME(5) + READ_WRITE
        mov [VIRT_PT + 8 * 12], rax
        CALL_USER u_load, PAGE(12)
        FAULTED 0xd, PAGE(12), 0x6f
.all:   PTE 12, 0x3f000000 + READ_WRITE                 ; behind the RAM
        CALL_USER u_load, PAGE(12)
        ENDED SYSTEM_CALL, 0x70
        PTE 12, 0
        PTE 11, 0
        PTE 10, 0
        mov rax, cr3
        mov cr3, rax
        ret

; Ring 3 writes its own page table, and page tables that are none are there.
own_tables:
        mov dword [FRAME(5)], 50
        mov dword [FRAME(7)], 70
        PTE 20, VIRT_PT + READ_WRITE
        PTE 21, 0
        mov r13d, 20
.turn:  mov rax, PAGE(21)
        test r13d, 1
        jz .all
        invlpg [rax]
        jmp .cut
.all:   mov rax, cr3
        mov cr3, rax
.cut:   mov eax, r13d
        and eax, 2
        shl eax, 12
        lea esi, [eax + FRAME(5) + READ_WRITE]  ; 5 or 7
        mov [gs:U_RBX], rsi
        CALL_USER u_own_table, PAGE(20) + 21 * 8, PAGE(21)
        ENDED SYSTEM_CALL, 0x90
        mov eax, r13d
        and eax, 2
        imul eax, eax, 10
        add eax, 50
        cmp [gs:U_RAX], rax
        EXPECT e, 0x91
        mov eax, [VIRT_PT + 21 * 8]
        and eax, 0x60
        cmp eax, 0x20
        EXPECT e, 0x92
        and dword [gs:U_RDX], 0x60
        cmp dword [gs:U_RDX], 0x20
        EXPECT e, 0x93
        mov qword [VIRT_PT + 21 * 8], 0
        dec r13d
        jnz near .turn
        mov r13d, tables_of_none
.table: mov rax, [r13]
        mov [0x304000 + 300 * 8], rax
        CALL_USER u_load, VIRT + 300 * 0x200000
        ENDED 14, 0x94
        CALL_USER u_store, VIRT + 300 * 0x200000
        ENDED 14, 0x95
        CALL_USER u_call_it, VIRT + 300 * 0x200000
        ENDED 14, 0x96
        add r13d, 8
        cmp r13d, tables_of_none_end
        jb .table
        mov qword [0x304000 + 300 * 8], 0
        mov qword [VIRT_PT + 20 * 8], 0
        mov rax, cr3
        mov cr3, rax
        ret
tables_of_none:                         ; a device, nothing, behind the RAM, the last page, reserved bits of a large page, of a table
        dq LAPIC + 7, 0xd0000000 + 7, 0x3f000000 + 7, 0xfffffff000 + 7, 0x402000 + 0x87, 0x400
tables_of_none_end:

; 65536 pages, no two of them beside each other in the RAM.
many:   mov edi, MANY_PT
        xor ecx, ecx
.entry: mov eax, ecx
        and eax, 1
        imul eax, eax, 0x7000
        lea eax, [eax + 0x480000 + READ_WRITE]
        mov [edi + ecx * 8], rax
        inc ecx
        cmp ecx, 512
        jb .entry
        mov dword [0x480000], 3
        mov dword [0x487000], 4
        mov ecx, MANY_TABLES
        mov edi, 0x304000 + 8
.table: mov qword [rdi], MANY_PT + 7
        add edi, 8
        loop .table
        CALL_USER u_sum, VIRT + 0x200000, MANY_TABLES * 512
        ENDED SYSTEM_CALL, 0x78
        cmp dword [gs:U_RAX], MANY_TABLES * (3 + 4) * 256
        EXPECT e, 0x79
        ret

        align 16
user:
u_odd_stack:
        mov dword [rdi], 1
        rdtsc
        lock inc dword [rdi + 8]
        mov ecx, 50
.spin:  dec ecx
        jnz .spin
        dec esi
        jnz u_odd_stack
        syscall
u_load: mov eax, [rdi]
        syscall
u_jump: push rsi
        jmp rdi
.behind:
        syscall
; With a fault of the page at rsi before.
u_jump_without_stack:
        mov dword [rsi], 1
        mov rsp, rbx
        jmp rdi
u_sum:  xor eax, eax
.next:  add eax, [rdi]
        add rdi, 0x1000
        dec esi
        jnz .next
        syscall
; rbx into the table at rdi, which is for rsi.
u_own_table:
        mov [rdi], rbx
        mov eax, [rsi]
        mov rdx, [rdi]
        syscall
u_call_it:
        call rdi
        syscall
u_store:
        mov [rdi], esi
        syscall
user_end:
