//! Only tests; see `tests/races.rs`.
