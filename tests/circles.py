#!/usr/bin/env python3
"""Finds circles of imports: between the modules of each crate, as its paths say.

    tests/circles.py            fails if a circle is larger than LARGEST allows
    tests/circles.py CRATE      prints the imports inside of that crate's circles

A module is a file or folder right below a crate's `src`, or below one of its themes: folders that only list modules, whose names the
crate re-exports. Tests at the end of a file do not count, and neither does `lib.rs` or `main.rs`, which may know everything.
"""

import re
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The most modules of a circle, by crate; there is to be none in others. docs/ARCHITECTURE.md says why the kernel has one.
LARGEST = {"kernel": 14, "hrt/c": 6, "arch-x64": 5, "arch-host": 3, "console": 2, "examples/forkjoin": 2, "tests/kernel": 2}
NONE = 1
THEMES = {"kernel": {"threads", "observe", "crash"}}


def crates():
    return sorted(path.parent for path in ROOT.glob("**/Cargo.toml") if "target" not in path.parts and (path.parent / "src").is_dir())


def modules(crate):
    """The crate's files, each with the name of its module."""
    source = crate / "src"
    themes = THEMES.get(crate.name, set())
    for path in sorted(source.rglob("*.rs")):
        parts = list(path.relative_to(source).parts)
        if parts[0] in themes:
            parts = parts[1:]
            if parts == ["mod.rs"]:
                continue
        name = parts[0].removesuffix(".rs")
        if name not in ("lib", "main"):
            yield path, name


def used(text):
    """Paths behind `crate::`, with what is in braces taken apart."""
    for found in re.finditer(r"\bcrate::(?=[\w{])", text):
        at = found.end()
        if text[at] != "{":
            yield re.match(r"[\w:]+", text[at:]).group()
            continue
        depth, item = 0, ""
        for character in text[at + 1 :]:
            if depth == 0 and character in ",}":
                yield item.strip()
                item = ""
                if character == "}":
                    break
                continue
            depth += {"{": 1, "}": -1}.get(character, 0)
            item += character


def imports(crate):
    files = list(modules(crate))
    names = {name for _, name in files}
    themes = THEMES.get(crate.name, set())
    graph = defaultdict(lambda: defaultdict(set))
    for path, name in files:
        text = re.sub(r"//.*", "", re.split(r"\n#\[cfg\(test\)\]\nmod ", path.read_text())[0])
        for item in used(text):
            parts = item.split("::")
            if parts[0] in themes:
                parts = parts[1:]
            if parts and parts[0] in names and parts[0] != name:
                graph[name][parts[0]].add(path.relative_to(crate))
    return graph


def circles(graph):
    """Strongly connected components of more than one module (Tarjan)."""
    index, low, stack, found = {}, {}, [], []

    def visit(name):
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in graph[name]:
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            at = stack.index(name)
            if len(stack) - at > 1:
                found.append(sorted(stack[at:]))
            del stack[at:]

    for name in list(graph):
        if name not in index:
            visit(name)
    return found


def main():
    failed = False
    for crate in crates():
        name = str(crate.relative_to(ROOT))
        graph = imports(crate)
        for circle in circles(graph):
            allowed = LARGEST.get(name, NONE)
            if len(circle) > allowed:
                failed = True
            mark = "" if len(circle) <= allowed else f", more than {allowed}"
            print(f"{name}: {len(circle)} modules in a circle{mark}: {' '.join(circle)}")
            if sys.argv[1:] == [name]:
                for module in circle:
                    for other in sorted(set(graph[module]) & set(circle)):
                        print(f"  {module} -> {other}: {' '.join(str(path) for path in sorted(graph[module][other]))}")
    sys.exit(failed)


main()
