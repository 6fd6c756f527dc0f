//! Synchronous mode: calls by words that both sides poll.

use std::hint::spin_loop;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use protocol::group::{Begun, Group, Kind, state};
use protocol::upcall::request;

use crate::core::{Core, Function};
use crate::memory::Mapping;
use crate::partner::{STACK_SIZE, outcome_of};
use crate::state::{CallError, Transaction};
use crate::system_call;
use crate::vcpu::now;

/// How often the words are read before the clock is, and the CPU is offered to others.
const LOOKS: u32 = 4096;

/// A thread's calls in synchronous mode: the HRT's first CPU polls for them, and this thread polls
/// for their results and for the functions' system calls, which it makes. No CPU leaves the HRT.
/// The mode ends when this is dropped.
pub struct Synchronous {
    core: Arc<Core>,
    _stack: Mapping,
    /// The call that was given up and still has to end.
    unfinished: Option<Begun>,
    /// The thread that set it up is the functions' own.
    _not_send: PhantomData<*const ()>,
}

impl Synchronous {
    pub(crate) fn start(core: &Arc<Core>) -> Result<Self, CallError> {
        if core.is_synchronous.swap(true, Ordering::AcqRel) {
            return Err(CallError::Busy(Transaction::Synchronous));
        }
        let started = Self::start_alone(core);
        core.is_synchronous.store(started.is_ok(), Ordering::Release);
        started
    }

    fn start_alone(core: &Arc<Core>) -> Result<Self, CallError> {
        let stack = Mapping::stack(STACK_SIZE).map_err(|error| CallError::Refused(error.to_string()))?;
        let group = core.group(core.most_groups());
        group.channel.clear();
        group.partner.store(system_call::thread_id(), Ordering::Relaxed);
        group.stack.store(stack.stack_pointer(), Ordering::Relaxed);
        group.synchronous.is_asked.store(0, Ordering::Relaxed);
        group.synchronous.thread_pointer.store(system_call::fs_base(), Ordering::Release);
        core.state.begin_when_idle(Transaction::Synchronous, core.limit)?;
        core.send(request::SYNC_SETUP, &raw const group.synchronous as u64)?;
        match core.answers()?[..] {
            [0] => Ok(Self { core: Arc::clone(core), _stack: stack, unfinished: None, _not_send: PhantomData }),
            _ => Err(CallError::Failed(Transaction::Synchronous)),
        }
    }

    fn group(&self) -> &Group {
        self.core.group(self.core.most_groups())
    }

    /// Calls a function of this process in the HRT and returns its result. The function's second
    /// argument is 0.
    ///
    /// # Errors
    /// See [`CallError`]. A call that was given up goes on when the next one is made.
    ///
    /// # Safety
    /// As for [`crate::Hvm::call`].
    pub unsafe fn call(&mut self, function: Function, argument: u64) -> Result<u64, CallError> {
        if let Some(begun) = self.unfinished.take() {
            let _ = self.finish(begun)?;
        }
        let group = self.group();
        let function = function as usize as u64;
        group.function.store(function, Ordering::Relaxed);
        group.arguments[0].store(argument, Ordering::Relaxed);
        group.arguments[1].store(0, Ordering::Relaxed);
        let begun = group.channel.begin(Kind::Call, function, now());
        let words = &group.synchronous;
        words.requests.store(words.requests.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
        self.finish(begun)?
    }

    /// Waits for the end of a call and makes its system calls. The inner error is the function's.
    fn finish(&mut self, begun: Begun) -> Result<Result<u64, CallError>, CallError> {
        let core = Arc::clone(&self.core);
        let words = &core.group(core.most_groups()).synchronous;
        let wanted = words.requests.load(Ordering::Relaxed);
        let mut start = None;
        let mut looks = 0;
        while words.responses.load(Ordering::Acquire) != wanted {
            if words.is_asked.load(Ordering::Acquire) != 0 {
                self.serve_system_call();
            }
            looks += 1;
            if looks % LOOKS == 0 {
                let error = match self.core.state.over() {
                    Some(end) => Some(CallError::Ended(end)),
                    None if self.core.is_stopped() => {
                        start = None;
                        None
                    }
                    None if start.get_or_insert_with(Instant::now).elapsed() > self.core.limit => {
                        self.unfinished = Some(begun);
                        Some(CallError::NoAnswer(self.core.limit))
                    }
                    None => None,
                };
                if let Some(error) = error {
                    return Err(error);
                }
                thread::yield_now();
            }
            spin_loop();
        }
        Ok(outcome_of(&self.core, self.group(), begun))
    }

    /// Makes the system call that the function asks for.
    fn serve_system_call(&self) {
        let words = &self.group().synchronous;
        let [number, arguments @ ..] = words.call.each_ref().map(|word: &AtomicU64| word.load(Ordering::Relaxed));
        let begun = self.group().channel.begin(Kind::SystemCall, number, now());
        words.is_asked.store(0, Ordering::Relaxed);
        // SAFETY: the code in the HRT is code of this process, which makes the call as it would
        // here; what the call's effects would be lost on is refused.
        let result = unsafe { system_call::forward(number, arguments) };
        self.core.end_event(self.group(), begun, result);
        words.answer.store(result, Ordering::Relaxed);
        words.is_answered.store(1, Ordering::Release);
    }
}

impl Drop for Synchronous {
    fn drop(&mut self) {
        if !self.core.is_here() {
            return;
        }
        // While a call goes on, the HRT does not see this; the mode then stays as it is.
        let begun = self.core.state.begin_when_idle(Transaction::Synchronous, self.core.limit);
        let ended = begun.and_then(|()| self.core.send(request::SYNC_TEARDOWN, 0)).and_then(|()| self.core.answers());
        if ended.is_ok() {
            self.group().state.store(state::NONE, Ordering::Release);
            self.core.is_synchronous.store(false, Ordering::Release);
        }
    }
}
