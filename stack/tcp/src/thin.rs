//! A queue that is one pointer wide while it is empty.
//!
//! ```text
//!  Thin ── none: empty, eight bytes
//!       └─ box [VecDeque, head] ── entries        `head`: what is only known while there are entries
//! ```
//! A connection at rest has nothing to send again and nothing to read. What describes its queues then lies nowhere, instead of
//! in cache lines that every segment would fetch. The box goes round with its memory: see [`Spare`](crate::Spare).

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use core::ops::{Index, IndexMut};

/// The queue with what goes with it.
#[derive(Debug)]
struct Inner<T, H> {
    queue: VecDeque<T>,
    head: H,
}

/// A queue of `T` with a `H`, which is its default whenever memory is made, or goes round.
#[derive(Debug)]
pub(crate) struct Thin<T, H = ()>(Option<Box<Inner<T, H>>>);

impl<T, H: Copy + Default> Thin<T, H> {
    pub(crate) const fn new() -> Self {
        Self(None)
    }

    fn queue(&self) -> Option<&VecDeque<T>> {
        self.0.as_ref().map(|inner| &inner.queue)
    }

    fn queue_mut(&mut self) -> Option<&mut VecDeque<T>> {
        self.0.as_mut().map(|inner| &mut inner.queue)
    }

    fn make(&mut self) -> &mut Inner<T, H> {
        self.0.get_or_insert_with(|| {
            Box::new(Inner {
                queue: VecDeque::new(),
                head: H::default(),
            })
        })
    }

    pub(crate) fn head(&self) -> H {
        self.0.as_ref().map_or(H::default(), |inner| inner.head)
    }

    /// What goes with the queue, if it has memory.
    pub(crate) fn head_mut(&mut self) -> Option<&mut H> {
        self.0.as_mut().map(|inner| &mut inner.head)
    }

    /// Both; makes the memory.
    pub(crate) fn parts(&mut self) -> (&mut VecDeque<T>, &mut H) {
        let inner = self.make();
        (&mut inner.queue, &mut inner.head)
    }

    pub(crate) fn len(&self) -> usize {
        self.queue().map_or(0, VecDeque::len)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Entries that there is memory for; `None`: not even a box.
    pub(crate) fn capacity(&self) -> Option<usize> {
        self.queue().map(VecDeque::capacity)
    }

    pub(crate) fn get(&self, index: usize) -> Option<&T> {
        self.queue()?.get(index)
    }

    pub(crate) fn back(&self) -> Option<&T> {
        self.queue()?.back()
    }

    pub(crate) fn back_mut(&mut self) -> Option<&mut T> {
        self.queue_mut()?.back_mut()
    }

    pub(crate) fn push_back(&mut self, value: T) {
        self.make().queue.push_back(value);
    }

    pub(crate) fn pop_front(&mut self) -> Option<T> {
        self.queue_mut()?.pop_front()
    }

    pub(crate) fn insert(&mut self, index: usize, value: T) {
        self.make().queue.insert(index, value);
    }

    pub(crate) fn remove(&mut self, index: usize) -> Option<T> {
        self.queue_mut()?.remove(index)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.queue().into_iter().flatten()
    }

    /// The entries of `range`, which has none that are not there.
    pub(crate) fn range(&self, range: core::ops::Range<usize>) -> impl Iterator<Item = &T> {
        self.queue()
            .into_iter()
            .flat_map(move |queue| queue.range(range.clone()))
    }

    pub(crate) fn partition_point(&self, before: impl FnMut(&T) -> bool) -> usize {
        self.queue()
            .map_or(0, |queue| queue.partition_point(before))
    }

    /// Takes the memory, if there is some and nothing in it; the head is as new.
    pub(crate) fn take_empty(&mut self) -> Option<Self> {
        let inner = self.0.as_mut().filter(|inner| inner.queue.is_empty())?;
        inner.head = H::default();
        self.0.take().map(|inner| Self(Some(inner)))
    }
}

impl<T, H: Copy + Default> Index<usize> for Thin<T, H> {
    type Output = T;

    fn index(&self, index: usize) -> &T {
        match &self.0 {
            Some(inner) => &inner.queue[index],
            None => panic!("entry {index} of an empty queue"),
        }
    }
}

impl<T, H: Copy + Default> IndexMut<usize> for Thin<T, H> {
    fn index_mut(&mut self, index: usize) -> &mut T {
        match &mut self.0 {
            Some(inner) => &mut inner.queue[index],
            None => panic!("entry {index} of an empty queue"),
        }
    }
}
