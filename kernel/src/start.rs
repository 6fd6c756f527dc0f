//! The boot sequence, from the arch crate's entry to the first thread.

use alloc::boxed::Box;
use core::fmt;
use core::sync::atomic::Ordering;
use core::time::Duration;

use arch_contract::boot::{BootInformation, CpuDescription};
use arch_contract::{Callbacks, MAX_CPUS};
use wire::console::{GDB_CAN_ATTACH, WAITING_FOR_GDB};

use crate::arch::*;
use crate::capability::StopAllCpus;
use crate::command_line::{self, Options, Unknown};
use crate::cpu::{self, Cpu};
use crate::memory::stack::{DEFAULT_SIZE, Stack};
use crate::memory::{self, OutOfMemory, reclaimer};
use crate::thread;
use crate::time::{self, Deadline};
use crate::{boot, call, debug, hybrid, interrupts, output, panic, scheduler, symbols, telemetry, trace, watchdog};

/// Time a CPU has to answer its start-up signal. Real CPUs take less than a millisecond; an
/// emulator on a busy host can take long.
const START_CPU_LIMIT: Duration = Duration::from_secs(1);

/// Time between two checks for the answer.
const START_CPU_POLL: Duration = Duration::from_micros(50);

static CALLBACKS: Callbacks = Callbacks {
    interrupt: interrupts::dispatch,
    preempt: scheduler::preempt,
    resolve: hybrid::resolve,
    fault: panic::fault,
    stopped: panic::stopped,
    sampled: watchdog::sampled,
    debug: debug::event,
    cpu_main: other_cpu_main,
};

/// The parts an image supplies to the kernel.
pub struct Parts {
    /// Main function of the first thread.
    pub first: fn(&Options<'static>),
    /// The prompt for a machine that has crashed.
    pub post_mortem: debug::PostMortem,
    /// Installs a debugger with [`debug::install`], whose safety conditions apply. Returns false if
    /// there is no line to one.
    pub install_debugger: unsafe fn(&Options<'_>) -> bool,
}

/// Starts the kernel on the boot CPU.
///
/// # Safety
/// Called once, with interrupts off. The arch crate has set up this CPU and the clock, and its
/// description of the machine is true.
pub unsafe fn kernel_main(boot: &'static BootInformation, parts: &'static Parts) -> ! {
    boot::keep(boot);
    Traps::install(&CALLBACKS);
    symbols::init(boot.symbols, AddressSpace::physical_to_virtual(boot.image.start) as usize);
    memory::init(boot);
    time::init(boot.entry_cycles);
    interrupts::init();

    let boot_cpu = match create_cpu(0, &boot.cpus[0]) {
        Ok(cpu) => cpu,
        Err(OutOfMemory) => panic!("out of memory for the boot CPU's data: give the machine more"),
    };
    join(boot_cpu);
    let options = command_line::parse(boot.command_line, |_| ());
    output::init(options.log);
    crate::crash::state::set_after_crash(options.after_crash);
    scheduler::set_quantum(options.quantum);
    scheduler::set_idle(options.idle);
    greet(boot);
    if let Err(OutOfMemory) = debug::init(parts.post_mortem) {
        log::warn!("out of memory for debugging: no gdb, and no prompt after a crash");
    }
    // SAFETY: this is called once, by the boot CPU, before other CPUs start, as `debug::install`
    // demands.
    match unsafe { (parts.install_debugger)(&options) } {
        true if options.waits_for_debugger => {
            log::info!("{WAITING_FOR_GDB}");
            // SAFETY: `gdb=wait` asks for this stop.
            debug::break_here(&unsafe { StopAllCpus::claim() });
        }
        true => log::info!("{GDB_CAN_ATTACH}"),
        false if options.waits_for_debugger => log::warn!("gdb=wait, but there is no line to a debugger"),
        false => {}
    }

    let start = move || {
        start_other_cpus(boot, options.cpus);
        if let Err(error) = reclaimer::start() {
            log::warn!("memory: {error}; what ended threads leave behind stays until it is needed");
        }
        if options.trace {
            let write = if options.streams_trace { trace::stream } else { trace::tell_of_loss };
            if trace::start().is_err() {
                log::warn!("out of memory for the tracer: it stays off");
            } else if let Err(error) = write() {
                log::warn!("trace: {error}; only what is recorded last will be written");
            }
        }
        if let Some(limit) = options.watchdog
            && let Err(error) = watchdog::start(limit)
        {
            log::warn!("watchdog: {error}; it stays off");
        }
        match telemetry::start() {
            Ok(true) => log::info!("telemetry has its line"),
            Ok(false) => {}
            Err(error) => log::warn!("telemetry: {error}; it stays off"),
        }
        boot::set_ready_at_ns(time::now_ns());
        (parts.first)(&options);
    };
    match thread::Builder::new("main").stack_size(MAIN_STACK_SIZE).spawn(start) {
        Ok(main) => main.detach(),
        Err(error) => panic!("the first thread cannot be created: {error}"),
    }
    idle_on_own_stack(boot_cpu)
}

/// Stack size of the first thread. It runs the console, whose commands format much text.
const MAIN_STACK_SIZE: usize = 4 * DEFAULT_SIZE;

/// Creates everything a CPU needs to run: its data, its idle thread, its stacks.
fn create_cpu(index: usize, description: &CpuDescription) -> Result<&'static Cpu, OutOfMemory> {
    let data = Cpu::new(index, usize::from(description.node), description.hardware_id);
    let cpu: &'static Cpu = if index == 0 {
        let cpu = place_first(data)?;
        // The allocations below find this CPU's object caches through this pointer.
        Core::set_local(core::ptr::from_ref(cpu) as usize);
        cpu
    } else {
        Box::leak(memory::try_box(data)?)
    };
    // SAFETY: the CPU has not started or is the calling one with interrupts off, and no other
    // reference to its caches exists yet.
    unsafe { cpu.caches.set_home(cpu.node) };
    call::prepare(cpu)?;
    let idle = thread::create_idle(cpu)?;
    cpu.idle.store(core::ptr::from_ref(idle).cast_mut(), Ordering::Release);
    cpu.scheduler_stack_top.store(Stack::new(DEFAULT_SIZE)?.top(), Ordering::Relaxed);
    for top in &cpu.trap_stack_tops {
        top.store(Stack::new(DEFAULT_SIZE)?.top(), Ordering::Relaxed);
    }
    Ok(cpu)
}

/// Places the boot CPU's data. The memory comes straight from a zone, because there are no object
/// caches yet.
fn place_first(cpu: Cpu) -> Result<&'static Cpu, OutOfMemory> {
    let at = memory::allocate_first(core::alloc::Layout::new::<Cpu>())?.cast::<Cpu>();
    // SAFETY: the memory was allocated with the layout of a `Cpu` and is never freed.
    unsafe {
        at.write(cpu);
        Ok(at.as_ref())
    }
}

/// Turns the running control flow into this CPU's idle thread and publishes the CPU. Interrupts
/// must be off.
fn join(cpu: &'static Cpu) {
    Traps::set_stacks(&cpu.trap_stack_tops.each_ref().map(|top| top.load(Ordering::Relaxed)));
    // SAFETY: `create_cpu` has stored a pointer to the CPU's idle thread, which lives forever.
    let idle: &'static thread::Thread = unsafe { &*cpu.idle.load(Ordering::Acquire) };
    cpu.switched_at.store(Core::cycles(), Ordering::Relaxed);
    Core::set_current(core::ptr::from_ref(idle) as usize);
    cpu.registry.lock().add(idle);
    cpu::publish(cpu);
}

/// Enters the kernel on a CPU other than the boot CPU, on its idle thread's stack. The arch crate
/// calls this.
fn other_cpu_main(_: usize) -> ! {
    join(cpu::this());
    scheduler::idle()
}

/// Leaves the boot stack, which has no guard, for the idle thread's stack.
fn idle_on_own_stack(cpu: &'static Cpu) -> ! {
    extern "C" fn run_idle(_: usize) -> ! {
        scheduler::idle()
    }
    // SAFETY: `create_cpu` has stored a pointer to the CPU's idle thread, which lives forever.
    let idle = unsafe { &*cpu.idle.load(Ordering::Relaxed) };
    // SAFETY: interrupts are off, nothing else uses the idle thread's context or stack, and the
    // boot stack is not used again.
    unsafe {
        Contexts::prepare(&mut *idle.context.get(), idle.stack().top(), run_idle, 0);
        Contexts::resume(idle.context.get())
    }
}

fn greet(boot: &'static BootInformation) {
    let cycle_mhz = Clock::frequency_hz() / 1_000_000;
    log::info!(
        "Aerokernel {} on {}, by {}, image at {:#x}, {} MiB, {cycle_mhz} MHz, {}, {}",
        env!("CARGO_PKG_VERSION"),
        ARCHITECTURE,
        boot.loader,
        boot.image.start,
        memory::total_bytes() >> 20,
        Platform::interrupt_controller(),
        Clock::name(),
    );
    if boot.times_are_guesses {
        let megahertz = time::cycle_frequency_hz() / 1_000_000;
        log::warn!(
            "this machine has no clock to measure the time counter against, and does not say how fast that runs: {megahertz} MHz is a \
             guess, and so is every time"
        );
    }
    for notice in boot.notices {
        log::warn!("{} {:#x}", notice.text, notice.value);
    }
    command_line::parse(boot.command_line, |Unknown { key, value, known }| match known {
        Some(word) => log::warn!("command line: {key}={value} is ignored; expected {key}={}", word.values),
        None => log::warn!("command line: {key}={value} is ignored: there is no such word; `help boot` lists them"),
    });
}

/// Starts the CPUs the firmware lists, at most `most`, one after the other. A CPU that does not
/// answer is left out.
fn start_other_cpus(boot: &BootInformation, most: usize) {
    let wanted = boot.cpus.len().min(most);
    for index in 1..wanted {
        let Ok(cpu) = create_cpu(index, &boot.cpus[index]) else {
            log::warn!("CPUs from {index} on stay off: out of memory for their stacks; give the machine more");
            break;
        };
        start_cpu(cpu);
    }
    if wanted > 1 {
        log::info!("{} of {wanted} CPUs run", cpu::count());
    }
    log::info!("vector state: {VectorState}");
}

/// Starts a CPU that has been created. Returns whether it runs.
fn start_cpu(cpu: &'static Cpu) -> bool {
    let index = cpu.index;
    // SAFETY: `create_cpu` has stored a pointer to the CPU's idle thread, which lives forever.
    let stack_top = unsafe { &*cpu.idle.load(Ordering::Acquire) }.stack().top();
    let local = core::ptr::from_ref(cpu) as usize;
    log::debug!("CPU {index}: starting");
    let deadline = Deadline::after(START_CPU_LIMIT);
    let mut wait = || {
        thread::sleep(START_CPU_POLL);
        !deadline.has_passed()
    };
    let started = Platform::start_cpu(index, cpu.hardware_id, stack_top, local, &mut wait);
    while started.is_ok() && cpu::known(index).is_none() && wait() {}
    match started {
        Ok(()) if cpu::known(index).is_some() => log::debug!("CPU {index}: runs"),
        Ok(()) => log::warn!("CPU {index} (id {}) started and then stopped answering", cpu.hardware_id),
        Err(error) => log::warn!("CPU {index} (id {}) stays off: {error}", cpu.hardware_id),
    }
    cpu::known(index).is_some()
}

/// Starts a CPU that a partner thread runs ([`crate::hybrid`]): number `number` of these, with an
/// id at its interrupt controller. One thread at a time may call this.
///
/// # Errors
/// [`PartnerCpuError`].
pub fn start_cpu_of_partner(number: usize, hardware_id: u32) -> Result<usize, PartnerCpuError> {
    let index = boot::information().cpus.len() + number;
    if index >= MAX_CPUS {
        return Err(PartnerCpuError::TooMany);
    }
    let description = CpuDescription { hardware_id, ..boot::information().cpus[0] };
    let cpu = debug::prepare_for(index).and_then(|()| create_cpu(index, &description));
    let cpu = cpu.map_err(|OutOfMemory| PartnerCpuError::OutOfMemory)?;
    if start_cpu(cpu) { Ok(index) } else { Err(PartnerCpuError::NoAnswer) }
}

/// Why a CPU that a partner thread runs was not started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartnerCpuError {
    /// There are as many CPUs as the kernel supports.
    TooMany,
    /// There is no memory for the CPU's stacks and data.
    OutOfMemory,
    /// The CPU did not answer in time.
    NoAnswer,
}

impl fmt::Display for PartnerCpuError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooMany => "the kernel supports no more CPUs",
            Self::OutOfMemory => "out of memory for a CPU's stacks",
            Self::NoAnswer => "the CPU did not answer in time",
        })
    }
}

/// Displays the floating-point and vector state that threads have.
struct VectorState;

impl fmt::Display for VectorState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Vectors::describe(f)
    }
}
