; user_attack: ring 3 tries every way out and every odd state, and ends as the manual says: all system call numbers with registers of its choice, all
; INT n, what ring 3 may not execute, non-canonical targets and bases, stack pointers that lead nowhere, state images that are refused, flags that POPF
; sets before all kinds of instructions, selectors, 32-bit code of its own.
; expect: exit 10h; else the step (300h and more: that entry of the table)
%define DEFAULT_ROUNDS 1
%include "user.inc"
%define ADDRESS PAGE(4)
%define DATA FRAME(4)
%define PATCHED PAGE(6)
%define PATCHED_FRAME FRAME(6)
%define NOT_CANONICAL 0x800000000000
%define UPPER 0xffff900000000000
%define VSYSCALL 0xffffffffff600000
%define TRAP_FLAG 0x302
%define CHECK_FLAG 0x40202              ; AC

; Entry: vector, error code, length, bytes.
%macro TRY 2+
%%entry:
        db %1
        dw TRY_ERROR
        db %%end - %%code
%%code: db %2
%%end:  times 16 - (%%end - %%entry) db 0
%endmacro
; User code at label %1 ends with vector %2 at label %3; step %4.
%macro ENDS_AT 4
        ENDED %2, %4
        mov rax, UADDR(%3)
        cmp [gs:U_RIP], rax
        EXPECT e, %4
%endmacro
; With flags %2.
%macro CALL_FLAGS 2
        mov rax, UADDR(%1)
        mov [gs:U_RIP], rax
        mov rax, USTACK_TOP
        mov [gs:U_RSP], rax
        mov rax, ADDRESS
        mov [gs:U_RDI], rax
        mov qword [gs:U_FLAGS], 0x202
        mov qword [gs:U_RSI], %2
        call user_call
%endmacro

main:   call user_setup
        PTE 4, DATA + READ_WRITE
        PTE 5, FRAME(5) + READ_WRITE
        PTE 6, PATCHED_FRAME + READ_ONLY
        mov r12d, 2
.again: call numbers
        call interrupts
        call refused
        call stacks
        call images
        call flags
        call null_selectors
        call narrow
        dec r12d
        jnz .again
        PASS

; SYSCALL with RAX from 0 to 511, as x32 has them, and with upper halves; all registers come as they were.
numbers:
        xor r13d, r13d
.turn:  mov r14, r13
        call .one
        mov r14, r13
        bts r14, 30
        call .one
        mov r14, r13
        bts r14, 63
        call .one
        mov r14d, r13d
        neg r14
        call .one
        add r13d, [stride]
        cmp r13d, 512
        jb .turn
        mov dword [stride], 17          ; not all of them the next time
        ret
.one:   mov [gs:U_RAX], r14
        mov rdx, -1
        mov [gs:U_RDX], rdx
        mov qword [gs:U_R8], 3
        mov qword [gs:U_R8 + 16], 0x32  ; R10: as MAP_PRIVATE, ANONYMOUS, FIXED
        CALL_USER u_system_call, VIRT, 0x1000
        ENDS_AT u_system_call, SYSTEM_CALL, u_system_call.behind, 0x20
        cmp [gs:U_RAX], r14
        EXPECT e, 0x21
        mov rax, UADDR(u_system_call.behind)
        cmp [gs:U_RCX], rax
        EXPECT e, 0x22
        cmp qword [gs:U_RDX], -1
        EXPECT e, 0x23
        cmp qword [gs:U_RSI], 0x1000
        EXPECT e, 0x24
        cmp qword [gs:U_R8 + 16], 0x32
        EXPECT e, 0x25
        ret
stride: dd 1

; INT n, for all n: what the table of interrupts says.
interrupts:
        xor r13d, r13d
        mov word [PATCHED_FRAME], 0xcd
        mov word [PATCHED_FRAME + 2], 0x050f
.turn:  mov [PATCHED_FRAME + 1], r13b
        mov qword [gs:U_RAX], 9
        call call_patched
        lea ecx, [r13d * 8 + 2]
        mov esi, 13
        cmp r13d, 3
        je .open
        cmp r13d, 0x30
        jne .closed
.open:  mov esi, r13d
        xor ecx, ecx
.closed:
        cmp eax, esi
        je .vector
        mov edi, r13d
        call print_hex
        mov rdi, [gs:U_VECTOR]
        call print_hex
        mov rdi, [gs:U_RIP]
        call print_hex
        FAIL 0x28
.vector:
        cmp edx, ecx
        EXPECT e, 0x29
        mov rax, PATCHED
        cmp esi, 13
        je .fault
        add rax, 2
.fault: cmp [gs:U_RIP], rax
        EXPECT e, 0x2a
        cmp qword [gs:U_RAX], 9
        EXPECT e, 0x2b
        inc r13d
        cmp r13d, 256
        jb .turn
        GATE64 0x80, user_gate30, 3
        mov byte [PATCHED_FRAME + 1], 0x80
        call call_patched
        ENDED 0x30, 0x2c
        mov qword [IDT64 + 0x80 * 16], 0
        ret

; Registers for the table, and what PATCHED holds is called.
call_patched:
        mov rax, NOT_CANONICAL
        mov [gs:U_RBX], rax
        mov rax, UPPER
        mov [gs:U_R8], rax
        mov rax, PATCHED
        mov [gs:U_RIP], rax
        mov rax, ADDRESS
        mov [gs:U_RDI], rax
        mov rax, USTACK_TOP - 64
        mov [gs:U_RSP], rax
        mov qword [gs:U_FLAGS], 0x202
        jmp user_call

refused:
        mov dword [DATA], -1
        mov qword [DATA + 0x100], 0
        mov rax, ADDRESS + 0x100
        mov [gs:U_R15], rax
        mov r13d, table
        mov r15d, 0x300
.next:  movzx ecx, byte [r13 + 3]
        lea esi, [r13 + 4]
        mov edi, PATCHED_FRAME
        rep movsb
        mov dword [rdi], 0x050f
        mov qword [gs:U_RAX], 0
        mov qword [gs:U_RCX], 0
        mov qword [gs:U_RDX], 0
        call call_patched
        movzx ecx, byte [r13]
        cmp eax, ecx
        jne .bad
        movzx ecx, word [r13 + 1]
        cmp edx, ecx
        jne .bad
        mov rax, PATCHED
        cmp [gs:U_RIP], rax
        jne .bad
        mov rax, USTACK_TOP - 64
        cmp [gs:U_RSP], rax
        jne .bad
        inc r15d
        add r13d, 16
        cmp r13d, table_end
        jb .next
        ret
.bad:   mov rdi, [gs:U_VECTOR]
        call print_hex
        mov rdi, [gs:U_ERROR]
        call print_hex
        mov rdi, [gs:U_RIP]
        call print_hex
        EXIT r15d

; A stack that is not one: RSP stays as it is through faults, traps and interrupts that user code does not see.
stacks: call user_timer
        mov r13d, odd_stacks
.turn:  mov rax, [r13]
        mov [gs:U_RSP], rax
        mov rax, UADDR(u_odd_stack)
        mov [gs:U_RIP], rax
        mov rax, ADDRESS
        mov [gs:U_RDI], rax
        mov qword [gs:U_RSI], 1000
        mov qword [gs:U_FLAGS], 0x202
        call unmapped_once
        call user_call
        ENDED SYSTEM_CALL, 0x30
        mov rax, [r13]
        cmp [gs:U_RSP], rax
        EXPECT e, 0x31
        mov [gs:U_RSP], rax             ; and PUSH faults
        mov rax, UADDR(u_push)
        mov [gs:U_RIP], rax
        call user_call
        cmp eax, [r13 + 8]
        EXPECT e, 0x32
        cmp eax, SYSTEM_CALL
        je .next
        mov rax, [r13]
        cmp [gs:U_RSP], rax
        EXPECT e, 0x33
        mov rax, UADDR(u_push)
        cmp [gs:U_RIP], rax
        EXPECT e, 0x34
.next:  add r13d, 16
        cmp r13d, odd_stacks_end
        jb .turn
        mov eax, LAPIC
        mov dword [rax + 0x320], 0x10000
        ret

; What ran has to fetch the mapping of page 4 anew.
unmapped_once:
        PTE 4, 0
        mov rax, ADDRESS
        invlpg [rax]
        PTE 4, DATA + READ_WRITE
        ret

; XRSTOR of images that are none changes nothing.
images: mov r13d, 6
.turn:  mov edi, DATA
        xor eax, eax
        mov ecx, 1024
        rep stosd
        mov dword [DATA + 24], 0x1f80
        mov dword [DATA + 512], 3
        mov dword [DATA + 160], 0x1234  ; XMM0
        mov eax, 0x77
        movd xmm0, eax
        CALL_USER u_restore, ADDRESS
        ENDED SYSTEM_CALL, 0x38
        movd eax, xmm0
        cmp eax, 0x1234
        EXPECT e, 0x39
        mov eax, 0x77
        movd xmm0, eax
        jmp [.kinds + r13 * 8 - 8]
.kinds: dq .reserved_state, .compact, .header, .control, .odd, .supervisor
.reserved_state:
        mov dword [DATA + 512 + 4], 0x40000000  ; component 62
        jmp .go
.compact:
        mov dword [DATA + 520], 3               ; XCOMP_BV without its bit 63
        jmp .go
.header:
        mov dword [DATA + 528], 1
        jmp .go
.control:
        mov dword [DATA + 24], 0x80001f80       ; MXCSR
        jmp .go
.supervisor:
        mov dword [DATA + 512], 0x103           ; processor trace
.go:    CALL_USER u_restore, ADDRESS
        jmp .end
.odd:   CALL_USER u_restore, ADDRESS + 16
.end:   ENDS_AT u_restore, 13, u_restore.at, 0x3a
        movd eax, xmm0
        cmp eax, 0x77
        EXPECT e, 0x3b
        dec r13d
        jnz near .turn
        ret

; TF and AC, set by POPF.
flags:  mov r13d, 3
.turn:  CALL_FLAGS u_flags_time, TRAP_FLAG
        ENDS_AT u_flags_time, 1, u_flags_time.behind, 0x40
        call unmapped_once
        CALL_FLAGS u_flags_store, TRAP_FLAG
        ENDS_AT u_flags_store, 1, u_flags_store.behind, 0x41
        CALL_FLAGS u_flags_undefined, TRAP_FLAG
        ENDS_AT u_flags_undefined, 6, u_flags_undefined.at, 0x42
        bt qword [gs:U_FLAGS], 8
        EXPECT c, 0x43
        CALL_FLAGS u_flags_int, TRAP_FLAG
        ENDS_AT u_flags_int, 0x30, u_flags_int.behind, 0x44
        bt qword [gs:U_FLAGS], 8
        EXPECT c, 0x45
        CALL_FLAGS u_flags_string, TRAP_FLAG
        ENDS_AT u_flags_string, 1, u_flags_string.at, 0x46
        cmp qword [gs:U_RCX], 4
        EXPECT e, 0x47
        CALL_FLAGS u_flags_pushed, TRAP_FLAG
        ENDS_AT u_flags_pushed, 1, u_flags_pushed.behind, 0x48
        mov rax, [FRAME(3) + 0x1000 - 8]
        bt eax, 8
        EXPECT c, 0x49
        CALL_FLAGS u_flags_jump, TRAP_FLAG
        ENDS_AT u_flags_jump, 1, u_flags_jump.target, 0x4a
        CALL_FLAGS u_flags_load, CHECK_FLAG
        ENDS_AT u_flags_load, 17, u_flags_load.at, 0x4b
        cmp qword [gs:U_ERROR], 0
        EXPECT e, 0x4c
        mov rax, cr0
        btr rax, 18                                     ; AM
        mov cr0, rax
        CALL_FLAGS u_flags_load, CHECK_FLAG
        ENDS_AT u_flags_load, SYSTEM_CALL, u_flags_load.behind, 0x4d
        bt qword [gs:U_FLAGS], 18
        EXPECT c, 0x4e
        mov rax, cr0
        bts rax, 18
        mov cr0, rax
        CALL_FLAGS u_flags_iret, 0x4202                 ; NT
        ENDS_AT u_flags_iret, 13, u_flags_iret.at, 0x4f
        CALL_FLAGS u_flags_load, 0x3b3202               ; IOPL, VM, VIF, VIP: not for ring 3
        ENDS_AT u_flags_load, SYSTEM_CALL, u_flags_load.behind, 0x50
        mov rax, [gs:U_FLAGS]
        and eax, 0x1b3000
        EXPECT z, 0x51
        dec r13d
        jnz near .turn
        ret

; A null selector leaves the base as it does in ring 0.
null_selectors:
        mov edi, 0x12345000
        wrfsbase rdi
        xor eax, eax
        mov fs, eax
        rdfsbase r13
        CALL_USER u_null_selector, rdi
        ENDED SYSTEM_CALL, 0x80
        cmp [gs:U_RAX], r13
        EXPECT e, 0x81
        cmp qword [gs:U_RBX], 0
        EXPECT e, 0x82
        ret

; 32-bit code that 64-bit code jumped to makes its calls.
narrow: mov ecx, 0xc0000083             ; CSTAR
        mov eax, user_syscall
        xor edx, edx
        wrmsr
        CALL_USER u_narrow_int
        cmp eax, 13
        EXPECT e, 0x88
        cmp qword [gs:U_ERROR], 0x402
        EXPECT e, 0x89
        mov rax, UADDR(u_narrow_int.at)
        cmp [gs:U_RIP], rax
        EXPECT e, 0x8a
        cmp qword [gs:U_RAX], 9
        EXPECT e, 0x8b
        CALL_USER u_narrow_call
        cmp eax, 6                              ; not there on every processor
        je .none
        ENDS_AT u_narrow_call, SYSTEM_CALL, u_narrow_call.behind, 0x8c
        cmp qword [gs:U_RAX], 9
        EXPECT e, 0x8d
.none:  ret

odd_stacks:
        dq 0, 14, 8, 14, 0x10007, 14, PAGE(1) + 0x800, 14, PAGE(13), 14, USTACK_TOP - 3, SYSTEM_CALL, UPPER, 14
        dq NOT_CANONICAL, 14, NOT_CANONICAL + 16, 12, 0x7ffffffff000, 14, VSYSCALL + 8, 14
odd_stacks_end:

%define TRY_ERROR 0
table:  TRY 13, 0xff, 0xe3                      ; jmp rbx, which is not canonical
        TRY 13, 0xff, 0xd3                      ; call rbx
        TRY 13, 0x8b, 0x03                      ; mov eax, [rbx]
        TRY 13, 0x48, 0x89, 0x03
        TRY 13, 0x0f, 0x10, 0x03                ; movups xmm0, [rbx]
        TRY 13, 0xf3, 0x48, 0x0f, 0xae, 0xd3    ; wrfsbase rbx
        TRY 13, 0xf3, 0x48, 0x0f, 0xae, 0xdb    ; wrgsbase rbx
        TRY 13, 0x41, 0xff, 0x2f                ; jmp far [r15]: as many zeros there
        TRY 13, 0xf4                            ; hlt
        TRY 13, 0xfa                            ; cli
        TRY 13, 0xfb                            ; sti
        TRY 13, 0xec                            ; in al, dx
        TRY 13, 0xef                            ; out dx, eax
        TRY 13, 0x6e                            ; outsb
        TRY 13, 0x0f, 0x06                      ; clts
        TRY 13, 0x0f, 0x07                      ; sysret
        TRY 13, 0x0f, 0x08                      ; invd
        TRY 13, 0x0f, 0x09                      ; wbinvd
        TRY 13, 0x0f, 0x35                      ; sysexit
        TRY 13, 0x0f, 0x30                      ; wrmsr
        TRY 13, 0x0f, 0x32                      ; rdmsr
        TRY 13, 0x0f, 0x01, 0x17                ; lgdt [rdi]
        TRY 13, 0x0f, 0x01, 0x1f                ; lidt [rdi]
        TRY 13, 0x0f, 0x01, 0xf0                ; lmsw ax
        TRY 13, 0x0f, 0x01, 0x3f                ; invlpg [rdi]
        TRY 13, 0x0f, 0x01, 0xf8                ; swapgs
        TRY 13, 0x0f, 0x01, 0xd1                ; xsetbv
        TRY 13, 0x0f, 0x00, 0xd0                ; lldt ax
        TRY 13, 0x0f, 0x00, 0xd8                ; ltr ax
        TRY 13, 0x0f, 0x20, 0xc0                ; mov rax, cr0
        TRY 13, 0x0f, 0x22, 0xd8                ; mov cr3, rax
        TRY 13, 0x44, 0x0f, 0x20, 0xc0          ; mov rax, cr8
        TRY 13, 0x0f, 0x21, 0xf8                ; mov rax, dr7
        TRY 13, 0x0f, 0x23, 0xc0                ; mov dr0, rax
        TRY 13, 0x0f, 0xae, 0x17                ; ldmxcsr [rdi], of reserved bits
        TRY 6, 0x06                             ; push es
        TRY 6, 0xce                             ; into
        TRY 6, 0x27                             ; daa
        TRY 6, 0x37                             ; aaa
        TRY 6, 0xd6                             ; salc
        TRY 6, 0x9a, 0, 0, 0, 0, 0, 0           ; call far
        TRY 6, 0x0f, 0xff, 0xc0                 ; ud0
        TRY 6, 0x0f, 0xb9, 0xc0                 ; ud1
        TRY 6, 0xf0, 0x90                       ; lock nop
        TRY 6, 0xf0, 0x8b, 0x07                 ; lock mov
        TRY 6, 0xf0, 0x0f, 0xa2                 ; lock cpuid
        TRY 6, 0x0f, 0x01, 0xca                 ; clac
        TRY 6, 0x0f, 0x01, 0xcb                 ; stac
        TRY 6, 0x0f, 0x01, 0xef                 ; wrpkru without PKE
        TRY 6, 0x0f, 0x01, 0xee                 ; rdpkru
        TRY 6, 0x0f, 0xaa                       ; rsm
        TRY 6, 0xc4, 0xe2, 0x7b, 0x49, 0xc0     ; tilezero without tiles
        TRY 6, 0xd9, 0xd1                       ; x87, nothing there
        TRY 6, 0x8e, 0xc8                       ; mov cs, eax
%define TRY_ERROR 4
        TRY 14, 0x41, 0x8b, 0x00                ; mov eax, [r8]: nothing in the upper half
        TRY 14, 0x41, 0x0f, 0x28, 0x40, 0x10    ; movaps xmm0, [r8 + 16]
%define TRY_ERROR 6
        TRY 14, 0x41, 0x89, 0x00
        TRY 14, 0xf0, 0x41, 0xff, 0x00          ; lock inc dword [r8]
%define TRY_ERROR 7
        TRY 14, 0x89, 0x05, 0, 1, 0, 0          ; mov [rip + 256], eax: itself
table_end:

        align 16
user:
u_system_call:
        syscall
.behind:
u_push: push rax
        syscall
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
u_restore:
        mov eax, 3
        xor edx, edx
.at:    xrstor [rdi]
        syscall
%macro SET_FLAGS 0
        push rsi
        popfq
%endmacro
u_flags_time:
        SET_FLAGS
        rdtsc
.behind:
        nop
        syscall
u_flags_store:
        SET_FLAGS
        mov dword [rdi], 1
.behind:
        nop
        syscall
u_flags_undefined:
        SET_FLAGS
.at:    ud2
u_flags_int:
        SET_FLAGS
        int 0x30
.behind:
        nop
u_flags_string:
        mov ecx, 5
        SET_FLAGS
.at:    rep stosb
        syscall
u_flags_pushed:
        SET_FLAGS
        pushfq
.behind:
        syscall
u_flags_jump:
        SET_FLAGS
        jmp .target
        nop
.target:
        nop
        syscall
u_flags_load:
        SET_FLAGS
.at:    mov eax, [rdi + 1]
        syscall
.behind:
u_flags_iret:
        SET_FLAGS
.at:    iretq
u_null_selector:
        wrfsbase rdi
        xor eax, eax
        mov fs, eax
        rdfsbase rax
        mov ebx, USER_SS
        mov fs, ebx
        rdfsbase rbx
        xor ecx, ecx
        mov fs, ecx
        syscall
u_narrow_int:
        push 0x23
        mov rax, UADDR(.narrow)
        push rax
        mov eax, 9
        retfq
.narrow:
        nop
.at:    int 0x80
u_narrow_call:
        push 0x23
        mov rax, UADDR(.narrow)
        push rax
        mov eax, 9
        retfq
.narrow:
        nop
.at:    syscall
.behind:
user_end:
