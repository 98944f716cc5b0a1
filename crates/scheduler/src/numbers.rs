//! Small numbers for what nodes and pods are compared by, so that a decision compares numbers and looks
//! up arrays where it would compare text: the labels of nodes, and the signatures of pods.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;

/// Gives each value a number for as long as somebody uses it. Free numbers are given again, so that
/// arrays by number stay small.
#[derive(Debug)]
pub struct Numbers<T: ?Sized> {
    numbers: HashMap<Arc<T>, u32>,
    /// By number: the value and how many use it.
    values: Vec<Option<(Arc<T>, usize)>>,
    free: Vec<u32>,
}

impl<T: ?Sized> Default for Numbers<T> {
    fn default() -> Self {
        Self { numbers: HashMap::new(), values: Vec::new(), free: Vec::new() }
    }
}

impl<T: ?Sized + Eq + Hash> Numbers<T> {
    /// One user more; `share` makes the value to keep if it is new.
    pub fn take(&mut self, value: &T, share: impl FnOnce() -> Arc<T>) -> u32 {
        if let Some(number) = self.numbers.get(value).copied() {
            if let Some((_, users)) = &mut self.values[number as usize] {
                *users += 1;
            }
            return number;
        }
        let value = share();
        let number = self.free.pop().unwrap_or_else(|| {
            self.values.push(None);
            (self.values.len() - 1) as u32
        });
        self.values[number as usize] = Some((value.clone(), 1));
        self.numbers.insert(value, number);
        number
    }

    /// One user less; whether that was the last.
    pub fn release(&mut self, number: u32) -> bool {
        let place = &mut self.values[number as usize];
        let Some((value, users)) = place else { return false };
        *users -= 1;
        let is_free = *users == 0;
        if is_free {
            self.numbers.remove(value);
            *place = None;
            self.free.push(number);
        }
        is_free
    }

    pub fn get(&self, value: &T) -> Option<u32> {
        self.numbers.get(value).copied()
    }

    /// Every number given is below this.
    pub fn bound(&self) -> usize {
        self.values.len()
    }

    /// The value of a number that is in use.
    pub fn value(&self, number: u32) -> Option<&T> {
        self.values.get(number as usize)?.as_ref().map(|(value, _)| &**value)
    }
}

/// How many there are of each number; those with none are left out.
#[derive(Clone, Debug, Default)]
pub struct Tally(Vec<(u32, u32)>);

impl Tally {
    pub fn add(&mut self, number: u32) {
        match self.0.iter_mut().find(|(other, _)| *other == number) {
            Some((_, count)) => *count += 1,
            None => self.0.push((number, 1)),
        }
    }

    pub fn remove(&mut self, number: u32) {
        let Some(at) = self.0.iter().position(|(other, _)| *other == number) else { return };
        self.0[at].1 -= 1;
        if self.0[at].1 == 0 {
            self.0.swap_remove(at);
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, i64)> {
        self.0.iter().map(|(number, count)| (*number, i64::from(*count)))
    }
}

/// A label of a node: the number of its key, and that of its value among the values of the key.
pub type Place = (u32, u32);

/// The labels of all nodes.
#[derive(Debug, Default)]
pub struct Places {
    keys: Numbers<str>,
    /// By number of the key.
    values: Vec<Numbers<str>>,
}

impl Places {
    pub fn enter(&mut self, labels: &BTreeMap<String, String>) -> Vec<Place> {
        let enter = |(key, value): (&String, &String)| {
            let key = self.keys.take(key, || Arc::from(key.as_str()));
            if self.values.len() <= key as usize {
                self.values.push(Numbers::default());
            }
            (key, self.values[key as usize].take(value, || Arc::from(value.as_str())))
        };
        labels.iter().map(enter).collect()
    }

    pub fn leave(&mut self, places: &[Place]) {
        for (key, value) in places {
            self.values[*key as usize].release(*value);
            self.keys.release(*key);
        }
    }

    /// The number of a key that any node has.
    pub fn key(&self, key: &str) -> Option<u32> {
        self.keys.get(key)
    }

    /// The numbers of a key's values are below this.
    pub fn bound(&self, key: u32) -> usize {
        self.values[key as usize].bound()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn numbers_are_given_again_once_nobody_uses_them() {
        let mut numbers: Numbers<str> = Numbers::default();
        let take = |numbers: &mut Numbers<str>, text: &str| numbers.take(text, || Arc::from(text));
        let (a, b) = (take(&mut numbers, "a"), take(&mut numbers, "b"));
        assert_ne!(a, b);
        assert_eq!(take(&mut numbers, "a"), a);
        assert!(!numbers.release(a));
        assert_eq!((numbers.get("a"), numbers.value(a)), (Some(a), Some("a")));
        assert!(numbers.release(a));
        assert_eq!((numbers.get("a"), numbers.value(a)), (None, None));
        assert_eq!(take(&mut numbers, "c"), a);
        assert_eq!(numbers.bound(), 2);
        assert_eq!((numbers.value(a), numbers.value(b)), (Some("c"), Some("b")));
    }

    #[test]
    fn nodes_that_come_and_go_leave_nothing_behind() {
        let mut places = Places::default();
        let stays = places.enter(&labels(&[("host", "stays"), ("zone", "z")]));
        for n in 0..100 {
            let goes = places.enter(&labels(&[("host", &format!("n{n}")), ("zone", "z")]));
            assert_eq!(goes[1], stays[1]);
            assert_ne!(goes[0], stays[0]);
            places.leave(&goes);
        }
        assert_eq!(places.key("host").map(|key| places.bound(key)), Some(2));
        places.leave(&stays);
        assert_eq!((places.key("host"), places.key("zone")), (None, None));
    }

    #[test]
    fn a_tally_keeps_only_what_is_there() {
        let mut tally = Tally::default();
        for number in [3, 5, 3] {
            tally.add(number);
        }
        tally.remove(5);
        tally.remove(9);
        assert_eq!(tally.iter().collect::<Vec<_>>(), [(3, 2)]);
    }
}
