; user_dirty: ring 3 writes to sixteen pages in turn, for a machine that logs dirty pages, until somebody outside writes to the page behind them.
; expect: "ready" on the serial port, exit 10h; else the step
%include "user.inc"
%define PAGES 16

main:   call user_setup
        xor ecx, ecx
.page:  mov eax, ecx
        shl eax, 12
        add eax, FRAME(4) + READ_WRITE
        mov [VIRT_PT + 8 * 4 + rcx * 8], rax
        inc ecx
        cmp ecx, PAGES + 1
        jb .page
        call user_timer
        mov esi, ready
        mov edx, COM1
        mov ecx, ready_end - ready
        rep outsb
        CALL_USER u_write_all, PAGE(4)
        ENDED SYSTEM_CALL, 0x20
        PASS
ready:  db "ready", 10
ready_end:

        align 16
user:
u_write_all:
        mov rsi, rdi
        mov ecx, PAGES
.next:  inc qword [rsi]
        add rsi, 0x1000
        dec ecx
        jnz .next
        cmp dword [rsi], 0
        je u_write_all
        syscall
user_end:
