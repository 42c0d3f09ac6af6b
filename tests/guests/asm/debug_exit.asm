; debug_exit: a value of its own.
; expect: exit 2ah
%include "guest.inc"
start:  EXIT 0x2a
