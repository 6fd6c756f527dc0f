//! Generates `include/hvm.h` from the definition.

use std::fmt::Write;

use crate::definition::functions;

struct Declared {
    name: &'static str,
    documentation: &'static [&'static str],
    parameters: &'static [(&'static str, &'static str)],
    result: &'static str,
}

macro_rules! list {
    ($($(#[doc = $doc:literal])* fn $name:ident($($parameter:ident: $kind:ty),* $(,)?) -> $result:ty;)*) => {
        const FUNCTIONS: &[Declared] = &[$(Declared {
            name: stringify!($name),
            documentation: &[$($doc),*],
            parameters: &[$((stringify!($parameter), stringify!($kind))),*],
            result: stringify!($result),
        }),*];
    };
}
functions!(list);

const HEAD: &str = "\
/* Hybrid virtual machines for programs in C and C++: the Aerokernel beside this process. Generated from
 * host/hvm-c/src/definition.rs by `cargo test -p aero-hvm-c`; docs/HVM.md has the first program.
 *
 * The functions that begin with v3_ are those of Palacios's user library. There is one HRT. Functions return 0, or -1 if
 * they failed; hvm_error() then says why. */
#ifndef AERO_HVM_H
#define AERO_HVM_H

#include <stdint.h>

#ifdef __cplusplus
extern \"C\" {
#endif

typedef enum { RESET_HRT, RESET_ROS, RESET_BOTH } reset_type;

/* What is called in the HRT: a function with up to eight arguments, and where its result goes, or null. */
struct hvm_call {
    uint64_t (*function)(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t);
    uint64_t *result;
    uint64_t arguments[8];
};
";

const TAIL: &str = "
#ifdef __cplusplus
}
#endif

#endif
";

fn generate() -> String {
    let mut out = String::from(HEAD);
    for Declared { name, documentation, parameters, result } in FUNCTIONS {
        out.push('\n');
        for (index, line) in documentation.iter().enumerate() {
            let opening = if index == 0 { "/*" } else { " *" };
            let closing = if index + 1 == documentation.len() { " */" } else { "" };
            let _ = writeln!(out, "{opening}{line}{closing}");
        }
        let parameters: Vec<String> = parameters.iter().map(|(name, kind)| declare(kind, name)).collect();
        let parameters = if parameters.is_empty() { "void".into() } else { parameters.join(", ") };
        let _ = writeln!(out, "{}{name}({parameters});", declare(result, ""));
    }
    out.push_str(TAIL);
    out
}

/// Returns the C declaration of `name` for a Rust type.
fn declare(kind: &str, name: &str) -> String {
    match kind.replace("* ", "*").as_str() {
        "i32" => format!("int {name}"),
        "u64" => format!("uint64_t {name}"),
        "reset_type" => format!("reset_type {name}"),
        "*mut u64" => format!("uint64_t *{name}"),
        "*mut u8" => format!("void *{name}"),
        "*const u8" => format!("const char *{name}"),
        "Function" => format!("uint64_t (*{name})(uint64_t argument, uint64_t index)"),
        "SignalHandler" => format!("void (*{name})(uint64_t code)"),
        other => panic!("the header knows no C type for `{other}`"),
    }
}

/// Checks that the header in the tree matches the definition. If it does not, the test rewrites the
/// header and fails once.
#[test]
fn the_header_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/include/hvm.h");
    let generated = generate();
    if std::fs::read_to_string(path).unwrap_or_default() != generated {
        std::fs::write(path, &generated).expect("the header can be written");
        panic!("include/hvm.h was not what the definition says; it is now: look at it and commit it");
    }
}
