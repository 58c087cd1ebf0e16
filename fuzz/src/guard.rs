//! Ends the process on an allocation that no input of a fuzzer can be worth. (A zeroed allocation of terabytes costs no
//! resident memory, so the fuzzer's own limit would not see it.)

use std::alloc::{GlobalAlloc, Layout, System};

/// The largest single allocation, in bytes.
const LIMIT: usize = 512 << 20;

/// The system's allocator with [`LIMIT`].
pub struct Guard;

impl Guard {
    fn check(size: usize) {
        if size > LIMIT {
            eprintln!("an allocation of {size} bytes");
            std::process::abort();
        }
    }
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Guard {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::check(layout.size());
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        unsafe { System.dealloc(at, layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::check(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::check(size);
        unsafe { System.realloc(at, layout, size) }
    }
}
