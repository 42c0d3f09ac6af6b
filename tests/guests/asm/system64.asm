; system64: SYSCALL, SYSRET, SYSENTER, SYSEXIT with exact registers and flags, SWAPGS, IRETQ to rings and to compatibility mode, FSGSBASE, UMIP, SMEP, SMAP,
; protection keys, IST and stack alignment of 64-bit events, canonical checks. What CPUID does not offer is left out. SDM 2, SDM 3A chapters 4 to 6.
; expect: exit 10h
%include "long.inc"
%define USER_PAGE 0x400000      ; seen at VIRT as a user page
%define USER_STACK (VIRT + 0x1ff0)
%define RING0_STACK 0x7c000
%define IST1_STACK 0x7a000
%assign step 0

; %1 faults with vector %2 and error code %3 (-1: none).
%macro FAULTS 3+
        mov dword [vector_seen], -1
        mov qword [resume_at], %%after
        %3
        EXIT 0x100 + step
%%after: cmp dword [vector_seen], %1
        EXPECT e, 0x200 + step
        cmp dword [error], %2
        EXPECT e, 0x300 + step
%assign step step + 1
%endmacro
; The user code at %1 runs at VIRT in ring 3 until it traps; the kernel goes on behind, registers as left.
%macro RUN_USER 1
        mov rsi, %1
        mov edi, USER_PAGE
        mov ecx, 256
        rep movsb
        call to_user
%endmacro

main:   mov rax, tss
        mov rdi, gdt_tss
        mov word [rdi], 103
        mov [rdi + 2], ax
        shr rax, 16
        mov [rdi + 4], al
        mov byte [rdi + 5], 0x89
        mov [rdi + 7], ah
        shr rax, 16
        mov [rdi + 8], eax
        mov qword [tss + 4], RING0_STACK
        mov qword [tss + 0x24], IST1_STACK
        mov ax, TSS_SELECTOR
        ltr ax
        mov dword [VIRT_PT], USER_PAGE + 7
        mov dword [VIRT_PT + 8], USER_PAGE + 0x1000 + 7
        GATE64 13, on_error_13
        GATE64 14, on_error_14
        GATE64 6, on_plain_6
        GATE64 0x30, on_user_done, 3
        GATE64 0x31, on_ist, 3
        mov byte [IDT64 + 16 * 0x31 + 4], 1
        mov [saved_rsp], rsp

        ; an event aligns the stack to 16 and pushes SS:RSP always
        mov rbx, rsp
        mov [expect_rsp], rbx
        sub rsp, 3
        int 0x31
        add rsp, 3
        cmp dword [ist_seen], 1
        EXPECT e, 0x20

        ; SYSCALL and SYSRET
        mov ecx, 0xc0000080
        rdmsr
        or eax, 1
        wrmsr
        mov ecx, 0xc0000081
        xor eax, eax
        mov edx, 0x00180008                     ; SYSRET 18h (+8, +16), SYSCALL 08h
        wrmsr
        mov rax, syscall_entry
        mov ecx, 0xc0000082
        xor edx, edx
        wrmsr
        mov ecx, 0xc0000084
        mov eax, 0x40600                        ; TF would end us; IF, DF and AC are cleared
        xor edx, edx
        wrmsr
        RUN_USER user_syscall
        cmp dword [syscalls], 1
        EXPECT e, 0x21
        ; SYSCALL without EFER.SCE: #UD in ring 3
        mov ecx, 0xc0000080
        rdmsr
        and eax, ~1
        wrmsr
        mov dword [vector_seen], -1
        mov qword [resume_at], after_user
        RUN_USER user_syscall
        cmp dword [vector_seen], 6
        EXPECT e, 0x22

        ; SYSENTER with a null selector: #GP
        mov ecx, 0x174
        xor eax, eax
        xor edx, edx
        wrmsr
        FAULTS 13, 0, sysenter
        ; SWAPGS
        mov ecx, 0xc0000102
        mov eax, 0x1234000
        mov edx, 0xffff8000
        wrmsr
        mov ecx, 0xc0000101
        mov eax, 0x777
        xor edx, edx
        wrmsr
        swapgs
        rdmsr
        cmp edx, 0xffff8000
        EXPECT e, 0x23
        inc ecx
        rdmsr
        cmp eax, 0x777
        EXPECT e, 0x24
        mov eax, 0
        mov edx, 0x8000                         ; not canonical
        FAULTS 13, 0, wrmsr

        ; privileged in ring 3: #GP
        mov qword [resume_at], after_user
%macro USER_FAULT 3
        mov dword [vector_seen], -1
        RUN_USER %1
        cmp dword [vector_seen], %2
        EXPECT e, 0x400 + step
        cmp dword [error], %3
        EXPECT e, 0x500 + step
%assign step step + 1
%endmacro
        USER_FAULT user_swapgs, 13, 0
        USER_FAULT user_rdmsr, 13, 0
        USER_FAULT user_invlpg, 13, 0
        USER_FAULT user_clts, 13, 0
        USER_FAULT user_kernel, 14, 5           ; a supervisor page
        mov rax, [fault_address]
        cmp rax, PML4
        EXPECT e, 0x25
        ; compatibility mode: 32-bit code in ring 3
        mov dword [user_cs], USER_CODE32
        RUN_USER user_compat
        mov dword [user_cs], USER_CODE64
        cmp ebx, 0x1234
        EXPECT e, 0x26

        ; IRETQ to a bad CS, a bad SS, a bad address
        mov rbp, rsp
        FAULTS 13, 0x48, call bad_iret_cs
        mov rsp, rbp
        FAULTS 13, 0, call bad_iret_ss
        mov rsp, rbp
        ; canonical addresses: data #GP, stack #SS (12)
        mov rbx, 0x8000000000000000
        FAULTS 13, 0, mov al, [rbx]
        FAULTS 13, 0, jmp invalid_jump

        mov eax, 7
        xor ecx, ecx
        cpuid
        mov [leaf7_ebx], ebx
        mov [leaf7_ecx], ecx
        ; FSGSBASE
        bt dword [leaf7_ebx], 0
        jnc .no_fsgsbase
        FAULTS 6, -1, rdfsbase rax
        mov rax, cr4
        bts rax, 16
        mov cr4, rax
        mov rbx, 0x123456789a
        wrfsbase rbx
        mov ecx, 0xc0000100
        rdmsr
        cmp edx, 0x12
        EXPECT e, 0x27
        xor ebx, ebx
        wrgsbase ebx
        rdgsbase rcx
        test rcx, rcx
        EXPECT z, 0x28
        mov rbx, 0x800000000000
        FAULTS 13, 0, wrfsbase rbx
.no_fsgsbase:
        ; UMIP
        mov qword [resume_at], after_user
        mov dword [vector_seen], -1
        RUN_USER user_sgdt
        cmp dword [vector_seen], -1
        EXPECT e, 0x29
        bt dword [leaf7_ecx], 2
        jnc .no_umip
        mov rax, cr4
        bts rax, 11
        mov cr4, rax
        USER_FAULT user_sgdt, 13, 0
        USER_FAULT user_smsw, 13, 0
.no_umip:
        ; SMEP: no execution of user pages
        bt dword [leaf7_ebx], 7
        jnc .no_smep
        mov rsi, user_ret
        mov edi, USER_PAGE
        movsb
        mov r8, VIRT
        call r8
        mov rax, cr4
        bts rax, 20
        mov cr4, rax
        mov rbp, rsp
        FAULTS 14, 0x11, call r8
        mov rsp, rbp
.no_smep:
        ; SMAP: no data there, but with AC
        bt dword [leaf7_ebx], 20
        jnc .no_smap
        mov r8, VIRT
        mov al, [r8]
        mov rax, cr4
        bts rax, 21
        mov cr4, rax
        FAULTS 14, 1, mov al, [r8]
        FAULTS 14, 3, mov [r8], al
        stac
        mov al, [r8]
        mov [r8], al
        clac
        pushfq
        or dword [rsp], 1 << 18
        popfq
        mov al, [r8]
        pushfq
        and dword [rsp], ~(1 << 18)
        popfq
        FAULTS 14, 3, inc byte [r8]
        mov rax, cr4
        btr rax, 21
        mov cr4, rax
.no_smap:
        ; protection keys: key 5 for the second page
        bt dword [leaf7_ecx], 3
        jnc .no_pku
        mov rax, cr4
        bts rax, 22
        mov cr4, rax
        mov eax, 7
        xor ecx, ecx
        cpuid
        bt ecx, 4                               ; OSPKE
        EXPECT c, 0x2a
        bts dword [VIRT_PT + 12], 27            ; bits 59 and 61
        bts dword [VIRT_PT + 12], 29
        mov r8, VIRT + 0x1000
        invlpg [r8]
        mov al, [r8]
        xor ecx, ecx
        xor edx, edx
        mov eax, 2 << 10                        ; key 5: no writes
        wrpkru
        mov al, [r8]
        FAULTS 14, 0x23, mov [r8], al
        xor ecx, ecx
        xor edx, edx
        mov eax, 1 << 10                        ; no accesses
        wrpkru
        FAULTS 14, 0x21, mov al, [r8]
        mov r9, VIRT
        mov al, [r9]                            ; another key
        mov eax, [PML4]                         ; no user page
        xor ecx, ecx
        rdpkru
        cmp eax, 1 << 10
        EXPECT e, 0x2b
        test edx, edx
        EXPECT z, 0x2c
        mov ecx, 1
        FAULTS 13, 0, rdpkru
        xor eax, eax
        xor ecx, ecx
        xor edx, edx
        wrpkru
        mov [r8], al
.no_pku:
        PASS

invalid_jump: mov rbx, 1 << 47
        jmp rbx

bad_iret_cs: push DATA64
        push rbp
        push 2
        push 0x48                               ; data
        push .here
.here:  iretq
bad_iret_ss: push 0x3
        push rbp
        push 2
        push USER_CODE32
        push .here
.here:  iretq

; To VIRT in ring 3; comes back when it traps.
to_user:
        pop qword [user_return]
        mov [saved_rsp], rsp
        mov eax, USER_DATA
        push rax
        mov rax, USER_STACK
        push rax
        push 0x202
        mov eax, [user_cs]
        push rax
        mov rax, VIRT
        push rax
        mov rax, 0x1122334455667788
        iretq
on_user_done:
        mov dword [vector_user], 0x30
after_user:
        mov rsp, [saved_rsp]
        cli
        cld
        push qword [user_return]
        ret

%macro TRAP 2
        mov dword [vector_seen], %1
        %2
        push rax
        mov rax, cr2
        mov [fault_address], rax
        mov rax, [resume_at]
        mov [rsp + 8], rax
        cmp rax, after_user
        jne %%kernel
        pop rax
        jmp after_user
%%kernel: pop rax
        iretq
%endmacro
on_plain_6: mov dword [error], -1
        TRAP 6, nop
on_error_13: pop qword [error]
        TRAP 13, nop
on_error_14: pop qword [error]
        TRAP 14, nop

on_ist: cmp rsp, IST1_STACK - 40
        EXPECT e, 0x30
        mov rax, [rsp + 24]
        add rax, 3
        cmp rax, [expect_rsp]
        EXPECT e, 0x31
        cmp qword [rsp + 32], DATA64
        EXPECT e, 0x32
        inc dword [ist_seen]
        iretq

; SYSCALL: RIP to RCX, RFLAGS to R11, the mask, CS and SS; RSP stays.
syscall_entry:
        mov rbx, VIRT + (user_syscall.after - user_syscall)
        cmp rcx, rbx
        EXPECT e, 0x33
        test r11d, 1 << 10                      ; DF was set
        EXPECT nz, 0x34
        mov r12, rsp
        mov esp, RING0_STACK
        pushfq
        pop rax
        test eax, 0x600
        EXPECT z, 0x35
        mov ax, cs
        cmp ax, CODE64
        EXPECT e, 0x36
        mov ax, ss
        cmp ax, DATA64
        EXPECT e, 0x37
        mov rbx, USER_STACK - 64
        cmp r12, rbx
        EXPECT e, 0x38
        inc dword [syscalls]
        mov rsp, r12
        mov edx, 0xabcd
        o64 sysret

; --- ring 3, copied to VIRT; relative addresses only
        align 16
user_syscall:
        sub rsp, 64
        std
        syscall
.after: cld
        mov ax, cs
        cmp ax, USER_CODE64
        jne .bad
        mov ax, ss
        cmp ax, USER_DATA
        jne .bad
        cmp edx, 0xabcd
        jne .bad
        int 0x30
.bad:   hlt
user_swapgs: swapgs
user_rdmsr: rdmsr
user_invlpg: invlpg [rax]
user_clts: clts
user_kernel: mov eax, [PML4]
user_sgdt: sgdt [rsp - 16]
        int 0x30
user_smsw: smsw eax
user_ret: ret
        bits 32
user_compat: mov ebx, 0x1234
        mov eax, cs
        inc eax                                 ; 40h: a prefix in 64-bit mode
        cmp eax, USER_CODE32 + 1
        jne .bad
        int 0x30
.bad:   hlt
        times 256 db 0xcc
        align 8
vector_seen: dd 0
vector_user: dd 0
error:  dq 0
fault_address: dq 0
resume_at: dq 0
user_return: dq 0
saved_rsp: dq 0
expect_rsp: dq 0
user_cs: dd USER_CODE64
ist_seen: dd 0
syscalls: dd 0
leaf7_ebx: dd 0
leaf7_ecx: dd 0
        align 16
tss:    times 26 dd 0
