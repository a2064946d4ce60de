//! What the standard library would bring: memory from the C library, and an end where there is
//! none. Without it the loader is small, and nothing keeps it from being closed.

use core::alloc::{GlobalAlloc, Layout};
use core::panic::PanicInfo;
use core::ptr;

struct Malloc;

#[global_allocator]
static MALLOC: Malloc = Malloc;

/// What malloc aligns to; nothing in the loader needs more.
const ALIGNED: usize = 16;

// SAFETY: malloc's memory is fit for every such layout, until it is freed.
unsafe impl GlobalAlloc for Malloc {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match layout.align() <= ALIGNED {
            // SAFETY: malloc(3) takes any size.
            true => unsafe { libc::malloc(layout.size()).cast() },
            false => ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, memory: *mut u8, _: Layout) {
        // SAFETY: as promised by the caller, it is malloc's.
        unsafe { libc::free(memory.cast()) };
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        match layout.align() <= ALIGNED {
            // SAFETY: as promised by the caller, it is malloc's.
            true => unsafe { libc::realloc(memory.cast(), size).cast() },
            false => ptr::null_mut(),
        }
    }
}

#[panic_handler]
fn panic(_: &PanicInfo) -> ! {
    // SAFETY: abort(3) has no conditions.
    unsafe { libc::abort() }
}

// What would unwind the stack after a panic: the compiler's own libraries name it, and nothing in
// here comes to it. Hidden, for the module is to find the real one.
core::arch::global_asm!(
    ".globl rust_eh_personality",
    ".hidden rust_eh_personality",
    "rust_eh_personality:",
    ".globl _Unwind_Resume",
    ".hidden _Unwind_Resume",
    "_Unwind_Resume:",
    ".long 0",
);
