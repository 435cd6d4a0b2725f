//! LIKE: `%` stands for any characters, `_` for any one, the escape character takes away what the one behind it means.

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    Any,
    One,
    Exactly(char),
}

#[derive(Debug)]
pub(super) struct Like(Box<[Part]>);

impl Like {
    /// `Err`: which character of the pattern is wrong, counted from 0.
    pub fn new(pattern: &str, escape: Option<char>) -> Result<Like, usize> {
        let mut parts = Vec::new();
        let mut chars = pattern.chars().enumerate();
        while let Some((at, c)) = chars.next() {
            parts.push(match c {
                // JMS 2.0, 3.8.1.1: what is escaped is an escape, `%` or `_`; anything else is taken as it is, as in ActiveMQ.
                c if Some(c) == escape => Part::Exactly(chars.next().ok_or(at)?.1),
                '%' => Part::Any,
                '_' => Part::One,
                c => Part::Exactly(c),
            });
        }
        // Two of these in a row are one.
        parts.dedup_by(|one, two| *one == Part::Any && *two == Part::Any);
        Ok(Like(parts.into()))
    }

    /// Goes back to the last `%` only, which is enough: steps are bounded by the product of the lengths.
    pub fn matches(&self, text: &str) -> bool {
        let (mut part, mut rest) = (0, text.chars());
        let mut retry: Option<(usize, std::str::Chars<'_>)> = None;
        loop {
            let mut ahead = rest.clone();
            match (self.0.get(part), ahead.next()) {
                (Some(Part::Any), _) => {
                    part += 1;
                    retry = Some((part, rest.clone()));
                    continue;
                }
                (Some(Part::One), Some(_)) => {}
                (Some(Part::Exactly(wanted)), Some(found)) if *wanted == found => {}
                (None, None) => return true,
                _ => {
                    let Some((from, mut later)) = retry.take() else { return false };
                    if later.next().is_none() {
                        return false;
                    }
                    (part, rest) = (from, later.clone());
                    retry = Some((from, later));
                    continue;
                }
            }
            part += 1;
            rest = ahead;
        }
    }
}
