//! The structure of the sources: modules import each other in no cycle beyond the known ones, no
//! function is too long, and comments are in plain English.
//!
//! A module is a file or directory directly below a crate's `src` or below one of its themes.
//! Themes are directories that only list modules, whose names the crate re-exports. `lib.rs` and
//! `main.rs` may use everything.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The size in modules of the largest cycle allowed in each crate. Crates that are not listed have
/// none. docs/ARCHITECTURE.md says why the kernel has one.
const LARGEST: [(&str, usize); 6] =
    [("arch-host", 3), ("console", 2), ("examples/forkjoin", 2), ("hrt/c", 6), ("kernel", 14), ("tests/kernel", 2)];
/// The kernel's themes.
const THEMES: [&str; 3] = ["threads", "observe", "crash"];

/// The modules that each module imports.
type Graph = BTreeMap<String, BTreeSet<String>>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the project is there")
}

/// Calls `each` for all entries below a directory, except in build and hidden directories.
fn walk(directory: &Path, each: &mut dyn FnMut(&Path)) {
    for entry in fs::read_dir(directory).expect("a directory").flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() && name != "target" && !name.to_string_lossy().starts_with('.') {
            walk(&path, each);
        }
        each(&path);
    }
}

/// Returns the directories of all crates, relative to the repository's.
fn crates() -> Vec<String> {
    let root = root();
    let mut found = Vec::new();
    walk(&root, &mut |path| {
        if path.ends_with("Cargo.toml") && path.with_file_name("src").is_dir() {
            let directory = path.parent().and_then(|parent| parent.strip_prefix(&root).ok());
            found.extend(directory.map(|directory| directory.display().to_string()));
        }
    });
    found.sort();
    found
}

/// Returns the module that a file belongs to, given its path below `src`.
fn module_of(path: &str) -> Option<&str> {
    let inside = THEMES.iter().find_map(|theme| path.strip_prefix(theme)?.strip_prefix('/')).unwrap_or(path);
    let name = inside.split('/').next()?;
    let name = name.strip_suffix(".rs").unwrap_or(name);
    (!["lib", "main", "mod"].contains(&name)).then_some(name)
}

/// Returns the first name of each path after `crate::`, themes omitted.
fn used(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        // `$crate::` and `some_crate::` denote other crates.
        if text[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == '$') {
            continue;
        }
        let behind = &text[at + "crate::".len()..];
        match behind.strip_prefix('{') {
            None => found.push(behind),
            Some(list) => {
                let (mut depth, mut start) = (0, 0);
                for (end, character) in list.char_indices() {
                    match character {
                        '{' => depth += 1,
                        ',' | '}' if depth == 0 => {
                            found.push(list[start..end].trim());
                            start = end + 1;
                            if character == '}' {
                                break;
                            }
                        }
                        '}' => depth -= 1,
                        _ => {}
                    }
                }
            }
        }
    }
    let first = |path: &str| path.find(|end: char| !end.is_alphanumeric() && end != '_').unwrap_or(path.len());
    found
        .into_iter()
        .map(|path| THEMES.iter().find_map(|theme| path.strip_prefix(theme)?.strip_prefix("::")).unwrap_or(path))
        .map(|path| &path[..first(path)])
        .collect()
}

fn graph_of(directory: &str) -> Graph {
    let source = root().join(directory).join("src");
    let mut files = Vec::new();
    walk(&source, &mut |path| {
        if path.extension().is_some_and(|extension| extension == "rs") {
            let inside = path.strip_prefix(&source).expect("it is below").display().to_string();
            if let Some(module) = module_of(&inside) {
                files.push((module.to_string(), fs::read_to_string(path).expect("a source file")));
            }
        }
    });
    let names: BTreeSet<String> = files.iter().map(|(module, _)| module.clone()).collect();
    let mut graph = Graph::new();
    for (module, text) in files {
        // Tests may use everything, and comments may name anything.
        let text = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default();
        let code: String =
            text.lines().map(|line| line.split("//").next().unwrap_or_default().to_string() + "\n").collect();
        let imports = used(&code).into_iter().filter(|name| *name != module && names.contains(*name));
        graph.entry(module.clone()).or_default().extend(imports.map(str::to_string));
    }
    graph
}

/// Returns the modules that a module reaches through imports.
fn reachable(graph: &Graph, from: &str) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut next = vec![from.to_string()];
    while let Some(module) = next.pop() {
        for import in graph.get(&module).into_iter().flatten() {
            if seen.insert(import.clone()) {
                next.push(import.clone());
            }
        }
    }
    seen
}

/// Returns the largest set of modules that all reach each other.
fn largest_circle(graph: &Graph) -> BTreeSet<String> {
    let reach: BTreeMap<&String, BTreeSet<String>> =
        graph.keys().map(|module| (module, reachable(graph, module))).collect();
    let circle_of = |module: &String| -> BTreeSet<String> {
        reach[module]
            .iter()
            .filter(|other| reach.get(other).is_some_and(|back| back.contains(module)))
            .cloned()
            .collect()
    };
    graph.keys().map(circle_of).max_by_key(BTreeSet::len).unwrap_or_default()
}

#[test]
fn no_module_is_in_a_new_circle_of_imports() {
    let mut wrong = Vec::new();
    for directory in crates() {
        let graph = graph_of(&directory);
        let circle = largest_circle(&graph);
        let allowed = LARGEST.iter().find(|(name, _)| *name == directory).map_or(0, |(_, modules)| *modules);
        if circle.len() > allowed {
            let inside = |module: &String| graph[module].intersection(&circle).cloned().collect::<Vec<_>>().join(" ");
            let lines: Vec<String> = circle.iter().map(|module| format!("  {module} -> {}", inside(module))).collect();
            wrong.push(format!("{directory}: {} modules, not {allowed}\n{}", circle.len(), lines.join("\n")));
        }
    }
    assert!(wrong.is_empty(), "modules import each other in a circle:\n{}", wrong.join("\n"));
}

#[test]
fn paths_are_found_in_all_their_forms() {
    let text = "use crate::a::B;\nuse crate::{c, d::{E, f}, threads::g};\ncrate::h::i(); $crate::j; my_crate::k; crate::crash::l::m";
    assert_eq!(used(text), ["a", "c", "d", "g", "h", "l"]);
    assert_eq!(module_of("threads/wait/list.rs"), Some("wait"));
    assert_eq!((module_of("lib.rs"), module_of("observe/mod.rs"), module_of("cpu.rs")), (None, None, Some("cpu")));
}

/// Words that stand for a subject that has a name, or that only lawyers use.
const WORDS: [&str; 5] = ["nobody", "somebody", "whoever", "shall", "thus"];
/// Widest comment line, in columns.
const WIDEST: usize = 100;

#[test]
fn comments_are_in_plain_english() {
    let mut wrong = Vec::new();
    let root = root();
    walk(&root, &mut |path| {
        if path.extension().is_none_or(|extension| extension != "rs") {
            return;
        }
        let text = fs::read_to_string(path).expect("a source file");
        for (number, line) in text.lines().enumerate() {
            let Some(comment) = line.trim_start().strip_prefix("//") else { continue };
            let words = comment.split(|character: char| !character.is_alphabetic());
            let bad = words.map(str::to_lowercase).find(|word| WORDS.contains(&word.as_str()));
            let is_wide = line.chars().count() > WIDEST;
            let what = bad.map(|word| format!("\"{word}\"")).or(is_wide.then(|| format!("over {WIDEST} columns")));
            if let Some(what) = what {
                wrong.push(format!("{}:{}: {what}", path.strip_prefix(&root).unwrap_or(path).display(), number + 1));
            }
        }
    });
    assert!(wrong.is_empty(), "comments to be written in plain English:\n{}", wrong.join("\n"));
}

/// Most lines of a function, its first and last included.
const LONGEST: usize = 80;

/// Returns the functions of a formatted source file with more lines than that: first line and name.
fn long_functions(text: &str) -> Vec<(usize, &str)> {
    const QUALIFIERS: [&str; 8] =
        ["pub ", "pub(crate) ", "pub(super) ", "const ", "unsafe ", "extern \"C\" ", "async ", "safe "];
    let lines: Vec<&str> = text.lines().collect();
    let name = |line: &'_ str| {
        let mut rest = line.trim_start();
        while let Some(qualifier) = QUALIFIERS.iter().find(|qualifier| rest.starts_with(**qualifier)) {
            rest = &rest[qualifier.len()..];
        }
        rest.starts_with("fn ")
    };
    let is_long = |&first: &usize| {
        let indent = lines[first].len() - lines[first].trim_start().len();
        let end = |line: &&str| line.starts_with(&" ".repeat(indent)) && matches!(&line[indent..], "}" | ");" | "};");
        // A function without a body ends in a semicolon on its first line, or on that of its `)`.
        let has_body = !lines[first].ends_with(';') && !lines[first].ends_with('}');
        has_body && lines[first..].iter().position(end).is_some_and(|last| last + 1 > LONGEST)
    };
    let firsts = (0..lines.len()).filter(|&line| name(lines[line]));
    firsts.filter(is_long).map(|first| (first + 1, lines[first].trim())).collect()
}

#[test]
fn no_function_is_longer_than_80_lines() {
    let mut wrong = Vec::new();
    let root = root();
    walk(&root, &mut |path| {
        if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(path).expect("a source file");
            let place = path.strip_prefix(&root).unwrap_or(path).display();
            wrong.extend(long_functions(&text).iter().map(|(line, what)| format!("{place}:{line}: {what}")));
        }
    });
    assert!(wrong.is_empty(), "functions of more than {LONGEST} lines:\n{}", wrong.join("\n"));
}

#[test]
fn a_long_function_is_found() {
    let body = "        a();\n".repeat(LONGEST);
    let text = format!("impl X {{\n    pub(crate) unsafe fn long(\n    ) {{\n{body}    }}\n    fn short() {{}}\n}}\n");
    assert_eq!(long_functions(&text), [(2, "pub(crate) unsafe fn long(")]);
    assert!(long_functions(&body).is_empty());
}
