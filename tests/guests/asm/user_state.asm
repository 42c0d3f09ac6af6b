; user_state: what ring 3 may see and change of registers, and how it ends: all registers and flags across SYSCALL, SYSRET, INT and IRET, FS and GS bases,
; vector state, every exception of user code, single steps and breakpoints, time and identification as ring 0 sees them, selectors, 32-bit code.
; expect: exit 10h; else the step
%include "user.inc"
%define ADDRESS PAGE(4)
%define DATA FRAME(4)
%define PATTERN 0x1111111111111111
; User code at label %1 ends with exception %2, error code %3, at label %4; step %5.
%macro RAISES 5
        CALL_USER %1
        ENDED %2, %5
        cmp qword [gs:U_ERROR], %3
        EXPECT e, %5
        mov rax, UADDR(%4)
        cmp [gs:U_RIP], rax
        EXPECT e, %5
%endmacro

main:   call user_setup
        PTE 4, DATA + READ_WRITE
        PTE 5, FRAME(5) + READ_WRITE
        mov r12d, 3
.again: call registers
        call bases
        call vectors
        call exceptions
        call traps
        call identity
        call selectors
        call keys
        dec r12d
        jnz .again
        PASS

registers:
        mov r13d, 300
.turn:  mov eax, r13d
        and eax, 1
        mov [gs:U_SYSRET], rax
        xor ecx, ecx
        mov rax, PATTERN
        xor edx, edx
.fill:  mov [gs:U_RAX + rcx * 8], rdx
        add rdx, rax
        inc ecx
        cmp ecx, 16
        jb .fill
        mov rax, UADDR(u_all)
        mov [gs:U_RIP], rax
        mov qword [gs:U_FLAGS], 0xad7           ; all arithmetic flags but DF, IF
        mov qword [gs:U_CS], USER_CS
        mov qword [gs:U_SS], USER_SS
        call user_call
        ENDED SYSTEM_CALL, 0x20
        mov rax, [gs:U_FLAGS]
        cmp eax, 0xed7                          ; STD
        EXPECT e, 0x21
        mov rax, UADDR(u_all.end)
        cmp [gs:U_RIP], rax
        EXPECT e, 0x22
        mov rax, PATTERN
        mov ecx, 2
        lea rdx, [rax + rax]
.look:  lea rsi, [rdx + rcx]                    ; each register has grown by its number, but RCX and R11
        cmp ecx, 11
        je .next
        cmp [gs:U_RAX + rcx * 8], rsi
        EXPECT e, 0x23
.next:
        add rdx, rax
        inc ecx
        cmp ecx, 16
        jb .look
        CALL_USER u_int
        ENDED 0x30, 0x24
        cmp qword [gs:U_RCX], 5
        EXPECT e, 0x25
        dec r13d
        jnz near .turn
        mov qword [gs:U_SYSRET], 0
        ret

bases:  mov rdi, 0x7ffff0001000
        mov [gs:U_RBX], rdi
        CALL_USER u_set_bases, [gs:U_RBX], ADDRESS
        ENDED SYSTEM_CALL, 0x28
        mov ecx, 0xc0000100
        rdmsr
        shl rdx, 32
        or rax, rdx
        mov rdi, 0x7ffff0001000
        cmp rax, rdi
        EXPECT e, 0x29
        mov ecx, 0xc0000102
        rdmsr
        shl rdx, 32
        or rax, rdx
        mov rdi, ADDRESS
        cmp rax, rdi
        EXPECT e, 0x2a
        mov rdx, ADDRESS >> 32
        mov eax, ADDRESS & 0xffffffff
        mov ecx, 0xc0000100
        wrmsr
        mov dword [DATA + 8], 4321
        CALL_USER u_read_fs
        ENDED SYSTEM_CALL, 0x2b
        cmp qword [gs:U_RAX], 4321
        EXPECT e, 0x2c
        mov rdi, ADDRESS
        cmp [gs:U_RBX], rdi
        EXPECT e, 0x2d
        ret

vectors:
        mov r13d, 20
.turn:  mov dword [DATA], 0x3f800000            ; 1.0f
        mov [DATA + 4], r13d
        CALL_USER u_vectors, ADDRESS
        ENDED SYSTEM_CALL, 0x30
        movd eax, xmm7
        cmp eax, 0x40000000                     ; 1 + 1
        EXPECT e, 0x31
        mov eax, 1
        cpuid
        bt ecx, 28
        jnc .no_avx
        vextractf128 xmm1, ymm6, 1
        movd eax, xmm1
        cmp eax, 0x3f800000
        EXPECT e, 0x32
.no_avx:
        sub rsp, 16
        stmxcsr [rsp]
        cmp dword [rsp], 0x7f80
        EXPECT e, 0x33
        mov dword [rsp], 0x1f80
        ldmxcsr [rsp]
        fstp qword [rsp]                        ; pi, left in the x87 stack
        mov rax, 0x400921fb54442d18
        cmp [rsp], rax
        EXPECT e, 0x34
        fninit
        pxor xmm7, xmm7
        movd xmm3, r13d
        add rsp, 16
        CALL_USER u_read_xmm3
        ENDED SYSTEM_CALL, 0x35
        cmp [gs:U_RAX], r13
        EXPECT e, 0x36
        cmp qword [gs:U_RBX], 0x1f80
        EXPECT e, 0x37
        dec r13d
        jnz .turn
        ret

exceptions:
        mov r13d, 4
.turn:  RAISES u_divide, 0, 0, u_divide.at, 0x40
        RAISES u_undefined, 6, 0, u_undefined.at, 0x41
        RAISES u_halt, 13, 0, u_halt.at, 0x42
        RAISES u_in, 13, 0, u_in.at, 0x43
        RAISES u_cli, 13, 0, u_cli.at, 0x44
        RAISES u_int31, 13, 0x31 * 8 + 2, u_int31.at, 0x45
        RAISES u_stack, 12, 0, u_stack.at, 0x46
        RAISES u_breakpoint, 3, 0, u_breakpoint.behind, 0x47
        RAISES u_int3, 3, 0, u_int3.behind, 0x48
        RAISES u_icebp, 1, 0, u_icebp.behind, 0x49
        RAISES u_x87, 16, 0, u_x87.at, 0x4a
        fninit
        RAISES u_sse, 19, 0, u_sse.at, 0x4b
        push 0x1f80
        ldmxcsr [rsp]
        add rsp, 8
        RAISES u_aligned, 17, 0, u_aligned.at, 0x4c
        RAISES u_movaps, 13, 0, u_movaps.at, 0x4d
        RAISES u_mov_cr, 13, 0, u_mov_cr.at, 0x4e
        RAISES u_bad_segment, 13, 0x1234, u_bad_segment.at, 0x4f
        dec r13d
        jnz near .turn
        ret

traps:  mov rax, 0xffff0ff0
        mov dr6, rax
        RAISES u_step, 1, 0, u_step.behind, 0x50
        mov rax, dr6
        bt eax, 14
        EXPECT c, 0x51
        mov rax, [gs:U_FLAGS]
        bt eax, 8
        EXPECT c, 0x52
        mov qword [gs:U_FLAGS], 0x302           ; from ring 0, single steps
        mov rax, UADDR(u_step)
        mov [gs:U_RIP], rax
        call user_call
        ENDED 1, 0x53
        mov rax, ADDRESS
        mov dr0, rax
        mov rax, 0xffff0ff0
        mov dr6, rax
        mov eax, 0xd0402                        ; writes of four bytes
        mov dr7, rax
        CALL_USER u_store, ADDRESS
        ENDED 1, 0x54
        mov rax, UADDR(u_store.behind)
        cmp [gs:U_RIP], rax
        EXPECT e, 0x55
        mov rax, dr6
        bt eax, 0
        EXPECT c, 0x56
        mov eax, 0x400
        mov dr7, rax
        CALL_USER u_store, ADDRESS
        ENDED SYSTEM_CALL, 0x57
        ret

; Ring 3 sees the processor and the time that ring 0 sees.
identity:
        mov r13d, 8
.turn:  mov ecx, 0xc0000103
        mov eax, 77
        xor edx, edx
        wrmsr
        rdtsc
        shl rdx, 32
        lea r14, [rax + rdx]
        CALL_USER u_time
        ENDED SYSTEM_CALL, 0x60
        rdtsc
        shl rdx, 32
        or rax, rdx
        cmp [gs:U_RAX], r14
        EXPECT ae, 0x61
        cmp [gs:U_RAX], rax
        EXPECT be, 0x62
        mov eax, 0x80000001
        cpuid
        bt edx, 27
        jnc .no_rdtscp
        CALL_USER u_timep
        ENDED SYSTEM_CALL, 0x63
        cmp qword [gs:U_RBX], 77
        EXPECT e, 0x64
.no_rdtscp:
        mov r14d, 0
        call same_cpuid
        mov r14d, 1
        call same_cpuid
        mov r14d, 7
        call same_cpuid
        mov r14d, 0xd
        call same_cpuid
        mov r14d, 0x80000008
        call same_cpuid
        CALL_USER u_tables, ADDRESS
        ENDED SYSTEM_CALL, 0x66
        sub rsp, 16
        sidt [rsp]
        mov rax, [rsp + 2]
        cmp rax, [DATA + 2]
        EXPECT e, 0x67
        sgdt [rsp]
        mov rax, [rsp + 2]
        cmp rax, [DATA + 18]
        EXPECT e, 0x68
        add rsp, 16
        str eax
        cmp ax, [DATA + 32]
        EXPECT e, 0x69
        smsw eax
        cmp ax, [DATA + 40]
        EXPECT e, 0x6a
        mov eax, USER_SS
        lsl eax, eax
        cmp eax, [DATA + 48]
        EXPECT e, 0x6b
        xor ecx, ecx
        xgetbv
        cmp eax, [DATA + 56]
        EXPECT e, 0x6c
        dec r13d
        jnz near .turn
        ret
same_cpuid:
        CALL_USER u_cpuid, r14
        ENDED SYSTEM_CALL, 0x65
        mov eax, r14d
        xor ecx, ecx
        cpuid
        cmp [gs:U_RAX], rax
        EXPECT e, 0x65
        cmp [gs:U_RBX], rbx
        EXPECT e, 0x65
        cmp [gs:U_RDX], rdx
        EXPECT e, 0x65
        ret

; Selectors that ring 3 loads stay loaded; 32-bit code runs and comes back.
selectors:
        CALL_USER u_load_ds
        ENDED SYSTEM_CALL, 0x70
        mov eax, ds
        cmp eax, USER_SS
        EXPECT e, 0x71
        CALL_USER u_read_ds                     ; and are there the next time
        ENDED SYSTEM_CALL, 0x72
        cmp qword [gs:U_RAX], USER_SS
        EXPECT e, 0x73
        xor eax, eax
        mov ds, eax
        CALL_USER u_wide_and_back
        ENDED SYSTEM_CALL, 0x74
        cmp qword [gs:U_RBX], 0x11
        EXPECT e, 0x75
        CALL_USER u_int_from_32
        ENDED 0x30, 0x76
        cmp qword [gs:U_CS], 0x23
        EXPECT e, 0x77
        ret

; Images that ring 3 saves and loads hold its PKRU.
keys:   mov eax, 7
        xor ecx, ecx
        cpuid
        bt ecx, 3
        jnc .none
        mov rax, cr4
        bts rax, 22
        mov cr4, rax
        mov eax, 0xd
        mov ecx, 9
        cpuid
        mov r14d, ebx
        mov eax, 0x12345670
        xor ecx, ecx
        xor edx, edx
        wrpkru
        CALL_USER u_keys, ADDRESS, r14
        ENDED SYSTEM_CALL, 0x80
        cmp qword [gs:U_RBX], 0x12345670
        EXPECT e, 0x81
        xor ecx, ecx
        rdpkru
        cmp eax, 0x76543210
        EXPECT e, 0x82
        xor eax, eax
        wrpkru
        mov rax, cr4
        btr rax, 22
        mov cr4, rax
.none:  ret

        align 16
user:
u_all:  std
        lea rdx, [rdx + 2]
        lea rbx, [rbx + 3]
        lea rsp, [rsp + 4]
        lea rbp, [rbp + 5]
        lea rsi, [rsi + 6]
        lea rdi, [rdi + 7]
        lea r8, [r8 + 8]
        lea r9, [r9 + 9]
        lea r10, [r10 + 10]
        lea r11, [r11 + 11]
        lea r12, [r12 + 12]
        lea r13, [r13 + 13]
        lea r14, [r14 + 14]
        lea r15, [r15 + 15]
        syscall
.end:
u_int:  mov ecx, 5
        int 0x30
u_set_bases:
        wrfsbase rdi
        wrgsbase rsi
        syscall
u_read_fs:
        mov eax, [fs:8]
        rdfsbase rbx
        syscall
u_vectors:
        movss xmm7, [rdi]
        addss xmm7, xmm7
        mov dword [rdi + 16], 0x7f80
        ldmxcsr [rdi + 16]
        fldpi
        mov eax, 0
        mov rax, rdi
        db 0xc4, 0xe2, 0x7d, 0x18, 0x30         ; vbroadcastss ymm6, [rax]
        syscall
u_read_xmm3:
        movd eax, xmm3
        push 0
        stmxcsr [rsp]
        pop rbx
        syscall
u_divide:
        xor eax, eax
        xor edx, edx
        xor ecx, ecx
.at:    div ecx
u_undefined:
        nop
.at:    ud2
u_halt: nop
.at:    hlt
u_in:   mov edx, 0x80
.at:    in al, dx
u_cli:  nop
.at:    cli
u_int31:
        nop
.at:    int 0x31
u_stack:
        mov rbp, 0x800000000000
.at:    mov eax, [rbp]
u_breakpoint:
        int3
.behind:
u_int3: db 0xcd, 3
.behind:
u_icebp:
        db 0xf1
.behind:
u_x87:  push 0x340
        fldcw [rsp]
        fld1
        fldz
        fdivp
.at:    fld1
u_sse:  push 0
        ldmxcsr [rsp]
        mov eax, 0x3f800000
        movd xmm0, eax
        xorps xmm1, xmm1
.at:    divss xmm0, xmm1
u_aligned:
        pushfq
        or dword [rsp], 1 << 18
        popfq
.at:    mov eax, [rsp - 7]
u_movaps:
        nop
.at:    movaps xmm0, [rsp - 8]
u_mov_cr:
        nop
.at:    mov rax, cr3
u_bad_segment:
        mov eax, 0x1237
.at:    mov ds, eax
u_step: pushfq
        or dword [rsp], 0x100
        popfq
        nop
.behind:
        nop
        syscall
u_store:
        mov dword [rdi], 1
.behind:
        nop
        syscall
u_time: rdtsc
        shl rdx, 32
        or rax, rdx
        syscall
u_timep:
        rdtscp
        mov ebx, ecx
        syscall
u_load_ds:
        mov eax, USER_SS
        mov ds, eax
        syscall
u_read_ds:
        mov eax, ds
        syscall
u_wide_and_back:
        mov ebx, 0x10
        push 0x23
        mov rax, UADDR(.narrow)
        push rax
        retfq
.narrow:
        db 0x43                                 ; inc ebx
        db 0x67, 0x90
        db 0xea                                 ; jmp 33h:.wide
        dd UADDR(.wide)
        dw USER_CS
.wide:  syscall
u_int_from_32:
        push 0x23
        mov rax, UADDR(.narrow)
        push rax
        retfq
.narrow:
        int 0x30
        times 4096 - ($ - user) nop             ; a page of its own for what may not run on the host's processor
u_cpuid:
        mov eax, edi
        xor ecx, ecx
        cpuid
        syscall
u_tables:
        sidt [rdi]
        sgdt [rdi + 16]
        str eax
        mov [rdi + 32], eax
        smsw eax
        mov [rdi + 40], eax
        mov eax, USER_SS
        lsl eax, eax
        mov [rdi + 48], eax
        xor ecx, ecx
        xgetbv
        mov [rdi + 56], eax
        syscall
u_keys: mov eax, 0x200
        xor edx, edx
        xsave [rdi]
        mov ebx, [rdi + rsi]
        mov dword [rdi + rsi], 0x76543210
        xrstor [rdi]
        syscall
user_end:
