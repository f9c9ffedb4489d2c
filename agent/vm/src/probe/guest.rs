//! A guest for the probe: a firmware image of 64 KiB with a small program, assembled with the crate.
//!
//! It goes the way that every kernel goes: from real mode to protected mode to long mode with page tables of its own,
//! takes page faults and mends them, and then works for five million rounds on memory. At the end it writes
//! [`SUCCESS`] to the port of QEMU's `isa-debug-exit`, which ends QEMU with the exit code `SUCCESS * 2 + 1`.
//!
//! The work is what tells good from useless: an emulator does it in a tenth of a second, a processor faster still; a
//! paravirtual KVM that traps instruction by instruction runs the rest of this program and never ends the work.

use std::arch::global_asm;

/// Port of `isa-debug-exit`.
pub(super) const EXIT_PORT: u16 = 0xf4;

/// What the guest writes there when all went well.
pub(super) const SUCCESS: i32 = 0x2a;

/// Size of the image; it ends at 4 GiB, and is seen at [`LOW_BASE`] as well.
const SIZE: usize = 64 * 1024;

/// Offset of the processor's first instruction (Intel SDM volume 3, 10.1.4).
const RESET_VECTOR: usize = 0xfff0;

/// `ljmp $0xf000, $0`: to the beginning of the image, where it is seen below 1 MiB.
const JUMP: [u8; 5] = [0xea, 0x00, 0x00, 0x00, 0xf0];

global_asm!(
    r#"
.pushsection .rodata.fleet_probe_guest, "a", @progbits
.globl fleet_probe_guest_start
.globl fleet_probe_guest_end
.balign 16
fleet_probe_guest_start:
.code16
    cli
    lgdtl %cs:(.Lgdt_pointer - fleet_probe_guest_start)
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $0x08, $(0xf0000 + .Lprotected - fleet_probe_guest_start)

.code32
.Lprotected:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    // Page tables at 0x1000 (level 4), 0x2000 (level 3) and 0x3000 (level 2); only the first 2 MiB are mapped.
    cld
    xorl %eax, %eax
    movl $0x1000, %edi
    movl $0x1000, %ecx
    rep stosl
    movl $0x2003, 0x1000
    movl $0x3003, 0x2000
    movl $0x0083, 0x3000
    // Interrupt table at 0x4000 with one gate: page fault (vector 14).
    movl $(0x00180000 + .Lpage_fault - fleet_probe_guest_start), 0x40e0
    movl $0x000f8e00, 0x40e4
    movl $0x1000, %eax
    movl %eax, %cr3
    movl %cr4, %eax
    orl $0x20, %eax                 // physical address extension
    movl %eax, %cr4
    movl $0xc0000080, %ecx          // EFER: long mode
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax
    orl $0x80000000, %eax           // paging
    movl %eax, %cr0
    ljmpl $0x18, $(0xf0000 + .Llong - fleet_probe_guest_start)

.code64
.Llong:
    movl $0x8000, %esp
    lidt 0xf0000 + .Lidt_pointer - fleet_probe_guest_start
    // Each of these pages is mapped by the page fault that its first use takes.
    movl $0x400000, %edi
.Ltouch:
    movq %rdi, (%rdi)
    cmpq %rdi, (%rdi)
    jne .Lfail
    addl $0x200000, %edi
    cmpl $0x1000000, %edi
    jb .Ltouch
    movl $5000000, %ebp
.Lwork:
    pushq %rbp
    popq %rax
    xaddq %rax, 0x400000
    decl %ebp
    jnz .Lwork
    xorl %eax, %eax
    cpuid
    rdtsc
    movb $0x2a, %al
    outb %al, $0xf4
.Lfail:
    movb $0x01, %al
    outb %al, $0xf4
    hlt
    jmp .Lfail

.Lpage_fault:
    pushq %rax
    movq %cr2, %rax
    shrq $21, %rax
    movl %eax, %esi
    shlq $21, %rax
    orq $0x83, %rax                 // present, writable, 2 MiB
    movq %rax, 0x3000(,%rsi,8)
    popq %rax
    addq $8, %rsp                   // the error code
    iretq

.balign 8
.Lgdt:
    .quad 0
    .quad 0x00cf9a000000ffff        // 0x08: 32-bit code
    .quad 0x00cf92000000ffff        // 0x10: data
    .quad 0x00af9a000000ffff        // 0x18: 64-bit code
.Lgdt_pointer:
    .word 31
    .long 0xf0000 + .Lgdt - fleet_probe_guest_start
.Lidt_pointer:
    .word 0xff
    .quad 0x4000
fleet_probe_guest_end:
.popsection
"#,
    options(att_syntax)
);

unsafe extern "C" {
    static fleet_probe_guest_start: u8;
    static fleet_probe_guest_end: u8;
}

/// The firmware image.
pub(super) fn image() -> Vec<u8> {
    let (start, end) = (&raw const fleet_probe_guest_start, &raw const fleet_probe_guest_end);
    // SAFETY: both symbols are in one read-only section, the end after the start, and nobody writes to it.
    let program = unsafe { std::slice::from_raw_parts(start, end.offset_from_unsigned(start)) };
    let mut image = vec![0; SIZE];
    image[..program.len()].copy_from_slice(program);
    image[RESET_VECTOR..RESET_VECTOR + JUMP.len()].copy_from_slice(&JUMP);
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_leaves_the_reset_vector_alone() {
        let image = image();
        assert_eq!(image.len(), SIZE);
        let used = image.iter().take(RESET_VECTOR).rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        assert!((200..RESET_VECTOR).contains(&used), "{used} bytes");
    }
}
