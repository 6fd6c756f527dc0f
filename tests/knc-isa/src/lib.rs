//! Only tests; see `tests/knc.rs`.
