//! Files and directories that only their owner may read, whatever the umask of the process says.
//!
//! Local state holds every balance, and the embedded log holds the secrets of webhooks. RocksDB
//! makes its files by the umask alone; so the program sets one at its start ([`owner_only`]), and
//! each directory that RocksDB writes into is private by itself.

pub mod look;

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::path::Path;

#[cfg(unix)]
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};

const DIRECTORY: u32 = 0o700;
const FILE: u32 = 0o600;
/// The error numbers for "too many open files": of this process, and of the whole machine.
const DESCRIPTORS: [i32; 2] = [24, 23];

/// From here on, whatever this process creates is for its owner alone. For the program's start,
/// before any thread runs.
pub fn owner_only() {
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
}

/// Makes a directory, and those above it that are missing. One that is there already stays as it
/// is.
pub fn create_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY)
        .create(path)
}

/// Makes a directory that is the program's own, or takes others' rights from one that is there.
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
        // Somebody else's directory, or a file system without rights: it can be used all the same.
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

/// How files are made: for the owner alone.
pub fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(FILE);
    options
}

/// Makes or empties a file.
pub fn create(path: &Path) -> io::Result<File> {
    options().write(true).create(true).truncate(true).open(path)
}

/// Puts a file in the place of the one of that name, in one step that a power failure does not cut
/// in two. When the call returns, the file is on the disk.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let half = path.with_added_extension("new");
    let mut file = create(&half)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(half, path)?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Has the names in a directory written to the disk.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };

    File::open(path)?.sync_all()
}

/// Whether an error says that too many files are open.
pub fn is_out_of_descriptors(e: &io::Error) -> bool {
    e.raw_os_error().is_some_and(|n| DESCRIPTORS.contains(&n))
}

/// The same of an error that is only a text any more.
pub fn says_out_of_descriptors(text: &str) -> bool {
    text.contains("Too many open files")
}

/// How many files this process may have open; none: as many as it likes.
pub fn descriptors_max() -> Option<usize> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile)
        .current
        .map(|n| usize::try_from(n).unwrap_or(usize::MAX))
}

/// How many it has open; none where the system does not say.
pub fn descriptors() -> Option<usize> {
    let place = if cfg!(target_os = "linux") {
        "/proc/self/fd"
    } else {
        "/dev/fd"
    };

    // The one that lists them is among them.
    std::fs::read_dir(place)
        .map(|all| all.count().saturating_sub(1))
        .ok()
}

/// What to do when too many files are open.
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
