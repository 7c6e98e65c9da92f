//! Files and directories that only their owner may read, independent of the process's umask.
//!
//! Local state contains every balance, and the embedded log contains the secrets of webhooks.
//! RocksDB creates its files by the umask alone. The program therefore sets a umask at its start
//! ([`owner_only`]), and each directory for RocksDB is private.

pub mod look;

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::path::Path;

#[cfg(unix)]
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};

const DIRECTORY: u32 = 0o700;
const FILE: u32 = 0o600;
/// Error numbers of "too many open files": of this process (EMFILE), and of the whole machine
/// (ENFILE).
const DESCRIPTORS: [i32; 2] = [24, 23];

/// Sets the umask: files created from now on are for their owner alone. Call at the start of the
/// program, before any thread runs.
pub fn owner_only() {
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
}

/// Creates a directory and its missing parents. An existing directory stays unchanged.
pub fn create_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY)
        .create(path)
}

/// Creates a private directory, or removes the rights of others from an existing directory.
pub fn private_dir(path: &Path) -> io::Result<()> {
    create_dir(path)?;
    let mode = std::fs::metadata(path)?.permissions().mode();
    if mode & 0o077 == 0 {
        return Ok(());
    }

    match std::fs::set_permissions(path, Permissions::from_mode(DIRECTORY)) {
        Ok(()) => {
            tracing::info!(
                "{} could be read by others (mode {:03o}); now only by its owner",
                path.display(),
                mode & 0o777
            );
            Ok(())
        }
        // The directory of another user, or a file system without rights: continue with a warning.
        Err(e)
            if matches!(
                e.kind(),
                ErrorKind::PermissionDenied
                    | ErrorKind::Unsupported
                    | ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            tracing::warn!(
                "{} can be read by others (mode {:03o}) and that cannot be changed: {e}",
                path.display(),
                mode & 0o777
            );
            Ok(())
        }
        Err(e) => Err(e),
    }
}

/// Open options for files of the owner alone.
pub fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(FILE);
    options
}

/// Creates or empties a file.
pub fn create(path: &Path) -> io::Result<File> {
    options().write(true).create(true).truncate(true).open(path)
}

/// Replaces a file atomically, even on a power failure. After the call the new file is on the disk.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let half = path.with_added_extension("new");
    let mut file = create(&half)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(half, path)?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Writes the names in a directory to the disk (fsync).
pub fn sync_dir(path: &Path) -> io::Result<()> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };

    File::open(path)?.sync_all()
}

/// True if the error means too many open files.
pub fn is_out_of_descriptors(e: &io::Error) -> bool {
    e.raw_os_error().is_some_and(|n| DESCRIPTORS.contains(&n))
}

/// Like [`is_out_of_descriptors`], for an error that is only known as text.
pub fn says_out_of_descriptors(text: &str) -> bool {
    text.contains("Too many open files")
}

/// Limit of open files of this process. `None` without a limit.
pub fn descriptors_max() -> Option<usize> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile)
        .current
        .map(|n| usize::try_from(n).unwrap_or(usize::MAX))
}

/// Number of open files of this process. `None` if the system does not tell.
pub fn descriptors() -> Option<usize> {
    let place = if cfg!(target_os = "linux") {
        "/proc/self/fd"
    } else {
        "/dev/fd"
    };

    // Listing the directory opens one more file.
    std::fs::read_dir(place)
        .map(|all| all.count().saturating_sub(1))
        .ok()
}

/// Advice for too many open files.
pub const DESCRIPTORS_ADVICE: &str = "raise the limit of open files (`ulimit -n`, or `LimitNOFILE=` for systemd) and start again; nothing is lost";

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path)
            .expect("it is there")
            .permissions()
            .mode()
            & 0o777
    }

    #[test]
    fn what_is_made_is_for_its_owner_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let outer = dir.path().join("a");
        let inner = dir.path().join("a/b");
        create_dir(&inner).expect("made");
        assert_eq!((mode(&outer), mode(&inner)), (0o700, 0o700));
        replace(&inner.join("f"), b"one").expect("written");
        replace(&inner.join("f"), b"two").expect("written again");
        assert_eq!(std::fs::read(inner.join("f")).expect("read"), b"two");
        assert_eq!(mode(&inner.join("f")), 0o600);
        assert_eq!(
            std::fs::read_dir(&inner).expect("listed").count(),
            1,
            "nothing stays behind"
        );
    }

    #[test]
    fn a_directory_of_before_is_tightened_and_only_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let outer = dir.path().join("a");
        let inner = dir.path().join("a/b");
        create_dir(&inner).expect("made");
        for path in [&outer, &inner] {
            std::fs::set_permissions(path, Permissions::from_mode(0o755)).expect("opened to all");
        }

        private_dir(&inner).expect("tightened");
        assert_eq!((mode(&outer), mode(&inner)), (0o755, 0o700));
    }
}
