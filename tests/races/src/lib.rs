//! A crate of tests only; see `tests/races.rs`.
#![forbid(unsafe_code)]
