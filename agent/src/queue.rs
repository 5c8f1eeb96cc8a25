//! A bounded queue between threads of different priorities.
//!
//! The standard library's bounded channel lets a thread spin until another one has finished with its slot. The control
//! thread runs first in, first out above everybody who talks to it: on one processor it would spin for good, because the
//! thread that it waits for never runs. A mutex puts it to sleep instead, for the length of one push.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

struct State<T> {
    items: VecDeque<T>,
    senders: usize,
    open: bool,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    capacity: usize,
    /// Something came, or nobody sends any more.
    filled: Condvar,
    /// Something was taken, or nobody takes any more.
    emptied: Condvar,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end that fills it; it may be cloned.
pub(crate) struct Sender<T>(Arc<Shared<T>>);

/// The end that empties it.
pub(crate) struct Receiver<T>(Arc<Shared<T>>);

/// Why an item was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// As many as it holds wait already.
    Full,
    /// Its receiver is gone.
    Closed,
}

/// A queue that holds at most `capacity` items.
pub(crate) fn queue<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            items: VecDeque::new(),
            senders: 1,
            open: true,
        }),
        capacity,
        filled: Condvar::new(),
        emptied: Condvar::new(),
    });
    (Sender(shared.clone()), Receiver(shared))
}

impl<T> Sender<T> {
    /// Adds an item; waits while the queue is full.
    pub(crate) fn send(&self, item: T) -> Result<(), Refused> {
        let full = |state: &mut State<T>| state.open && state.items.len() >= self.0.capacity;
        let state = self.0.emptied.wait_while(self.0.lock(), full);
        self.push(state.unwrap_or_else(PoisonError::into_inner), item)
    }

    /// Adds an item, or refuses it at once.
    pub(crate) fn try_send(&self, item: T) -> Result<(), Refused> {
        let state = self.0.lock();
        if state.open && state.items.len() >= self.0.capacity {
            return Err(Refused::Full);
        }
        self.push(state, item)
    }

    fn push(&self, mut state: MutexGuard<'_, State<T>>, item: T) -> Result<(), Refused> {
        if !state.open {
            return Err(Refused::Closed);
        }
        state.items.push_back(item);
        drop(state);
        self.0.filled.notify_one();
        Ok(())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Sender<T> {
        self.0.lock().senders += 1;
        Sender(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.lock().senders -= 1;
        self.0.filled.notify_all();
    }
}

impl<T> Receiver<T> {
    /// The next item, if one waits.
    pub(crate) fn try_recv(&self) -> Option<T> {
        let item = self.0.lock().items.pop_front();
        if item.is_some() {
            self.0.emptied.notify_one();
        }
        item
    }

    /// The next item; waits for it. `None` once the queue is empty and nobody sends any more.
    pub(crate) fn recv(&self) -> Option<T> {
        let idle = |state: &mut State<T>| state.items.is_empty() && state.senders > 0;
        let state = self.0.filled.wait_while(self.0.lock(), idle);
        let item = state
            .unwrap_or_else(PoisonError::into_inner)
            .items
            .pop_front();
        self.0.emptied.notify_one();
        item
    }
}

impl<T> Receiver<T> {
    /// Everything that waits, at one go: who sends contends for the lock once, however many there are. Waits for it; `None`
    /// once the queue is empty and nobody sends any more.
    pub(crate) fn recv_all(&self) -> Option<VecDeque<T>> {
        let idle = |state: &mut State<T>| state.items.is_empty() && state.senders > 0;
        let state = self.0.filled.wait_while(self.0.lock(), idle);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        let items = std::mem::take(&mut state.items);
        drop(state);
        self.0.emptied.notify_all();
        (!items.is_empty()).then_some(items)
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let left = {
            let mut state = self.0.lock();
            state.open = false;
            std::mem::take(&mut state.items)
        };
        // Their own ends may lock other things: not under the lock.
        drop(left);
        self.0.emptied.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_out_in_their_order_and_no_more_than_fit() {
        let (sender, receiver) = queue(2);
        assert_eq!(sender.try_send(1), Ok(()));
        assert_eq!(sender.try_send(2), Ok(()));
        assert_eq!(sender.try_send(3), Err(Refused::Full));
        assert_eq!(receiver.try_recv(), Some(1));
        assert_eq!(receiver.recv(), Some(2));
        assert_eq!(receiver.try_recv(), None);
    }

    #[test]
    fn a_sender_waits_for_room_and_a_receiver_for_items() {
        let (sender, receiver) = queue(1);
        let filler = std::thread::spawn(move || (0..1000).all(|item| sender.send(item).is_ok()));
        let mut came = Vec::new();
        while let Some(item) = receiver.recv() {
            came.push(item);
        }
        assert!(filler.join().expect("it ends"));
        assert_eq!(came, (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn either_end_hears_of_the_other_ones() {
        let (sender, receiver) = queue(1);
        let other = sender.clone();
        drop(receiver);
        assert_eq!(sender.try_send(1), Err(Refused::Closed));
        assert_eq!(other.send(1), Err(Refused::Closed));
        let (sender, receiver) = queue::<u8>(1);
        drop(sender);
        assert_eq!(receiver.recv(), None);
    }
}
