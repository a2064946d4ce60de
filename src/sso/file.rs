//! The files that the configuration names, read whole while nginx reads its configuration.
//!
//! Nothing that lies where a file should lie may hold nginx up, or fill its memory: a pipe that
//! nobody writes to, a device without an end.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// The largest file that is read, in bytes.
const SIZE_MAX: u64 = 1024 * 1024;

/// What others may do with a file, in its mode.
const OTHERS_READ: u32 = 0o004;
const OTHERS_WRITE: u32 = 0o002;

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// What nobody else may know.
    Secret,
    /// What everybody may know, but not change.
    Public,
}

/// Why a file cannot be read.
#[derive(Debug)]
pub struct FileError {
    path: PathBuf,
    error: io::Error,
}

impl FileError {
    /// Whether there is no such file.
    pub fn is_missing(&self) -> bool {
        self.error.kind() == ErrorKind::NotFound
    }
}

impl std::error::Error for FileError {}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        write!(f, "\"{path}\": {}", self.error)?;
        if self.error.kind() == ErrorKind::PermissionDenied {
            let (user, group) = this_user();
            write!(
                f,
                "; it must belong to the user that starts nginx: run \"chown {user}:{group} {path}\""
            )?;
        }
        Ok(())
    }
}

/// Reads a regular file. `warn` is told when others can do with it what they should not.
///
/// # Errors
///
/// When it cannot be read, is no regular file, or is larger than 1 MB.
pub fn read(
    path: &Path,
    content: Content,
    warn: &mut dyn FnMut(String),
) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let (text, mode) =
        read_regular(path).map_err(|error| FileError { path: path.to_owned(), error })?;
    let path = path.display();
    let (write, read) = (mode & OTHERS_WRITE != 0, mode & OTHERS_READ != 0);
    match content {
        Content::Secret if write => {
            warn(format!("others can change \"{path}\": run \"chmod 600 {path}\""));
        }
        Content::Secret if read => {
            warn(format!("others can read \"{path}\": run \"chmod 600 {path}\""));
        }
        Content::Public if write => {
            warn(format!("others can change \"{path}\": run \"chmod o-w {path}\""));
        }
        _ => {}
    }
    Ok(text)
}

/// The content of a regular file, and its mode.
fn read_regular(path: &Path) -> io::Result<(Zeroizing<Vec<u8>>, u32)> {
    // A pipe is opened without waiting for one who writes to it; it is looked at only once it is
    // open, when nobody can put another file into its place.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(ErrorKind::IsADirectory.into());
    }
    if !metadata.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is not a regular file"));
    }
    // Room for all of it at once: a buffer that grows leaves copies behind.
    let size = metadata.len().min(SIZE_MAX);
    let mut text = Zeroizing::new(Vec::with_capacity(size as usize + 1));
    Read::by_ref(&mut file).take(SIZE_MAX + 1).read_to_end(&mut text)?;
    if text.len() as u64 > SIZE_MAX {
        return Err(io::Error::new(ErrorKind::FileTooLarge, "it is larger than 1 MB"));
    }
    Ok((text, metadata.permissions().mode()))
}

/// The user and group that read files in this process.
fn this_user() -> (u32, u32) {
    // SAFETY: neither fails, nor has anything to do with memory.
    unsafe { (libc::geteuid(), libc::getegid()) }
}
