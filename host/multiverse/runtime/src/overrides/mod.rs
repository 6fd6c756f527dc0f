//! Overrides: calls of functions of the program go to functions in the HRT instead, by a jump at
//! the function's first instruction. Code that runs outside of the HRT, as in children, executes
//! the function itself.
//!
//! A dynamic program is not complete until its interpreter has linked it. The interpreter then
//! calls a function that is there for debuggers, and that asks the runtime ([`LINKED`]) from the
//! start on.

mod code;
mod follow;
mod library;
mod modules;
mod pthread;
mod shipped;
mod sleep;

pub use shipped::poll;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use code::{Call, Code};
use library::Library;
use modules::Module;
use multiverse::overrides::{Override, SHIPPED, Target};

use crate::process;
use crate::settings::Settings;

/// The number of the system call by which the interpreter tells that the program is linked. Linux
/// has no such call.
pub const LINKED: u64 = 0x4d56_0001;

/// Name of the interpreter's function for debuggers (glibc, elf/dl-debug.c; also musl's).
const FOR_DEBUGGERS: &str = "_dl_debug_state";

/// The overrides that are still to be made.
struct Wanted {
    overrides: Vec<Override>,
    follows: bool,
    entry: u64,
}

static WANTED: Mutex<Option<Wanted>> = Mutex::new(None);

/// Prepares the overrides, before the program's first instruction.
pub fn start(settings: &Settings) {
    let follows = !settings.follow.is_empty();
    if settings.overrides.is_empty() && !follows {
        return;
    }
    let wanted = Wanted { overrides: settings.overrides.clone(), follows, entry: settings.program_entry };
    if !settings.overrides.is_empty() {
        shipped::start(settings.poll_us).unwrap_or_else(|error| fail(&error));
    }
    follow::keep(&settings.follow);
    let Some(program) = Module::program(wanted.entry) else { fail("the program's file cannot be read") };
    *WANTED.lock().unwrap_or_else(PoisonError::into_inner) = Some(wanted);
    if settings.interpreter == 0 {
        return make(vec![program]);
    }
    let interpreter = program.interpreter(settings.interpreter);
    let function = interpreter.as_ref().and_then(|interpreter| interpreter.function(FOR_DEBUGGERS));
    let Some(function) = function else {
        fail(&format!("the program's interpreter has no function {FOR_DEBUGGERS}, which tells when it has linked"));
    };
    // mov eax, LINKED; syscall; ret
    let mut tells = vec![0xb8];
    tells.extend((LINKED as u32).to_le_bytes());
    tells.extend([0x0f, 0x05, 0xc3]);
    if !function.at.is_multiple_of(16) {
        fail(&format!("the interpreter's function {FOR_DEBUGGERS} is too short"));
    }
    code::write(function.at, &tells).unwrap_or_else(|error| fail(&error));
}

/// The program may be linked.
pub fn linked() {
    let entry = match &*WANTED.lock().unwrap_or_else(PoisonError::into_inner) {
        Some(wanted) => wanted.entry,
        None => return,
    };
    let Some(program) = Module::program(entry) else { fail("the program's file cannot be read") };
    let Some(at) = program.linked() else { fail("the program does not say what is linked to it (DT_DEBUG)") };
    // SAFETY: the interpreter has written it, and waits for this call.
    let Some(linked) = (unsafe { modules::linked(at) }) else { return };
    let others = linked.into_iter().skip(1).filter_map(|(path, base)| Module::open(path, base));
    make(std::iter::once(program).chain(others).collect());
}

/// Makes the overrides.
fn make(modules: Vec<Module>) {
    let Some(wanted) = WANTED.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
    let mut maker = Maker { modules, code: Code::default(), libraries: HashMap::new() };
    for one in &wanted.overrides {
        if let Err(error) = maker.make(one) {
            fail(&format!("{}: {error}", one.symbol));
        }
    }
    // A program without the function executes none by it.
    if let Some(found) = find(&maker.modules, follow::FUNCTION).filter(|_| wanted.follows) {
        let version = follow::version();
        match code::lead(&mut maker.code, found.at, found.size, version.function) {
            Ok(original) => version.keep_original(original),
            Err(error) => fail(&format!("{}: {error}", follow::FUNCTION)),
        }
    }
}

/// Ends the process, because it would not be what was asked for.
fn fail(why: &str) -> ! {
    process::fail(&format!("what is to be overridden cannot be: {why}"))
}

/// Makes overrides.
struct Maker {
    modules: Vec<Module>,
    code: Code,
    libraries: HashMap<PathBuf, Library>,
}

impl Maker {
    fn make(&mut self, one: &Override) -> Result<(), String> {
        let Some(target) = &one.target else { return self.make_shipped(&one.symbol) };
        let (function, gate) = match &target.library {
            None => (kernel_function(&target.function)?, Some(shipped::gate())),
            Some(path) => (self.library_function(path, target)?, None),
        };
        let call = Call { function, gate, arguments: target.arguments.as_deref(), result: target.result };
        let code = call.code();
        let found = find(&self.modules, &one.symbol).ok_or("the program has no such function")?;
        if found.is_chosen_at_load {
            return Err("which of several functions it is, is chosen when the program is loaded (IFUNC)".into());
        }
        let at = self.code.keep(found.at, |_| Ok(code.clone()))?;
        code::replace(&mut self.code, found.at, found.size, at).map(drop)
    }

    /// Overrides what the runtime has versions of. A program may lack some of a family's functions.
    fn make_shipped(&mut self, family: &str) -> Result<(), String> {
        let symbols = SHIPPED.iter().find(|(name, _)| *name == family).map_or(&[] as &[&str], |(_, symbols)| symbols);
        let mut count = 0;
        shipped::prepare(family, |name| find(&self.modules, name).map(|found| found.at))?;
        for symbol in symbols {
            let (Some(found), Some(version)) = (find(&self.modules, symbol), shipped::version(symbol)) else {
                continue;
            };
            let original = code::replace(&mut self.code, found.at, found.size, version.function)
                .map_err(|error| format!("{symbol}: {error}"))?;
            version.keep_original(original);
            count += 1;
        }
        if count == 0 { Err("the program has no such function".into()) } else { Ok(()) }
    }

    fn library_function(&mut self, path: &PathBuf, target: &Target) -> Result<u64, String> {
        let named = |error| format!("{}: {error}", path.display());
        if !self.libraries.contains_key(path) {
            let library = Library::load(path, &self.modules, &mut self.code).map_err(named)?;
            self.libraries.insert(path.clone(), library);
        }
        let library = self.libraries.get(path).ok_or("it is not there")?;
        library.function(&target.function).ok_or_else(|| named(format!("it has no function {}", target.function)))
    }
}

/// Looks for a function as the interpreter does: the first file that has it.
fn find(modules: &[Module], name: &str) -> Option<modules::Found> {
    modules.iter().find_map(|module| module.function(name))
}

/// The address of a function of the kernel.
fn kernel_function(name: &str) -> Result<u64, String> {
    match process::hvm().function(name) {
        Ok(Some(at)) => Ok(at),
        Ok(None) => {
            Err(format!("{name} needs a program of the kernel's own, or ends its thread: it cannot be called here"))
        }
        Err(error) => Err(error.to_string()),
    }
}
