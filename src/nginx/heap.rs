//! The module's heap: what is given back to it is zeroed.
//!
//! Secrets and tokens are zeroized by those that hold them. Copies are made by others too: by ureq and
//! rustls in their buffers, by serde in texts that grow. Those are gone like this.

use std::alloc::{GlobalAlloc, Layout, System};

struct Zeroing;

#[global_allocator]
static HEAP: Zeroing = Zeroing;

// SAFETY: the system's allocator, whose memory is written to only where the caller gives it up. The
// default `realloc` is made of the other two: the system's own may leave a copy behind.
unsafe impl GlobalAlloc for Zeroing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as promised by the caller.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: as promised by the caller, `place` is of this layout, and nobody uses it any more. No
        // compiler leaves this call out, as it may a write before memory is freed.
        unsafe {
            libc::explicit_bzero(place.cast(), layout.size());
            System.dealloc(place, layout);
        }
    }
}
