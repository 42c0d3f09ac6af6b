; UserCalls: ring 3 of 64-bit mode calls ring 0 by SYSCALL and INT n, many times; a #UD of its own and a jump to the entry point of system calls with
; RCX and R11 of its choice remain the exceptions that they are. SDM 2, SYSCALL; SDM 3A, 5.8.8 and 6.12.1.
; expect: exit 10h; 20h to 2fh: in ring 0, 30h to 3fh: in ring 3 (ebx says where)
%include "long.inc"
%define USER_PAGE 0x400000
%define CALLS 200
%define FLAGS 0x247             ; IF, ZF, PF, CF and the fixed bit
%define AT(label) (VIRT + (label) - user)

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
        mov qword [tss + 4], 0x7c000
        mov ax, TSS_SELECTOR
        ltr ax
        GATE64 6, on_undefined
        GATE64 13, on_end
        GATE64 14, on_page_fault
        GATE64 0x30, on_call, 3
        mov ecx, 0xc0000080
        rdmsr
        or eax, 1                       ; SCE
        wrmsr
        mov ecx, 0xc0000081
        xor eax, eax
        mov edx, CODE64 | (USER_CODE64 - 16) << 16
        wrmsr
        inc ecx
        mov eax, entry64
        xor edx, edx
        wrmsr
        mov ecx, 0xc0000084
        mov eax, 0x700                  ; IF, TF, DF
        wrmsr
        mov dword [VIRT_PT], USER_PAGE + 7
        mov dword [VIRT_PT + 8], USER_PAGE + 0x1000 + 7
        mov rsi, user
        mov edi, USER_PAGE
        mov ecx, user_end - user
        rep movsb
        out 0x80, al                    ; a look at the world outside
        push USER_DATA
        mov rax, VIRT + 0x1ff0
        push rax
        push 0x202
        push USER_CODE64
        mov rax, VIRT
        push rax
        iretq

entry64:
        mov [user_rsp], rsp
        mov esp, 0x7b000
        mov eax, cs
        cmp eax, CODE64
        EXPECT e, 0x20
        mov eax, ss
        cmp eax, DATA64
        EXPECT e, 0x21
        cmp r11, FLAGS
        EXPECT e, 0x22
        mov rax, AT(user.called)
        cmp rcx, rax
        EXPECT e, 0x23
        pushfq
        pop rax
        test eax, 0x200
        EXPECT z, 0x24
        inc dword [calls]
        mov eax, [calls]
        mov rsp, [user_rsp]
        o64 sysret

on_call:
        cmp qword [rsp + 8], USER_CODE64
        EXPECT e, 0x25
        cmp qword [rsp + 32], USER_DATA
        EXPECT e, 0x26
        mov eax, cs
        cmp eax, CODE64
        EXPECT e, 0x27
        mov eax, 0x77
        iretq

on_undefined:
        mov rax, AT(user.undefined)
        cmp [rsp], rax
        EXPECT e, 0x28
        add qword [rsp], 2
        mov eax, 0x66
        iretq

on_page_fault:
        cmp qword [rsp], 0x15           ; fetch of a supervisor page in ring 3
        EXPECT e, 0x29
        mov rax, entry64
        cmp [rsp + 8], rax
        EXPECT e, 0x2a
        cmp dword [calls], CALLS
        EXPECT e, 0x2b
        mov rax, AT(user.jumped)
        mov [rsp + 8], rax
        add rsp, 8
        mov eax, 0x55
        iretq

on_end: cmp eax, 0x99                   ; from HLT in ring 3
        je .good
        lea eax, [rbx + 0x30]
        EXIT eax
.good:  PASS

        align 16
user:   mov r12d, CALLS
        xor ebp, ebp
.call:  inc ebp
        xor edx, edx
        stc
        syscall
.called:
        mov ebx, 0
        jnc .bad                        ; flags come back
        cmp eax, ebp
        jne .bad
        dec r12d
        jnz .call
        inc ebx
        int 0x30
        cmp eax, 0x77
        jne .bad
        inc ebx
.undefined:
        ud2
        cmp eax, 0x66
        jne .bad
        inc ebx
        mov rcx, AT(user.called)
        mov r11d, 0x3202                ; with all ports open, if that were believed
        mov rax, entry64
        jmp rax
.jumped:
        cmp eax, 0x55
        jne .bad
        mov eax, 0x99
        hlt
.bad:   xor eax, eax
        hlt
user_end:
        align 16
tss:    times 104 db 0
user_rsp: dq 0
calls:  dd 0
