//! A crate of tests only; see `tests/races.rs`.
