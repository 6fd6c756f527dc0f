# Commands of gdb for the Aerokernel, on top of its stub's `monitor`. `aero gdb` loads this file; elsewhere: `source gdb/aerokernel.py`.
#
# Environment, set by `aero gdb`:
#   AERO_GDB_RUST      directory with rustc's pretty printers
#   AERO_GDB_PROGRAMS  the programs' ELF files with debug information: NAME=FILE, separated by newlines

import os
import re
import sys

import gdb


def monitor(line):
    """What the kernel says to a command of its console."""
    return gdb.execute("monitor " + line, to_string=True)


def forget_registers():
    """gdb keeps registers it has read: it does not know that `monitor thread` shows others."""
    gdb.execute("maintenance flush register-cache", to_string=True)
    gdb.invalidate_cached_frames()


class ShownThread:
    """A kernel thread's registers in place of the CPU's."""

    def __init__(self, number):
        self.number = number

    def __enter__(self):
        answer = monitor("thread %d" % self.number)
        if answer.startswith("error"):
            raise gdb.GdbError(answer.strip())
        forget_registers()
        return answer

    def __exit__(self, *_):
        monitor("thread off")
        forget_registers()


def numbers_of_threads():
    """All kernel threads, by the table that `threads` prints."""
    rows = re.findall(r"^ +(\d+)  ", monitor("threads"), re.MULTILINE)
    return [int(number) for number in rows]


class Aero(gdb.Command):
    """Commands for the Aerokernel; `help aero` lists them."""

    def __init__(self):
        super().__init__("aero", gdb.COMMAND_DATA, gdb.COMPLETE_NONE, True)


class Threads(gdb.Command):
    """Lists all kernel threads, also those that do not run."""

    def __init__(self):
        super().__init__("aero threads", gdb.COMMAND_DATA)

    def invoke(self, arguments, from_tty):
        gdb.write(monitor("threads"))


class Backtrace(gdb.Command):
    """aero bt N [ARGUMENTS OF backtrace]: a kernel thread's backtrace, also of one that does not run.
aero bt all: those of all kernel threads."""

    def __init__(self):
        super().__init__("aero bt", gdb.COMMAND_STACK)

    def invoke(self, arguments, from_tty):
        words = gdb.string_to_argv(arguments)
        if not words or not (words[0] == "all" or words[0].isdigit()):
            raise gdb.GdbError("aero bt needs a thread's number, or `all`; `aero threads` lists them")
        numbers = numbers_of_threads() if words[0] == "all" else [int(words[0])]
        for number in numbers:
            with ShownThread(number) as about:
                if len(numbers) > 1:
                    gdb.write(about.splitlines()[0] + "\n")
                gdb.execute("backtrace " + " ".join(words[1:]))


class Thread(gdb.Command):
    """aero thread N: shows a kernel thread's registers and frames, also of one that does not run, instead of the CPU's.
aero thread off: shows the CPU's again. Going on does that too."""

    def __init__(self):
        super().__init__("aero thread", gdb.COMMAND_STACK)

    def invoke(self, arguments, from_tty):
        answer = monitor("thread " + arguments)
        forget_registers()
        if answer.startswith("error"):
            raise gdb.GdbError(answer.strip())
        gdb.write(answer)
        gdb.execute("frame 0")


class Symbols(gdb.Command):
    """Loads the symbols of the programs that run, at the addresses they run at. It happens by itself when one starts or ends."""

    def __init__(self):
        super().__init__("aero symbols", gdb.COMMAND_FILES)
        self.loaded = []
        self.missed = set()

    def invoke(self, arguments, from_tty):
        self.missed.clear()
        if not self.update():
            gdb.write("no program runs\n")

    def update(self):
        """Makes gdb's symbols those of what runs, and says what has changed; what runs."""
        lines = os.environ.get("AERO_GDB_PROGRAMS", "").splitlines()
        files = dict(line.split("=", 1) for line in lines if "=" in line)
        running = re.findall(r"^ +\d+  (\S+) .* (0x[0-9a-f]{16})  ", monitor("programs"), re.MULTILINE)
        for gone in [place for place in self.loaded if place not in running]:
            gdb.execute("remove-symbol-file -a %s" % gone[1], to_string=True)
            self.loaded.remove(gone)
        for name, start in running:
            if (name, start) in self.loaded or name in self.missed:
                continue
            if name not in files:
                self.missed.add(name)
                gdb.write("%s: there is no file with its symbols; `aero gdb --hrt DIR` has it\n" % name)
                continue
            gdb.execute("add-symbol-file '%s' -o %s" % (files[name], start), to_string=True)
            self.loaded.append((name, start))
            gdb.write("%s at %s: %s\n" % (name, start, files[name]))
        return running


class ImagesChanged(gdb.Breakpoint):
    """Where the kernel goes when a program is loaded, before it runs, and when it is gone."""

    def __init__(self, symbols):
        super().__init__("kernel::program::images_changed", internal=True)
        self.silent = True
        self.symbols = symbols

    def stop(self):
        try:
            self.symbols.update()
        except gdb.error as error:
            gdb.write("the symbols of programs cannot be loaded: %s\n" % error)
        return False


class AtFirstStop:
    """Loads the symbols of what runs when gdb attaches."""

    def __init__(self, symbols):
        self.symbols = symbols
        gdb.events.before_prompt.connect(self)

    def __call__(self):
        if gdb.selected_thread() is None:
            return
        gdb.events.before_prompt.disconnect(self)
        ImagesChanged(self.symbols)
        self.symbols.update()


def load_rust_printers():
    directory = os.environ.get("AERO_GDB_RUST", "")
    if not os.path.isfile(os.path.join(directory, "gdb_lookup.py")):
        return
    sys.path.insert(0, directory)
    import gdb_lookup

    gdb_lookup.register_printers(None)


for command in (Aero, Threads, Backtrace, Thread):
    command()
AtFirstStop(Symbols())
# A breakpoint in a program waits for it.
gdb.execute("set breakpoint pending on")
gdb.execute("define hookpost-monitor\nmaintenance flush register-cache\nend", to_string=True)
load_rust_printers()
