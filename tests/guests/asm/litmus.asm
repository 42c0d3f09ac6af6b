; litmus: memory order between processors: SB (with fence, with locked instruction), LB, MP, IRIW and CO, each forbidden outcome of x86-TSO
; (SDM 3A, 9.2.3); atomicity of locked instructions, across cache lines and pages too, and of CMPXCHG16B.
; expect: exit 10h (run with 4 vCPUs); rounds=N repeats
%define CPUS 4
%define DEFAULT_ROUNDS 2
%include "long.inc"
%define N 1024
%define X 0x400000              ; N variables, a cache line each
%define Y 0x420000
%define RESULTS 0x440000        ; per processor N pairs of dwords
%define RESULT_BYTES (N * 8)
%define PROGRESS 0x470000       ; a line each
%define LOCKED 0x480000         ; counters of the second part
%define RMW 2000

main:   call start_aps
        xor edi, edi
ap_main:
        mov ebp, edi                            ; the processor's number
        mov r12d, [rounds]
next_round:
        mov rbx, tests
next_test:
        test ebp, ebp
        jnz .cleared
        mov edi, X
        xor eax, eax
        mov ecx, (PROGRESS + 0x1000 - X) / 8
        rep stosq
.cleared:
        call barrier
        mov r15, [rbx + 8 * rbp]                ; its role
        mov r8d, ebp
        shl r8d, 6
        lea r9d, [r8d + PROGRESS]               ; own progress
        xor r8d, 64
        add r8d, PROGRESS                       ; the partner's
        mov r13d, ebp
        imul r13d, r13d, RESULT_BYTES
        add r13d, RESULTS
        mov edi, X
        mov esi, Y
        xor r14d, r14d
.instance:
        inc r14d
        mov [r9], r14d
        mov ecx, 200                            ; wait for the partner, but not forever
.meet:  cmp [r8], r14d
        jae .go
        loop .meet
.go:    xor eax, eax
        xor edx, edx
        call r15
        mov [r13], eax
        mov [r13 + 4], edx
        add r13d, 8
        add edi, 64
        add esi, 64
        cmp r14d, N
        jb .instance
        call barrier
        test ebp, ebp
        jnz .checked
        mov r15, [rbx + 32]                     ; the forbidden outcome: CF set
        mov esi, RESULTS
        mov ecx, N
.check: call r15
        EXPECT nc, 0x20
        add esi, 8
        loop .check
.checked:
        add rbx, 40
        cmp rbx, tests_end
        jb next_test
        call locked
        dec r12d
        jnz next_round
        test ebp, ebp
        jnz idle
        PASS
idle:   hlt
        jmp idle

%define EAX_OF(cpu) dword [rsi + (cpu) * RESULT_BYTES]
%define EDX_OF(cpu) dword [rsi + (cpu) * RESULT_BYTES + 4]
; Carry if all of up to four comparisons hold.
%macro FORBID_IF 4-8
        cmp %1, %2
        jne %%fine
        cmp %3, %4
        jne %%fine
%if %0 > 4
        cmp %5, %6
        jne %%fine
        cmp %7, %8
        jne %%fine
%endif
        stc
        ret
%%fine: clc
        ret
%endmacro

nothing: ret
; Store buffering: both reading 0 is forbidden with something between that empties the buffer.
sb_fence_0: mov dword [rdi], 1
        mfence
        mov eax, [rsi]
        ret
sb_fence_1: mov dword [rsi], 1
        mfence
        mov eax, [rdi]
        ret
sb_lock_0: mov dword [rdi], 1
        lock or dword [rsp - 8], 0
        mov eax, [rsi]
        ret
sb_lock_1: mov edx, 1
        xchg [rsi], edx
        mov eax, [rdi]
        xor edx, edx
        ret
sb_forbidden: FORBID_IF EAX_OF(0), 0, EAX_OF(1), 0
; Load buffering: each reads what the other stores later.
lb_0:   mov eax, [rdi]
        mov dword [rsi], 1
        ret
lb_1:   mov eax, [rsi]
        mov dword [rdi], 1
        ret
lb_forbidden: FORBID_IF EAX_OF(0), 1, EAX_OF(1), 1
; Message passing: the flag is seen, the data is not. Once with plain stores, once with a string store.
mp_0:   mov dword [rdi], 1
        mov dword [rsi], 1
        ret
mp_1:   mov eax, [rsi]
        mov edx, [rdi]
        ret
mp_forbidden: FORBID_IF EAX_OF(1), 1, EDX_OF(1), 0
mp_vector_0: mov eax, 1
        movd xmm0, eax
        movdqa [rdi], xmm0
        movd [rsi], xmm0
        xor eax, eax
        ret
mp_vector_1: movd xmm1, [rsi]
        movdqa xmm2, [rdi]
        movd eax, xmm1
        movd edx, xmm2
        ret
; Independent reads of independent writes: two observers must agree on the order.
iriw_0: mov dword [rdi], 1
        ret
iriw_1: mov eax, [rdi]
        mov edx, [rsi]
        ret
iriw_2: mov dword [rsi], 1
        ret
iriw_3: mov eax, [rsi]
        mov edx, [rdi]
        ret
iriw_forbidden: FORBID_IF EAX_OF(1), 1, EDX_OF(1), 0, EAX_OF(3), 1, EDX_OF(3), 0
; Coherence: one variable never goes back.
co_0:   mov dword [rdi], 1
        mov dword [rdi], 2
        ret
co_1:   mov eax, [rdi]
        mov edx, [rdi]
        ret
co_forbidden: FORBID_IF EAX_OF(1), 2, EDX_OF(1), 1
; A processor sees its own store before others do, but never an older one.
own_0:  mov dword [rdi], 1
        mov eax, [rdi]
        ret
own_forbidden: FORBID_IF EAX_OF(0), 0, EAX_OF(0), 0

        align 8
tests:  dq sb_fence_0, sb_fence_1, nothing, nothing, sb_forbidden
        dq sb_lock_0, sb_lock_1, nothing, nothing, sb_forbidden
        dq lb_0, lb_1, nothing, nothing, lb_forbidden
        dq mp_0, mp_1, nothing, nothing, mp_forbidden
        dq mp_vector_0, mp_vector_1, nothing, nothing, mp_forbidden
        dq iriw_0, iriw_1, iriw_2, iriw_3, iriw_forbidden
        dq co_0, co_1, nothing, nothing, co_forbidden
        dq own_0, own_0, nothing, nothing, own_forbidden
tests_end:

; Every processor counts in every way; nothing may be lost.
%define PLAIN LOCKED
%define SPLIT (LOCKED + 0x7c)           ; a qword across two lines
%define HALVES (LOCKED + 0x13c)         ; the same; even processors add to its lower half, odd ones to the upper
%define PAGES (LOCKED + 0xffc)          ; a qword across two pages
%define PAIR (LOCKED + 0x200)
%define LOCKWORD (LOCKED + 0x240)
%define GUARDED (LOCKED + 0x280)
%define EXCHANGED (LOCKED + 0x2c0)
locked: test ebp, ebp
        jnz .cleared
        mov edi, LOCKED
        xor eax, eax
        mov ecx, 0x2000 / 8
        rep stosq
.cleared:
        call barrier
        mov r14d, RMW
.loop:  lock inc dword [PLAIN]
        mov eax, 1
        lock xadd [SPLIT], rax
        test ebp, 1
        jnz .upper
        lock inc dword [HALVES]
        jmp .halved
.upper: mov rax, 1 << 32
        lock add [HALVES], rax
.halved:
        test r14d, 31
        jnz .inside
        lock add qword [PAGES], 1
.inside:
        mov rax, [PAIR]
        mov rdx, [PAIR + 8]
.pair:  mov rcx, rdx
        add rcx, 2
        mov rbx, rax
        inc rbx
        lock cmpxchg16b [PAIR]
        jnz .pair
        lea rcx, [rax + rax]                    ; what was there was whole: the second is twice the first
        cmp rcx, rdx
        EXPECT e, 0x30
.spin:  lock bts dword [LOCKWORD], 0
        jc .spin
        inc dword [GUARDED]
        mov dword [LOCKWORD], 0
        mov eax, [EXCHANGED]
.again: lea ecx, [rax + 3]
        lock cmpxchg [EXCHANGED], ecx
        jne .again
        dec r14d
        jnz .loop
        call barrier
        cmp dword [PLAIN], CPUS * RMW
        EXPECT e, 0x31
        cmp qword [SPLIT], CPUS * RMW
        EXPECT e, 0x32
        mov rax, (CPUS / 2 * RMW) * 0x100000001
        cmp [HALVES], rax
        EXPECT e, 0x33
        cmp qword [PAGES], CPUS * (RMW / 32)
        EXPECT e, 0x34
        cmp qword [PAIR], CPUS * RMW
        EXPECT e, 0x35
        cmp qword [PAIR + 8], 2 * CPUS * RMW
        EXPECT e, 0x36
        cmp dword [GUARDED], CPUS * RMW
        EXPECT e, 0x37
        cmp dword [EXCHANGED], 3 * CPUS * RMW
        EXPECT e, 0x38
        jmp barrier                             ; nobody clears before all have looked
