//! Page files: append-only homes of checkpoint objects (index pages, session blocks, retained entries, the journal's own tables).
//!
//! An object is written when it changed, and stays where it is until it changes again. `current` says where each key's newest object lies; a
//! checkpoint's root is a copy of that table. A page file goes when neither the table nor a kept root refers to it; one that is mostly
//! superseded has its current objects moved by the journal itself.
//! ```text
//! file header: magic u64 | version u32 | ids | file number u64 | crc u32
//! object:      magic u32 | len u32 | class u8 | a u64 | b u64 | crc u32 (over all of that and the bytes) | bytes
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::journal::{count, Core, Objects};
use crate::segment::Ids;
use crate::storage::{self, File, Storage};
use crate::wire::{crc_of, Reader};
use crate::{mutants, ObjectError, ObjectKey, ObjectPlace, OpenError};

const FILE_MAGIC: u64 = u64::from_le_bytes(*b"CkPage01");
const OBJECT_MAGIC: u32 = u32::from_le_bytes(*b"CkO1");
pub(crate) const PAGES_VERSION: u32 = 1;
const FILE_HEADER: usize = 8 + 4 + Ids::BYTES + 8 + 4;
const OBJECT_HEADER: usize = 4 + 4 + 1 + 8 + 8 + 4;
/// A page file is closed at this size.
const FILE_BYTES: u64 = 64 << 20;
/// Space is allocated in these steps, so that a full disk shows in the allocation and not in a write.
const STEP: u64 = 1 << 20;
pub(crate) const OBJECT_BYTES_MAX: usize = 64 << 20;

pub(crate) type Table = BTreeMap<ObjectKey, ObjectPlace>;

pub(crate) fn file_name(number: u64) -> String {
    format!("p/{number:016}.pages")
}

pub(crate) fn parse_name(name: &str) -> Option<u64> {
    name.strip_suffix(".pages").filter(|digits| digits.len() == 16)?.parse().ok()
}

pub(crate) struct Pages {
    state: Mutex<State>,
    ids: Ids,
}

#[derive(Default)]
struct State {
    current: Table,
    files: BTreeMap<u64, PageFile>,
    /// The one that is appended to.
    open: Option<u64>,
    next_number: u64,
}

struct PageFile {
    file: Arc<dyn File>,
    /// Bytes written, header included.
    used: u64,
    allocated: u64,
    /// Bytes of current objects, headers included.
    live: u64,
    unsynced: bool,
}

fn size_of(place: &ObjectPlace) -> u64 {
    (OBJECT_HEADER + place.len as usize) as u64
}

impl Objects for Pages {
    fn read(&self, key: ObjectKey, into: &mut Vec<u8>) -> Result<(), ObjectError> {
        self.get(key, into)
    }

    fn keys(&self, class: u8, a: u64) -> Vec<ObjectKey> {
        Pages::keys(self, class, a)
    }
}

impl Pages {
    /// Takes over the table of a root. Files that it does not name are removed by the first clean-up.
    pub fn open(storage: &dyn Storage, ids: Ids, current: Table) -> Result<Pages, OpenError> {
        let mut state = State { current, ..State::default() };
        for name in storage.list("p").map_err(OpenError::io("listing p"))? {
            let Some(number) = parse_name(&name) else { continue };
            let path = file_name(number);
            let file = storage.open(&path).map_err(OpenError::io(format!("opening {path}")))?;
            let len = file.len().map_err(OpenError::io(format!("measuring {path}")))?;
            state.next_number = state.next_number.max(number + 1);
            state.files.insert(number, PageFile { file, used: len, allocated: len, live: 0, unsynced: false });
        }
        for (key, place) in &state.current {
            let Some(file) = state.files.get_mut(&place.file) else {
                return Err(OpenError::corrupt(file_name(place.file), format!("the page file is missing, but holds object {key:?}")));
            };
            file.live += size_of(place);
        }
        for number in state.current.values().map(|place| place.file).collect::<BTreeSet<_>>() {
            check_header(number, state.files[&number].file.as_ref(), &ids)?;
        }
        Ok(Pages { state: Mutex::new(state), ids })
    }

    pub fn put(&self, core: &Core, key: ObjectKey, bytes: &[u8]) -> Result<ObjectPlace, ObjectError> {
        core.check()?;
        assert!(bytes.len() < OBJECT_BYTES_MAX, "an object of {} bytes is over the bound", bytes.len());
        let mut encoded = Vec::with_capacity(OBJECT_HEADER + bytes.len());
        encode_object(&mut encoded, key, bytes);
        let mut state = self.state.lock();
        let number = self.room(core, &mut state, encoded.len() as u64)?;
        let page = state.files.get_mut(&number).ok_or(ObjectError::Unknown)?;
        let place = ObjectPlace { file: number, offset: page.used, len: bytes.len() as u32 };
        page.file.write_at(&encoded, page.used).map_err(|error| core.fail("writing a page file", &error))?;
        page.used += encoded.len() as u64;
        page.live += encoded.len() as u64;
        page.unsynced = true;
        state.replace(key, Some(place));
        count(&core.counters.checkpoint_bytes, encoded.len() as u64);
        Ok(place)
    }

    /// The page file to append to, with `bytes` of allocated room. A full disk opens the checkpoint's part of the reserve once.
    fn room(&self, core: &Core, state: &mut State, bytes: u64) -> Result<u64, ObjectError> {
        if let Some(number) = state.open {
            if state.files.get(&number).is_some_and(|page| page.used + bytes > FILE_BYTES && page.used > FILE_HEADER as u64) {
                state.open = None;
            }
        }
        let failed = |error: io::Error| ObjectError::Failed(core.fail("making a page file", &error));
        let number = match state.open {
            Some(number) => number,
            None => self.create(core, state)?,
        };
        let page = state.files.get_mut(&number).ok_or(ObjectError::Unknown)?;
        if page.used + bytes > page.allocated {
            let wanted = (page.used + bytes).next_multiple_of(step(core));
            allocate(core, page.file.as_ref(), wanted)?.ok_or(ObjectError::Full)?;
            page.allocated = page.file.len().map_err(failed)?;
        }
        Ok(number)
    }

    fn create(&self, core: &Core, state: &mut State) -> Result<u64, ObjectError> {
        let number = state.next_number;
        let name = file_name(number);
        let storage = core.storage.as_ref();
        let failed = |error: io::Error| ObjectError::Failed(core.fail("making a page file", &error));
        let file = match storage.create(&name) {
            Err(error) if storage::is_full(&error) => return Err(ObjectError::Full),
            other => other.map_err(failed)?,
        };
        state.next_number += 1;
        if allocate(core, file.as_ref(), step(core))?.is_none() {
            storage.remove(&name).map_err(failed)?;
            return Err(ObjectError::Full);
        }
        let mut header = Vec::with_capacity(FILE_HEADER);
        header.extend_from_slice(&FILE_MAGIC.to_le_bytes());
        header.extend_from_slice(&PAGES_VERSION.to_le_bytes());
        self.ids.encode(&mut header);
        header.extend_from_slice(&number.to_le_bytes());
        let crc = crc_of(0, &[&header]);
        header.extend_from_slice(&crc.to_le_bytes());
        file.write_at(&header, 0).map_err(failed)?;
        mutants::sync_dir(storage, "p").map_err(failed)?;
        let allocated = file.len().map_err(failed)?;
        state.files.insert(number, PageFile { file, used: FILE_HEADER as u64, allocated, live: 0, unsynced: true });
        state.open = Some(number);
        Ok(number)
    }

    pub fn get(&self, key: ObjectKey, into: &mut Vec<u8>) -> Result<(), ObjectError> {
        let (file, place) = {
            let state = self.state.lock();
            let place = *state.current.get(&key).ok_or(ObjectError::Unknown)?;
            (state.files.get(&place.file).ok_or(ObjectError::Unknown)?.file.clone(), place)
        };
        read_object(file.as_ref(), key, place, into)
    }

    /// The keys of a class with this first part.
    pub fn keys(&self, class: u8, a: u64) -> Vec<ObjectKey> {
        let range = ObjectKey::new(class, a, 0)..=ObjectKey::new(class, a, u64::MAX);
        self.state.lock().current.range(range).map(|(key, _)| *key).collect()
    }

    pub fn delete(&self, key: ObjectKey) {
        self.state.lock().replace(key, None);
    }

    /// Syncs what was appended and answers the table for a root.
    pub fn sync(&self, core: &Core) -> Result<(), ObjectError> {
        let unsynced: Vec<Arc<dyn File>> = {
            let mut state = self.state.lock();
            let mut files = Vec::new();
            for page in state.files.values_mut().filter(|page| page.unsynced) {
                page.unsynced = false;
                files.push(page.file.clone());
            }
            files
        };
        for file in unsynced {
            mutants::sync_data(file.as_ref()).map_err(|error| core.fail("syncing a page file", &error))?;
        }
        Ok(())
    }

    pub fn table(&self) -> Table {
        self.state.lock().current.clone()
    }

    /// Removes the files that neither the table nor one of `kept` refers to.
    pub fn clean(&self, core: &Core, kept: &BTreeSet<u64>) -> io::Result<u64> {
        let gone: Vec<u64> = {
            let mut state = self.state.lock();
            let open = state.open;
            let gone: Vec<u64> = (state.files.iter())
                .filter(|(number, page)| page.live == 0 && Some(**number) != open && !kept.contains(number))
                .map(|(number, _)| *number)
                .collect();
            gone.iter().for_each(|number| drop(state.files.remove(number)));
            gone
        };
        for number in &gone {
            core.storage.remove(&file_name(*number))?;
        }
        if !gone.is_empty() {
            mutants::sync_dir(core.storage.as_ref(), "p")?;
        }
        Ok(gone.len() as u64)
    }

    /// Moves the current objects out of one closed file that is less than half current. `false`: there is none.
    pub fn compact_one(&self, core: &Core) -> Result<bool, ObjectError> {
        let (number, keys) = {
            let state = self.state.lock();
            let sparse = |page: &PageFile| page.live > 0 && page.live * 2 < page.used && page.used > STEP / 4;
            let found = state.files.iter().find(|(number, page)| Some(**number) != state.open && sparse(page));
            let Some((number, _)) = found else { return Ok(false) };
            let keys: Vec<ObjectKey> = state.current.iter().filter(|(_, place)| place.file == *number).map(|(key, _)| *key).collect();
            (*number, keys)
        };
        let mut bytes = Vec::new();
        for key in keys {
            let Some(place) = self.place(key).filter(|place| place.file == number) else { continue };
            let file = self.state.lock().files.get(&number).map(|page| page.file.clone()).ok_or(ObjectError::Unknown)?;
            read_object(file.as_ref(), key, place, &mut bytes)?;
            self.move_object(core, key, place, &bytes)?;
        }
        Ok(true)
    }

    /// Writes a copy, and makes it current only if nothing newer was put meanwhile.
    fn move_object(&self, core: &Core, key: ObjectKey, from: ObjectPlace, bytes: &[u8]) -> Result<(), ObjectError> {
        let mut encoded = Vec::with_capacity(OBJECT_HEADER + bytes.len());
        encode_object(&mut encoded, key, bytes);
        let mut state = self.state.lock();
        if state.current.get(&key) != Some(&from) {
            return Ok(());
        }
        let number = self.room(core, &mut state, encoded.len() as u64)?;
        let page = state.files.get_mut(&number).ok_or(ObjectError::Unknown)?;
        let place = ObjectPlace { file: number, offset: page.used, len: from.len };
        page.file.write_at(&encoded, page.used).map_err(|error| core.fail("writing a page file", &error))?;
        page.used += encoded.len() as u64;
        page.live += encoded.len() as u64;
        page.unsynced = true;
        state.replace(key, Some(place));
        count(&core.counters.checkpoint_bytes, encoded.len() as u64);
        Ok(())
    }

    fn place(&self, key: ObjectKey) -> Option<ObjectPlace> {
        self.state.lock().current.get(&key).copied()
    }

    /// Files and objects, for statistics.
    pub fn sizes(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.files.len() as u64, state.current.len() as u64)
    }

    /// Reads any object by its place; for recovery, which goes by a root's table.
    pub fn read_at(&self, key: ObjectKey, place: ObjectPlace, into: &mut Vec<u8>) -> Result<(), ObjectError> {
        let file = self.state.lock().files.get(&place.file).map(|page| page.file.clone()).ok_or(ObjectError::Unknown)?;
        read_object(file.as_ref(), key, place, into)
    }
}

impl State {
    fn replace(&mut self, key: ObjectKey, place: Option<ObjectPlace>) {
        let old = match place {
            Some(place) => self.current.insert(key, place),
            None => self.current.remove(&key),
        };
        if let Some((old, file)) = old.and_then(|old| Some((old, self.files.get_mut(&old.file)?))) {
            file.live -= size_of(&old);
        }
    }
}

fn step(core: &Core) -> u64 {
    STEP.min(core.config.segment_bytes)
}

/// `None`: the disk is full, the reserve for checkpoints included.
fn allocate(core: &Core, file: &dyn File, bytes: u64) -> Result<Option<()>, ObjectError> {
    for reserve in [false, true] {
        match file.allocate(bytes) {
            Ok(()) => return Ok(Some(())),
            Err(error) if storage::is_full(&error) => {
                core.set_disk_full(true);
                let opened = core.spares.open_checkpoint_reserve(core).map_err(|error| core.fail("opening the reserve", &error))?;
                if reserve || !opened {
                    return Ok(None);
                }
            }
            Err(error) => return Err(core.fail("allocating a page file", &error).into()),
        }
    }
    Ok(None)
}

fn encode_object(out: &mut Vec<u8>, key: ObjectKey, bytes: &[u8]) {
    out.extend_from_slice(&OBJECT_MAGIC.to_le_bytes());
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.push(key.class);
    out.extend_from_slice(&key.a.to_le_bytes());
    out.extend_from_slice(&key.b.to_le_bytes());
    let crc = crc_of(0, &[&out[out.len() - (OBJECT_HEADER - 4)..], bytes]);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(bytes);
}

pub(crate) fn read_object(file: &dyn File, key: ObjectKey, place: ObjectPlace, into: &mut Vec<u8>) -> Result<(), ObjectError> {
    let damaged = |what: &str| ObjectError::Damaged(format!("{key:?} in {} at {}: {what}", file_name(place.file), place.offset));
    if place.len as usize >= OBJECT_BYTES_MAX {
        return Err(damaged("its length is out of bounds"));
    }
    into.resize(OBJECT_HEADER + place.len as usize, 0);
    if file.read_at(into, place.offset)? != into.len() {
        return Err(damaged("the file ends within it"));
    }
    let mut expected = Vec::with_capacity(OBJECT_HEADER);
    encode_object(&mut expected, key, &[]);
    expected[4..8].copy_from_slice(&place.len.to_le_bytes());
    let crc = crc_of(0, &[&expected[..OBJECT_HEADER - 4], &into[OBJECT_HEADER..]]);
    if into[..OBJECT_HEADER - 4] != expected[..OBJECT_HEADER - 4] || into[OBJECT_HEADER - 4..OBJECT_HEADER] != crc.to_le_bytes() {
        return Err(damaged("its checksum does not match"));
    }
    into.drain(..OBJECT_HEADER);
    Ok(())
}

fn check_header(number: u64, file: &dyn File, ids: &Ids) -> Result<(), OpenError> {
    let name = file_name(number);
    let mut bytes = [0; FILE_HEADER];
    let read = file.read_at(&mut bytes, 0).map_err(OpenError::io(format!("reading {name}")))?;
    let mut reader = Reader::new(&bytes);
    let crc = crc_of(0, &[&bytes[..FILE_HEADER - 4]]).to_le_bytes();
    if read != FILE_HEADER || reader.u64() != Some(FILE_MAGIC) || crc != bytes[FILE_HEADER - 4..] {
        return Err(OpenError::corrupt(name, "the header of the page file is damaged"));
    }
    let version = reader.u32().unwrap_or(0);
    if version != PAGES_VERSION {
        return Err(OpenError::Version { file: name, found: version, known: PAGES_VERSION });
    }
    match Ids::decode(&mut reader) {
        Some(found) if found.same_store(ids) => Ok(()),
        _ => Err(OpenError::Foreign { file: name }),
    }
}
