//! Only tests; see `tests/knc.rs`.
#![forbid(unsafe_code)]
