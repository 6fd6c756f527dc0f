//! Programs of a distribution in kernel mode, as their users run them: each says the same, and ends
//! the same way, as beside it natively in the same Linux. They are fetched as Debian's packages, so
//! these tests are a part of their own (`aero test multiverse`).

use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::{aero, program, stderr, stdout};

const MISSING: i32 = 4;
const RUN: &str = "/root/aero run --built /root/aero-multiverse /root/aerokernel-hrt.boot --";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn language(name: &str) -> PathBuf {
    root().join("tests/multiverse/languages").join(name)
}

/// What is in the Linux.
#[derive(Default)]
struct Linux<'a> {
    packages: &'a [&'a str],
    files: Vec<PathBuf>,
    /// Shell commands before the programs.
    before: &'a str,
}

impl Linux<'_> {
    /// Runs command lines natively and in the HRT. Returns what they have said, with their status
    /// in the last line, or `None` if the packages or an emulated Linux cannot be had.
    fn run(&self, commands: &[&str]) -> Option<Vec<[String; 2]>> {
        let built = aero().args(["run", "--emulate", "--", "/bin/true"]).output().expect("aero can be run");
        if built.status.code() == Some(MISSING) {
            eprintln!("skipped: {}", stderr(&built));
            return None;
        }
        let script: String = commands
            .iter()
            .map(|command| {
                // A command line may say itself where its program is.
                let line = if command.contains("$run") { command.to_string() } else { format!("$run {command}") };
                // What a background process of theirs says later is not theirs.
                format!(
                    "echo '@@ {command}'; for run in '' '{RUN}'; do rm -f made*; (timeout 170 {line}) >said 2>&1; \
                     echo \"status $?\" >>said; cat said; echo '-- next'; done; "
                )
            })
            .collect();
        let mut ros = aero();
        ros.args(["ros", "--cpus", "1", "--mem", "6G", "--timeout", "1500"]);
        self.packages.iter().for_each(|package| {
            ros.args(["--package", package]);
        });
        let runtime = ["target/multiverse/x86_64-unknown-linux-gnu/release/aero-multiverse"];
        let image = ["target/kernel/hrt/aerokernel-hrt.boot"];
        let built = runtime.iter().chain(&image).map(|file| root().join(file));
        for file in built.chain([program()]).chain(self.files.iter().cloned()) {
            ros.arg("--with").arg(file);
        }
        let output = ros.args(["--", &format!("{} {script}", self.before)]).output().expect("aero can be run");
        if output.status.code() == Some(MISSING) {
            eprintln!("skipped: {}", stderr(&output));
            return None;
        }
        let said = stdout(&output);
        let results: Vec<[String; 2]> = said
            .split("@@ ")
            .skip(1)
            .map(|part| {
                let (_, runs) = part.split_once('\n').expect("the command's line");
                let mut runs = runs.split("-- next\n").map(String::from);
                std::array::from_fn(|_| runs.next().unwrap_or_default())
            })
            .collect();
        assert_eq!(results.len(), commands.len(), "{said}\n{}", stderr(&output));
        Some(results)
    }

    /// Compares the runs of command lines, of which `kept` are the lines that do not depend on
    /// time, and which all end well.
    fn compare(&self, commands: &[&str], kept: impl Fn(&str) -> bool) {
        let Some(results) = self.run(commands) else { return };
        for (command, [natively, split]) in commands.iter().zip(&results) {
            let lines = |said: &str| said.lines().filter(|line| kept(line)).map(String::from).collect::<Vec<_>>();
            assert_eq!(lines(split), lines(natively), "{command}\n-- natively\n{natively}\n-- in the HRT\n{split}");
            assert!(natively.ends_with("status 0\n"), "{command} fails natively: {natively}");
        }
    }
}

/// Compiles a program of tests/multiverse/languages; `None` if there is no such compiler.
fn compiled(compiler: &str, source: &str, flags: &[&str]) -> Option<PathBuf> {
    let directory = root().join("target/multiverse/programs");
    std::fs::create_dir_all(&directory).expect("a directory can be made");
    let program = directory.join(format!("{source}{}", flags.concat()).replace(['.', '/', '='], "-"));
    let status = Command::new(compiler).args(["-O1", "-o"]).arg(&program).arg(language(source)).args(flags).status();
    match status {
        Err(error) => {
            eprintln!("skipped: there is no `{compiler}`: {error}");
            None
        }
        Ok(status) => {
            assert!(status.success(), "{source} can be compiled");
            Some(program)
        }
    }
}

/// All seven programs say the same in all four languages.
#[test]
#[ignore = "fetches packages; a part of `aero test` of its own"]
fn seven_programs_in_four_languages() {
    let linux = Linux {
        packages: &["lua5.4", "python3", "perl", "racket"],
        files: ["seven.lua", "seven.py", "seven.pl", "seven.rkt"].map(language).into(),
        ..Linux::default()
    };
    let commands = ["lua5.4 seven.lua", "python3 seven.py", "perl seven.pl", "racket seven.rkt"];
    let Some(results) = linux.run(&commands) else { return };
    let expected = &results[0][0];
    assert!(expected.contains("n-body\t-0.169075164\n") && expected.ends_with("status 0\n"), "{expected}");
    for (command, result) in commands.iter().zip(&results) {
        assert_eq!([expected; 2], [&result[0], &result[1]], "{command}");
    }
}

#[test]
#[ignore = "fetches packages; a part of `aero test` of its own"]
fn python_passes_its_own_tests() {
    let names = [
        "test_time",
        "test_mmap",
        "test_select",
        "test_socket",
        "test_os",
        "test_threading",
        "test_subprocess",
        "test_faulthandler",
        "test_signal",
    ];
    let commands = names.map(|name| format!("python3 -m test -q {name}"));
    let linux = Linux { packages: &["python3", "libpython3.11-testsuite", "netbase"], ..Linux::default() };
    // The others have times in them.
    let kept =
        |line: &str| line.starts_with("status ") || line.starts_with("Tests result") || line.starts_with("test_");
    let passed = |line: &str| kept(line) && !line.contains(" passed in ");
    linux.compare(&commands.each_ref().map(String::as_str), passed);
}

#[test]
#[ignore = "fetches packages; a part of `aero test` of its own"]
fn languages_collect_garbage() {
    let linux = Linux {
        packages: &["sbcl", "chezscheme", "guile-3.0", "ocaml-interp"],
        files: ["collect.lisp", "collect.ss", "collect.scm", "collect.ml"].map(language).into(),
        ..Linux::default()
    };
    let commands = [
        "sbcl --noinform --disable-debugger --load collect.lisp --quit",
        "chezscheme --script collect.ss",
        "/usr/lib/x86_64-linux-gnu/guile/3.0/bin/guile --no-auto-compile collect.scm",
        "ocaml collect.ml",
    ];
    linux.compare(&commands, |line| !line.starts_with(';'));
}

#[test]
#[ignore = "fetches packages; a part of `aero test` of its own"]
fn racket_has_places_futures_and_a_prompt() {
    let files = vec![language("places.rkt")];
    let before = "printf '(+ 40 2)\n(define x 5)\n(* x x)\n(vector-ref (vector) 1)\n(exit 0)\n' > keys; \
                  echo 'script -q -c \"$1 racket\" typed < keys; cat typed | tr -d \"\\r\"' > session;";
    let linux = Linux { packages: &["racket"], files, before };
    linux.compare(&["racket places.rkt"], |_| true);
    // What is typed is shown when it comes, so the lines have no order.
    let Some(results) = linux.run(&["sh session \"$run\""]) else { return };
    for said in &results[0] {
        let has_all =
            ["42\n", "25\n", "index is out of range", "status 0\n"].iter().all(|answer| said.contains(answer));
        assert!(has_all, "{said}");
    }
}

#[test]
#[ignore = "fetches packages; a part of `aero test` of its own"]
fn compiled_programs() {
    let programs = [
        compiled("c++", "threads.cpp", &["-pthread", "-std=c++17"]),
        compiled("c++", "threads.cpp", &["-pthread", "-std=c++17", "-static"]),
        compiled("c++", "threads.cpp", &["-pthread", "-std=c++17", "-no-pie"]),
        compiled("cc", "parallel.c", &["-fopenmp"]),
        compiled("cc", "parallel.c", &["-fopenmp", "-static"]),
    ];
    let files: Vec<PathBuf> = programs.into_iter().flatten().collect();
    let name = |file: &PathBuf| format!("./{}", file.file_name().unwrap_or_default().display());
    let commands: Vec<String> = files.iter().map(name).collect();
    let linux = Linux { files, ..Linux::default() };
    linux.compare(&commands.iter().map(String::as_str).collect::<Vec<_>>(), |_| true);
}

#[test]
#[ignore = "fetches packages; a part of `aero test` of its own"]
fn node_and_java_collect_garbage() {
    let mut files = vec![language("collect.js")];
    let mut commands = vec!["node collect.js"];
    let classes = root().join("target/multiverse/programs/java");
    let mut compiler = Command::new("javac");
    compiler.args(["--release", "17", "-d"]).arg(&classes).arg(language("Collect.java"));
    if compiler.status().is_ok_and(|status| status.success()) {
        files.push(classes.join("Collect.class"));
        commands.push("/usr/lib/jvm/java-17-openjdk-amd64/bin/java -Xmx256m -cp . Collect");
    } else {
        eprintln!("skipped, for Java: there is no `javac`");
    }
    let linux = Linux { packages: &["nodejs", "openjdk-17-jre-headless"], files, ..Linux::default() };
    linux.compare(&commands, |_| true);
}

/// A compiler itself, and programs of compilers and C libraries that a host rarely has.
#[test]
#[ignore = "fetches packages; a part of `aero test` of its own"]
fn what_other_compilers_make() {
    let linux = Linux {
        packages: &["g++", "gfortran", "musl-tools", "libc6-dev", "libtbb-dev", "golang-1.19-go", "golang-1.19-src"],
        files: ["sums.c", "heat.f90", "blocks.cpp", "routines.go"].map(language).into(),
        before: "export GOCACHE=/tmp/go GO111MODULE=off; gfortran -O1 -fopenmp heat.f90 -o heat; \
                 musl-gcc -static -O1 sums.c -o sums-static; musl-gcc -O1 sums.c -o sums; \
                 g++ -O1 -pthread blocks.cpp -o blocks -ltbb; /usr/lib/go-1.19/bin/go build -o routines routines.go; \
                 echo '$run /usr/lib/gcc/x86_64-linux-gnu/12/cc1 -quiet -O2 -imultiarch x86_64-linux-gnu sums.c \
                 -o made.s; md5sum made.s' > compile;",
    };
    let commands = ["./heat", "./sums-static", "./sums", "./blocks", "./routines", "env \"run=$run\" sh compile"];
    linux.compare(&commands, |_| true);
}

#[test]
#[ignore = "fetches packages; a part of `aero test` of its own"]
fn tools_as_their_users_run_them() {
    let linux = Linux {
        packages: &["bash", "sqlite3", "redis-server", "redis-tools"],
        before: "printf 'create table t(a, b); begin; with recursive n(i) as (select 1 union all select i+1 from n \
                 where i<5000) insert into t select i, i*i from n; commit; select count(*), sum(b) from t; \
                 create index x on t(b); select a from t where b=250000;' > sql; \
                 printf 'for i in 1 2 3; do echo $i | tr 123 abc | cat; done; trap \"echo trapped\" USR1; \
                 kill -USR1 $$; (exit 3); echo $?; wait; f() { read x; echo \"got $x\"; }; echo y | f; \
                 diff <(seq 5) <(seq 5) && echo same' > script; \
                 printf '$run redis-server --port 7000 --save \"\" --daemonize no >/dev/null 2>&1 & s=$!; \
                 until redis-cli -p 7000 ping >/dev/null 2>&1; do usleep 50000; done; \
                 redis-benchmark -p 7000 -n 2000 -c 10 -t set,get,incr,lpush -q | tr \"\\\\r\" \"\\\\n\" | grep -c requests; \
                 redis-cli -p 7000 incr n; kill $s; wait $s; echo $?' > redis;",
        ..Linux::default()
    };
    linux.compare(&["sqlite3 made.db -init sql .quit", "bash script", "env \"run=$run\" sh redis"], |_| true);
}

#[test]
#[ignore = "fetches packages; a part of `aero test` of its own"]
fn stress_comes_to_the_same_verdict() {
    let names = [
        "signal",
        "futex",
        "mmap",
        "mprotect",
        "fork",
        "vfork",
        "clone",
        "epoll",
        "timer",
        "sigsegv",
        "sigfpe",
        "signest",
        "mremap",
        "madvise",
        "userfaultfd",
        "memfd",
        "pipe",
        "rlimit",
    ];
    let commands = names.map(|name| format!("stress-ng --verify -q --{name} 1 -t 5"));
    let linux = Linux { packages: &["stress-ng"], ..Linux::default() };
    linux.compare(&commands.each_ref().map(String::as_str), |_| true);
}

/// Programs, with and without overrides, end by signals at any moment, and leave nothing behind.
#[test]
#[ignore = "takes twenty minutes; a part of `aero test` of its own"]
fn programs_can_be_killed_at_any_moment() {
    let built = aero().args(["run", "--emulate", "--", "/bin/true"]).output().expect("aero can be run");
    let made = root().join("target/multiverse/programs");
    std::fs::create_dir_all(&made).expect("a directory can be made");
    let source = |name: &str| root().join("tests/multiverse").join(name);
    let compile = |name: &str| {
        let mut compiler = Command::new("cc");
        compiler.args(["-O1", "-pthread", "-o"]).arg(made.join(name)).arg(source(&format!("{name}.c")));
        compiler.status().is_ok_and(|status| status.success())
    };
    if built.status.code() == Some(MISSING) || !compile("signals") || !compile("overrides") {
        eprintln!("skipped: there is no `cc`, or {}", stderr(&built));
        return;
    }
    let mut ros = aero();
    ros.args(["ros", "--cpus", "1", "--mem", "2G", "--timeout", "3000"]);
    let runtime = root().join("target/multiverse/x86_64-unknown-linux-gnu/release/aero-multiverse");
    let image = root().join("target/kernel/hrt/aerokernel-hrt.boot");
    for file in [program(), runtime, image, made.join("signals"), made.join("overrides"), source("killed.sh")] {
        ros.arg("--with").arg(file);
    }
    let line = "echo pthread > overridden; sh killed.sh 100 '-- ./signals' '--override overridden -- ./overrides'";
    let output = ros.args(["--", line]).output().expect("aero can be run");
    assert_eq!(stdout(&output), "sockets 0, processes 0, wrong 0\n", "{}", stderr(&output));
}
