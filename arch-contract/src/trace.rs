//! The CPUs' trace rings: [`TraceRing`].

/// Number of entries of a trace ring; a power of two.
pub const TRACE_ENTRIES: usize = 16 * 1024;

/// An entry of a trace ring: the time counter and three words from the kernel.
pub type TraceEntry = [u64; 4];

/// The CPUs' trace rings.
pub trait TraceRing: 'static {
    /// True if trace points call [`TraceRing::write`]. Each architecture provides its own test
    /// because a compare and a branch are cheapest written that way.
    fn is_on() -> bool;
    /// Sets the value [`TraceRing::is_on`] returns.
    fn set_on(on: bool);
    /// Gives a CPU a ring of [`TRACE_ENTRIES`] entries of four words, aligned to an entry and never
    /// freed; or restarts its ring.
    fn set(cpu: usize, ring: *mut TraceEntry);
    /// Total number of entries written to a CPU's ring.
    fn written(cpu: usize) -> usize;
    /// Writes the time counter, `tag`, `first` and `second` to this CPU's ring, if it has one.
    /// Called with interrupts disabled. Suits cold paths in hot code: it clobbers no registers the
    /// compiler would have to save.
    fn write(tag: u64, first: u64, second: u64);
}
