; serial_hello: polls LSR.THRE and writes a line to the first serial port.
; expect: exit 10h, serial "hello from the guest\n"
%include "guest.inc"
start:  mov esp, 0x80000
        OUTB COM1 + 3, 0x03     ; 8N1
        OUTB COM1 + 2, 0x07     ; FIFOs on, cleared
        mov esi, text
.next:  lodsb
        test al, al
        jz .done
        mov bl, al
.wait:  mov dx, COM1 + 5
        in al, dx
        test al, 0x20
        jz .wait
        mov al, bl
        mov dx, COM1
        out dx, al
        jmp .next
.done:  PASS
text:   db "hello from the guest", 10, 0
