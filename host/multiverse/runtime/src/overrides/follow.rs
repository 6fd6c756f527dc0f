//! Programs that the program executes, itself or in its children: they are started as it was, split
//! again (`aero run --follow-exec`). The C library's function leads here, in the HRT and natively.
//!
//! In a child that shares the program's memory (vfork), nothing may be allocated or locked.

use std::ffi::{CStr, CString, c_char};
use std::ptr::null;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use object::elf;

use super::shipped::{TO_ORIGINAL, Version, call, entry};

/// Name of the function that all others of the C library call.
pub const FUNCTION: &str = "execve";

/// The words of the command line that starts a program, the command's own path first; the program's
/// name and its words follow.
static WORDS: AtomicPtr<*const c_char> = AtomicPtr::new(std::ptr::null_mut());
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Room for the words of a program. One with more is executed natively.
const ROOM: usize = 1024;

entry!(execute_entry, EXECUTE, execute);

/// The version of the function.
pub fn version() -> Version {
    Version::new(execute_entry, &EXECUTE)
}

/// Keeps the words of the command line.
pub fn keep(words: &[CString]) {
    let words: Vec<*const c_char> = words.iter().map(|word| word.clone().into_raw().cast_const()).collect();
    COUNT.store(words.len(), Ordering::Relaxed);
    WORDS.store(words.leak().as_mut_ptr(), Ordering::Release);
}

unsafe extern "C" fn execute(
    path: *const c_char,
    words: *const *const c_char,
    environment: *const *const c_char,
) -> i32 {
    let (mut line, mut name) = ([null(); ROOM], [0_u8; libc::PATH_MAX as usize]);
    // SAFETY: the program's call has these arguments: a string and lists that end with null.
    let is_ready =
        unsafe { own_path(path, &mut name).is_some_and(|path| is_program(path) && fill(&mut line, path, words)) };
    if is_ready {
        // SAFETY: the call only returns if it fails.
        unsafe { call(libc::SYS_execve, [line[0] as u64, line.as_ptr() as u64, environment as u64, 0]) };
    }
    // Also where it cannot be split: Linux says what is wrong, or executes it.
    TO_ORIGINAL
}

/// Makes the command line: the words that are kept, the program's name for itself, `--`, its path,
/// and its words. Returns false if there is no room.
///
/// # Safety
/// The path and the words are those of a call of execve.
unsafe fn fill(line: &mut [*const c_char; ROOM], path: *const c_char, words: *const *const c_char) -> bool {
    let (kept, count) = (WORDS.load(Ordering::Acquire), COUNT.load(Ordering::Relaxed));
    if kept.is_null() || words.is_null() {
        return false;
    }
    // SAFETY: so many are kept, for ever; the caller answers for the others, which end with null.
    unsafe {
        let own = *words;
        if own.is_null() {
            return false;
        }
        let kept = std::slice::from_raw_parts(kept, count);
        let pipes = ignores_pipes().then_some(c"--ignore-pipes".as_ptr());
        let start = kept.iter().copied().chain(pipes);
        let start = start.chain([c"--argument-zero".as_ptr(), own, c"--".as_ptr(), path]);
        let mut rest = words;
        let rest = std::iter::from_fn(|| {
            rest = rest.add(1);
            Some(*rest).filter(|word| !word.is_null())
        });
        let mut places = line[..ROOM - 1].iter_mut();
        for word in start.chain(rest) {
            match places.next() {
                Some(place) => *place = word,
                None => return false,
            }
        }
    }
    true
}

/// Whether SIGPIPE is ignored, which the command's own start would forget.
fn ignores_pipes() -> bool {
    // Handler, flags, restorer and mask, as Linux has them (arch/x86/include/uapi/asm/signal.h).
    let mut action = [0_u64; 4];
    // SAFETY: the call only writes the action.
    unsafe { call(libc::SYS_rt_sigaction, [libc::SIGPIPE as u64, 0, action.as_mut_ptr() as u64, 8]) };
    action[0] == libc::SIG_IGN as u64
}

/// Whether a path leads to a program that can be split: one for x86-64, or a script, that Linux
/// would execute without other privileges.
///
/// # Safety
/// The path is that of a call of execve.
unsafe fn is_program(path: *const c_char) -> bool {
    // SAFETY: the caller answers for the string; the structure consists of words, and the calls
    // only write what they are given for that.
    unsafe {
        let mut status: libc::stat = std::mem::zeroed();
        let at = libc::AT_FDCWD as u64;
        let is_there = call(libc::SYS_newfstatat, [at, path as u64, &raw mut status as u64, 0]) == 0
            && call(libc::SYS_faccessat, [at, path as u64, libc::X_OK as u64, 0]) == 0;
        if !is_there || status.st_mode & (libc::S_ISUID | libc::S_ISGID) != 0 {
            return false;
        }
        let file = call(libc::SYS_openat, [at, path as u64, (libc::O_RDONLY | libc::O_CLOEXEC) as u64, 0]);
        if file < 0 {
            return false;
        }
        // The identification, and the machine at 18 (System V ABI, chapter 4).
        let mut start = [0_u8; 20];
        let read = call(libc::SYS_read, [file as u64, start.as_mut_ptr() as u64, start.len() as u64, 0]);
        call(libc::SYS_close, [file as u64, 0, 0, 0]);
        let is_elf = read == start.len() as i64 && start.starts_with(&elf::ELFMAG) && start[4] == elf::ELFCLASS64;
        is_elf && u16::from_le_bytes([start[18], start[19]]) == elf::EM_X86_64 || start.starts_with(b"#!")
    }
}

/// The path to give to another program: that of this program's file instead of its link to itself;
/// `None` for what only this process has at a path, and for a name without a slash, which is looked
/// for otherwise there.
///
/// # Safety
/// The path is that of a call of execve.
unsafe fn own_path(path: *const c_char, name: &mut [u8; libc::PATH_MAX as usize]) -> Option<*const c_char> {
    if path.is_null() {
        return None;
    }
    // SAFETY: the caller answers for the string.
    let given = unsafe { CStr::from_ptr(path) };
    if given == c"/proc/self/exe" {
        let room = name.len() as u64 - 1;
        // SAFETY: the call only writes the name, behind which a 0 stays.
        let length = unsafe { call(libc::SYS_readlink, [path as u64, name.as_mut_ptr() as u64, room, 0]) };
        return (length > 0).then_some(name.as_ptr().cast());
    }
    let given = given.to_bytes();
    let is_own = [&b"/proc/self/"[..], b"/proc/thread-self/", b"/dev/fd/"].iter().any(|start| given.starts_with(start));
    (given.contains(&b'/') && !is_own).then_some(path)
}
