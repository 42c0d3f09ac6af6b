; pcid_switch: every processor switches between twelve address spaces with PCIDs of their own (more than the software TLB has banks), mostly without
; a flush; each shows its own data and code at one address. Page tables change now and then, followed by each of the ways to invalidate: INVLPG,
; INVPCID of types 0 to 3, a flushing CR3 load, CR4.PGE. Passes at once without the features. SDM 3A, 4.10.
; expect: exit 10h (run with 4 vCPUs); rounds=N repeats
%define CPUS 4
%define DEFAULT_ROUNDS 10
%include "long.inc"
%define SPACES 12
%define TABLES 0x400000         ; per processor and space: PML4, PDPT, PD, PT, and two pages for data and two for code
%define SPACE_BYTES 0x8000
%define WINDOW (1 << 39)        ; the second PML4 entry's
%define STEPS 3000

main:   mov eax, 1
        cpuid
        bt ecx, 17
        jnc .without
        mov eax, 7
        xor ecx, ecx
        cpuid
        bt ebx, 10
        jnc .without
        call start_aps
        xor edi, edi
        jmp ap_main
.without: PASS

ap_main:
        mov ebp, edi
        imul r15d, ebp, SPACES * SPACE_BYTES
        add r15d, TABLES                        ; this processor's tables
        mov rax, cr4
        bts rax, 17
        mov cr4, rax
        mov r12d, [rounds]
        mov r14d, ebp                           ; pseudo-random numbers
        imul r14d, r14d, 0x9e3779b1
        inc r14d
        ; build them
        xor ebx, ebx
.build: mov edi, ebx
        imul edi, edi, SPACE_BYTES
        add edi, r15d
        push rdi
        xor eax, eax
        mov ecx, SPACE_BYTES / 8
        rep stosq
        pop rdi
        mov dword [rdi], PDPT + 7
        lea eax, [rdi + 0x1007]
        mov [rdi + 8], eax
        add eax, 0x1000
        mov [rdi + 0x1000], eax
        add eax, 0x1000
        mov [rdi + 0x2000], eax
        call show
        inc ebx
        cmp ebx, SPACES
        jb .build
        mov r13d, STEPS
.step:  ; another space
        call random
        xor edx, edx
        mov ecx, SPACES
        div ecx
        mov ebx, edx
        call space
        lea rax, [rdi + rbx + 1]                ; PCID = number + 1
        bts rax, 63
        mov cr3, rax
        call verify
        call random
        test eax, 15
        jnz .next
        ; turn it over and invalidate in one of seven ways
        call space
        xor dword [rdi + 0x7ff8], 1             ; which page of each pair
        call show
        call random
        xor edx, edx
        mov ecx, 7
        div ecx
        mov r8, WINDOW
        lea eax, [rbx + 1]
        shl ebp, 4
        mov [descriptors + rbp], rax
        mov [descriptors + rbp + 8], r8
        lea r9d, [ebp + descriptors]
        shr ebp, 4
        lea r10, [.ways + rdx * 8]
        jmp [r10]
.ways:  dq .invlpg, .type0, .type1, .type2, .type3, .load, .pge
.invlpg: invlpg [r8]
        lea rax, [r8 + 0x1000]
        invlpg [rax]
        jmp .verify
.type0: xor eax, eax
        invpcid rax, [r9]
        add qword [r9 + 8], 0x1000
        invpcid rax, [r9]
        jmp .verify
.type1: mov eax, 1
        invpcid rax, [r9]
        jmp .verify
.type2: mov eax, 2
        invpcid rax, [r9]
        jmp .verify
.type3: mov eax, 3
        invpcid rax, [r9]
        jmp .verify
.load:  mov rax, cr3
        mov cr3, rax
        jmp .verify
.pge:   mov rax, cr4
        xor rax, 0x80
        mov cr4, rax
        xor rax, 0x80
        mov cr4, rax
.verify: call verify
.next:  dec r13d
        jnz .step
        mov eax, PML4
        mov cr3, rax
        call barrier
        mov r13d, STEPS
        dec r12d
        jnz .step
        test ebp, ebp
        jnz .idle
        PASS
.idle:  hlt
        jmp .idle

random: imul r14d, r14d, 1664525
        add r14d, 1013904223
        mov eax, r14d
        shr eax, 12
        ret
space:  mov edi, ebx
        imul edi, edi, SPACE_BYTES
        add edi, r15d
        ret
; The number that space ebx of this processor shows now: eax. edi: its tables.
number: mov eax, [rdi + 0x7ff8]
        shl eax, 16
        lea ecx, [rbx + 1]
        or eax, ecx
        mov ecx, ebp
        shl ecx, 8
        or eax, ecx
        ret
; Space ebx (tables at edi) shows the pages that its word at 7ff8h says, with its number in them.
show:   call number
        mov ecx, [rdi + 0x7ff8]
        shl ecx, 12
        lea ecx, [rcx + rdi + 0x4000]
        mov [rcx], eax
        or ecx, 3
        mov [rdi + 0x3000], ecx
        and ecx, ~3
        add ecx, 0x2000
        mov byte [rcx], 0xb8
        mov [rcx + 1], eax
        mov byte [rcx + 5], 0xc3
        or ecx, 3
        mov [rdi + 0x3008], ecx
        ret
; The current space is ebx, seen by loads, stores and execution.
verify: call space
        call number
        mov edx, eax
        mov r8, WINDOW
        cmp [r8], edx
        EXPECT e, 0x20
        lea rax, [r8 + 0x1000]
        call rax
        cmp eax, edx
        EXPECT e, 0x21
        mov [r8 + 64], eax
        mov ecx, [rdi + 0x7ff8]
        shl ecx, 12
        cmp [rcx + rdi + 0x4000 + 64], eax
        EXPECT e, 0x22
        ret

        align 64
        align 64
descriptors: times CPUS * 2 dq 0
