//! The body of a message: who sent it, in which run, and bytes that follow from both, so that any other byte shows.

const MAGIC: &[u8; 4] = b"CkDr";
const HEAD: usize = 4 + 4 + 2 + 8;

pub fn make(run: u32, producer: u16, n: u64, size: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(size.max(HEAD));
    body.extend_from_slice(MAGIC);
    body.extend_from_slice(&run.to_le_bytes());
    body.extend_from_slice(&producer.to_le_bytes());
    body.extend_from_slice(&n.to_le_bytes());
    let mut filler = n.wrapping_mul(31).wrapping_add(u64::from(producer));
    while body.len() < size {
        filler = filler.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        body.push((filler >> 56) as u8);
    }
    body
}

/// Producer and number, if every byte is as [`make`] made it.
pub fn read(run: u32, body: &[u8]) -> Option<(u16, u64)> {
    let producer = u16::from_le_bytes(body.get(8..10)?.try_into().ok()?);
    let n = u64::from_le_bytes(body.get(10..HEAD)?.try_into().ok()?);
    (make(run, producer, n, body.len()) == body).then_some((producer, n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_a_cut_and_another_run_show() {
        let body = make(7, 3, 99, 200);
        assert_eq!(read(7, &body), Some((3, 99)));
        assert_eq!(read(8, &body), None);
        assert_eq!(read(7, &body[..HEAD - 1]), None);
        for at in 18..body.len() {
            let mut changed = body.clone();
            changed[at] ^= 1;
            assert_eq!(read(7, &changed), None);
        }
    }
}
