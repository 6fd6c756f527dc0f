#!/usr/bin/env python3
"""Changes the kernel in one place after the other, and looks whether the tests notice.

    tests/mutants.py [NUMBER ...]
    tests/mutants.py --check

The second form only looks whether the code that each mutant changes is still there.

Each mutant is one wrong piece of code that a tired author might write. It is put into a copy of the last commit, and the tests of
the part that owns it must fail: by a failed check, a crash, or a time-out. What survives is recorded with the reason in
tests/README.md.
"""

import os
import subprocess
import sys
import tempfile

ROOT = subprocess.check_output(["git", "rev-parse", "--show-toplevel"], text=True).strip()
# Seconds for the tests of a part; without a mutant they take a third of it.
LIMITS = {"arch": 200, "suite": 400, "model": 900, "kernel": 900, "stops": 500}
COMMANDS = {
    "arch": ["bash", "-c", 'eval "$(./aero toolchain)"; exec "$CARGO" test --quiet -p aero-arch-x64'],
    "suite": ["bash", "-c", 'eval "$(./aero toolchain)"; exec "$CARGO" test --quiet -p aero-test-kernel'],
    "model": ["./aero", "test", "model"],
    "kernel": ["./aero", "test", "kernel"],
    "stops": [
        "bash",
        "-c",
        'eval "$(./aero toolchain)"; ./aero build x64 && AERO=$PWD/target/release/aero "$CARGO" test --quiet -p aero-test-e2e --test stopped_cpus',
    ],
}

MUTANTS = []


def mutant(part, file, right, wrong):
    MUTANTS.append((part, file, right, wrong))


S='kernel/src/threads/scheduler/mod.rs'; W='kernel/src/threads/wait/'
mutant('suite', S,"if !here.tick_armed.load(Ordering::Relaxed) && !is_idle(here, Core::current()) {\n        arm_tick(here.reborrow());","if false {\n        arm_tick(here.reborrow());")
mutant('suite', S,"    if first && cpu.attention.wants_interrupt() {","    if first && false {")
mutant("suite", S,"        if !thread.shall_move() || stays(here.reborrow(), thread, running) {","        if true {")
mutant('suite', S,"    thread.cpu.store(to, Ordering::SeqCst);","")
mutant('suite', S,"    if here.attention.is(Attention::Ticking) && here.run_queue().is_empty() {","    if false {")
mutant('model', 'kernel/src/threads/scheduler/attention.rs',"        mailbox.drain(each);","        let _ = (mailbox, each);")
mutant('suite', S,"    here.displaced.store(false, Ordering::Relaxed);\n    let left_at","    let left_at")
mutant('suite', S,"let waited = back_at.wrapping_sub(left_at).min(QUANTUM_CYCLES.load(Ordering::Relaxed));","let waited = 0;")
mutant('suite', S,"            move_away(here);\n        }\n        return;","        }\n        return;")
mutant('suite', S,"        !here.in_interrupt.load(Ordering::Relaxed) && !is_idle(here, Core::current()),","        true,")
mutant('suite', W+'list.rs',"        if thread.is_in_wait_list() {","        if false {")
mutant('suite', W+'list.rs',"    if limited {\n        thread.end_timeout();\n    }","")
mutant('suite', W+'event.rs',"if taken.is_none() && state.memory == Memory::Clear {","if false {")
mutant('suite', W+'event.rs',"if taken.is_none() && state.memory == Memory::Clear {","if taken.is_none() {")
mutant('suite', W+'event.rs',"            Memory::Signalled => {\n                guard.memory = Memory::Clear;","            Memory::Signalled => {")
mutant('suite', W+'event.rs',"        state.memory = Memory::Latched;","")
mutant('model', W+'barrier.rs',"            guard.arrived = 0;","")
mutant('model', W+'barrier.rs',"            guard.generation += 1;","")
mutant('model', W+'barrier.rs',"                guard.arrived -= 1;","")
mutant('model', W+'semaphore.rs',"            guard.laid_down -= 1;\n            return Ok(());","            return Ok(());")
mutant('model', W+'semaphore.rs',"(count < 0).then(|| count + 1);","None::<i64>.or(Some(count + 1));")
mutant('model', W+'semaphore.rs',"        // here or on its way.\n        guard.laid_down -= 1;","")
mutant('suite', W+'reader_writer.rs',"if !guard.writing && guard.writers_waiting == 0 {","if !guard.writing {")
mutant('suite', W+'reader_writer.rs',"if !guard.writing && guard.readers == 0 {","if !guard.writing {")
mutant('suite', W+'reader_writer.rs',"                let next = guard.next_in();\n                next.wake(guard);\n                return Err(TimedOut);","                return Err(TimedOut);")
mutant('suite', W+'reader_writer.rs',"                guard.writers_waiting -= 1;\n","")
mutant('suite', W+'message_queue.rs',"            if guard.messages.len() < guard.capacity {","            if guard.messages.len() <= guard.capacity {")
mutant('suite', W+'message_queue.rs',"            if let Some(message) = guard.messages.pop_front() {\n                guard.senders.take_one().wake(guard);","            if let Some(message) = guard.messages.pop_front() {")
mutant('suite', W+'condition.rs',"        let waiters = self.waiters.lock();\n        // Unlocked only once the thread is in the list, so a signal after the unlock finds it.\n        let unlock = || MutexGuard::release_forgotten(mutex);","        MutexGuard::release_forgotten(mutex);\n        let waiters = self.waiters.lock();\n        let unlock = || ();")
mutant('model', W+'mutex.rs',"                self.state.store(Core::current() | LOCKED | CONTENDED, Ordering::Relaxed);","                self.state.store(Core::current() | LOCKED, Ordering::Relaxed);")
mutant('model', W+'mutex.rs',"            if next.is_none() {\n                next = waiters.take_one();\n            }","            next = waiters.take_one();")
T='kernel/src/time/timer.rs'
mutant('suite', T,"            Some(first) if deadline < first.deadline.load(Ordering::Relaxed) => {","            Some(first) if deadline < first.deadline.load(Ordering::Relaxed) && false => {")
mutant('suite', T,"        if cycles < queue.armed_for {","        if false {")
mutant('suite', T,"            while self.is_running_elsewhere() {","            while false {")
mutant('suite', T,"        RUNNING[here.index].store(first.cast_mut(), Ordering::Relaxed);\n        node.queued_on.store(NO_CPU, Ordering::Release);","        node.queued_on.store(NO_CPU, Ordering::Release);\n        RUNNING[here.index].store(first.cast_mut(), Ordering::Relaxed);")
mutant('suite', T,"            if !self.tree.is_empty() {\n                self.promote();\n            }","")
mutant('suite', 'kernel/src/time/mod.rs',"EPOCH.load(Ordering::Relaxed).saturating_add(ns_to_cycles(nanoseconds))","EPOCH.load(Ordering::Relaxed).wrapping_add(ns_to_cycles(nanoseconds))")
mutant('suite', 'kernel/src/call.rs',"        target.untold.set(cpu::this(), Deadline::after(TELL_INTERVAL));","")
mutant('suite', 'kernel/src/call.rs',"    here.handler_waits.store(in_handler, Ordering::Relaxed);","    here.handler_waits.store(false, Ordering::Relaxed);")
mutant('suite', 'kernel/src/call.rs',"            if serve {\n                serve_while_waiting();\n            }","")
mutant('suite', 'kernel/src/memory/zone/mod.rs',"        done |= 1 << next;","        done |= 1 << next | 1;")
mutant('suite', 'kernel/src/memory/cache.rs',"        if cache.count() > limit {","        if false {")
mutant('suite', 'kernel/src/memory/cache.rs',"    if !passing::is_here() {\n        zone::of(at).lock().free_object(at, class);\n    }","")
mutant('suite', 'kernel/src/memory/stack.rs',"            if flushed.is_ok() {","            if false {")
mutant('suite', 'kernel/src/threads/thread/local.rs',"        if thread.fibers.has_others() {","        if false {")
mutant('suite', 'kernel/src/program/mod.rs',"        if self.is_ending() {\n            // Other threads may","        if false {\n            // Other threads may")
mutant('suite', 'kernel/src/threads/thread/spawn.rs',"        local::reset(&self.locals);\n","")
mutant('suite', 'kernel/src/program/end.rs',"            thread::release_reference(thread);","            let _ = thread;")
mutant('suite', 'kernel/src/program/end.rs',"        match self.calls.load(Ordering::Acquire) {\n            0 => (),","        match self.calls.load(Ordering::Acquire) * 0 {\n            0 => (),")
mutant('suite', 'hrt/kernel-side/src/handlers.rs',"    if timer.timer.is_running_here() {","    if false {")
mutant("model", "kernel/src/threads/scheduler/mailbox.rs", "self.newest.compare_exchange(ptr::null_mut(), ptr::null_mut(), Ordering::AcqRel, Ordering::Acquire).is_ok()", "self.newest.load(Ordering::Acquire).is_null()")
mutant("suite", W + "list.rs", "            if thread.claim().try_wake() {\n                return TakenOne(Some(thread));\n            }\n        }\n        TakenOne(None)", "            return TakenOne(thread.claim().try_wake().then_some(thread));\n        }\n        TakenOne(None)")
mutant("arch", "arch-x64/src/cpu/interrupts.rs", "if instruction_pointer == &raw const halt_start as u64 {", "if false {")
mutant("kernel", "arch-x64/src/cpu/vectors.rs", "        \"mov [rsp + {legacy} + header_word], rax\",\n", "        \"test [rsp + {legacy} + header_word], rax\",\n")
mutant("kernel", "arch-x64/src/cpu/trap.rs", "const RED_ZONE: usize = 128;", "const RED_ZONE: usize = 0;")
mutant("kernel", "arch-x64/src/cpu/trap.rs", "    let fault_stack = descriptors::use_fault_stack(stack);\n    handler();\n    descriptors::put_fault_stack_back(fault_stack);", "    let _ = stack;\n    handler();")
mutant("stops", "arch-x64/src/cpu/trap.rs", "core::arch::asm!(\"mov cr2, {}\", in(reg) address", "core::arch::asm!(\"/* {} */\", in(reg) address")
mutant("stops", "arch-x64/src/cpu/debug.rs", "        asm!(\"mov dr7, {}\", in(reg) 0u64, options(nomem, nostack, preserves_flags));\n    }\n    block::breakpoints_off()", "    }\n    block::breakpoints_off()")
mutant("suite", "kernel/src/program/heap.rs", "        if !memory::reclaim() {", "        if true {")
mutant("suite", "kernel/src/memory/stack.rs", "            reclaimer::is_due();", "")
mutant("suite", "kernel/src/memory/zone/runs.rs", "self.base + free.start + gap as u64", "self.base + free.start")
mutant("suite", "kernel/src/memory/zone/runs.rs", "        let index = index.or_else(|| self.take_aligned(pages, align))?;", "        let index = index?;")
mutant("suite", "kernel/src/memory/zone/runs.rs", "        while run.end - run.start < wanted as u64", "        while false && run.end - run.start < wanted as u64")
mutant("suite", "kernel/src/memory/zone/runs.rs", "                self.put_back(run.end.min(block.end)..block.end);", "")
mutant("model", W + "mutex.rs", "                next.wake_unlocked();\n", "                drop(self.waiters.lock());\n                next.wake_unlocked();\n")
mutant("model", "kernel/src/crash/debug/rendezvous.rs", "        self.may_halt.swap(true, Ordering::SeqCst);\n", "        self.may_halt.store(false, Ordering::SeqCst);\n")


def change(copy, file, right, wrong):
    path = os.path.join(copy, file)
    text = open(path).read() if os.path.exists(path) else ""
    if right not in text:
        return None
    open(path, "w").write(text.replace(right, wrong, 1))
    return lambda: open(path, "w").write(text)


def reason(output):
    if "could not compile" in output:
        return "DOES NOT COMPILE"
    lines = [line for line in output.splitlines() if "FAILED" in line or "panicked" in line or "crashed" in line]
    started = [line for line in output.splitlines() if line.startswith("test suite")]
    return (lines or ["a hang behind: " + (started or ["the start"])[-1]])[0].strip()[:140]


def check():
    gone = [f"{number}: {file}" for number, (_, file, right, _) in enumerate(MUTANTS) if not is_there(file, right)]
    sys.exit("the code of these mutants is not there any more:\n" + "\n".join(gone) if gone else 0)


def is_there(file, right):
    path = os.path.join(ROOT, file)
    return os.path.exists(path) and right in open(path).read()


def main():
    if sys.argv[1:] == ["--check"]:
        check()
    chosen = [int(number) for number in sys.argv[1:]] or range(len(MUTANTS))
    survivors = 0
    with tempfile.TemporaryDirectory(prefix="aero-mutants-") as copy:
        subprocess.check_call(["git", "clone", "--quiet", ROOT, copy])
        for number in chosen:
            part, file, right, wrong = MUTANTS[number]
            undo = change(copy, file, right, wrong)
            what = f"{number:3} {part:6} {file}: {' '.join(wrong.split())[:60] or '(left out)'}"
            if undo is None:
                print(f"{what}: NOT THERE ANY MORE", flush=True)
                continue
            command = ["timeout", "-s", "KILL", str(LIMITS[part]), *COMMANDS[part]]
            ran = subprocess.run(command, cwd=copy, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
            undo()
            survivors += ran.returncode == 0
            print(f"{what}: {'SURVIVED' if ran.returncode == 0 else reason(ran.stdout)}", flush=True)
    sys.exit(1 if survivors else 0)


main()
