; clocks: PM timer, HPET, RTC and TSC all go forward, and PM timer and HPET agree within a hundredth over about 20 ms.
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
        ; Each PM timer value lies between two of the HPET, whoever else gets the processor meanwhile.
        mov dx, PM_TIMER
        mov esi, [HPET + 0xf0]
        in eax, dx
        mov ebx, eax
        mov eax, [HPET + 0xf0]
        push eax
.wait:  mov ecx, [HPET + 0xf0]
        in eax, dx
        sub eax, ebx
        cmp eax, PM_TICKS
        jb .wait
        mov ebp, [HPET + 0xf0]
        sub ebp, esi                    ; HPET ticks at most
        pop esi
        sub ecx, esi                    ; and at least
        ; expected (100 MHz): PM ticks * 100 / 3.579545, about * 27.94
        mov edx, 2794
        mul edx
        mov ebx, 100
        div ebx
        mov esi, eax
        xor edx, edx
        div ebx                         ; a hundredth
        add ebp, eax
        add eax, esi
        cmp ecx, eax
        EXPECT be, 0x22
        cmp esi, ebp
        EXPECT be, 0x23
        rdtsc
        cmp eax, edi
        EXPECT ne, 0x21
        PASS
