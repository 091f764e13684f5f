//! Bytes that another core has written are on their way to this one before they are
//! needed: the connection's task reads and a subscription's opens, senders write and the
//! sealing task reads, often elsewhere.

// Where it does nothing, nothing is needed for it.
#![allow(unused_imports, dead_code)]

use multiversion::multiversion;
use multiversion::target::match_target;

/// What one core takes from another at once.
const LINE: usize = 64;

/// Asks for bytes that are read soon. It changes nothing but the time that takes.
pub(crate) fn prefetch(bytes: &[u8]) {
    prefetch_at(bytes.as_ptr(), bytes.len());
}

/// Asks for a value that is used soon, without what it points to.
pub(crate) fn prefetch_value<T>(value: &T) {
    prefetch_at(std::ptr::from_ref(value).cast(), size_of::<T>());
}

// Every x86-64 can; a feature that not every one has is named because the standard
// library's instruction is safe where a feature is known to be there, and the macro
// leaves out those that always are.
#[rustversion::since(1.95)]
#[multiversion(targets("x86_64+sse4.1"))]
fn prefetch_at(address: *const u8, len: usize) {
    match_target! {
        "x86_64+sse4.1" => {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            for line in (0..len).step_by(LINE) {
                _mm_prefetch::<_MM_HINT_T0>(address.wrapping_add(line).cast());
            }
        }
        _ => {
            let _ = (address, len);
        }
    }
}

/// The instruction is not safe in the standard library of older compilers.
#[rustversion::before(1.95)]
fn prefetch_at(_address: *const u8, _len: usize) {}
