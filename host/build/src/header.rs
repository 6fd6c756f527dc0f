//! Generates `aerokernel.h` from the interface's definition.

use std::fmt::Write;

/// A function of the interface.
pub struct Function {
    /// The function's name.
    pub name: &'static str,
    documentation: &'static [&'static str],
    parameters: &'static [(&'static str, &'static str)],
    result: &'static str,
}

macro_rules! list {
    ($($(#[doc = $doc:literal])* fn $name:ident($($parameter:ident: $kind:ty),* $(,)?) $(-> $result:ty)?;)*) => {
        const FUNCTIONS: &[Function] = &[$(Function {
            name: stringify!($name),
            documentation: &[$($doc),*],
            parameters: &[$((stringify!($parameter), stringify!($kind))),*],
            result: concat!("" $(, stringify!($result))?),
        }),*];
    };
}
abi::functions!(list);

/// Returns all functions of the interface.
pub fn functions() -> impl Iterator<Item = &'static Function> {
    FUNCTIONS.iter()
}

/// Object types with their sizes in bytes; below, the handle types. Both mirror `hrt/abi`.
const OBJECTS: [(&str, usize); 6] = [
    ("event", size_of::<abi::Event>()),
    ("mutex", size_of::<abi::Mutex>()),
    ("condition", size_of::<abi::Condition>()),
    ("semaphore", size_of::<abi::Semaphore>()),
    ("barrier", size_of::<abi::Barrier>()),
    ("reader_writer", size_of::<abi::ReaderWriterLock>()),
];
const HANDLES: [&str; 8] = ["thread", "message_queue", "timer", "interrupt", "fiber", "pool", "collective", "line"];

const HEAD: &str = "\
/* The Aerokernel's interface for programs in C and C++. Generated from hrt/abi by `cargo test -p aero-build`; docs/HRT.md
 * begins with an empty directory.
 *
 * Functions that can fail return AERO_OK or a negative number. Times are in nanoseconds; deadlines are points of
 * aero_time_ns's clock, AERO_NEVER is none. Objects live in the program's own memory, at a fixed address from their
 * init on. Handles belong to the program and are gone with it. */
#ifndef AEROKERNEL_H
#define AEROKERNEL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern \"C\" {
#endif
";

const TAIL: &str = "
#ifdef __cplusplus
}
#define AERO_EXPORT extern \"C\"
#else
#define AERO_EXPORT
#endif

/* Makes `function` the program's first function, with a stack of `stack` bytes, 0 for the default. Once per program. */
#define AERO_PROGRAM_WITH_STACK(function, stack) \\
    AERO_EXPORT __attribute__((visibility(\"default\"), used)) const struct aero_program aero_program = { \\
        AERO_MAGIC, AERO_VERSION, function, stack }
#define AERO_PROGRAM(function) AERO_PROGRAM_WITH_STACK(function, 0)

#endif
";

/// Returns the header's text.
pub fn generate() -> String {
    let mut out = String::from(HEAD);
    let numbers: [(&str, String); 16] = [
        ("AERO_VERSION", format!("{}u", abi::VERSION)),
        ("AERO_MAGIC", format!("{:#x}u", abi::MAGIC)),
        ("AERO_OK", abi::OK.to_string()),
        ("AERO_TIMED_OUT", format!("({})", abi::TIMED_OUT)),
        ("AERO_OUT_OF_MEMORY", format!("({})", abi::OUT_OF_MEMORY)),
        ("AERO_INVALID", format!("({})", abi::INVALID)),
        ("AERO_NO_SUCH_CPU", format!("({})", abi::NO_SUCH_CPU)),
        ("AERO_BUSY", format!("({})", abi::BUSY)),
        ("AERO_NEVER", format!("UINT64_C({:#x})", abi::NEVER)),
        ("AERO_ANY", format!("UINT32_C({:#x})", abi::ANY)),
        ("AERO_TRIGGER_DEFAULT", format!("{}u", abi::TRIGGER_DEFAULT)),
        ("AERO_TRIGGER_EDGE", format!("{}u", abi::TRIGGER_EDGE)),
        ("AERO_TRIGGER_LEVEL", format!("{}u", abi::TRIGGER_LEVEL)),
        ("AERO_PRIORITY_HIGH", format!("{}u", abi::PRIORITY_HIGH)),
        ("AERO_PRIORITY_NORMAL", format!("{}u", abi::PRIORITY_NORMAL)),
        ("AERO_PRIORITY_LOW", format!("{}u", abi::PRIORITY_LOW)),
    ];
    out.push('\n');
    for (name, value) in numbers {
        let _ = writeln!(out, "#define {name} {value}");
    }
    out.push('\n');
    for (name, size) in OBJECTS {
        let _ = writeln!(
            out,
            "typedef struct aero_{name} {{ uint64_t words[{}]; }} __attribute__((aligned(16))) aero_{name};",
            size / 8
        );
    }
    for name in HANDLES {
        let _ = writeln!(out, "typedef struct aero_{name} aero_{name};");
    }
    out.push_str(
        "\n/* How a thread shall be: name (not NUL-terminated, may be null), CPU or AERO_ANY, stack in bytes or 0. */\n\
         typedef struct aero_thread_options {\n    const char *name;\n    size_t name_length;\n    uint32_t cpu;\n    \
         size_t stack_size;\n} aero_thread_options;\n\n\
         /* What a task does, and where: a CPU or AERO_ANY, one of AERO_PRIORITY_*, and not 0 if no other worker may steal it. */\n\
         typedef struct aero_task_options {\n    uint32_t cpu;\n    uint32_t priority;\n    uint32_t pinned;\n\
         } aero_task_options;\n\n\
         /* What an image says of itself; see AERO_PROGRAM. */\n\
         struct aero_program {\n    uint32_t magic;\n    uint32_t version;\n    \
         int32_t (*main)(int32_t count, const char *const *values);\n    size_t stack_size;\n};\n",
    );
    for function in functions() {
        out.push('\n');
        for (index, line) in function.documentation.iter().enumerate() {
            let (start, end) = (index == 0, index + 1 == function.documentation.len());
            let opening = if start { "/*" } else { " *" };
            let closing = if end { " */" } else { "" };
            let _ = writeln!(out, "{opening}{line}{closing}");
        }
        let parameters: Vec<String> = function.parameters.iter().map(|(name, kind)| declare(kind, name)).collect();
        let parameters = if parameters.is_empty() { "void".into() } else { parameters.join(", ") };
        let result = match function.result {
            "" => "void ",
            "!" => "__attribute__((noreturn)) void ",
            kind => &declare(kind, ""),
        };
        let _ = writeln!(out, "{result}{}({parameters});", function.name);
    }
    out.push_str(TAIL);
    out
}

/// Returns the C declaration of `name` for a Rust type.
fn declare(kind: &str, name: &str) -> String {
    let kind = kind.split_whitespace().collect::<Vec<_>>().join(" ").replace("* ", "*");
    if kind == "Function" {
        return format!("void (*{name})(void *argument)");
    }
    if let Some(rest) = kind.strip_prefix("*const ") {
        let target = if rest == "u8" { "char ".into() } else { declare(rest, "") };
        return format!("const {target}*{name}");
    }
    if let Some(rest) = kind.strip_prefix("*mut ") {
        let target = if rest == "u8" { "void ".into() } else { declare(rest, "") };
        return format!("{target}*{name}");
    }
    let c = match kind.as_str() {
        "i32" => "int32_t",
        "u32" => "uint32_t",
        "u64" => "uint64_t",
        "usize" => "size_t",
        "ThreadOptions" => "aero_thread_options",
        "Event" => "aero_event",
        "Mutex" => "aero_mutex",
        "Condition" => "aero_condition",
        "Semaphore" => "aero_semaphore",
        "Barrier" => "aero_barrier",
        "ReaderWriterLock" => "aero_reader_writer",
        "Thread" => "aero_thread",
        "MessageQueue" => "aero_message_queue",
        "Timer" => "aero_timer",
        "Interrupt" => "aero_interrupt",
        "Fiber" => "aero_fiber",
        "TaskOptions" => "aero_task_options",
        "Pool" => "aero_pool",
        "Collective" => "aero_collective",
        "Line" => "aero_line",
        other => panic!("the header knows no C type for `{other}`"),
    };
    format!("{c} {name}")
}

#[cfg(test)]
mod tests {
    /// Checks that the header in the tree matches the definition. If it does not, the test rewrites
    /// the header and fails once.
    #[test]
    fn the_header_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../hrt/include/aerokernel.h");
        let generated = super::generate();
        if std::fs::read_to_string(path).unwrap_or_default() != generated {
            std::fs::write(path, &generated).expect("the header can be written");
            panic!("hrt/include/aerokernel.h was not what hrt/abi says; it is now: look at it and commit it");
        }
    }

    /// Checks that the Rust API or the C library uses each function: programs in Rust have no other
    /// way to one.
    #[test]
    fn every_function_is_used_by_the_rust_api_or_the_c_library() {
        let source = |crate_name: &str| {
            let directory = format!("{}/../../hrt/{crate_name}/src", env!("CARGO_MANIFEST_DIR"));
            let files = std::fs::read_dir(directory).expect("the sources are there");
            files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap()).collect::<String>()
        };
        let text = source("api") + &source("c");
        let goes_on = |rest: &str| rest.starts_with(|next: char| next.is_alphanumeric() || next == '_');
        let is_used = |name: &str| text.split(name).skip(1).any(|rest| !goes_on(rest));
        let unused: Vec<_> = super::functions().map(|function| function.name).filter(|name| !is_used(name)).collect();
        assert!(unused.is_empty(), "neither hrt/api nor hrt/c uses {unused:?}");
    }
}
