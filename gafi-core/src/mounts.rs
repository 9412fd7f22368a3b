//! The file system of a folder: whether other machines share it, and whether its `flock` reaches them.

use std::path::{Path, PathBuf};

/// File systems that only one machine can mount.
const LOCAL: [&str; 18] = [
    "bcachefs", "btrfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "fuseblk", "jfs", "msdos", "ntfs3", "overlay",
    "ramfs", "reiserfs", "tmpfs", "vfat", "xfs", "zfs",
];

/// File systems whose `flock` usually excludes only processes on the same machine.
const LOCAL_FLOCK: [&str; 4] = ["9p", "fuse", "vboxsf", "virtiofs"];

/// Mount options of NFS and Lustre that keep `flock` local to a machine.
const LOCAL_OPTIONS: [&str; 4] = ["local_lock=all", "local_lock=flock", "nolock", "localflock"];

/// A mounted file system.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Mount {
    /// `None` when unknown, as on other systems than Linux.
    kind: Option<String>,
    options: String,
}

impl Mount {
    /// The file system of an existing folder.
    pub(crate) fn of(folder: &Path) -> Self {
        let table = crate::files::read_text("/proc/self/mountinfo", 1 << 24).unwrap_or_default();
        folder.canonicalize().map(|folder| Self::find(&table, &folder)).unwrap_or_default()
    }

    fn find(table: &str, folder: &Path) -> Self {
        let mut found = (0, Self::default());
        for line in table.lines() {
            let Some((place, system)) = line.split_once(" - ") else { continue };
            let at = place.split(' ').nth(4).map(unescape).filter(|at| folder.starts_with(at));
            let mut system = system.split(' ');
            let (Some(at), Some(kind)) = (at, system.next()) else { continue };
            // A later mount hides an earlier one at the same place.
            let depth = at.components().count();
            if depth >= found.0 {
                let options = system.nth(1).unwrap_or_default().to_string();
                found = (depth, Self { kind: Some(kind.into()), options });
            }
        }
        found.1
    }

    /// Whether no other machine shares it. An unknown file system counts as shared on Linux, as local elsewhere.
    pub(crate) fn is_local(&self) -> bool {
        self.kind.as_ref().map_or(!cfg!(target_os = "linux"), |kind| LOCAL.contains(&kind.as_str()))
    }

    /// Whether `flock` is known to exclude only processes on this machine.
    pub(crate) fn has_local_flock(&self) -> bool {
        let Some(kind) = &self.kind else { return false };
        // `fuse.sshfs` is a kind of `fuse`.
        LOCAL_FLOCK.contains(&kind.split('.').next().unwrap_or_default())
            || self.options.split(',').any(|option| LOCAL_OPTIONS.contains(&option))
    }
}

/// Decodes the octal escapes of white space and backslashes in the mount table.
fn unescape(text: &str) -> PathBuf {
    let mut plain = text.to_string();
    for (code, c) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        plain = plain.replace(code, c);
    }
    plain.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_and_those_whose_locks_are_local_are_known() {
        let table = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
             30 22 0:30 / /home rw - nfs4 server:/home rw,vers=4.2,local_lock=none\n\
             31 22 0:31 / /old\\040home rw - nfs server:/old rw,vers=3,nolock\n\
             32 22 0:32 / /scratch rw - lustre mds@tcp:/scratch rw,flock\n\
             33 32 0:33 / /scratch/bound rw - fuse.bindfs /scratch rw,user_id=0\n\
             34 22 0:34 / /local rw - lustre mds@tcp:/x rw,localflock\n";
        let of = |path: &str| {
            let mount = Mount::find(table, Path::new(path));
            (mount.is_local(), mount.has_local_flock())
        };
        assert_eq!(of("/tmp/x"), (true, false));
        assert_eq!(of("/homes"), (true, false));
        assert_eq!(of("/home/me"), (false, false));
        assert_eq!(of("/old home/me"), (false, true));
        assert_eq!(of("/scratch/me"), (false, false));
        assert_eq!(of("/scratch/bound/me"), (false, true));
        assert_eq!(of("/local"), (false, true));
        assert_eq!(Mount::find("", Path::new("/")), Mount::default());
    }
}
