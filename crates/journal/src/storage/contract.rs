//! What every [`Storage`] must do. Panics with the rule that was broken; called from tests.

use std::io;

use super::Storage;

/// `storage` must be empty.
pub fn check(storage: &dyn Storage) {
    files(storage).expect("plain file operations do not fail");
    names(storage).expect("plain name operations do not fail");
    lock(storage).expect("the lock can be taken");
}

fn files(storage: &dyn Storage) -> io::Result<()> {
    storage.make_dir("d")?;
    storage.make_dir("d")?;
    let file = storage.create("d/a")?;
    assert!(file.is_empty()?, "a new file is empty");
    file.write_at(b"hello", 3)?;
    let mut bytes = [9; 10];
    assert_eq!(file.read_at(&mut bytes, 0)?, 8, "a read ends at the end of the file");
    assert_eq!(&bytes[..8], b"\0\0\0hello", "a gap reads as zeros");
    assert_eq!(file.read_at(&mut bytes, 100)?, 0, "nothing lies behind the end");
    file.allocate(4096)?;
    assert_eq!(file.len()?, 4096, "allocating makes the file longer");
    file.allocate(100)?;
    assert_eq!(file.len()?, 4096, "and never shorter");
    assert_eq!(file.read_at(&mut bytes, 4)?, 10);
    assert_eq!(&bytes, b"ello\0\0\0\0\0\0", "allocating keeps what was there");
    file.sync_data()?;
    file.truncate(5)?;
    assert_eq!(file.len()?, 5);
    let second = storage.open("d/a")?;
    second.write_at(b"J", 3)?;
    assert_eq!(file.read_at(&mut bytes, 0)?, 5);
    assert_eq!(&bytes[..5], b"\0\0\0Je", "two handles see one file");
    assert!(storage.create("d/a")?.is_empty()?, "create empties an old file");
    Ok(())
}

fn names(storage: &dyn Storage) -> io::Result<()> {
    let missing = storage.open("d/missing").err().map(|error| error.kind());
    assert_eq!(missing, Some(io::ErrorKind::NotFound), "opening makes nothing");
    storage.create("d/b")?.write_at(b"b", 0)?;
    let held = storage.open("d/a")?;
    storage.rename("d/b", "d/a")?;
    let mut byte = [0; 1];
    assert_eq!((storage.open("d/a")?.read_at(&mut byte, 0)?, &byte), (1, b"b"), "rename replaces");
    assert_eq!(held.read_at(&mut byte, 0)?, 0, "an open handle keeps the replaced file");
    storage.create("d/c")?;
    assert_eq!(storage.list("d")?, ["a", "c"], "list is sorted and plain");
    storage.sync_dir("d")?;
    storage.remove("d/c")?;
    assert!(storage.remove("d/c").is_err(), "removing twice is an error");
    assert_eq!(storage.list("d")?, ["a"]);
    assert!(storage.free_bytes()? > 0);
    assert_ne!(storage.random(), storage.random());
    Ok(())
}

fn lock(storage: &dyn Storage) -> io::Result<()> {
    let lock = storage.lock("lock")?;
    let second = storage.lock("lock").err().map(|error| error.kind());
    assert_eq!(second, Some(io::ErrorKind::WouldBlock), "one at a time");
    drop(lock);
    storage.lock("lock").map(drop)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_directory_keeps_the_contract() {
        let dir = tempfile::tempdir().unwrap();
        super::check(&super::super::DirStorage::new(dir.path()).unwrap());
    }

    #[test]
    fn the_simulated_disk_keeps_the_contract() {
        super::check(&crate::sim::SimStorage::new(1));
    }
}
