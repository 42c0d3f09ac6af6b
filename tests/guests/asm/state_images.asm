; state_images: FXSAVE, FXRSTOR, XSAVE, XSAVEOPT, XSAVEC, XRSTOR: places and formats, what is left alone, initial states, XGETBV with 1, XCR0's rules, alignment,
; reserved bits, #NM and #UD by CR0 and CR4. SDM 1, 10.5 and chapter 13. What CPUID does not offer is left out.
; expect: exit 10h
%include "long.inc"
%define AREA 0x400000
%assign step 0x100
%macro IS 2
        mov rdi, %2
        cmp %1, rdi
        EXPECT e, step
%assign step step + 1
%endmacro
%macro FAULTS 3+
        mov dword [seen], -1
        mov qword [resume_at], %%after
        %3
        EXIT step
%%after: cmp dword [seen], %1
        EXPECT e, step + 1
        cmp dword [error], %2
        EXPECT e, step + 2
%assign step step + 3
%endmacro

main:   GATE64 6, on_6
        GATE64 7, on_7
        GATE64 13, on_13
        ; FXSAVE
        fninit
        fld1
        fldpi
        mov eax, 0x12345678
        movd xmm0, eax
        movd xmm15, eax
        mov edi, AREA
        mov al, 0xee
        mov ecx, 4096
        rep stosb
        fxsave64 [AREA]
        movzx eax, word [AREA]
        IS rax, 0x37f
        movzx eax, word [AREA + 2]
        IS rax, 0x3000                          ; TOP 6
        movzx eax, byte [AREA + 4]
        IS rax, 0xc0                            ; the abridged tag word
        mov rax, [AREA + 32]
        IS rax, 0xc90fdaa22168c235              ; ST(0)
        mov rax, [AREA + 48]
        IS rax, 0x8000000000000000
        mov eax, [AREA + 24]
        IS rax, 0x1f80
        mov rax, [AREA + 160 + 15 * 16]
        IS rax, 0x12345678
        mov rax, [AREA + 512]
        IS rax, 0xeeeeeeeeeeeeeeee
        ; FXRSTOR
        mov dword [AREA + 160], 0x55
        fninit
        fxrstor64 [AREA]
        fnstsw ax
        movzx eax, ax
        IS rax, 0x3000
        movd eax, xmm0
        IS rax, 0x55
        mov dword [AREA + 24], 0x11f80          ; a reserved bit of MXCSR
        FAULTS 13, 0, fxrstor64 [AREA]
        mov dword [AREA + 24], 0x1f80
        FAULTS 13, 0, fxsave64 [AREA + 8]
        mov rax, cr0
        or eax, 8
        mov cr0, rax
        FAULTS 7, -1, fxsave64 [AREA]
        FAULTS 7, -1, movd xmm1, eax
        FAULTS 7, -1, fld1
        clts
        mov rax, cr0
        or eax, 4
        mov cr0, rax
        FAULTS 6, -1, movd xmm1, eax
        FAULTS 7, -1, fld1
        and eax, ~4
        mov cr0, rax
        mov rax, cr4
        btr rax, 9
        mov cr4, rax
        FAULTS 6, -1, movd xmm1, eax
        bts rax, 9
        mov cr4, rax
        xor ecx, ecx
        FAULTS 6, -1, xgetbv

        mov eax, 1
        cpuid
        bt ecx, 26
        jnc .done
        mov eax, 0xd
        mov ecx, 1
        cpuid
        mov [leaf_d1], eax
        mov rax, cr4
        bts rax, 18
        mov cr4, rax
        mov eax, 1
        cpuid
        bt ecx, 27                              ; OSXSAVE
        EXPECT c, 0x20
        xor ecx, ecx
        xgetbv
        IS rax, 1                               ; after power-on
        ; XCR0's rules
        xor edx, edx
        xor eax, eax
        FAULTS 13, 0, xsetbv                    ; x87 is always there
        mov eax, 5
        FAULTS 13, 0, xsetbv                    ; AVX needs SSE
        mov eax, 3
        mov edx, 0x80000000
        FAULTS 13, 0, xsetbv
        xor edx, edx
        mov ecx, 1
        FAULTS 13, 0, xsetbv
        xor ecx, ecx
        mov eax, 3
        xsetbv
        mov eax, 0xd
        xor ecx, ecx
        cpuid
        and eax, 4
        jz .no_avx
        xor ecx, ecx
        xor edx, edx
        mov eax, 7
        xsetbv
        mov eax, 0xd
        xor ecx, ecx
        cpuid
        IS rbx, 832                             ; the size for what is enabled
        vpcmpeqd ymm1, ymm1, ymm1
.no_avx:
        ; XSAVE of x87 and AVX only: SSE's bytes stay, and the header's other bits
        mov edi, AREA
        mov al, 0xee
        mov ecx, 4096
        rep stosb
        mov edi, AREA + 512
        xor eax, eax
        mov ecx, 8
        rep stosq
        mov qword [AREA + 512], 2
        fninit
        fld1
        mov eax, 5
        xor edx, edx
        xsave64 [AREA]
        mov rax, [AREA + 160]
        IS rax, 0xeeeeeeeeeeeeeeee
        mov rax, [AREA + 512]
        and eax, 3
        IS rax, 3
        bt dword [AREA + 512], 2
        jnc .no_upper
        mov rax, [AREA + 576 + 16]
        IS rax, -1
.no_upper:
        ; XRSTOR gives initial values to components that the header does not show
        mov qword [AREA + 512], 0
        mov eax, 7
        mov dword [AREA + 24], 0x1f80
        xrstor64 [AREA]
        fnstcw [AREA + 2048]
        movzx eax, word [AREA + 2048]
        IS rax, 0x37f
        pextrw eax, xmm1, 0
        IS rax, 0
        ; XGETBV with 1: what is in use
        bt dword [leaf_d1], 2
        jnc .no_in_use
        mov ecx, 1
        xgetbv
        and eax, 4
        IS rax, 0
        bt dword [leaf_d1], 0
        jnc .no_in_use
        mov eax, -1
        movd xmm2, eax
        mov qword [AREA + 512], 0
        mov eax, 7
        xor edx, edx
        xsaveopt64 [AREA]
        mov rax, [AREA + 512]
        and eax, 6
        IS rax, 2
.no_in_use:
        bt dword [leaf_d1], 1
        jnc .no_compact
        mov eax, 7
        xor edx, edx
        xsavec64 [AREA]
        mov rax, [AREA + 520]
        shr rax, 63
        IS rax, 1
        mov eax, 7
        xrstor64 [AREA]
        movd eax, xmm2
        IS rax, 0xffffffff
        mov byte [AREA + 528], 1                ; reserved in the header
        mov eax, 7
        FAULTS 13, 0, xrstor64 [AREA]
        mov byte [AREA + 528], 0
        btr qword [AREA + 520], 63              ; standard, but XCOMP_BV is not zero
        FAULTS 13, 0, xrstor64 [AREA]
.no_compact:
        mov qword [AREA + 520], 0
        bts qword [AREA + 512], 62              ; a component that XCR0 does not have
        FAULTS 13, 0, xrstor64 [AREA]
        mov qword [AREA + 512], 3
        FAULTS 13, 0, xrstor64 [AREA + 32]
        mov dword [AREA + 24], 0x80000000
        FAULTS 13, 0, xrstor64 [AREA]
        mov rax, cr0
        or eax, 8
        mov cr0, rax
        FAULTS 7, -1, xsave64 [AREA]
        clts
.done:  PASS

on_6:   mov dword [error], -1
        mov dword [seen], 6
        jmp resume
on_7:   mov dword [error], -1
        mov dword [seen], 7
        jmp resume
on_13:  pop qword [error]
        mov dword [seen], 13
resume: push rax
        mov rax, [resume_at]
        mov [rsp + 8], rax
        pop rax
        iretq
        align 8
error:  dq 0
resume_at: dq 0
seen:   dd 0
leaf_d1: dd 0
