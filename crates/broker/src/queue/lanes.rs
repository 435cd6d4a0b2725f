//! The lanes of a queue by priority level: one almost always, so a short sorted list.

use super::Lane;

#[derive(Default)]
pub(crate) struct Lanes(Vec<(u8, Lane)>);

impl Lanes {
    pub fn get(&self, level: u8) -> Option<&Lane> {
        self.0.iter().find(|(l, _)| *l == level).map(|(_, lane)| lane)
    }

    pub fn get_mut(&mut self, level: u8) -> Option<&mut Lane> {
        self.0.iter_mut().find(|(l, _)| *l == level).map(|(_, lane)| lane)
    }

    /// The lane of a level, made if need be.
    pub fn open(&mut self, level: u8) -> &mut Lane {
        let at = match self.0.binary_search_by_key(&level, |(l, _)| *l) {
            Ok(at) => at,
            Err(at) => {
                self.0.reserve_exact(1);
                self.0.insert(at, (level, Lane::default()));
                at
            }
        };
        &mut self.0[at].1
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// From the lowest level up.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (u8, &Lane)> {
        self.0.iter().map(|(level, lane)| (*level, lane))
    }

    pub fn iter_mut(&mut self) -> impl DoubleEndedIterator<Item = (u8, &mut Lane)> {
        self.0.iter_mut().map(|(level, lane)| (*level, lane))
    }
}
