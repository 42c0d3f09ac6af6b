; user_smp: ring 3 of one address space on two processors: locked counting, and pages that processor 0 protects, moves and unmaps under
; processor 1, which loses them with the answer to its interrupt (INVLPG, CR3 in turn) and not later; code patched under it.
; expect: exit 10h; else the step (80h and more: on processor 1)
%define CPUS 2
%define DEFAULT_ROUNDS 12
%include "user.inc"
%define SHARED PAGE(4)
%define TARGET PAGE(8)
%define SHOOT 0x60
%define LOCKED 30000
; As CALL_USER, on the second processor's stack.
%macro CALL_OTHER 2-3 0
        mov rax, UADDR(%1)
        mov [gs:U_RIP], rax
        mov rax, %2
        mov [gs:U_RDI], rax
        mov rax, %3
        mov [gs:U_RSI], rax
        mov rax, PAGE(7)
        mov [gs:U_RSP], rax
        mov qword [gs:U_FLAGS], 0x202
        mov qword [gs:U_CS], USER_CS
        mov qword [gs:U_SS], USER_SS
        call user_call
%endmacro

main:   call user_setup
        PTE 4, FRAME(4) + READ_WRITE
        PTE 5, FRAME(5) + READ_WRITE
        PTE 6, FRAME(6) + READ_WRITE + NO_EXECUTE       ; the other processor's stack
        PTE 8, FRAME(8) + READ_WRITE
        GATE64 SHOOT, shoot
        call start_aps
        ; both count
        call barrier
        CALL_USER u_locked, SHARED, LOCKED
        ENDED SYSTEM_CALL, 0x20
        call barrier
        cmp dword [FRAME(4)], 2 * LOCKED
        EXPECT e, 0x21
        ; the other one writes to a page that goes away
        mov r12d, [rounds]
.round: mov qword [FRAME(8)], 0
        PTE 8, FRAME(8) + READ_WRITE
        call barrier
.busy:  pause
        cmp dword [FRAME(8)], 100
        jb .busy
        test r12d, 1
        jz .unmap
        PTE 8, FRAME(8) + READ_ONLY
        jmp .cut
.unmap: PTE 8, 0
.cut:   mov dword [answered], 0
        mov eax, LAPIC
        mov dword [rax + 0x300], 0xc4000 + SHOOT
.wait:  pause
        cmp dword [answered], 0
        je .wait
        mov ebx, [FRAME(8)]
        mov ecx, 20000
.look:  pause
        cmp [FRAME(8)], ebx
        EXPECT e, 0x22
        loop .look
        call barrier
        dec r12d
        jnz near .round
        ; code that is patched while it runs
        mov r12d, [rounds]
        mov dword [FRAME(9)], 0xb8
        mov dword [FRAME(9) + 4], 0xc300
        PTE 9, FRAME(9) + READ_ONLY
        call barrier
.patch: mov eax, r12d
        shl eax, 8
        mov [FRAME(9) + 1], eax
        mov dword [answered], 0
        mov ecx, LAPIC
        mov dword [rcx + 0x300], 0xc4000 + SHOOT
.sent:  pause
        cmp dword [answered], 0
        je .sent
        mov dword [FRAME(4) + 64], 0            ; its next look is at new code
        mov ecx, 0
.seen:  pause
        mov edx, [FRAME(4) + 64]
        test edx, edx
        jz .seen
        cmp edx, eax
        je .good
        inc ecx
        cmp ecx, 2                              ; one call may have been under way
        EXPECT b, 0x23
        mov dword [FRAME(4) + 64], 0
        jmp .seen
.good:  dec r12d
        jnz .patch
        mov dword [FRAME(4) + 128], 1
        call barrier
        PASS

ap_main:
        call user_setup
        call barrier
        CALL_OTHER u_locked, SHARED, LOCKED
        ENDED SYSTEM_CALL, 0x80
        call barrier
        mov r12d, [rounds]
.round: call barrier
        CALL_OTHER u_write, TARGET
        mov ecx, 6
        test r12d, 1
        jz .absent
        mov ecx, 7
.absent:
        cmp eax, 14
        EXPECT e, 0x81
        cmp edx, ecx
        EXPECT e, 0x82
        sti                             ; it may have faulted before the interrupt came
        call barrier
        cli
        dec r12d
        jnz .round
        call barrier
        CALL_OTHER u_calls, SHARED, PAGE(9)
        ENDED SYSTEM_CALL, 0x83
        call barrier
.stop:  hlt
        jmp .stop

; On processor 1, with user code beneath or not.
shoot:  push rax
        inc dword [shots]
        test dword [shots], 2
        jz .all
        mov rax, TARGET
        invlpg [rax]
        jmp .out
.all:   mov rax, cr3
        mov cr3, rax
.out:   mov dword [answered], 1
        mov eax, LAPIC
        mov dword [rax + 0xb0], 0
        pop rax
        iretq
        align 64
answered: dd 0
        align 64
shots:  dd 0

        align 16
user:
u_locked:
        lock inc dword [rdi]
        dec esi
        jnz u_locked
        syscall
u_write:
        inc dword [rdi]
        jmp u_write
; Calls rsi and leaves what comes in [rdi + 64], until [rdi + 128].
u_calls:
        call rsi
        mov [rdi + 64], eax
        cmp dword [rdi + 128], 0
        je u_calls
        syscall
user_end:
