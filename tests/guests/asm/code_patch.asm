; code_patch: processor 0 rewrites code that the others execute. First with breakpoints as operating systems do it (INT3 over the first byte, the rest,
; the first byte, an interrupt to all after each), at an instruction that crosses a cache line and one that crosses a page; then by single aligned
; stores without a word to anybody (SDM 3A, 9.1.3: who executes a serializing instruction after the flag sees the new code).
; expect: exit 10h (run with 4 vCPUs); rounds=N repeats
%define CPUS 4
%define DEFAULT_ROUNDS 8
%include "long.inc"
%define SYNC 0x60
%define REWRITES 40             ; before there are others: an engine that treats such code apart does so by then
%define SITE_LINE 0x40103e      ; mov eax, number; ret: over a line's end
%define SITE_PAGE 0x402ffd      ; and over a page's
%define SITE_PLAIN 0x404000     ; eight aligned bytes: mov eax, number; ret

main:   mov r12d, REWRITES
.often: mov edi, SITE_LINE
        call rewrite
        mov edi, SITE_PLAIN
        call rewrite
        dec r12d
        jnz .often
        mov edi, SITE_LINE
        call put_code
        mov edi, SITE_PAGE
        call put_code
        mov edi, SITE_PLAIN
        call put_code
        GATE64 3, breakpoint
        GATE64 SYNC, sync
        call start_aps
        mov r12d, [rounds]
        mov r13d, 1
.round: inc r13w
        movzx eax, r13w
        mov r14d, eax
        shl r14d, 16
        or r14d, eax                            ; the new number
        mov ebx, SITE_LINE
        call poke
        mov [done_line], r13w
        mov ebx, SITE_PAGE
        call poke
        mov [done_page], r13w
        mov rax, [SITE_PLAIN]                   ; b8, number, c3 in one store
        mov rcx, 0xffffff00000000ff
        and rax, rcx
        mov rcx, r14
        shl rcx, 8
        or rax, rcx
        mov [SITE_PLAIN], rax
        mov [done_plain], r13w
        mov ecx, 500
.let:   pause
        loop .let
        dec r12d
        jnz .round
        mov ebx, 1
.work:  cmp dword [work + rbx * 4], 0
        EXPECT nz, 0x22
        inc ebx
        cmp ebx, CPUS
        jb .work
        PASS

; The instruction at rbx gets the immediate r14d.
poke:   mov byte [rbx], 0xcc
        call sync_all
        mov [rbx + 1], r14d
        call sync_all
        mov byte [rbx], 0xb8
        jmp sync_all

sync_all:
        mov dword [answers], 0
        mov edi, LAPIC
        mov dword [rdi + 0x300], 0xc4000 | SYNC
.wait:  pause
        cmp dword [answers], CPUS - 1
        jb .wait
        ret

sync:   lock inc dword [answers]
        push rax
        mov eax, LAPIC
        mov dword [rax + 0xb0], 0
        pop rax
        iretq                                   ; serializes

; The instruction is being rewritten: do its work, with the number that the caller expects at least.
breakpoint:
        lock inc dword [hits]
        add qword [rsp], 4
        mov eax, r8d
        iretq

; Code at rdi with the immediate r12d, executed.
rewrite:
        call put_code
        mov [rdi + 1], r12d
        call rdi
        cmp eax, r12d
        EXPECT e, 0x23
        ret

put_code: mov byte [rdi], 0xb8
        mov dword [rdi + 1], 0x00010001
        mov byte [rdi + 5], 0xc3
        ret

; Calls the code at %1: its number is whole, not older than the one published in %2 before, nor than the last one seen.
%macro TRY 3
        movzx r8d, word [%2]
        mov eax, r8d
        shl eax, 16
        or r8d, eax
%if %3
        cpuid_free_serialize
%endif
        mov eax, %1
        call rax
        mov ecx, eax
        shr ecx, 16
        cmp cx, ax
        EXPECT e, 0x30
        cmp ax, r8w
        EXPECT ae, 0x31
%endmacro
; IRETQ to the next instruction: serializes, and no hypervisor traps it.
%macro cpuid_free_serialize 0
        mov rcx, rsp
        push DATA64
        push rcx
        pushfq
        push CODE64
        mov rcx, %%next
        push rcx
        iretq
%%next:
%endmacro

ap_main:
        mov ebp, edi
        sti
.loop:  TRY SITE_LINE, done_line, 0
        TRY SITE_PAGE, done_page, 0
        TRY SITE_PLAIN, done_plain, 1
        inc dword [work + rbp * 4]
        jmp .loop

        align 64
answers: dd 0
        align 64
done_line: dw 1
done_page: dw 1
done_plain: dw 1
hits:   dd 0
        align 64
work:   times CPUS dd 0
