//! What goes along with a reference: what a subscription adds to it, where a dead letter has been; and the move of a reference to another queue.

use crate::queue::Gone;
use crate::store::wire::{Reader, Writer};
use broker_api::{Death, DeathReason, Moved, QueueId, Seq, Side};
use std::sync::Arc;

pub(crate) fn write_side(w: &mut Writer<'_>, side: &Side) {
    w.u16(side.subscriptions.len() as u16);
    for id in &side.subscriptions {
        w.u32(*id);
    }
    w.u8(u8::from(side.moved.is_some()));
    if let Some(moved) = &side.moved {
        write_moved(w, moved);
    }
}

pub(crate) fn read_side(r: &mut Reader<'_>) -> Option<Arc<Side>> {
    let n = r.u16()?;
    let subscriptions = (0..n).map(|_| r.u32()).collect::<Option<Vec<u32>>>()?;
    let moved = if r.u8()? != 0 { Some(Box::new(read_moved(r)?)) } else { None };
    Some(Arc::new(Side { subscriptions, moved }))
}

fn write_moved(w: &mut Writer<'_>, moved: &Moved) {
    w.bytes(moved.exchange.as_bytes());
    w.bytes(&moved.key);
    w.u8(u8::from(moved.key_replaced));
    w.bytes(moved.first.0.as_bytes());
    w.u8(moved.first.1 as u8);
    w.bytes(moved.first.2.as_bytes());
    w.u16(moved.deaths.len() as u16);
    for death in &moved.deaths {
        w.bytes(death.queue.as_bytes());
        w.u8(death.reason as u8);
        w.u64(death.count);
        w.u64(death.time_ms);
        w.bytes(death.exchange.as_bytes());
        w.bytes(&death.key);
        w.opt_u64(death.expiration_ms);
    }
}

fn read_moved(r: &mut Reader<'_>) -> Option<Moved> {
    let (exchange, key, key_replaced) = (r.text()?.into(), r.bytes()?.into(), r.u8()? != 0);
    let first = (r.text()?.into(), read_death_reason(r)?, r.text()?.into());
    let n = r.u16()?;
    let death = |r: &mut Reader<'_>| {
        Some(Death {
            queue: r.text()?.into(),
            reason: read_death_reason(r)?,
            count: r.u64()?,
            time_ms: r.u64()?,
            exchange: r.text()?.into(),
            key: r.bytes()?.into(),
            expiration_ms: r.opt_u64()?,
        })
    };
    let deaths = (0..n).map(|_| death(r)).collect::<Option<Vec<Death>>>()?;
    Some(Moved { exchange, key, key_replaced, deaths, first })
}

fn read_death_reason(r: &mut Reader<'_>) -> Option<DeathReason> {
    use DeathReason::{DeliveryLimit, Expired, MaxLength, Rejected};
    let reason = r.u8()?;
    [Rejected, Expired, MaxLength, DeliveryLimit].into_iter().find(|known| *known as u8 == reason)
}

/// A reference goes from one queue to another; the body's record and its count stay as they are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Move {
    pub source: QueueId,
    pub seq: Seq,
    pub why: Gone,
    pub target: QueueId,
    pub to: Seq,
    pub lsn: u64,
    pub ordinal: u16,
    pub bytes: u32,
    pub expires: u32,
    pub level: u8,
    pub flags: u8,
    pub side: Option<Arc<Side>>,
}

impl Move {
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut w = Writer(out);
        w.u64(self.source.0);
        w.u64(self.seq.0);
        w.u8(self.why as u8);
        w.u64(self.target.0);
        w.u64(self.to.0);
        w.u64(self.lsn);
        w.u16(self.ordinal);
        w.u32(self.bytes);
        w.u32(self.expires);
        w.u8(self.level);
        w.u8(self.flags);
        w.u8(u8::from(self.side.is_some()));
        if let Some(side) = &self.side {
            write_side(&mut w, side);
        }
    }

    pub fn read(r: &mut Reader<'_>) -> Option<Move> {
        let (source, seq) = (QueueId(r.u64()?), Seq(r.u64()?));
        let why = match r.u8()? {
            2 => Gone::Expired,
            3 => Gone::Evicted,
            5 => Gone::Limit,
            6 => Gone::Due,
            _ => Gone::Rejected,
        };
        Some(Move {
            source,
            seq,
            why,
            target: QueueId(r.u64()?),
            to: Seq(r.u64()?),
            lsn: r.u64()?,
            ordinal: r.u16()?,
            bytes: r.u32()?,
            expires: r.u32()?,
            level: r.u8()?,
            flags: r.u8()?,
            side: if r.u8()? != 0 { Some(read_side(r)?) } else { None },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_comes_back() {
        let death = Death {
            queue: "q".into(),
            reason: DeathReason::Expired,
            count: 3,
            time_ms: 9,
            exchange: "x".into(),
            key: b"k"[..].into(),
            expiration_ms: Some(5),
        };
        let moved = Moved {
            exchange: "dlx".into(),
            key: b"dead"[..].into(),
            key_replaced: true,
            deaths: vec![death],
            first: ("q".into(), DeathReason::Rejected, "x".into()),
        };
        let side = Some(Arc::new(Side { subscriptions: vec![1], moved: Some(Box::new(moved)) }));
        let (source, target) = (QueueId(1), QueueId(3));
        let (seq, to) = (Seq(2), Seq(4));
        let record =
            Move { source, seq, why: Gone::Expired, target, to, lsn: 5, ordinal: 6, bytes: 7, expires: 8, level: 1, flags: 2, side };
        let mut out = Vec::new();
        record.write(&mut out);
        assert_eq!(Move::read(&mut Reader::new(&out)), Some(record));
        for cut in 0..out.len() {
            assert_eq!(Move::read(&mut Reader::new(&out[..cut])), None, "cut at {cut}");
        }
    }
}
