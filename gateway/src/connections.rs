//! How many of something are open: in all, or from one address, or of one user.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;

/// What is open, by its key. Holds no more keys than things are open, whose number is
/// bounded elsewhere.
#[derive(Debug)]
pub(crate) struct Open<K> {
    open: Mutex<HashMap<K, usize>>,
}

/// One open thing, counted until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted<K: Eq + Hash> {
    all: Arc<Open<K>>,
    key: K,
}

impl<K> Default for Open<K> {
    fn default() -> Self {
        Self {
            open: Mutex::default(),
        }
    }
}

impl<K: Eq + Hash + Clone> Open<K> {
    /// Counts one more; `None` if there are `most` under this key already.
    pub(crate) fn open(self: &Arc<Self>, key: K, most: usize) -> Option<Counted<K>> {
        let mut open = self.open.lock();
        let count = open.get(&key).copied().unwrap_or(0);
        if count >= most {
            return None;
        }
        open.insert(key.clone(), count + 1);
        Some(Counted {
            all: Arc::clone(self),
            key,
        })
    }
}

impl<K: Eq + Hash> Drop for Counted<K> {
    fn drop(&mut self) {
        let mut open = self.all.open.lock();
        if let Some(count) = open.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_own_count_and_nothing_is_left_behind() {
        let all = Arc::new(Open::default());
        let first = all.open("home", 2).unwrap();
        let second = all.open("home", 2).unwrap();
        assert!(all.open("home", 2).is_none());
        assert!(all.open("other", 2).is_some());
        drop(first);
        assert!(all.open("home", 2).is_some());
        drop(second);
        assert!(all.open.lock().is_empty());
    }
}
