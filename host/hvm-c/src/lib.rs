//! Hybrid virtual machines for programs in C and C++: the functions that `include/hvm.h` declares.
//!
//! Their names and arguments are those of Palacios's user library, so that a program written for
//! that compiles with this one; `hvm_call` and `hvm_error` are ours. There is one HRT. Functions
//! return 0, or -1 if they failed; `hvm_error` then says why.

mod definition;
mod functions;
#[cfg(test)]
mod header;

pub use functions::*;
