; user_swap: processor 1 calls a page of code in ring 3 while processor 0 puts other pages in its place, takes it away and gives it back, with the
; answer to an interrupt in between as kernels do: the code is of numbers, of CPUID, of RDTSC, of system calls; CPUID tells the guest's processor always.
; Then processor 0 does so without telling, and writes over the code as it runs: what processor 1 sees is one or the other.
; expect: exit 10h; else the step (80h and more: on processor 1)
%define CPUS 2
%define DEFAULT_ROUNDS 4
%include "user.inc"
%define SHARED PAGE(4)
%define TARGET PAGE(8)
%define SHOOT 0x60
%define COUNT 64                        ; in the shared page
%define STOP 128
%define KINDS 5

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
        PTE 6, FRAME(6) + READ_WRITE + NO_EXECUTE       ; the other processor's stack
        mov r12d, KINDS - 1
.copy:  mov edi, r12d
        shl edi, 12
        add edi, FRAME(9)
        mov rax, [code]
        mov [rdi], rax
        mov ax, [kinds + r12 * 2]
        mov [rdi + 6], ax
        mov byte [rdi + 8], 0xc3
        dec r12d
        jns .copy
        PTE 8, FRAME(9) + READ_ONLY
        GATE64 SHOOT, shoot
        call start_aps
        call barrier
        mov r12d, [rounds]
        imul r12d, r12d, KINDS
.round: mov r13d, [FRAME(4) + COUNT]
.run:   pause                           ; until it has called that some times
        mov eax, [FRAME(4) + COUNT]
        sub eax, r13d
        cmp eax, 5
        jb .run
        test r12d, 3
        jnz .swap
        PTE 8, 0
        call tell
.swap:  mov eax, r12d
        xor edx, edx
        mov ecx, KINDS
        div ecx
        shl edx, 12
        lea eax, [edx + FRAME(9) + READ_ONLY]
        mov [VIRT_PT + 8 * 8], rax
        call tell
        dec r12d
        jnz .round
        ; without telling, and over what runs
        mov r12d, [rounds]
        shl r12d, 8
.write: mov eax, r12d
        xor edx, edx
        mov ecx, KINDS
        div ecx
        lea eax, [edx * 2 + kinds]
        mov ax, [rax]
        cmp ax, 0xa20f
        je .remap
        mov [FRAME(9) + 6], ax
.remap: mov ecx, 200
.pause: loop .pause
        test r12d, 31
        jnz .same
        mov rax, [VIRT_PT + 8 * 8]
        xor rax, FRAME(10) ^ FRAME(9)
        and rax, ~0xf60                                 ; accessed: looked at anew
        mov [VIRT_PT + 8 * 8], rax
.same:  dec r12d
        jnz .write
        mov dword [FRAME(4) + STOP], 1
        call barrier
        PASS

; Processor 1 forgets its translations before this returns.
tell:   mov dword [answered], 0
        mov eax, LAPIC
        mov dword [rax + 0x300], 0xc4000 + SHOOT
.wait:  pause
        cmp dword [answered], 0
        je .wait
        ret

; Calls the page until it is told to stop. What ends that: an absent page, a system call of the code's own; both go on.
ap_main:
        call user_setup
        mov eax, 1
        cpuid
        mov [gs:U_R8], rbx
        mov [gs:U_R8 + 8], rcx
        mov [gs:U_R8 + 16], rdx
        mov [gs:U_R8 + 32], rax         ; R12
        call barrier
.call:  CALL_OTHER u_calls, SHARED, TARGET
        cmp eax, 14
        je .absent
        cmp eax, SYSTEM_CALL
        EXPECT e, 0x80
        cmp qword [gs:U_RAX], 2
        je .stop
        cmp qword [gs:U_RAX], 1                 ; the code's
        EXPECT e, 0x81
        mov rax, TARGET + 8
        cmp [gs:U_RIP], rax
        EXPECT e, 0x82
        jmp .again
.absent:
        and edx, ~1                             ; it may have come back by now
        cmp edx, 0x14
        EXPECT e, 0x83
        mov rax, [gs:U_RIP]
        cmp [gs:U_CR2], rax
        EXPECT e, 0x84
        shr rax, 12
        cmp rax, TARGET >> 12
        EXPECT e, 0x85
.again: lock inc dword [FRAME(4) + COUNT]
        sti
        nop
        cli
        jmp .call
.stop:  cmp qword [gs:U_RDI], 0
        EXPECT e, 0x86
        call barrier
.halt:  hlt
        jmp .halt

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

; What the page may hold: this with one of the instructions below at byte 6, and RET. Whatever page is there, it goes on with the next one of them.
        align 8
code:   mov eax, 1
        nop
        db 0, 0
kinds:  xchg ax, ax
        cpuid
        rdtsc
        syscall
        xor ecx, ecx

        align 16
user:
; R8, R9, R10, R12: what CPUID has to say in RBX, RCX, RDX, RAX.
u_calls:
        mov r13, 0x123456789
.next:  mov eax, [rdi + STOP]
        cmp eax, 1
        je .good
        mov rbx, r13
        call rsi
        lock inc dword [rdi + COUNT]
        cmp rbx, r13
        je .next
        cmp rbx, r8
        jne .bad
        cmp rcx, r9
        jne .bad
        cmp rdx, r10
        jne .bad
        cmp rax, r12
        je .next
.bad:   mov eax, 2
        syscall
.good:  xor edi, edi
        mov eax, 2
        syscall
user_end:
