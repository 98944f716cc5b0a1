//! Which members of a range are free: an index over the claims of a range, so that a write neither reads
//! every holder nor tries members one by one.
//!
//! The truth is the store's keys, one a member; a claim is made in the transaction of the object that takes
//! it. The index only says where it is worth trying: it is read from the keys once, follows this server's own
//! claims and releases, and is read again when it shows nothing free. A member that another server took
//! since makes the transaction fail, stays marked here, and the next try takes another one.

use std::sync::{Mutex, MutexGuard, PoisonError};

use api::Status;
use store::{Keys, Range, Store};

/// Members that are handed out without being asked for are counted up to this many: bigger ranges
/// (IPv6) are used at their front.
const SPAN_MAX: u64 = 1 << 20;

const WORD: u64 = u64::BITS as u64;

/// One bit a member, set where it is held.
struct Bits {
    words: Vec<u64>,
    span: u64,
}

impl Bits {
    fn new(span: u64) -> Bits {
        let words = usize::try_from(span.div_ceil(WORD)).unwrap_or(usize::MAX);
        let mut bits = Bits { words: vec![0; words], span };
        // What is behind the span is never free.
        for member in span..span.div_ceil(WORD) * WORD {
            bits.set(member, true);
        }
        bits
    }

    fn set(&mut self, member: u64, held: bool) {
        let Some(word) = usize::try_from(member / WORD).ok().and_then(|i| self.words.get_mut(i)) else {
            return;
        };
        let bit = 1 << (member % WORD);
        if held { *word |= bit } else { *word &= !bit }
    }

    /// A free member in `[from, to)`, looked for from `start` on and then around.
    fn free(&self, from: u64, to: u64, start: u64) -> Option<u64> {
        self.first_free(start, to).or_else(|| self.first_free(from, start))
    }

    fn first_free(&self, from: u64, to: u64) -> Option<u64> {
        let to = to.min(self.span);
        let mut at = from;
        while at < to {
            let word = *self.words.get(usize::try_from(at / WORD).ok()?)?;
            let open = !word & (u64::MAX << (at % WORD));
            if open != 0 {
                let found = at / WORD * WORD + u64::from(open.trailing_zeros());
                return (found < to).then_some(found);
            }
            at = (at / WORD + 1) * WORD;
        }
        None
    }
}

/// A member's number, from its name.
type Number = dyn Fn(&str) -> Option<u64> + Send + Sync;

/// The index of one range.
pub(super) struct RangeIndex {
    /// The keys of the claims stand under it, the member's name behind.
    prefix: &'static str,
    /// A member's number, from the name in its key.
    number: Box<Number>,
    span: u64,
    /// Members below are given out last: who asks for a certain one asks for one of these.
    front: u64,
    bits: Mutex<Option<Bits>>,
}

impl RangeIndex {
    /// Members `[0, size)`; the first `front` of them are handed out last.
    pub fn new(
        prefix: &'static str,
        size: u128,
        front: u64,
        number: impl Fn(&str) -> Option<u64> + Send + Sync + 'static,
    ) -> RangeIndex {
        let span = u64::try_from(size).unwrap_or(SPAN_MAX).min(SPAN_MAX);
        RangeIndex { prefix, number: Box::new(number), span, front: front.min(span), bits: Mutex::new(None) }
    }

    fn bits(&self) -> MutexGuard<'_, Option<Bits>> {
        // Bits are set one by one: there is no state between two of them that could be broken.
        self.bits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a member's claim is in the store now.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn is_held(&self, store: &dyn Store, name: &str) -> Result<bool, Status> {
        let key = format!("{}{name}", self.prefix);
        let range = Range { count_only: true, ..Range::of(Keys::One(key.into())) };
        Ok(store.range(range).await.map_err(Status::internal)?.count > 0)
    }

    /// A free member, marked as held; `None` where there is none.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn take(&self, store: &dyn Store) -> Result<Option<u64>, Status> {
        if let Some(member) = self.take_known() {
            return Ok(Some(member));
        }
        self.read(store).await?;
        Ok(self.take_known())
    }

    fn take_known(&self) -> Option<u64> {
        let mut guard = self.bits();
        let bits = guard.as_mut()?;
        let back = self.span.saturating_sub(self.front).max(1);
        let start = self.front + rand::random::<u64>() % back;
        let member = bits.free(self.front, self.span, start).or_else(|| bits.first_free(0, self.front))?;
        bits.set(member, true);
        Some(member)
    }

    /// Remembers that a member is held or free again.
    pub fn mark(&self, name: &str, held: bool) {
        if let (Some(bits), Some(member)) = (self.bits().as_mut(), (self.number)(name)) {
            bits.set(member, held);
        }
    }

    /// Reads the claims from the store.
    async fn read(&self, store: &dyn Store) -> Result<(), Status> {
        let range = Range { keys_only: true, ..Range::of(Keys::prefix(self.prefix)) };
        let found = store.range(range).await.map_err(Status::internal)?;
        let mut bits = Bits::new(self.span);
        for kv in &found.kvs {
            let name = std::str::from_utf8(&kv.key).ok().and_then(|k| k.strip_prefix(self.prefix));
            if let Some(member) = name.and_then(|n| (self.number)(n)) {
                bits.set(member, true);
            }
        }
        *self.bits() = Some(bits);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_free_members_are_found_and_no_others() {
        let mut bits = Bits::new(130);
        for member in 0..130 {
            bits.set(member, ![3, 64, 129].contains(&member));
        }
        assert_eq!(bits.free(0, 130, 0), Some(3));
        assert_eq!(bits.free(0, 130, 4), Some(64));
        assert_eq!(bits.free(0, 130, 65), Some(129));
        assert_eq!(bits.free(4, 100, 70), Some(64), "around the end");
        bits.set(129, true);
        assert_eq!(bits.free(65, 130, 65), None, "nothing behind the span");
        // Beyond the range: not known, and no panic.
        bits.set(4000, true);
    }
}
