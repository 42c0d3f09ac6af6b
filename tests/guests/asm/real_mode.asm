; real_mode: leaves protected mode; segment arithmetic, port I/O, HLT, and IRQ 0 through the real-mode vector table.
; expect: exit 10h, serial "R"
%include "guest.inc"
start:  mov esp, 0x80000
        mov esi, real_start
        mov edi, REAL_CODE
        mov ecx, real_end - real_start
        rep movsb
        lgdt [gdtr]
        jmp 0x08:(narrow - 0x100000)
        bits 16
narrow: mov ax, 0x10
        mov ds, ax
        mov es, ax
        mov ss, ax
        mov eax, cr0
        and eax, ~1
        mov cr0, eax
        jmp 0:REAL_CODE
real_start:
        xor ax, ax
        mov ds, ax
        mov ss, ax
        mov sp, 0x7000
        lidt [REAL_CODE + real_idtr - real_start]
        ; the same byte through two segments
        mov ax, 0x1000
        mov es, ax
        mov byte [es:0x0010], 0x5a
        mov ax, 0x1001
        mov es, ax
        cmp byte [es:0], 0x5a
        jne bad
        ; 16-bit wrap of an index register
        mov ax, 0x2000
        mov es, ax
        mov byte [es:0x0001], 0x77
        mov bx, 0xffff
        cmp byte [es:bx + 2], 0x77
        jne bad
        mov dx, COM1
        mov al, 'R'
        out dx, al
        ; IRQ 0 at vector 8, as a BIOS has it
        mov word [8 * 4], REAL_CODE + tick - real_start
        mov word [8 * 4 + 2], 0
        OUTB 0x20, 0x11
        OUTB 0x21, 8
        OUTB 0x21, 4
        OUTB 0x21, 1
        OUTB 0x21, 0xfe
        PIT_START 2, 11932
        xor cx, cx
        sti
.wait:  hlt
        cmp cx, 3
        jb .wait
        cli
        mov eax, 0x10
        jmp leave
bad:    mov eax, 0x20
leave:  mov dx, 0xf4
        out dx, eax
        hlt
tick:   inc cx
        push ax
        push dx
        OUTB 0x20, 0x20
        pop dx
        pop ax
        iret
        align 4
real_idtr:
        dw 0x3ff
        dd 0
real_end:
        align 8
gdt:    dq 0
        dq 0x00009b000000ffff | (0x10 << 32)    ; 16-bit code, base 100000h
        dq 0x000093000000ffff                   ; 16-bit data
gdtr:   dw 23
        dd gdt
