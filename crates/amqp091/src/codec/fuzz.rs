//! The bodies of the fuzz targets in `fuzz/`, as plain functions, so that an ordinary test replays the corpus. Each states what must hold
//! for any bytes, besides not panicking.

use super::{frame_at, CodecError, ContentHead, Field, Method, Properties, PublishView, Split, Splitter, Table, TableWriter};

/// A stream of bytes split in one go and in pieces gives the same frames and the same error. The first byte chooses the size of the pieces
/// and the side.
pub fn fuzz_split(data: &[u8]) {
    let Some((choice, stream)) = data.split_first() else { return };
    let fresh = || match choice & 1 {
        0 => Splitter::of_client(4096),
        _ => Splitter::of_server(4096),
    };
    let whole = fresh().split(stream);
    assert!(whole.whole <= stream.len());
    assert_eq!(whole.lacks == 0, whole.error.is_some());
    let size = 1 + usize::from(choice >> 1);
    let mut splitter = fresh();
    let mut total = Split::default();
    let mut end = 0;
    while end < stream.len() && total.error.is_none() {
        end = (end + size).min(stream.len());
        let split = splitter.split(&stream[total.whole..end]);
        total = Split { whole: total.whole + split.whole, ..split };
    }
    if stream.is_empty() || matches!(whole.error, Some(super::FrameError::Header(_))) {
        return;
    }
    assert_eq!((total.whole, total.error), (whole.whole, whole.error));
    let mut at = if choice & 1 == 0 && whole.whole > 0 { 8 } else { 0 };
    while let Some(frame) = frame_at(stream, at).filter(|frame| frame.end() <= whole.whole) {
        at = frame.end();
    }
    assert_eq!(at, whole.whole);
}

/// A method that reads can be written, reads back as the same, and a second writing gives the same bytes.
pub fn fuzz_method(payload: &[u8]) {
    if PublishView::is(payload) {
        assert_eq!(PublishView::parse(payload).err(), Method::parse(payload).err());
    }
    let Ok(method) = Method::parse(payload) else { return };
    let mut once = Vec::new();
    method.put_payload(&mut once);
    let again = Method::parse(&once).expect("reads what was written");
    assert_eq!(again.id(), method.id());
    let mut twice = Vec::new();
    again.put_payload(&mut twice);
    assert_eq!(once, twice);
}

/// The same for a content header's properties and for the tables in them.
pub fn fuzz_header(payload: &[u8]) {
    let Ok(head) = ContentHead::parse(payload) else { return };
    let Ok(properties) = Properties::parse(head.properties) else { return };
    let mut once = Vec::new();
    properties.put(&mut once);
    assert_eq!(once, head.properties);
    if let Some(headers) = properties.headers {
        check_table(headers);
    }
}

pub fn fuzz_table(pairs: &[u8]) {
    match Table::parse(pairs) {
        Ok(table) => check_table(table),
        Err(CodecError::TooDeep(_) | CodecError::Truncated | CodecError::FieldType(_)) => {}
        Err(other) => panic!("a table is never {other}"),
    }
}

/// What has been checked reads to its end, and field by field gives the same bytes; only booleans have more than one spelling.
fn check_table(table: Table<'_>) {
    let mut again = TableWriter::default();
    for (name, field) in table.iter() {
        again.put(name, &field);
        look_into(&field);
    }
    assert_eq!(again.as_table().as_bytes().len(), table.as_bytes().len());
}

fn look_into(field: &Field<'_>) {
    match field {
        Field::Table(table) => check_table(*table),
        Field::Array(array) => array.iter().for_each(|field| look_into(&field)),
        _ => {}
    }
}

/// Values for [`Method::samples`]: each call gives another.
pub struct Sampler<'a> {
    pub texts: &'a [Vec<u8>],
    pub tables: &'a [Table<'a>],
    pub seed: u64,
}

impl<'a> Sampler<'a> {
    /// xorshift64*: no need for more.
    pub fn number(&mut self) -> u64 {
        self.seed |= 1;
        self.seed ^= self.seed >> 12;
        self.seed ^= self.seed << 25;
        self.seed ^= self.seed >> 27;
        self.seed.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
    fn index(&mut self, len: usize) -> usize {
        (self.number() >> 33) as usize % len.max(1)
    }
    pub fn text(&mut self) -> &'a [u8] {
        let at = self.index(self.texts.len());
        self.texts.get(at).map_or(&[], |text| text.as_slice())
    }
    pub fn table(&mut self) -> Table<'a> {
        let at = self.index(self.tables.len());
        self.tables.get(at).copied().unwrap_or_default()
    }
}
