//! Shell completions and man pages, made of the command line's own definitions, so that they can't say anything else.

use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use clap_complete::{Shell, generate_to};

use crate::cli::Cli;
use crate::error::FileError;

/// Shells that completions are made for.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

/// Writes `completions/` and `man/` into a folder, which is made; the files that it wrote.
///
/// # Errors
///
/// The folder's or a file's.
pub fn generate(folder: &Path) -> Result<Vec<PathBuf>, FileError> {
    let (completions, man) = (folder.join("completions"), folder.join("man"));
    for folder in [&completions, &man] {
        fs::create_dir_all(folder).map_err(FileError::of("create", folder))?;
    }
    let mut written = Vec::new();
    for shell in SHELLS {
        let mut command = Cli::command();
        let file = generate_to(shell, &mut command, "ipiscope", &completions);
        written.push(file.map_err(FileError::of("write", &completions))?);
    }
    clap_mangen::generate_to(Cli::command(), &man).map_err(FileError::of("write", &man))?;
    let pages = fs::read_dir(&man).map_err(FileError::of("read", &man))?;
    written.extend(pages.filter_map(|page| Some(page.ok()?.path())));
    written.sort();
    Ok(written)
}
