; task_switch: 32-bit task switches by JMP, CALL, IRET and an interrupt's task gate: saved and loaded registers, busy bits, back link, NT, TS, CR3 left alone
; without paging, the T flag's debug trap, and #TS, #NP for bad tasks. SDM 3A, chapter 8.
; expect: exit 10h
%include "guest.inc"
%define MAIN_TSS 0x28
%define OTHER_TSS 0x30
%define ABSENT_TSS 0x38
%define TASK_GATE 0x40
%define SMALL_TSS 0x48
%define LDT 0x50

%macro TSS_DESCRIPTOR 3 ; selector, base, limit and type
        mov eax, %2
        mov word [gdt + %1], %3
        mov [gdt + %1 + 2], ax
        shr eax, 16
        mov [gdt + %1 + 4], al
        mov byte [gdt + %1 + 5], 0x89
        mov byte [gdt + %1 + 6], 0
        mov [gdt + %1 + 7], ah
%endmacro

start:  mov esp, 0x80000
        TSS_DESCRIPTOR MAIN_TSS, main_tss, 103
        TSS_DESCRIPTOR OTHER_TSS, other_tss, 103
        TSS_DESCRIPTOR ABSENT_TSS, other_tss, 103
        mov byte [gdt + ABSENT_TSS + 5], 0x09
        TSS_DESCRIPTOR SMALL_TSS, other_tss, 102
        mov word [gdt + TASK_GATE + 2], OTHER_TSS
        mov byte [gdt + TASK_GATE + 5], 0x85
        lgdt [gdtr]
        GATE32 1, debug
        GATE32 10, bad_task
        GATE32 11, absent
        GATE32 13, protection
        ; vector 30h is a task gate
        mov word [IDT + 8 * 0x30 + 2], OTHER_TSS
        mov word [IDT + 8 * 0x30 + 4], 0x8500
        lidt [idtr]
        mov ax, MAIN_TSS
        ltr ax
        cmp byte [gdt + MAIN_TSS + 5], 0x8b     ; busy
        EXPECT e, 0x20

        ; JMP: no link, the old task is free
        call fill_other
        mov ebx, 0x11111111
        mov ebp, 0x22222222
        clts
        jmp OTHER_TSS:0
        cmp ebx, 0x11111111
        EXPECT e, 0x21
        cmp ebp, 0x22222222
        EXPECT e, 0x22
        cmp dword [seen], 1
        EXPECT e, 0x23
        cmp byte [gdt + MAIN_TSS + 5], 0x8b
        EXPECT e, 0x24
        cmp byte [gdt + OTHER_TSS + 5], 0x89
        EXPECT e, 0x25

        ; CALL through the TSS, and its IRET
        call fill_other
        mov dword [other_tss + 0x20], by_call
        call OTHER_TSS:0
        cmp dword [seen], 2
        EXPECT e, 0x26
        pushfd
        pop eax
        test eax, 1 << 14                       ; NT is the other's
        EXPECT z, 0x27
        test dword [other_tss + 0x24], 1 << 14  ; cleared by IRET in what it saved
        EXPECT z, 0x28
        cmp byte [gdt + OTHER_TSS + 5], 0x89
        EXPECT e, 0x29
        ; where the other goes on next time: behind its IRET
        call TASK_GATE:0
        cmp dword [seen], 3
        EXPECT e, 0x2a

        ; an interrupt through a task gate
        call fill_other
        mov dword [other_tss + 0x20], by_interrupt
        int 0x30
        cmp dword [seen], 4
        EXPECT e, 0x2b

        ; T: #DB before the first instruction of the new task, DR6.BT
        call fill_other
        mov dword [other_tss + 0x20], by_call
        mov word [other_tss + 0x64], 1
        call OTHER_TSS:0
        cmp dword [debugged], 1
        EXPECT e, 0x2c
        mov word [other_tss + 0x64], 0

        ; a task with a bad DS: #TS in the new task, the switch has happened
        call fill_other
        mov dword [other_tss + 0x54], MAIN_TSS
        mov dword [other_tss + 0x20], by_call
        call OTHER_TSS:0
        cmp dword [faulted], MAIN_TSS
        EXPECT e, 0x2d

        ; absent, too small, busy tasks: nothing has happened
        mov dword [faulted], 0
        mov dword [expected], .after1
        call ABSENT_TSS:0
.after1: cmp dword [faulted], ABSENT_TSS
        EXPECT e, 0x2e
        mov dword [expected], .after2
        jmp SMALL_TSS:0
.after2: cmp dword [faulted], SMALL_TSS
        EXPECT e, 0x2f
        mov dword [expected], .after3
        jmp MAIN_TSS:0
.after3: cmp dword [faulted], MAIN_TSS
        EXPECT e, 0x30
        ; IRET with NT and a link that is no busy task: #TS
        mov word [main_tss], OTHER_TSS
        mov dword [expected], .after4
        pushfd
        or dword [esp], 1 << 14
        popfd
        iret
.after4: cmp dword [faulted], OTHER_TSS
        EXPECT e, 0x31
        PASS

fill_other:
        mov edi, other_tss
        xor eax, eax
        mov ecx, 26
        rep stosd
        mov dword [other_tss + 0x20], by_jump
        mov dword [other_tss + 0x24], 2
        mov dword [other_tss + 0x28], 0xaaaaaaaa ; eax
        mov dword [other_tss + 0x34], 0xbbbbbbbb ; ebx
        mov dword [other_tss + 0x38], 0x70000    ; esp
        mov dword [other_tss + 0x44], 0xcccccccc ; edi
        mov dword [other_tss + 0x48], 0x18       ; es
        mov dword [other_tss + 0x4c], 0x10
        mov dword [other_tss + 0x50], 0x18
        mov dword [other_tss + 0x54], 0x18
        mov dword [other_tss + 0x58], 0
        mov dword [other_tss + 0x5c], 0x18
        mov word [other_tss + 0x66], 104
        ret

; The other task: what it was given.
check_registers:
        cmp eax, 0xaaaaaaaa
        EXPECT e, 0x40
        cmp ebx, 0xbbbbbbbb
        EXPECT e, 0x41
        cmp edi, 0xcccccccc
        EXPECT e, 0x42
        cmp esp, 0x70000 - 4
        EXPECT e, 0x43
        mov ax, fs
        test ax, ax
        EXPECT z, 0x44
        str ax
        cmp ax, OTHER_TSS
        EXPECT e, 0x45
        mov eax, cr0
        test al, 8                              ; TS
        EXPECT nz, 0x46
        inc dword [seen]
        ret
by_jump: call check_registers
        pushfd
        pop eax
        test eax, 1 << 14
        EXPECT z, 0x47
        cmp byte [gdt + MAIN_TSS + 5], 0x89
        EXPECT e, 0x48
        cmp dword [main_tss + 0x34], 0x11111111
        EXPECT e, 0x49
        jmp MAIN_TSS:0
        FAIL 0x4a
by_call: call check_registers
        pushfd
        pop eax
        test eax, 1 << 14
        EXPECT nz, 0x4b
        cmp word [other_tss], MAIN_TSS
        EXPECT e, 0x4c
        cmp byte [gdt + MAIN_TSS + 5], 0x8b     ; still busy
        EXPECT e, 0x4d
        iret
        ; entered again behind the IRET
        inc dword [seen]
        iret
        FAIL 0x4e
by_interrupt: call check_registers
        cmp word [other_tss], MAIN_TSS
        EXPECT e, 0x4f
        iret

debug:  mov eax, dr6
        test eax, 1 << 15                       ; BT
        EXPECT nz, 0x50
        cmp dword [esp], by_call
        EXPECT e, 0x51
        inc dword [debugged]
        xor eax, eax
        mov dr6, eax
        mov eax, 0xaaaaaaaa
        iret
bad_task:
        mov ax, 0x18
        mov ds, ax
        pop dword [faulted]
        str bx
        cmp bx, OTHER_TSS
        jne resume
        ; in the new task: go home by its link
        pushfd
        or dword [esp], 1 << 14
        popfd
        iret
absent:
protection:
        pop eax
        mov [faulted], eax
resume: mov eax, [expected]
        mov [esp], eax
        and dword [esp + 8], ~(1 << 14)
        iret

        align 8
gdt:    dq 0, 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0, 0, 0, 0, 0, 0, 0
gdtr:   dw gdtr - gdt - 1
        dd gdt
idtr:   dw 0x31 * 8 - 1
        dd IDT
seen:   dd 0
debugged: dd 0
faulted: dd 0
expected: dd 0
        align 16
main_tss: times 104 db 0
        align 16
other_tss: times 104 db 0
