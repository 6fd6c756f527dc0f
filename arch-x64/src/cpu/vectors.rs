//! Floating-point and vector state: enabled for programs, preserved where the interrupted code does
//! not expect a change.
//!
//! The kernel itself uses none of these registers. A thread that calls into the kernel keeps only
//! the control words: the System V ABI (AMD64, 3.2.3) lets a callee change every vector register.
//! The whole state is therefore saved in one place only, where an interrupted thread is preempted,
//! and on that thread's own stack.

use core::arch::{asm, naked_asm};
use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use arch_contract::VectorLayout;
use raw_cpuid::CpuId;
use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags};
use x86_64::registers::xcontrol::XCr0Flags;

/// Sizes of the legacy area and of the XSAVE header that follows it, in bytes (SDM Vol. 1, 13.4).
const LEGACY_SIZE: u32 = 512;
const HEADER_SIZE: u32 = 64;
/// Control words after a reset (SDM Vol. 1, 8.1.5 and 10.2.3): all exceptions masked, extended
/// precision.
const DEFAULT_CONTROL: u64 = 0x037f << 32 | 0x1f80;

/// Size of the save area in bytes; 0 until [`enable`].
static AREA_SIZE: AtomicU32 = AtomicU32::new(0);
/// XCR0; 0 on a CPU without XSAVE, where FXSAVE is used.
static COMPONENTS: AtomicU64 = AtomicU64::new(0);

/// Enabled state components, as bits of XCR0; 0 on a CPU without XSAVE.
pub(super) fn components() -> u64 {
    COMPONENTS.load(Ordering::Relaxed)
}

/// State components with their names.
const NAMES: [(XCr0Flags, &str); 4] =
    [(XCr0Flags::X87, "x87"), (XCr0Flags::SSE, "SSE"), (XCr0Flags::AVX, "AVX"), (XCr0Flags::ZMM_HI256, "AVX-512")];

/// Enables floating-point and vector instructions on this CPU, with the largest state it has up to
/// AVX-512. Called once per CPU.
pub fn enable() {
    let id = CpuId::new();
    let has_xsave = id.get_feature_info().is_some_and(|features| features.has_xsave());
    // SAFETY: this only enables instructions that the kernel itself does not contain.
    unsafe {
        Cr0::update(|flags| {
            flags.remove(Cr0Flags::EMULATE_COPROCESSOR | Cr0Flags::TASK_SWITCHED);
            flags.insert(Cr0Flags::MONITOR_COPROCESSOR | Cr0Flags::NUMERIC_ERROR);
        });
        Cr4::update(|flags| {
            flags.insert(Cr4Flags::OSFXSR | Cr4Flags::OSXMMEXCPT_ENABLE);
            flags.set(Cr4Flags::OSXSAVE, has_xsave);
        });
    }
    let mut size = LEGACY_SIZE;
    if has_xsave {
        let mut wanted = XCr0Flags::X87 | XCr0Flags::SSE;
        if let Some(state) = id.get_extended_state_info() {
            wanted.set(XCr0Flags::AVX, state.xcr0_supports_avx_256());
            let has_avx512 = wanted.contains(XCr0Flags::AVX)
                && state.xcr0_supports_avx512_opmask()
                && state.xcr0_supports_avx512_zmm_hi256()
                && state.xcr0_supports_avx512_zmm_hi16();
            wanted.set(XCr0Flags::OPMASK | XCr0Flags::ZMM_HI256 | XCr0Flags::HI16_ZMM, has_avx512);
        }
        // SAFETY: these are components that the CPU reports; x87 and SSE are always among them, and
        // AVX-512 is set only as a whole and with AVX (SDM Vol. 1, 13.3).
        unsafe { asm!("xsetbv", in("ecx") 0, in("eax") wanted.bits() as u32, in("edx") 0, options(nomem, nostack)) };
        COMPONENTS.store(wanted.bits(), Ordering::Relaxed);
        // EBX of leaf 0xD gives the size for what XCR0 now enables (SDM Vol. 1, 13.2).
        let enabled = CpuId::new().get_extended_state_info();
        size = enabled.map_or(LEGACY_SIZE + HEADER_SIZE, |state| state.xsave_area_size_enabled_features());
    }
    AREA_SIZE.store(size, Ordering::Relaxed);
}

/// Component numbers (SDM Vol. 1, 13.1).
const AVX_COMPONENT: u32 = 2;
const AVX512_COMPONENTS: [u32; 3] = [5, 6, 7];

/// Calls `function(argument)` with the state saved on the stack.
///
/// # Safety
/// `size` is the size of the save area, and `has_xsave` says whether XSAVE is enabled.
#[unsafe(naked)]
unsafe extern "C" fn keep_on_stack(function: extern "C" fn(usize), argument: usize, size: usize, has_xsave: bool) {
    naked_asm!(
        "push rbp",
        "mov rbp, rsp",
        "push rbx",
        "sub rsp, rdx",
        "and rsp, -64",
        "mov r8, rdi",
        "mov rdi, rsi",
        "movzx ebx, cl",
        "test ebx, ebx",
        "jz 2f",
        // XRSTOR requires zeros in the header bytes that XSAVE does not write (SDM Vol. 1, 13.8).
        "xor eax, eax",
        ".set header_word, 0",
        ".rept 8",
        "mov [rsp + {legacy} + header_word], rax",
        ".set header_word, header_word + 8",
        ".endr",
        "mov eax, -1",
        "mov edx, -1",
        "xsave64 [rsp]",
        "call r8",
        "mov eax, -1",
        "mov edx, -1",
        "xrstor64 [rsp]",
        "jmp 3f",
        "2:",
        "fxsave64 [rsp]",
        "call r8",
        "fxrstor64 [rsp]",
        "3:",
        "lea rsp, [rbp - 8]",
        "pop rbx",
        "pop rbp",
        "ret",
        legacy = const LEGACY_SIZE,
    )
}

/// Floating-point and vector state of a CPU with SSE.
pub struct Vectors;

impl arch_contract::Vectors for Vectors {
    const ARE_USED: bool = true;

    fn keep(function: extern "C" fn(usize), argument: usize) {
        let has_xsave = COMPONENTS.load(Ordering::Relaxed) != 0;
        // SAFETY: the size and the presence of XSAVE are what `enable` learned from the CPU.
        unsafe { keep_on_stack(function, argument, AREA_SIZE.load(Ordering::Relaxed) as usize, has_xsave) };
    }

    fn describe(write: &mut dyn fmt::Write) -> fmt::Result {
        let components = XCr0Flags::from_bits_truncate(COMPONENTS.load(Ordering::Relaxed));
        let size = AREA_SIZE.load(Ordering::Relaxed);
        if components.is_empty() {
            return write!(write, "x87 SSE by FXSAVE, {size} bytes");
        }
        for (_, name) in NAMES.iter().filter(|(component, _)| components.contains(*component)) {
            write!(write, "{name} ")?;
        }
        write!(write, "by XSAVE, {size} bytes")
    }

    fn layout() -> VectorLayout {
        let enabled = XCr0Flags::from_bits_truncate(COMPONENTS.load(Ordering::Relaxed));
        let id = CpuId::new();
        // Sub-leaf n of leaf 0xD: EBX is the offset of component n (SDM Vol. 1, 13.2).
        let offset = |component: u32| {
            let states = id.get_extended_state_info()?.iter();
            states.filter(|state| state.subleaf == component).map(|state| state.offset() as usize).next()
        };
        let avx = enabled.contains(XCr0Flags::AVX).then(|| offset(AVX_COMPONENT)).flatten();
        let avx512 = enabled.contains(XCr0Flags::ZMM_HI256).then(|| {
            let [masks, upper, further] = AVX512_COMPONENTS.map(offset);
            Some([masks?, upper?, further?])
        });
        VectorLayout { size: AREA_SIZE.load(Ordering::Relaxed) as usize, avx, avx512: avx512.flatten() }
    }

    unsafe fn save(area: *mut u8) {
        // SAFETY: the caller guarantees the area's size and alignment. XRSTOR requires zeros in the
        // header bytes that XSAVE does not write (SDM Vol. 1, 13.8).
        unsafe {
            if COMPONENTS.load(Ordering::Relaxed) == 0 {
                asm!("fxsave64 [{}]", in(reg) area, options(nostack, preserves_flags));
            } else {
                area.add(LEGACY_SIZE as usize).write_bytes(0, HEADER_SIZE as usize);
                asm!("xsave64 [{}]", in(reg) area, in("eax") -1, in("edx") -1, options(nostack, preserves_flags));
            }
        }
    }

    unsafe fn restore(area: *mut u8) {
        // SAFETY: the caller guarantees that `save` wrote the area, so its size, alignment and
        // header are right.
        unsafe {
            if COMPONENTS.load(Ordering::Relaxed) == 0 {
                asm!("fxrstor64 [{}]", in(reg) area, options(nostack, preserves_flags));
            } else {
                asm!("xrstor64 [{}]", in(reg) area, in("eax") -1, in("edx") -1, options(nostack, preserves_flags));
            }
        }
    }

    fn reset() {
        // SAFETY: the caller is about to enter new code, so no thread's state is lost.
        unsafe { asm!("fninit", options(nomem, nostack)) };
        Self::set_control(DEFAULT_CONTROL);
    }

    /// MXCSR, and above it the x87 control word (System V ABI AMD64, 3.2.3).
    #[inline(always)]
    fn control() -> u64 {
        let mut control = 0u64;
        // SAFETY: the instructions write four and two bytes, both within `control`.
        unsafe {
            asm!("stmxcsr [{0}]", "fnstcw [{0} + 4]", in(reg) &raw mut control, options(nostack, preserves_flags));
        }
        control
    }

    /// Discards a pending x87 exception: the next waiting instruction, such as FLDCW, would raise
    /// it in whichever thread runs then (SDM Vol. 1, 8.6). The status word is not preserved across
    /// calls.
    #[inline(always)]
    fn set_control(control: u64) {
        // SAFETY: the instructions only read `control`, whose two words come from the function
        // `control` or are the default.
        unsafe {
            asm!("ldmxcsr [{0}]", "fnclex", "fldcw [{0} + 4]", in(reg) &raw const control, options(nostack, preserves_flags, readonly));
        }
    }
}
