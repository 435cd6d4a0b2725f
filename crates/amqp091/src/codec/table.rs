//! Field tables (4.2.5.5) with RabbitMQ's types: read in place, kept byte for byte.
//!
//! ```text
//!   t bool   b i8   B u8   s i16   u u16   I i32   i u32   l L i64   f f32   d f64
//!   D decimal (scale, u32)   S long string   x bytes   T timestamp   A array   F table   V void
//! ```
//!
//! A [`Table`] has been checked to its last byte when it is made, so that reading it later cannot fail; nesting is bounded, because a client
//! that has not logged in yet sends tables too.

use super::wire::{put_long_str, put_short_str, put_u32, put_u64, Reader};
use super::CodecError;

/// Tables and arrays in one another.
pub const DEPTH_MAX: usize = 32;

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Field<'a> {
    Bool(bool),
    I8(i8),
    U8(u8),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    F32(f32),
    F64(f64),
    Decimal { scale: u8, value: u32 },
    LongStr(&'a [u8]),
    Bytes(&'a [u8]),
    Timestamp(u64),
    Array(Array<'a>),
    Table(Table<'a>),
    Void,
}

/// The pairs of a table, without the length before them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Table<'a>(&'a [u8]);

/// The values of an array, without the length before them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Array<'a>(&'a [u8]);

impl<'a> Field<'a> {
    pub fn integer(&self) -> Option<i64> {
        Some(match *self {
            Field::I8(value) => value.into(),
            Field::U8(value) => value.into(),
            Field::I16(value) => value.into(),
            Field::U16(value) => value.into(),
            Field::I32(value) => value.into(),
            Field::U32(value) => value.into(),
            Field::I64(value) => value,
            _ => return None,
        })
    }

    pub fn text(&self) -> Option<&'a [u8]> {
        match *self {
            Field::LongStr(text) => Some(text),
            _ => None,
        }
    }

    /// What RabbitMQ calls this type in its error texts.
    pub fn type_name(&self) -> &'static str {
        match self {
            Field::Bool(_) => "bool",
            Field::I8(_) => "byte",
            Field::U8(_) => "unsignedbyte",
            Field::I16(_) => "short",
            Field::U16(_) => "unsignedshort",
            Field::I32(_) => "signedint",
            Field::U32(_) => "unsignedint",
            Field::I64(_) => "long",
            Field::F32(_) => "float",
            Field::F64(_) => "double",
            Field::Decimal { .. } => "decimal",
            Field::LongStr(_) => "longstr",
            Field::Bytes(_) => "binary",
            Field::Timestamp(_) => "timestamp",
            Field::Array(_) => "array",
            Field::Table(_) => "table",
            Field::Void => "void",
        }
    }

    /// Type byte and value.
    pub fn put(&self, out: &mut Vec<u8>) {
        match *self {
            Field::Bool(value) => out.extend_from_slice(&[b't', u8::from(value)]),
            Field::I8(value) => out.extend_from_slice(&[b'b', value as u8]),
            Field::U8(value) => out.extend_from_slice(&[b'B', value]),
            Field::I16(value) => put_number(out, b's', &value.to_be_bytes()),
            Field::U16(value) => put_number(out, b'u', &value.to_be_bytes()),
            Field::I32(value) => put_number(out, b'I', &value.to_be_bytes()),
            Field::U32(value) => put_number(out, b'i', &value.to_be_bytes()),
            Field::I64(value) => put_number(out, b'l', &value.to_be_bytes()),
            Field::F32(value) => put_number(out, b'f', &value.to_be_bytes()),
            Field::F64(value) => put_number(out, b'd', &value.to_be_bytes()),
            Field::Decimal { scale, value } => {
                out.extend_from_slice(&[b'D', scale]);
                put_u32(out, value);
            }
            Field::LongStr(text) => put_typed(out, b'S', text),
            Field::Bytes(bytes) => put_typed(out, b'x', bytes),
            Field::Timestamp(secs) => put_number(out, b'T', &secs.to_be_bytes()),
            Field::Array(array) => put_typed(out, b'A', array.0),
            Field::Table(table) => put_typed(out, b'F', table.0),
            Field::Void => out.push(b'V'),
        }
    }
}

fn put_number(out: &mut Vec<u8>, kind: u8, bytes: &[u8]) {
    out.push(kind);
    out.extend_from_slice(bytes);
}

fn put_typed(out: &mut Vec<u8>, kind: u8, bytes: &[u8]) {
    out.push(kind);
    put_long_str(out, bytes);
}

fn read_field<'a>(reader: &mut Reader<'a>) -> Result<Field<'a>, CodecError> {
    Ok(match reader.u8()? {
        b't' => Field::Bool(reader.u8()? != 0),
        b'b' => Field::I8(reader.u8()? as i8),
        b'B' => Field::U8(reader.u8()?),
        b's' => Field::I16(reader.u16()? as i16),
        b'u' => Field::U16(reader.u16()?),
        b'I' => Field::I32(reader.u32()? as i32),
        b'i' => Field::U32(reader.u32()?),
        // 0-9-1 has `L` for it, RabbitMQ and most clients `l`; py-amqp sends `L`.
        b'l' | b'L' => Field::I64(reader.u64()? as i64),
        b'f' => Field::F32(f32::from_bits(reader.u32()?)),
        b'd' => Field::F64(f64::from_bits(reader.u64()?)),
        b'D' => Field::Decimal { scale: reader.u8()?, value: reader.u32()? },
        b'S' => Field::LongStr(reader.long_str()?),
        b'x' => Field::Bytes(reader.long_str()?),
        b'T' => Field::Timestamp(reader.u64()?),
        b'A' => Field::Array(Array(reader.long_str()?)),
        b'F' => Field::Table(Table(reader.long_str()?)),
        b'V' => Field::Void,
        other => return Err(CodecError::FieldType(other)),
    })
}

/// One level of [`check`].
struct Level {
    /// Where it ends in the outermost table.
    end: usize,
    is_table: bool,
}

/// Walks everything once, without recursion: what the stack holds is bounded, and each byte is looked at once whatever the nesting.
fn check(pairs: &[u8], is_table: bool) -> Result<(), CodecError> {
    let mut levels: [Level; DEPTH_MAX] = std::array::from_fn(|_| Level { end: 0, is_table: false });
    levels[0] = Level { end: pairs.len(), is_table };
    let mut depth = 1;
    let mut at = 0;
    while depth > 0 {
        let Level { end, is_table } = levels[depth - 1];
        if at == end {
            depth -= 1;
            continue;
        }
        let mut reader = Reader::new(&pairs[at..end]);
        if is_table {
            reader.short_str()?;
        }
        let field = read_field(&mut reader)?;
        let inner = match field {
            Field::Array(Array(values)) => Some((values.len(), false)),
            Field::Table(Table(pairs)) => Some((pairs.len(), true)),
            _ => None,
        };
        at += reader.position();
        if let Some((len, is_table)) = inner {
            if depth == DEPTH_MAX {
                return Err(CodecError::TooDeep(DEPTH_MAX));
            }
            levels[depth] = Level { end: at, is_table };
            depth += 1;
            at -= len;
        }
    }
    Ok(())
}

impl<'a> Table<'a> {
    /// Of the pairs, without the length before them.
    pub fn parse(pairs: &'a [u8]) -> Result<Table<'a>, CodecError> {
        check(pairs, true)?;
        Ok(Table(pairs))
    }

    pub fn read(reader: &mut Reader<'a>) -> Result<Table<'a>, CodecError> {
        Table::parse(reader.long_str()?)
    }

    pub fn as_bytes(&self) -> &'a [u8] {
        self.0
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    pub fn put(&self, out: &mut Vec<u8>) {
        put_long_str(out, self.0);
    }

    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], Field<'a>)> {
        let mut reader = Reader::new(self.0);
        std::iter::from_fn(move || {
            let name = reader.short_str().ok()?;
            Some((name, read_field(&mut reader).ok()?))
        })
    }

    /// The first field of this name.
    pub fn get(&self, name: &str) -> Option<Field<'a>> {
        self.iter().find(|(found, _)| *found == name.as_bytes()).map(|(_, field)| field)
    }
}

impl<'a> Array<'a> {
    pub fn iter(&self) -> impl Iterator<Item = Field<'a>> {
        let mut reader = Reader::new(self.0);
        std::iter::from_fn(move || read_field(&mut reader).ok())
    }
}

/// Writes the pairs of a table.
#[derive(Clone, Default, Debug)]
pub struct TableWriter {
    pairs: Vec<u8>,
}

impl TableWriter {
    pub fn put(&mut self, name: &[u8], field: &Field<'_>) -> &mut TableWriter {
        put_short_str(&mut self.pairs, name);
        field.put(&mut self.pairs);
        self
    }
    pub fn text(&mut self, name: &str, text: &str) -> &mut TableWriter {
        self.put(name.as_bytes(), &Field::LongStr(text.as_bytes()))
    }
    pub fn bool(&mut self, name: &str, value: bool) -> &mut TableWriter {
        self.put(name.as_bytes(), &Field::Bool(value))
    }
    pub fn timestamp(&mut self, name: &str, secs: u64) -> &mut TableWriter {
        put_short_str(&mut self.pairs, name.as_bytes());
        self.pairs.push(b'T');
        put_u64(&mut self.pairs, secs);
        self
    }
    pub fn table(&mut self, name: &str, table: &TableWriter) -> &mut TableWriter {
        self.put(name.as_bytes(), &Field::Table(table.as_table()))
    }
    pub fn array(&mut self, name: &str, array: &ArrayWriter) -> &mut TableWriter {
        self.put(name.as_bytes(), &Field::Array(Array(&array.values)))
    }
    pub fn as_table(&self) -> Table<'_> {
        Table(&self.pairs)
    }
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }
}

/// Writes the values of an array.
#[derive(Clone, Default, Debug)]
pub struct ArrayWriter {
    values: Vec<u8>,
}

impl ArrayWriter {
    pub fn put(&mut self, field: &Field<'_>) -> &mut ArrayWriter {
        field.put(&mut self.values);
        self
    }
    pub fn table(&mut self, table: &TableWriter) -> &mut ArrayWriter {
        self.put(&Field::Table(table.as_table()))
    }
    pub fn as_array(&self) -> Array<'_> {
        Array(&self.values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_type() -> TableWriter {
        let mut inner = TableWriter::default();
        inner.text("a", "b");
        let mut array = ArrayWriter::default();
        array.put(&Field::I32(-1)).put(&Field::LongStr(b"x")).table(&inner);
        let mut table = TableWriter::default();
        let fields = [
            Field::Bool(true),
            Field::I8(-8),
            Field::U8(8),
            Field::I16(-16),
            Field::U16(16),
            Field::I32(-32),
            Field::U32(32),
            Field::I64(-64),
            Field::F32(0.5),
            Field::F64(-0.25),
            Field::Decimal { scale: 2, value: 314 },
            Field::LongStr(b"text"),
            Field::Bytes(b"\x00\xff"),
            Field::Void,
        ];
        for (n, field) in fields.iter().enumerate() {
            table.put(format!("f{n}").as_bytes(), field);
        }
        table.timestamp("time", 1_700_000_000).array("array", &array).table("table", &inner);
        table
    }

    #[test]
    fn every_type_reads_back() {
        let table = every_type();
        let read = Table::parse(table.as_table().as_bytes()).unwrap();
        let mut again = TableWriter::default();
        for (name, field) in read.iter() {
            again.put(name, &field);
        }
        assert_eq!(again.as_table(), read);
        assert_eq!(read.iter().count(), 17);
        assert_eq!(read.get("f7").and_then(|field| field.integer()), Some(-64));
        let Some(Field::Array(array)) = read.get("array") else { panic!("no array") };
        assert_eq!(array.iter().count(), 3);
    }

    #[test]
    fn a_table_cut_anywhere_but_between_fields_is_refused() {
        let table = every_type();
        let bytes = table.as_table().as_bytes();
        let mut borders = 0;
        for cut in 0..bytes.len() {
            borders += u32::from(Table::parse(&bytes[..cut]).is_ok());
        }
        assert_eq!(borders, 17, "the empty table, and one behind each field but the last");
    }

    #[test]
    fn nesting_is_bounded_and_costs_no_stack() {
        let nest = |depth: usize| {
            let mut bytes = Vec::new();
            for _ in 0..depth {
                let mut outer = vec![1, b'a', b'F'];
                put_long_str(&mut outer, &bytes);
                bytes = outer;
            }
            bytes
        };
        assert!(Table::parse(&nest(DEPTH_MAX - 1)).is_ok());
        assert_eq!(Table::parse(&nest(DEPTH_MAX)), Err(CodecError::TooDeep(DEPTH_MAX)));
        assert_eq!(Table::parse(&nest(10_000)), Err(CodecError::TooDeep(DEPTH_MAX)));
        assert_eq!(Table::parse(b"\x01aZ"), Err(CodecError::FieldType(b'Z')));
    }
}
