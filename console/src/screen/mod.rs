//! The console on a screen with a keyboard: a session separate from the serial line's, and a copy
//! of the kernel's log.
//!
//! All text passes through a message queue to one thread, which alone keeps the text and paints it.
//! After a crash, when no thread runs, the report is painted directly, from the top.

mod keys;
mod paint;
mod text;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arch_contract::LineTrigger;
use kernel::arch::*;
use kernel::command_line::Keyboard as Layout;
use kernel::lock::SpinLock;
use kernel::memory::{OutOfMemory, try_box};
use kernel::output::TypedLine;
use kernel::thread::Builder;
use kernel::time::Deadline;
use kernel::wait::{InterruptSafe, MessageQueue};
use kernel::{interrupts, output};
use wire::console::CONTROL_C;

use crate::commands::Command;
use crate::session::Session;
use crate::shell;
use keys::{Keyboard, Meaning};
use paint::{Look, Painter};
use text::{Cell, PLAIN, Text};

/// Maximum number of bytes that wait to be painted.
const SHOWN_CAPACITY: usize = 32 * 1024;
/// Maximum number of bytes from the keyboard that wait to be read.
const KEYS_CAPACITY: usize = 256;
/// Maximum number of bytes processed before the screen is painted again.
const BATCH: usize = 2048;
/// Stack size of the screen's session in bytes, the same as for the serial line's.
const STACK_SIZE: usize = 64 * 1024;

/// A screen and its keyboard.
struct Screen {
    shown: MessageQueue<u8>,
    keys: MessageQueue<u8>,
    keyboard: SpinLock<Keyboard>,
    typed: SpinLock<TypedLine>,
    /// Set by Ctrl-C.
    is_interrupted: AtomicBool,
    /// Set once the session has begun; log output is shown from then on.
    is_open: AtomicBool,
}

// SAFETY: interrupt handlers use only the keyboard decoder, the typed line and `try_send` of the
// message queues, which take only spin locks and never allocate.
unsafe impl InterruptSafe for Screen {}

/// Address of the screen, 0 until `open` has created it.
static SCREEN: AtomicUsize = AtomicUsize::new(0);

fn screen() -> Option<&'static Screen> {
    // SAFETY: the address is 0 or that of the screen that `open` leaked, which is never freed.
    unsafe { (SCREEN.load(Ordering::Acquire) as *const Screen).as_ref() }
}

/// Starts a session on the screen, if there is one.
///
/// # Errors
/// [`OutOfMemory`].
pub fn open(layout: Layout, extra: &'static [Command]) -> Result<(), OutOfMemory> {
    let Some(framebuffer) = Platform::screen() else { return Ok(()) };
    let screen: &'static Screen = Box::leak(try_box(Screen {
        shown: MessageQueue::new(SHOWN_CAPACITY)?,
        keys: MessageQueue::new(KEYS_CAPACITY)?,
        keyboard: SpinLock::new(Keyboard::new(layout)),
        typed: SpinLock::new(TypedLine::new()),
        is_interrupted: AtomicBool::new(false),
        is_open: AtomicBool::new(true),
    })?);
    SCREEN.store(core::ptr::from_ref(screen) as usize, Ordering::Release);
    output::set_mirror(mirror);
    let painter = Painter::new(framebuffer);
    let (columns, rows) = painter.size();
    Builder::new("screen").spawn(move || show(screen, &painter)).map_err(|_| OutOfMemory)?.detach();
    match Platform::keyboard_init()
        .map(|line| interrupts::register_line(line, LineTrigger::Default, 0, screen, pressed))
    {
        Some(Ok(())) => log::info!("a screen of {columns} x {rows} characters, with a keyboard"),
        Some(Err(error)) => log::warn!("the keyboard's interrupt line cannot be used: {error}"),
        None => log::warn!("a screen, but no keyboard"),
    }
    let session = Builder::new("screen-shell").stack_size(STACK_SIZE);
    session.spawn(move || shell::interact(screen, extra)).map_err(|_| OutOfMemory)?.detach();
    Ok(())
}

/// Handles the keyboard's interrupt.
fn pressed(screen: &Screen) {
    while let Some(code) = Platform::keyboard_read() {
        let meaning = screen.keyboard.lock().take(code);
        match meaning {
            Some(Meaning::View(byte)) => drop(screen.shown.try_send(byte)),
            Some(Meaning::Byte(byte)) => screen.send_key(byte),
            Some(Meaning::Bytes(bytes)) => bytes.iter().for_each(|&byte| screen.send_key(byte)),
            None => {}
        }
    }
}

impl Screen {
    fn send_key(&self, byte: u8) {
        if byte == CONTROL_C {
            self.is_interrupted.store(true, Ordering::Relaxed);
        }
        // A key that does not fit is lost, as on any keyboard.
        let _ = self.keys.try_send(byte);
    }

    /// Shows as much of the text as the message queue has room for.
    fn try_show(&self, text: &str) {
        text.bytes().try_for_each(|byte| self.shown.try_send(byte).map_err(drop)).ok();
    }
}

impl Session for Screen {
    fn key(&self) -> u8 {
        loop {
            if let Ok(byte) = self.keys.receive_until(Deadline::NEVER) {
                return byte;
            }
        }
    }

    fn print(&self, text: &str) {
        for &byte in text.as_bytes() {
            let _ = self.shown.send_until(byte, Deadline::NEVER);
        }
    }

    fn edit(&self, change: &str, line: &str) {
        self.typed.lock().edit(change, line).iter().for_each(|piece| self.try_show(piece));
    }

    fn is_interrupted(&self) -> bool {
        self.is_interrupted.load(Ordering::Relaxed)
    }

    fn clear_interrupted(&self) {
        self.is_interrupted.store(false, Ordering::Relaxed);
    }
}

/// Runs the thread that paints. Does not return.
fn show(screen: &Screen, painter: &Painter) {
    let (columns, rows) = painter.size();
    let mut text = Text::new(columns, rows);
    let mut batch: Vec<u8> = Vec::with_capacity(BATCH);
    let mut cursor = None;
    loop {
        text.take_changed(|row, cells| {
            cells.iter().enumerate().for_each(|(column, &cell)| painter.cell(row, column, cell, Look::Plain));
        });
        let blank = Cell { character: ' ', color: PLAIN };
        if let Some((row, column)) = text.cursor().filter(|&at| Some(at) != cursor || batch.len() > 1) {
            painter.cell(row, column, blank, Look::Cursor);
        }
        cursor = text.cursor();
        batch.clear();
        batch.extend(screen.shown.receive_until(Deadline::NEVER).ok());
        while batch.len() < BATCH
            && let Some(byte) = screen.shown.try_receive()
        {
            batch.push(byte);
        }
        text.write(&batch);
    }
}

/// Shows the output that the kernel sends to every terminal: its log and its reports. Callable from
/// any context.
fn mirror(text: &str) {
    if output::has_crashed() {
        return paint_report(text);
    }
    let Some(screen) = screen().filter(|screen| screen.is_open.load(Ordering::Relaxed)) else { return };
    // Text that the message queue has no room for appears only on the serial line.
    let mut typed = screen.typed.lock();
    screen.try_show(typed.hide());
    screen.try_show(text);
    if text.ends_with('\n') {
        screen.try_show(typed.bring_back());
    }
}

/// Row and column at which the crash report continues.
static REPORT_AT: (AtomicUsize, AtomicUsize) = (AtomicUsize::new(0), AtomicUsize::new(0));

fn paint_report(text: &str) {
    let Some(framebuffer) = Platform::screen() else { return };
    let painter = Painter::new(framebuffer);
    let (columns, rows) = painter.size();
    let (mut row, mut column) = (REPORT_AT.0.load(Ordering::Relaxed), REPORT_AT.1.load(Ordering::Relaxed));
    let blank = Cell { character: ' ', color: PLAIN };
    for character in text.chars() {
        let ends = character == '\n';
        let cell = Cell { character, ..blank };
        if ends {
            (column..columns).for_each(|column| painter.cell(row, column, blank, Look::Plain));
        } else if !character.is_control() {
            painter.cell(row, column, cell, Look::Plain);
            column += 1;
        }
        if ends || column == columns {
            (row, column) = ((row + 1) % rows, 0);
        }
    }
    REPORT_AT.0.store(row, Ordering::Relaxed);
    REPORT_AT.1.store(column, Ordering::Relaxed);
}
