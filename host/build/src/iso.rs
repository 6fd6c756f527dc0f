//! Makes a CD that boots the kernel with GRUB.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::project::MissingTool;

/// Makes a CD with GRUB, the image and its command line. The CD's file lies beside the image and
/// its name carries the process's id.
///
/// # Errors
/// Fails if `grub-mkrescue` is missing, or with its error message.
pub fn make(image: &Path, command_line: &str) -> Result<PathBuf> {
    let directory = image.with_extension(format!("iso-{}", std::process::id()));
    let grub = directory.join("boot/grub");
    fs::create_dir_all(&grub)?;
    fs::copy(image, directory.join("boot/aerokernel"))?;
    let words = grub_words(command_line);
    fs::write(
        grub.join("grub.cfg"),
        format!("set timeout=0\nmenuentry Aerokernel {{\n  multiboot2 /boot/aerokernel {words}\n  boot\n}}\n"),
    )?;
    let iso = directory.with_extension(format!("{}.iso", std::process::id()));
    let result =
        Command::new("grub-mkrescue").args(["-d", "/usr/lib/grub/i386-pc", "-o"]).arg(&iso).arg(&directory).output();
    fs::remove_dir_all(&directory)?;
    match result {
        Ok(output) if output.status.success() => Ok(iso),
        Ok(output) => bail!("grub-mkrescue failed: {}", String::from_utf8_lossy(&output.stderr).trim()),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(MissingTool("grub-mkrescue").into()),
        Err(error) => Err(error).context("grub-mkrescue cannot be run"),
    }
}

/// Returns the command line as words of GRUB's language, each in single quotes and without its
/// double quotes.
fn grub_words(command_line: &str) -> String {
    let mut quoted = false;
    let words = command_line.split(|character: char| {
        quoted ^= character == '"';
        character == ' ' && !quoted
    });
    let words = words.filter(|word| !word.is_empty());
    words.map(|word| format!("'{}'", word.replace('"', "").replace('\'', "'\\''"))).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grub_gets_one_word_for_each() {
        assert_eq!(grub_words("a=1  run=\"cpus; mem\" it's"), "'a=1' 'run=cpus; mem' 'it'\\''s'");
    }
}
