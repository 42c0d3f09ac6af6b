; vm86: virtual-8086 mode: entered by IRET, left by a fault, an interrupt and INT n; the frame with all segments, zeroed data segments in the monitor, real-mode
; addressing and its limit, IOPL-sensitive instructions at IOPL 0 and 3, the I/O bitmap, instructions that do not exist there. SDM 3B, chapter 21.
; expect: exit 10h
%include "guest.inc"
%define TSS_SEG 0x20
%define RING0_STACK 0x7c000
%define V86_SP 0x7ff0
%define V86_SS 0x5000
%assign step 0
; In the monitor after a run from %1 (offset in REAL_CODE): the vector %2, at instruction %3.
%macro RUN 4                    ; label, IOPL, vector, label where it ends
        mov esi, (%1) - v86_code
        mov edi, (%2) << 12
        call enter
        cmp dword [vector], %3
        EXPECT e, 0x100 + step
        cmp dword [ended], (%4) - v86_code
        EXPECT e, 0x200 + step
%assign step step + 1
%endmacro

start:  mov esp, 0x80000
        mov esi, v86_code
        mov edi, REAL_CODE
        mov ecx, v86_end - v86_code
        rep movsb
        mov eax, tss
        mov [gdt + TSS_SEG + 2], ax
        shr eax, 16
        mov [gdt + TSS_SEG + 4], al
        mov dword [tss + 4], RING0_STACK
        mov dword [tss + 8], 0x18
        lgdt [gdtr]
        GATE32 3, on_3
        GATE32 6, on_6
        GATE32 12, on_12
        GATE32 13, on_13
        GATE32 0x30, on_30
        mov byte [IDT + 8 * 0x30 + 5], 0xee
        mov byte [IDT + 8 * 3 + 5], 0xee
        lidt [idtr]
        mov ax, TSS_SEG
        ltr ax
        RUN v_hlt, 0, 13, v_hlt
        cmp dword [error], 0
        EXPECT e, 0x20
        RUN v_cli, 0, 13, v_cli
        RUN v_sti, 0, 13, v_sti
        RUN v_pushf, 0, 13, v_pushf
        RUN v_popf, 0, 13, v_popf
        RUN v_iret, 0, 13, v_iret
        RUN v_int, 0, 13, v_int
        RUN v_lgdt, 3, 13, v_lgdt
        RUN v_cr0, 3, 13, v_cr0
        RUN v_lar, 3, 6, v_lar
        RUN v_arpl, 3, 6, v_arpl
        RUN v_sldt, 3, 6, v_sldt
        RUN v_vex, 3, 6, v_vex
        ; with IOPL 3 they work; INT goes through the protected IDT
        RUN v_flags, 3, 0x30, v_flags_end
        test dword [flags], 1 << 9
        EXPECT z, 0x21
        RUN v_int3, 0, 3, v_int3 + 1
        ; segments are paragraphs, with limits of 64 KiB
        RUN v_segments, 3, 0x30, v_segments_end
        cmp dword [0x61230], 0x89abcdef
        EXPECT e, 0x22
        RUN v_limit, 3, 13, v_limit
        RUN v_stack, 3, 12, v_stack + 3
        ; I/O asks the bitmap whatever the IOPL
        RUN v_io, 3, 0x30, v_io_end
        RUN v_no_io, 3, 13, v_no_io
        ; the frame showed the segments, the monitor got null ones
        cmp dword [frame_segments], 0x1111
        EXPECT e, 0x23
        cmp dword [frame_segments + 4], 0x2222
        EXPECT e, 0x24
        cmp dword [frame_segments + 8], 0x3333
        EXPECT e, 0x25
        cmp dword [frame_segments + 12], 0x4444
        EXPECT e, 0x26
        cmp dword [monitor_segments], 0
        EXPECT e, 0x27
        PASS

; Runs V86 code at esi with IOPL edi until it traps.
enter:  mov [saved_esp], esp
        push dword 0x4444                       ; gs, fs, ds, es
        push dword 0x3333
        push dword 0x2222
        push dword 0x1111
        push dword V86_SS
        push dword V86_SP
        or edi, 0x20002                         ; VM
        push edi
        push dword REAL_CODE >> 4
        push esi
        iret

; Handlers: on the ring 0 stack: [error,] EIP, CS, EFLAGS, ESP, SS, ES, DS, FS, GS.
%macro HANDLER 2
on_%1:  %2
        push dword 0x%1
        jmp trapped
%endmacro
HANDLER 3, push dword 0
HANDLER 6, push dword 0
HANDLER 30, push dword 0
on_12:  push dword 12
        jmp trapped
on_13:  push dword 13
trapped:
        mov ax, ds
        mov bx, es
        or ax, bx
        mov bx, fs
        or ax, bx
        mov bx, gs
        or bx, ax
        mov ax, 0x18
        mov ds, ax
        mov es, ax
        movzx ebx, bx
        mov [monitor_segments], ebx
        pop dword [vector]
        pop dword [error]
        pop dword [ended]
        pop eax
        cmp eax, REAL_CODE >> 4
        EXPECT e, 0x28
        pop dword [flags]
        test dword [flags], 1 << 17
        EXPECT nz, 0x29
        pop eax
        pop eax
        cmp eax, V86_SS
        EXPECT e, 0x2a
        pop dword [frame_segments]
        pop dword [frame_segments + 4]
        pop dword [frame_segments + 8]
        pop dword [frame_segments + 12]
        mov esp, [saved_esp]
        ret

        align 8
gdt:    dq 0, 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
        dq 0x0000890000000000 | 135
gdtr:   dw gdtr - gdt - 1
        dd gdt
idtr:   dw 0x31 * 8 - 1
        dd IDT
vector: dd 0
error:  dd 0
ended:  dd 0
flags:  dd 0
saved_esp: dd 0
monitor_segments: dd 0
frame_segments: times 4 dd 0
        align 16
tss:    times 102 db 0
        dw 104
        times 16 db 0xff
        db 0xfe                                 ; port 80h is free
        times 14 db 0xff
        db 0x0f, 0xff

        bits 16
v86_code:
v_hlt:  hlt
v_cli:  cli
v_sti:  sti
v_pushf: pushf
v_popf: popf
v_iret: iret
v_int:  int 0x30
v_int3: int3
v_lgdt: lgdt [0]
v_cr0:  mov eax, cr0
v_lar:  db 0x0f, 0x02, 0xc0                     ; lar ax, ax
v_arpl: db 0x63, 0xc0
v_sldt: db 0x0f, 0x00, 0xc0
v_vex:  db 0xc5, 0xf8, 0x77                     ; vzeroupper: LDS with a register
v_flags: sti
        pushf
        pop ax
        test ax, 0x200
        jz v_bad1
        and ax, ~0x200
        push ax
        popf
        cli
        int 0x30
v_flags_end:
v_bad1:   hlt
v_segments: mov ax, 0x6000
        mov ds, ax
        mov dword [0x1230], 0x89abcdef
        mov ax, 0x6123
        mov es, ax
        cmp dword [es:0], 0x89abcdef
        jne v_bad2
        mov ax, ds
        cmp ax, 0x6000
        jne v_bad2
        mov ax, 0x1111                          ; as the others expect them
        mov es, ax
        mov ax, 0x2222
        mov ds, ax
        int 0x30
v_segments_end:
v_bad2:   hlt
v_limit: mov ax, [0xffff]
v_stack: mov bp, 0xffff
        mov ax, [bp]
v_io:   out 0x80, al
        int 0x30
v_io_end:
        hlt
v_no_io: in al, 0x81
v86_end:
