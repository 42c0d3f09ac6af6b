; user_wide: AVX-512 state and protection keys of ring 3: registers that only EVEX reaches live through calls, interrupts and pages that are mapped, one
; way and the other; PKRU that user code sets itself denies it reads, writes, but no fetches, by the key of each page.
; expect: exit 10h; else the step
%define DEFAULT_ROUNDS 1
%include "user.inc"
%define ADDRESS PAGE(4)
%define KEY_1 (1 << 59)

main:   call user_setup
        PTE 4, FRAME(4) + READ_WRITE
        mov r12d, 3
.again: call masks
        call keys
        dec r12d
        jnz .again
        PASS

masks:  mov eax, 7
        xor ecx, ecx
        cpuid
        bt ebx, 16                      ; AVX512F
        jnc near .none
        bt ebx, 30                      ; … BW
        jnc near .none
        call user_timer
        mov r13d, 10
.turn:  mov [gs:U_RBX], r13
        CALL_USER u_fill, ADDRESS, 300
        ENDED SYSTEM_CALL, 0x20
        vmovq rax, xmm31
        cmp rax, r13
        EXPECT e, 0x21
        vextracti64x4 ymm1, zmm31, 1
        vextracti128 xmm1, ymm1, 1
        vpextrq rax, xmm1, 1
        cmp rax, r13
        EXPECT e, 0x22
        kmovq rax, k7
        lea rcx, [r13 + 1]
        cmp rax, rcx
        EXPECT e, 0x23
        vextracti64x4 ymm1, zmm2, 1
        vmovq rax, xmm1
        cmp rax, r13
        EXPECT e, 0x24
        lea rax, [r13 + 0x700]
        vpbroadcastq zmm17, rax
        kmovq k1, rax
        PTE 4, 0
        mov rax, ADDRESS
        invlpg [rax]
        PTE 4, FRAME(4) + READ_WRITE
        CALL_USER u_look, ADDRESS, 300
        ENDED SYSTEM_CALL, 0x25
        lea rax, [r13 + 0x700]
        cmp [gs:U_RAX], rax
        EXPECT e, 0x26
        cmp [gs:U_RBX], rax
        EXPECT e, 0x27
        cmp [FRAME(4) + 56], rax
        EXPECT e, 0x28
        vzeroall
        dec r13d
        jnz near .turn
        mov eax, LAPIC
        mov dword [rax + 0x320], 0x10000
.none:  ret

keys:   mov eax, 7
        xor ecx, ecx
        cpuid
        bt ecx, 3
        jnc near .none
        mov rax, cr4
        bts rax, 22
        mov cr4, rax
        PTE 5, FRAME(5) + READ_WRITE + KEY_1
        mov rax, cr3
        mov cr3, rax
        mov dword [FRAME(5)], 5
        mov r13d, 4
.turn:  CALL_USER u_read, PAGE(5)
        ENDED SYSTEM_CALL, 0x30
        CALL_USER u_protect, PAGE(5), 8                 ; no writes by key 1
        FAULTED 0x27, PAGE(5), 0x31
        CALL_USER u_read, PAGE(5)
        ENDED SYSTEM_CALL, 0x32
        CALL_USER u_protect, ADDRESS, 8                 ; but by key 0
        ENDED SYSTEM_CALL, 0x33
        CALL_USER u_protect, PAGE(5), 4                 ; nothing by key 1
        FAULTED 0x27, PAGE(5), 0x34
        CALL_USER u_read, PAGE(5)
        FAULTED 0x25, PAGE(5), 0x35
        CALL_USER u_read, ADDRESS
        ENDED SYSTEM_CALL, 0x36
        CALL_USER u_protect, ADDRESS, 3                 ; nothing by key 0: code runs all the same
        FAULTED 0x27, ADDRESS, 0x37
        CALL_USER u_protect, ADDRESS, 0
        ENDED SYSTEM_CALL, 0x38
        xor ecx, ecx
        rdpkru
        test eax, eax
        EXPECT z, 0x39
        dec r13d
        jnz near .turn
        mov rax, cr4
        btr rax, 22
        mov cr4, rax
        PTE 5, 0
        mov rax, cr3
        mov cr3, rax
.none:  ret

        align 16
user:
u_fill: vpbroadcastq zmm31, rbx
        vpbroadcastq zmm2, rbx
        lea rax, [rbx + 1]
        kmovq k7, rax
        jmp u_spin
u_look: mov dword [rdi], 1
        mov ecx, 50
.spin:  dec ecx
        jnz .spin
        dec esi
        jnz u_look
        vmovq rax, xmm17
        kmovq rbx, k1
        vmovdqu64 [rdi], zmm17
        syscall
u_spin: mov ecx, 50
.spin:  dec ecx
        jnz .spin
        dec esi
        jnz u_spin
        syscall
u_read: mov eax, [rdi]
        syscall
        times 4096 - ($ - user) nop     ; WRPKRU does not run natively
u_protect:
        mov eax, esi
        xor ecx, ecx
        xor edx, edx
        wrpkru
        mov [rdi], esi
        syscall
user_end:
