; triple_fault: an exception with an empty IDT.
; expect: triple fault
%include "guest.inc"
start:  lidt [empty]
        ud2
        FAIL 0x20
empty:  dw 0
        dd 0
