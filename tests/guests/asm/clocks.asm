; clocks: PM timer, HPET, RTC and TSC all go forward, and PM timer and HPET agree within a tenth over about 20 ms.
; expect: exit 10h
%include "guest.inc"
%define HPET 0xfed00000
%define PM_TIMER 0x608
%define PM_TICKS 71591                  ; 20 ms
start:  mov esp, 0x80000
        cmp dword [HPET + 4], 10000000  ; period in femtoseconds
        EXPECT e, 0x20
        mov dword [HPET + 0x10], 1      ; run
        rdtsc
        mov edi, eax
        mov dx, PM_TIMER
        in eax, dx
        mov ebx, eax
        mov esi, [HPET + 0xf0]
.wait:  in eax, dx
        sub eax, ebx
        cmp eax, PM_TICKS
        jb .wait
        mov ecx, [HPET + 0xf0]
        sub ecx, esi
        mov ebp, eax
        rdtsc
        sub eax, edi
        cmp eax, 0
        EXPECT g, 0x21
        ; HPET ticks (100 MHz) expected: PM ticks * 100 / 3.579545, about * 27.94
        mov eax, ebp
        mov edx, 2794
        mul edx
        mov ebx, 100
        div ebx
        mov edx, eax                    ; expected
        mov ebx, 10
        push edx
        xor edx, edx
        div ebx
        pop edx
        sub ecx, edx
        jns .positive
        neg ecx
.positive:
        cmp ecx, eax
        EXPECT b, 0x22
        PASS
