; shootdown: processor 0 remaps, unmaps and write-protects pages that the others read, write, lock and execute, and shoots the old translations down by
; an interrupt that invalidates them (INVLPG, CR3, CR4.PGE in turn). When all have answered, no access may reach the old page any more.
; expect: exit 10h (run with 4 vCPUs); rounds=N repeats
%define CPUS 4
%define DEFAULT_ROUNDS 15
%include "long.inc"
%define DATA_A 0x400000         ; the two pages that VIRT shows in turn
%define DATA_B 0x401000
%define CODE_A 0x402000         ; the two that VIRT + 1000h shows: mov eax, number; ret
%define CODE_B 0x403000
%define OTHERS 0x404000         ; many translations, so that flushes have something to do
%define POISON 0xdeaddead
%define SHOOT 0x60
%define VIRT_CODE (VIRT + 0x1000)

main:   mov dword [DATA_A], 1
        mov dword [DATA_B], 1
        mov edi, CODE_A
        call put_code
        mov edi, CODE_B
        call put_code
        mov dword [VIRT_PT], DATA_A + 7
        mov dword [VIRT_PT + 8], CODE_A + 7
        GATE64 SHOOT, shoot
        GATE64 14, fault
        call start_aps
        mov r12d, [rounds]
        xor r13d, r13d                          ; how often remapped
.round: inc r13d
        mov r14d, DATA_A                        ; the page that leaves, and the one that comes
        mov r15d, DATA_B
        test r13d, 1
        jnz .chosen
        xchg r14d, r15d
.chosen:
        ; the new pages hold what is good
        mov dword [r15], 1
        mov dword [r15 + 0x2001], 1             ; the immediate of the code page
        xor eax, eax
        lea edi, [r15 + 64]
        mov ecx, 64 * CPUS / 8
        rep stosq
        test r13d, 2
        jz .remap
        mov dword [VIRT_PT], 0                  ; absent for a while: the others fault and try again
        mov dword [VIRT_PT + 8], 0
        call shoot_down
        jmp .gone
.remap: lea eax, [r15 + 7]
        mov [VIRT_PT], eax
        add eax, 0x2000
        mov [VIRT_PT + 8], eax
        call shoot_down
.gone:  ; nobody may see this, or write there
        mov dword [r14], POISON
        mov dword [r14 + 0x2001], POISON
        lea edi, [r14 + 64]
        mov esi, 0x600000
        mov ecx, 64 * CPUS / 8
        rep movsq                               ; zeroes
        mov ecx, 2000
.let:   pause
        loop .let
        lea esi, [r14 + 64]
        mov ecx, 64 * CPUS / 8
.look:  lodsq
        test rax, rax
        EXPECT z, 0x20
        loop .look
        lea eax, [r15 + 7]
        mov [VIRT_PT], eax
        add eax, 0x2000
        mov [VIRT_PT + 8], eax
        ; write-protected for a while: counters that can be seen to stand still
        test r13d, 4
        jz .next
        and dword [VIRT_PT], ~2
        call shoot_down
        mov ebx, [r15 + 64]
        mov ecx, 2000
.still: pause
        loop .still
        cmp ebx, [r15 + 64]
        EXPECT e, 0x21
        or dword [VIRT_PT], 2
.next:  dec r12d
        jnz .round
        ; all of them did work
        mov ebx, 1
.work:  cmp dword [work + rbx * 4], 0
        EXPECT nz, 0x22
        inc ebx
        cmp ebx, CPUS
        jb .work
        PASS

; All others answer.
shoot_down:
        mov dword [answers], 0
        mov edi, LAPIC
        mov dword [rdi + 0x300], 0xc4000 | SHOOT
        invlpg [VIRT]
        invlpg [VIRT_CODE]
.wait:  pause
        cmp dword [answers], CPUS - 1
        jb .wait
        ret

shoot:  push rax
        push rcx
        mov eax, [flavour]
        and eax, 3
        jz .pages
        cmp eax, 1
        je .whole
        cmp eax, 2
        je .global
        mov rax, cr3                            ; the pages are not global: this is enough
        mov cr3, rax
        jmp .done
.global: mov rax, cr4
        xor rax, 0x80
        mov cr4, rax
        xor rax, 0x80
        mov cr4, rax
        jmp .done
.whole: mov rax, cr3
        mov cr3, rax
        invlpg [VIRT]
        jmp .done
.pages: invlpg [VIRT]
        invlpg [VIRT_CODE]
.done:  inc dword [flavour]
        lock inc dword [answers]
        mov eax, LAPIC
        mov dword [rax + 0xb0], 0
        pop rcx
        pop rax
        iretq

; Absent or write-protected just now: again.
fault:  lock inc dword [faults]
        add rsp, 8
        iretq

put_code: mov byte [rdi], 0xb8
        mov dword [rdi + 1], 1
        mov byte [rdi + 5], 0xc3
        ret

ap_main:
        mov ebp, edi
        mov ebx, edi
        shl ebx, 6
        mov r11, VIRT
        mov r10, VIRT_CODE
        sti
.loop:  mov eax, [r11]
        cmp eax, POISON
        EXPECT ne, 0x30
        call r10
        cmp eax, POISON
        EXPECT ne, 0x31
        inc dword [r11 + rbx]                   ; loads, stores and locked ones in its own line
        mov [r11 + rbx + 8], eax
        lock inc qword [r11 + rbx + 16]
        movdqu xmm0, [r11 + rbx]
        movdqu [r11 + rbx + 32], xmm0
        movd eax, xmm0
        lea edi, [rbx + VIRT + 48]
        mov esi, VIRT
        mov ecx, 4
        rep movsb
        lea esi, [rbx + VIRT + 48]
        lodsd
        cmp eax, POISON
        EXPECT ne, 0x32
        push rsp
        mov rax, [OTHERS]
        pop rax
        inc dword [work + rbp * 4]
        jmp .loop

        align 64
answers: dd 0
        align 64
flavour: dd 0
faults: dd 0
        align 64
work:   times CPUS dd 0
