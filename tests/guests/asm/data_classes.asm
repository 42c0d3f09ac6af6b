; data_classes: results known from the manual or a standard, class by class: general-purpose (SDM 1, chapter 7), x87 (8), MMX (9), SSE to SSE4 (10 to 12), AES and
; carry-less multiplication, AVX, AVX2 and FMA (14), AVX-512 (15). What CPUID does not offer is left out.
; expect: exit 10h
%include "long.inc"
%assign step 0x100
%macro IS 2                     ; register, value
        mov rdi, %2
        cmp %1, rdi
        EXPECT e, step
%assign step step + 1
%endmacro
; The arithmetic flags (OF 800h, SF 80h, ZF 40h, AF 10h, PF 4, CF 1) under mask %1 are %2.
%macro FLAGS 2
        pushfq
        pop rsi
        and esi, %1
        IS rsi, %2
%endmacro
%macro IS_XMM 3                 ; register, high, low
        movdqu [room], %1
        mov rsi, [room + 8]
        IS rsi, %2
        mov rsi, [room]
        IS rsi, %3
%endmacro
%macro LOAD 3
        mov rsi, %3
        mov [room], rsi
        mov rsi, %2
        mov [room + 8], rsi
        movdqu %1, [room]
%endmacro
%macro FEATURE 3                ; leaf 1 or 7's saved register, bit, where to go without it
        bt dword [%1], %2
        jnc %3
%endmacro
%define ALL 0x8d5

main:   mov eax, 1
        cpuid
        mov [leaf1_ecx], ecx
        mov eax, 7
        xor ecx, ecx
        cpuid
        mov [leaf7_ebx], ebx
        ; --- chapter 7: general purpose
        mov al, 0x7f
        add al, 1
        FLAGS ALL, 0x890
        mov eax, 0xffffffff
        add eax, 1
        FLAGS ALL, 0x55
        mov al, 0x80
        sub al, 1
        FLAGS ALL, 0x810
        stc
        mov rax, -1
        adc rax, 0
        FLAGS ALL, 0x55
        IS rax, 0
        mov al, 0x10
        stc
        sbb al, 0x10
        FLAGS ALL, 0x95
        mov eax, 0x80000000
        neg eax
        FLAGS ALL, 0x885
        mov rax, -7
        cqo
        mov ecx, 2
        idiv rcx
        IS rax, -3
        IS rdx, -1
        mov rax, 0xfedcba9876543210
        mov rcx, 0x123456789abcdef0
        mul rcx
        IS rdx, 0x121fa00ad77d7422
        IS rax, 0x236d88fe5618cf00
        mov eax, 0x12345678
        mov edx, 0x9abcdef0
        shld eax, edx, 12
        IS rax, 0x456789ab
        mov al, 0x81
        rol al, 1
        FLAGS 0x801, 0x801
        stc
        mov al, 0x01
        rcr al, 1
        FLAGS 0x801, 0x801
        movzx eax, al
        IS rax, 0x80
        mov eax, 0x80000000
        sar eax, 31
        IS rax, 0xffffffff
        mov rax, 0x0123456789abcdef
        bswap rax
        IS rax, 0xefcdab8967452301
        mov al, 0x80
        cbw
        cwde
        cdqe
        IS rax, -128
        mov rcx, 0x10
        bsf rax, rcx
        IS rax, 4
        mov dword [room], 5
        mov eax, 5
        mov ecx, 9
        lock cmpxchg [room], ecx
        FLAGS 0x40, 0x40
        mov ecx, 3
        xadd [room], ecx
        IS rcx, 9
        mov eax, 12
        cmp [room], eax
        EXPECT e, 0x20
        mov rax, -1
        mov ecx, 35
        btr rax, rcx
        FLAGS 1, 1
        IS rax, 0xfffffff7ffffffff
        mov ah, 0xd5
        sahf
        FLAGS 0xd5, 0xd5
        mov eax, 1
        mov ecx, 2
        clc
        cmovc rax, rcx
        IS rax, 1
        cmovnc eax, ecx
        IS rax, 2
        std
        mov rsi, text + 4
        mov rdi, room + 4
        mov ecx, 5
        rep movsb
        cld
        cmp dword [room], 'Stra'
        EXPECT e, 0x21
        mov rdi, text
        mov al, 'a'
        mov ecx, 10
        repne scasb
        IS rcx, 6
        FEATURE leaf1_ecx, 20, .no_crc
        mov eax, 0xffffffff
        mov rdi, digits
        mov ecx, 9
.crc:   crc32 eax, byte [rdi]
        inc rdi
        loop .crc
        not eax
        IS rax, 0xe3069283                      ; the check value of CRC-32C
.no_crc:
        FEATURE leaf1_ecx, 23, .no_popcnt
        mov rax, 0xff00ff00ff00ff01
        popcnt rcx, rax
        IS rcx, 33
.no_popcnt:
        FEATURE leaf7_ebx, 8, .no_bmi2
        mov rax, 0x123456789abcdef0
        mov rcx, 0x00ff00ff00ff00ff
        pext rdx, rax, rcx
        IS rdx, 0x3478bcf0
        pdep rdx, rdx, rcx
        IS rdx, 0x0034007800bc00f0
        mov rdx, -1
        mulx rax, rcx, rdx
        IS rax, -2
        IS rcx, 1
        mov eax, 36
        mov rcx, 0x8000000000000000
        sarx rcx, rcx, rax
        IS rcx, 0xfffffffff8000000
.no_bmi2:
        ; --- chapter 8: x87
        fninit
        fld1
        fadd st0, st0
        fsqrt
        fstp qword [room]
        mov rax, [room]
        IS rax, 0x3ff6a09e667f3bcd              ; the square root of 2
        fldpi
        fstp tword [room]
        mov rax, [room]
        IS rax, 0xc90fdaa22168c235
        mov word [room], 0x0f7f                 ; towards zero
        fldcw [room]
        mov dword [room], -7
        fild dword [room]
        fld1
        fld1
        faddp
        fdivp
        fistp dword [room]
        movsxd rax, dword [room]
        IS rax, -3
        fninit
        mov dword [room], 25
        fild dword [room]
        fbstp [room]
        mov rax, [room]
        IS rax, 0x25
        fld1
        fldz
        fdivp                                   ; masked: infinity, ZE
        fxam
        fnstsw ax
        and ax, 0x4504
        movzx eax, ax
        IS rax, 0x0504
        fninit
        fstp st0                                ; stack underflow: IE, SF, C1 clear
        fnstsw ax
        and ax, 0x241
        movzx eax, ax
        IS rax, 0x41
        fninit
        fld1
        fldz
        fcomi st0, st1
        FLAGS 0x45, 1
        fninit
        ; --- chapter 9: MMX
        mov rax, 0x7f80ff0102030405
        movq mm0, rax
        mov rax, 0x0180010101010101
        movq mm1, rax
        movq mm2, mm0
        paddsb mm2, mm1
        movq rax, mm2
        IS rax, 0x7f80000203040506
        pmaddwd mm0, mm1
        movq rax, mm0
        IS rax, 0x00be400100060e08
        emms
        fld1                                    ; EMMS gave the x87 stack back
        fnstsw ax
        and ax, 0x41
        movzx eax, ax
        IS rax, 0
        fninit
        ; --- chapters 10 to 12: SSE to SSE4
        LOAD xmm0, 0x40800000c0400000, 0x400000003f800000       ; 4, -3, 2, 1
        movaps xmm1, xmm0
        addps xmm1, xmm0
        IS_XMM xmm1, 0x41000000c0c00000, 0x4080000040000000
        movaps xmm1, xmm0
        shufps xmm1, xmm1, 0x1b
        IS_XMM xmm1, 0x3f80000040000000, 0xc040000040800000
        cvttps2dq xmm1, xmm0
        IS_XMM xmm1, 0x00000004fffffffd, 0x0000000200000001
        comiss xmm0, [minus_one]
        FLAGS ALL, 0
        mov rax, 0x7fefffffffffffff
        movq xmm2, rax
        addsd xmm2, xmm2
        movq rax, xmm2
        IS rax, 0x7ff0000000000000
        stmxcsr [room]
        mov eax, [room]
        and eax, 0x28
        IS rax, 0x28                            ; overflow, inexact
        mov dword [room], 0x1f80
        ldmxcsr [room]
        LOAD xmm1, 0x0f0e0d0c0b0a0908, 0x0706050403020100
        LOAD xmm2, 0x0001020304050607, 0x8009800b800d800f
        FEATURE leaf1_ecx, 9, .no_ssse3
        movdqa xmm3, xmm1
        pshufb xmm3, xmm2
        IS_XMM xmm3, 0x0001020304050607, 0x0009000b000d000f
        phaddw xmm1, xmm1
        IS_XMM xmm1, 0x1c1a14120c0a0402, 0x1c1a14120c0a0402
.no_ssse3:
        FEATURE leaf1_ecx, 19, .no_sse41
        LOAD xmm1, 0x0009000800070006, 0x0005000100030002
        phminposuw xmm1, xmm1
        IS_XMM xmm1, 0, 0x0000000000020001
        roundps xmm1, xmm0, 1
        dpps xmm0, xmm0, 0xf1
        IS_XMM xmm0, 0, 0x0000000041f00000                      ; 30
        LOAD xmm1, 0, 0
        ptest xmm1, xmm1
        FLAGS ALL, 0x41
.no_sse41:
        FEATURE leaf1_ecx, 20, .no_sse42
        movdqu xmm0, [digits]
        movdqu xmm1, [digits + 3]
        mov eax, 3
        mov edx, 9
        pcmpestri xmm1, xmm0, 0x0c                              ; where "456" is
        IS rcx, 3
.no_sse42:
        FEATURE leaf1_ecx, 25, .no_aes
        LOAD xmm0, 0x7b5b546573745665, 0x63746f725d53475d       ; Intel's AES paper: AESENC
        LOAD xmm1, 0x4869285368617929, 0x5b477565726f6e5d
        aesenc xmm0, xmm1
        IS_XMM xmm0, 0xa8311c2f9fdba3c5, 0x8b104b58ded7e595
.no_aes:
        FEATURE leaf1_ecx, 1, .no_clmul
        LOAD xmm0, 0x7b5b546573745665, 0x63746f725d53475d       ; Intel's PCLMULQDQ paper
        LOAD xmm1, 0x4869285368617929, 0x5b477565726f6e5d
        pclmulqdq xmm0, xmm1, 0
        IS_XMM xmm0, 0x1d4d84c85c3440c0, 0x929633d5d36f0451
.no_clmul:
        ; --- chapter 14: AVX
        FEATURE leaf1_ecx, 28, .done
        mov rax, cr4
        bts rax, 18
        mov cr4, rax
        xor ecx, ecx
        xor edx, edx
        mov eax, 7
        FEATURE leaf7_ebx, 16, .xcr0
        mov eax, 0xe7
.xcr0:  xsetbv
        vmovups ymm0, [floats]
        vaddps ymm1, ymm0, ymm0
        vextractf128 xmm2, ymm1, 1
        IS_XMM xmm2, 0x4180000041600000, 0x4140000041200000     ; 16 14 12 10
        LOAD xmm3, 0x1111111111111111, 0x2222222222222222
        vinsertf128 ymm4, ymm1, xmm3, 1
        addps xmm4, xmm4                                        ; legacy code keeps the upper half
        vextractf128 xmm5, ymm4, 1
        IS_XMM xmm5, 0x1111111111111111, 0x2222222222222222
        vaddps xmm4, xmm0, xmm0                                 ; VEX code clears it
        vextractf128 xmm5, ymm4, 1
        IS_XMM xmm5, 0, 0
        vzeroupper
        FEATURE leaf1_ecx, 12, .no_fma
        vmovups xmm0, [floats]
        vfmadd213ps xmm0, xmm0, xmm0                            ; x * x + x
        IS_XMM xmm0, 0x41a0000041400000, 0x40c0000040000000
.no_fma:
        FEATURE leaf7_ebx, 5, .no_avx2
        vmovdqu ymm0, [floats]
        vpermq ymm1, ymm0, 0x1b
        IS_XMM xmm1, 0x40c0000040a00000, 0x4100000040e00000
        vpcmpeqd xmm2, xmm2, xmm2
        vpxor xmm1, xmm1, xmm1
        vmovdqu xmm3, [indices]
        mov rax, floats
        vpgatherdd xmm1, [rax + xmm3 * 4], xmm2
        IS_XMM xmm1, 0x3f80000040000000, 0x4100000040400000
        IS_XMM xmm2, 0, 0                                       ; the mask is used up
        vzeroupper
.no_avx2:
        ; --- chapter 15: AVX-512
        FEATURE leaf7_ebx, 16, .done
        vmovups zmm0, [floats]
        mov eax, 0xff0f
        kmovw k1, eax
        vpbroadcastd zmm1, eax
        vpaddd zmm1{k1}{z}, zmm1, zmm1
        vextracti32x4 xmm2, zmm1, 1
        IS_XMM xmm2, 0, 0
        vextracti32x4 xmm2, zmm1, 3
        IS_XMM xmm2, 0x0001fe1e0001fe1e, 0x0001fe1e0001fe1e
        vmovaps zmm3, zmm0
        vaddps zmm3{k1}, zmm0, [one]{1to16}
        vextractf32x4 xmm2, zmm3, 1
        IS_XMM xmm2, 0x4100000040e00000, 0x40c0000040a00000     ; merged: 8 7 6 5
        IS_XMM xmm3, 0x40a0000040800000, 0x4040000040000000     ; 5 4 3 2
        vpternlogd zmm4, zmm4, zmm4, 0xff
        vpxord zmm16, zmm4, zmm0
        vpternlogd zmm16, zmm0, zmm4, 0x96                      ; xor of the three
        vextracti32x4 xmm2, zmm16, 0
        IS_XMM xmm2, 0, 0
        mov eax, 0x8421
        kmovw k2, eax
        vpcompressd zmm5{k2}{z}, zmm0
        IS_XMM xmm5, 0x4180000041300000, 0x40c000003f800000     ; elements 15, 10, 5, 0
        kortestw k2, k2
        FLAGS ALL, 0
        knotw k3, k2
        kmovw eax, k3
        IS rax, 0x7bde
        vzeroupper
.done:  PASS

        align 64
floats: dd 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 16.0
indices: dd 2, 7, 1, 0
one:    dd 1.0
minus_one: dd -1.0
text:   db "Strata, Strata"
digits: db "123456789", 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
leaf1_ecx: dd 0
leaf7_ebx: dd 0
        align 16
room:   times 64 db 0
