//! The functions; [`crate::definition`] says what each does.
#![allow(clippy::missing_safety_doc, reason = "the definition has the functions' documentation")]
#![allow(missing_docs, reason = "the definition has the functions' documentation")]

use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::os::unix::process::CommandExt;
use std::ptr::null;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hvm::{CallError, Hvm, Synchronous};

use crate::definition::functions;

/// What is reset.
#[repr(C)]
#[allow(non_camel_case_types, reason = "the name is Palacios's")]
pub enum reset_type {
    /// The HRT.
    RESET_HRT,
    /// The process.
    RESET_ROS,
    /// Both.
    RESET_BOTH,
}

/// A function that is called in the HRT; its second argument counts parallel calls.
pub type Function = Option<extern "C" fn(argument: u64, index: u64) -> u64>;
/// A function that the HRT has called in the process.
pub type SignalHandler = Option<extern "C" fn(code: u64)>;

/// What is called in the HRT (Nautilus's convention for calls by the ROS).
#[repr(C)]
struct Call {
    function: extern "C" fn(u64, u64, u64, u64, u64, u64, u64, u64) -> u64,
    /// Where the result goes, if it is not null.
    result: *mut u64,
    arguments: [u64; 8],
}

macro_rules! check {
    ($($(#[doc = $doc:literal])* fn $name:ident($($parameter:ident: $kind:ty),* $(,)?) -> $result:ty;)*) => {
        $(const _: unsafe extern "C" fn($($kind),*) -> $result = $name;)*
    };
}
functions!(check);

/// The HRT, and the image for the next one.
struct State {
    hrt: Option<Arc<Hvm>>,
    image: Vec<u8>,
}

static STATE: Mutex<State> = Mutex::new(State { hrt: None, image: Vec::new() });

thread_local! {
    static ERROR: RefCell<CString> = RefCell::default();
    static SYNCHRONOUS: RefCell<Option<Synchronous>> = const { RefCell::new(None) };
}

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns 0, or keeps the error and returns -1.
fn done(result: Result<(), String>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(error) => {
            ERROR.set(CString::new(error).unwrap_or_default());
            -1
        }
    }
}

fn hrt() -> Result<Arc<Hvm>, String> {
    let none = || "there is no HRT: install an image and reset it, or name one in AEROKERNEL_HRT".into();
    state().hrt.clone().ok_or_else(none)
}

fn boot(hrt: &mut Option<Arc<Hvm>>, image: &[u8]) -> Result<(), String> {
    *hrt = None;
    let cpus = std::thread::available_parallelism().map_or(1, |count| count.get().min(64) as u32);
    let booted = Hvm::builder(image).cpus(cpus).command_line("panic=exit").share().boot();
    *hrt = Some(Arc::new(booted.map_err(|error| error.to_string())?));
    Ok(())
}

#[unsafe(no_mangle)]
pub extern "C" fn v3_hvm_ros_user_init() -> i32 {
    let Some(path) = std::env::var_os("AEROKERNEL_HRT") else { return 0 };
    let read = std::fs::read(&path).map_err(|error| format!("{} cannot be read: {error}", path.to_string_lossy()));
    done(read.and_then(|image| {
        let mut state = state();
        state.image = image;
        let State { hrt, image } = &mut *state;
        boot(hrt, image)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn v3_hvm_ros_user_deinit() -> i32 {
    SYNCHRONOUS.take();
    *state() = State { hrt: None, image: Vec::new() };
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn v3_hvm_ros_install_hrt_image(image: *mut u8, size: u64) -> i32 {
    if image.is_null() || size == 0 {
        return done(Err("there is no image".into()));
    }
    // SAFETY: the caller passes the address and the size of an image.
    state().image = unsafe { std::slice::from_raw_parts(image, size as usize) }.to_vec();
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn v3_hvm_ros_reset(what: reset_type) -> i32 {
    done(match what {
        reset_type::RESET_HRT => {
            SYNCHRONOUS.take();
            let State { hrt, image } = &mut *state();
            match hrt.as_mut().and_then(Arc::get_mut) {
                Some(hrt) => hrt.reset(image).map_err(|error| error.to_string()),
                // There is none, or another thread still uses it.
                None => boot(hrt, image),
            }
        }
        reset_type::RESET_ROS => Err("a process cannot be reset while its HRT stays; RESET_BOTH starts it anew".into()),
        reset_type::RESET_BOTH => {
            let mut arguments = std::env::args_os();
            let name = arguments.next().unwrap_or_default();
            let error = std::process::Command::new("/proc/self/exe").arg0(name).args(arguments).exec();
            Err(format!("this program cannot be executed anew: {error}"))
        }
    })
}

fn text(error: CallError) -> String {
    error.to_string()
}

#[unsafe(no_mangle)]
pub extern "C" fn v3_hvm_ros_merge_address_spaces() -> i32 {
    // SAFETY: the caller's program trusts its HRT.
    done(hrt().and_then(|hrt| unsafe { hrt.merge() }.map_err(text)))
}

#[unsafe(no_mangle)]
pub extern "C" fn v3_hvm_ros_unmerge_address_spaces() -> i32 {
    done(hrt().and_then(|hrt| hrt.unmerge().map_err(text)))
}

#[unsafe(no_mangle)]
pub extern "C" fn v3_hvm_ros_mirror_gdt(_: u64) -> i32 {
    0
}

/// Runs in the HRT.
extern "C" fn run(call: u64, _: u64) -> u64 {
    // SAFETY: the program passes the address of a call that it has described.
    unsafe {
        let call = &*(call as *const Call);
        let [first, second, third, fourth, fifth, sixth, seventh, eighth] = call.arguments;
        let result = (call.function)(first, second, third, fourth, fifth, sixth, seventh, eighth);
        if !call.result.is_null() {
            call.result.write(result);
        }
    }
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn v3_hvm_ros_invoke_hrt_async(call: *mut u8, parallel: i32) -> i32 {
    // SAFETY: the program answers for the function.
    done(hrt().and_then(|hrt| unsafe {
        match parallel {
            0 => hrt.call(run, call as u64).map(drop),
            _ => hrt.call_all(run, call as u64).map(drop),
        }
        .map_err(text)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn v3_hvm_ros_synchronize() -> i32 {
    done(hrt().and_then(|hrt| hrt.synchronize().map_err(text)).map(|mode| SYNCHRONOUS.set(Some(mode))))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn v3_hvm_ros_invoke_hrt_sync(call: *mut u8, _: i32) -> i32 {
    done(SYNCHRONOUS.with_borrow_mut(|mode| match mode {
        // SAFETY: the program answers for the function.
        Some(mode) => unsafe { mode.call(run, call as u64) }.map(drop).map_err(text),
        None => Err("this thread is not in synchronous mode: call v3_hvm_ros_synchronize first".into()),
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn v3_hvm_ros_desynchronize() -> i32 {
    let was_on = SYNCHRONOUS.take().is_some();
    done(if was_on { Ok(()) } else { Err("this thread is not in synchronous mode".into()) })
}

#[unsafe(no_mangle)]
pub extern "C" fn v3_hvm_ros_register_signal(handler: SignalHandler, _: *mut u8, _: u64) -> i32 {
    done(hrt().map(|hrt| hrt.on_signal(handler)))
}

#[unsafe(no_mangle)]
pub extern "C" fn v3_hvm_ros_unregister_signal() -> i32 {
    done(hrt().map(|hrt| hrt.on_signal(None)))
}

#[unsafe(no_mangle)]
pub extern "C" fn v3_hvm_hrt_signal_ros(code: u64) -> i32 {
    if code != 0 && hvm::signal_ros(code) { 0 } else { -1 }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn hvm_call(function: Function, argument: u64, result: *mut u64) -> i32 {
    let Some(function) = function else { return done(Err("there is no function".into())) };
    done(hrt().and_then(|hrt| {
        // SAFETY: the program answers for the function.
        let value = unsafe { hrt.call(function, argument) }.map_err(text)?;
        if !result.is_null() {
            // SAFETY: the caller passes null or a place for the result.
            unsafe { result.write(value) };
        }
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn hvm_error() -> *const u8 {
    let error: *const c_char = ERROR.try_with(|error| error.borrow().as_ptr()).unwrap_or(null());
    error.cast()
}
