//! Builds the Knights Corner image: the kernel without the instructions that the card lacks.
//!
//! LLVM takes CMOV for granted in 64-bit mode. Its CMOV converter turns most of them into branches,
//! but skips groups with several conditions and those marked unpredictable. The whole kernel is
//! therefore compiled to assembly, the instructions that the card lacks are replaced there, and the
//! result is assembled and linked.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::bzimage;
use crate::pack::Image;
use crate::project::{kernel_cargo, root};
use crate::scratch::Directory;

/// Address at which the card's bootstrap expects an image (MPSS).
pub const DOWNLOAD: u32 = 64 << 20;

const LINKER_SCRIPT: &str = "images/knc/link.ld";
const TARGET: &str = "images/knc/x86_64-knc-none.json";

/// Builds the image, relinking only if the assembly, the linker script or this program has changed.
pub fn build() -> Result<Image> {
    let directory = root().join("target/kernel/knc");
    fs::create_dir_all(&directory)?;
    let (assembly, image) = (directory.join("kernel.s"), directory.join("aerokernel-knc"));
    let builtins = compile(&directory, &assembly)?;
    // This program rewrites the assembly, so the image depends on it too.
    let made_of = [assembly.clone(), root().join(LINKER_SCRIPT), std::env::current_exe()?];
    if !made_of.iter().all(|source| is_newer(&image, source)) {
        let text = fs::read_to_string(&assembly).context("the compiler left no assembly")?;
        // Each process works in its own directory, because another may build the image at the same
        // time.
        let own = Directory::new(directory.join(format!("build-{}", std::process::id())))?;
        let object = assemble(&own.path, &for_the_card(&text)?)?;
        let linked = own.path.join("aerokernel-knc");
        link(&[&object, &builtins], &linked)?;
        fs::rename(linked, &image)?;
    }
    let boot = directory.join("aerokernel-knc.bzImage");
    bzimage::pack(&image, &boot, DOWNLOAD)?;
    Ok(Image { boot, debug: image, programs: Vec::new() })
}

fn is_newer(a: &Path, b: &Path) -> bool {
    let time = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    matches!((time(a), time(b)), (Some(a), Some(b)) if a > b)
}

/// Compiles the kernel to assembly and returns the path of its `compiler_builtins` library.
fn compile(directory: &Path, assembly: &Path) -> Result<PathBuf> {
    let flags = "-C force-frame-pointers=yes -C llvm-args=-x86-cmov-converter-force-all -C llvm-args=-align-loops=1";
    let mut command = kernel_cargo("rustc", directory, flags);
    command.args(["-p", "aero-image-knc", "-Zjson-target-spec", "--target", TARGET]);
    command.args(["--config", "profile.kernel.debug=0", "--"]);
    command.arg(format!("--emit=asm={}", assembly.display())).arg("--print=link-args");
    let output = command.stderr(Stdio::inherit()).output().context("cargo cannot be run")?;
    ensure!(output.status.success(), "the kernel does not build");
    // Cargo prints the linker's arguments only when it compiles, so the path is kept for later
    // builds.
    let kept = directory.join("builtins-path");
    let printed = String::from_utf8_lossy(&output.stdout);
    if let Some(path) = printed.split('"').find(|word| word.contains("libcompiler_builtins-")) {
        fs::write(&kept, path)?;
    }
    let path = fs::read_to_string(&kept).context("the linker's arguments name no compiler_builtins")?;
    Ok(PathBuf::from(path))
}

/// Returns the assembly with a branch in place of each CMOV and without PAUSE, which a library's
/// spin loop contains and the card lacks.
fn for_the_card(assembly: &str) -> Result<String> {
    let mut out = String::with_capacity(assembly.len());
    for (number, line) in assembly.lines().enumerate() {
        if line.trim() == "pause" {
            continue;
        }
        match line.trim_start().strip_prefix("cmov") {
            Some(rest) => branch_for_cmov(rest, number, &mut out)
                .with_context(|| format!("line {} of the assembly is not understood: {line}", number + 1))?,
            None => writeln!(out, "{line}")?,
        }
    }
    Ok(out)
}

/// Writes a branch in place of a CMOV. `rest` is the text after `cmov`: condition and width,
/// source, destination, in AT&T syntax.
fn branch_for_cmov(rest: &str, number: usize, out: &mut String) -> Result<()> {
    let (condition, operands) = rest.split_once(char::is_whitespace).context("it has no operands")?;
    let width = condition.chars().last().filter(|width| "wlq".contains(*width)).context("it has no width")?;
    let condition = &condition[..condition.len() - 1];
    let opposite = match condition.strip_prefix('n') {
        Some(positive) => positive.to_string(),
        None => format!("n{condition}"),
    };
    let destination = operands.rsplit(',').next().context("it has no destination")?.trim();
    writeln!(out, "\tj{opposite}\t.Lcmov_skip_{number}\n\tmov{width}\t{operands}")?;
    if width == 'l' {
        // A 32-bit CMOV clears the destination's upper half even if the condition is false.
        writeln!(out, "\tjmp\t.Lcmov_end_{number}\n.Lcmov_skip_{number}:\n\tmovl\t{destination}, {destination}")?;
        writeln!(out, ".Lcmov_end_{number}:")?;
    } else {
        writeln!(out, ".Lcmov_skip_{number}:")?;
    }
    Ok(())
}

/// Assembles with the compiler's own assembler, through a crate that contains only the assembly.
fn assemble(directory: &Path, assembly: &str) -> Result<PathBuf> {
    let (text, source, object) =
        (directory.join("kernel-fixed.s"), directory.join("assembly.rs"), directory.join("kernel-fixed.o"));
    fs::write(&text, assembly)?;
    fs::write(
        &source,
        "#![no_std]\ncore::arch::global_asm!(include_str!(\"kernel-fixed.s\"), options(att_syntax, raw));\n",
    )?;
    let rustc = std::env::var_os("AERO_RUSTC").unwrap_or_else(|| "rustc".into());
    let status = Command::new(rustc)
        .args(["--edition=2024", "--crate-type=lib", "--emit=obj", "-o"])
        .arg(&object)
        .arg(&source)
        .status()
        .context("rustc cannot be run")?;
    ensure!(status.success(), "the changed assembly cannot be assembled");
    Ok(object)
}

fn link(inputs: &[&PathBuf], image: &Path) -> Result<()> {
    let linker = std::env::var("AERO_LINKER").unwrap_or_else(|_| "ld.lld".into());
    let script = root().join(LINKER_SCRIPT);
    let mut command = Command::new(linker);
    command.args(["-flavor", "gnu", "-pie", "--gc-sections", "--no-dynamic-linker", "--pack-dyn-relocs=relr"]);
    command.args(["-z", "noexecstack", "-T"]);
    let status = command.arg(script).args(inputs).arg("-o").arg(image).status().context("the linker cannot be run")?;
    ensure!(status.success(), "the image cannot be linked");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cmov_becomes_a_branch_around_a_move() {
        let fixed = for_the_card("\tcmpq\t%rax, %rbx\n\tcmovneq\t8(%rcx,%rdx), %rax\n\tret").unwrap();
        assert_eq!(
            fixed,
            "\tcmpq\t%rax, %rbx\n\tje\t.Lcmov_skip_1\n\tmovq\t8(%rcx,%rdx), %rax\n.Lcmov_skip_1:\n\tret\n"
        );
    }

    #[test]
    fn a_32_bit_cmov_clears_the_upper_half_either_way() {
        let fixed = for_the_card("\tcmovael\t%ecx, %edx").unwrap();
        assert!(fixed.contains("jnae\t.Lcmov_skip_0") && fixed.contains("movl\t%edx, %edx"), "{fixed}");
        assert!(for_the_card("\tcmovx").is_err());
        assert_eq!(for_the_card("\tpause\n\tret").unwrap(), "\tret\n");
    }
}
