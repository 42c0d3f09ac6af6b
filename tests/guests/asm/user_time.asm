; user_time: interrupts break into ring 3 that never calls its kernel: a periodic timer, registers unharmed, and time goes on for user code that looks at it.
; expect: exit 10h; else the step
%include "user.inc"
%define ADDRESS PAGE(4)
%define DATA FRAME(4)
%define TICKS 60

main:   call user_setup
        PTE 4, DATA + READ_WRITE
        PTE 5, PERCPU + READ_ONLY               ; its own block: ring 3 sees U_TICKS
        call user_timer
        CALL_USER u_spin, PAGE(5) + U_TICKS, TICKS
        ENDED SYSTEM_CALL, 0x20
        cmp qword [gs:U_RAX], 0
        EXPECT e, 0x21
        cmp qword [gs:U_TICKS], TICKS
        EXPECT ae, 0x22
        cmp qword [gs:U_RBX], 1000
        EXPECT a, 0x23
        mov r13d, 200                           ; and into short stretches
.short: CALL_USER u_count, 2000
        ENDED SYSTEM_CALL, 0x24
        cmp qword [gs:U_RAX], 2000
        EXPECT e, 0x25
        dec r13d
        jnz .short
        mov eax, [gs:U_TICKS]
        lea r14d, [rax + 20]
        CALL_USER u_sleepless, PAGE(5) + U_TICKS, r14
        ENDED SYSTEM_CALL, 0x26
        cmp qword [gs:U_RAX], 0
        EXPECT e, 0x27
        PASS

        align 16
user:
; Until [rdi] is esi: eight registers and a place in memory go in step; rax = 0 if they did.
u_spin: mov r10, PAGE(4)
        xor ebx, ebx
        mov [r10], rbx
        xor r8, r8
        xor r9, r9
        pxor xmm5, xmm5
        mov eax, 1
        movq xmm6, rax
.next:  inc rbx
        inc r8
        add qword [r10], 1
        paddq xmm5, xmm6
        lea r9, [r9 + 1]
        movq rax, xmm5
        cmp rax, rbx
        jne .bad
        cmp r8, rbx
        jne .bad
        cmp r9, [r10]
        jne .bad
        cmp r9, rbx
        jne .bad
        cmp [rdi], rsi
        jb .next
        xor eax, eax
        syscall
.bad:   mov eax, 1
        syscall
u_count:
        xor eax, eax
.next:  inc eax
        dec edi
        jnz .next
        syscall
u_sleepless:
        xor ebx, ebx
.next:  rdtsc
        shl rdx, 32
        or rax, rdx
        cmp rax, rbx
        jbe .bad
        mov rbx, rax
        cmp [rdi], rsi
        jb .next
        xor eax, eax
        syscall
.bad:   mov eax, 1
        syscall
user_end:
