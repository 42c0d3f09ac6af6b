; UserAvx: ring 3 reads a device by an AVX instruction, which no KVM can emulate and which must not become #UD. Skipped without AVX.
; expect: exit 10h; 20h: the value is not what ring 0 reads by an ordinary move
%include "long.inc"
%define USER_PAGE 0x400000
%define DEVICE 0xfed00000       ; HPET: capabilities
main:   mov eax, 1
        cpuid
        bt ecx, 28
        jnc near .done
        mov rax, tss
        mov rdi, gdt_tss
        mov word [rdi], 103
        mov [rdi + 2], ax
        shr rax, 16
        mov [rdi + 4], al
        mov byte [rdi + 5], 0x89
        mov [rdi + 7], ah
        shr rax, 16
        mov [rdi + 8], eax
        mov qword [tss + 4], 0x7c000
        mov ax, TSS_SELECTOR
        ltr ax
        GATE64 13, on_end
        mov rax, cr4
        or eax, 1 << 18                 ; OSXSAVE
        mov cr4, rax
        xor ecx, ecx
        xor edx, edx
        mov eax, 7
        xsetbv
        mov dword [VIRT_PT], USER_PAGE + 7
        mov dword [VIRT_PT + 8], USER_PAGE + 0x1000 + 7
        mov dword [VIRT_PT + 16], DEVICE + 0x17
        mov rsi, user
        mov edi, USER_PAGE
        mov ecx, 64
        rep movsb
        push USER_DATA
        mov rax, VIRT + 0x1ff0
        push rax
        push 2
        push USER_CODE64
        mov rax, VIRT
        push rax
        iretq
.done:  PASS
on_end: vmovd eax, xmm1                 ; from HLT in ring 3
        mov edx, DEVICE
        cmp eax, [rdx]
        EXPECT e, 0x20
        PASS
user:   mov eax, VIRT + 0x2000
        vpxor xmm1, xmm1, xmm1
        vmovdqu xmm1, [rax]
        hlt
        align 16
tss:    times 104 db 0
