; Promised: instructions that CPUID promises must work, whoever executes them. Where KVM emulates its guests it shows them more than it was told to,
; and can itself execute little of it: each of these is then left to Strata's interpreter, which must know what the guest was told.
; expect: exit 10h; 20h: POPCNT's result; 21h: XSAVE's header lacks the x87 and SSE states; 22h: XMM0 not restored; 23h: an AVX sum.
%include "guest.inc"

start:  mov esp, 0x80000
        xor ecx, ecx
        mov eax, 7
        cpuid
        bt ebx, 20
        jnc .popcnt
        db 0x0f, 0x01, 0xcb             ; stac
        db 0x0f, 0x01, 0xca             ; clac
.popcnt:
        mov eax, 1
        cpuid
        mov ebp, ecx
        bt ebp, 23
        jnc .xsave
        mov eax, 0xf0f00001
        popcnt ebx, eax
        cmp ebx, 9
        EXPECT e, 0x20
.xsave: bt ebp, 26
        jnc .done
        mov eax, cr4
        or eax, 1 << 18 | 1 << 9        ; OSXSAVE, OSFXSR
        mov cr4, eax
        xor ecx, ecx
        xor edx, edx
        mov eax, 3                      ; x87 and SSE
        bt ebp, 28
        jnc .without_avx
        or eax, 4
.without_avx:
        xsetbv
        mov eax, 0x12345678
        movd xmm0, eax
        mov eax, 3
        xsave [area]
        mov eax, [area + 512]
        and eax, 2
        cmp eax, 2
        EXPECT e, 0x21
        pxor xmm0, xmm0
        mov eax, 3
        xor edx, edx
        xrstor [area]
        movd eax, xmm0
        cmp eax, 0x12345678
        EXPECT e, 0x22
        bt ebp, 28
        jnc .done
        vpaddd xmm1, xmm0, xmm0
        vmovd eax, xmm1
        cmp eax, 0x2468acf0
        EXPECT e, 0x23
.done:  PASS

        align 64
area:   times 4096 db 0
