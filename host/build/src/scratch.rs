//! Temporary directories.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

/// A directory that is removed with its contents when this value is dropped.
pub struct Directory {
    /// The directory's path.
    pub path: PathBuf,
}

impl Directory {
    /// Creates the directory.
    pub fn new(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path).with_context(|| format!("{} cannot be made", path.display()))?;
        Ok(Self { path })
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}
