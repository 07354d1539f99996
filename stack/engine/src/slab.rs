//! Connections by index, with a generation per place.

use bywash_xsk::prefetch;

use crate::service::ConnId;

/// Places that are made at once: they never move, and at most so many are there for nothing.
const CHUNK: usize = 1024;

struct Place<T> {
    value: Option<T>,
    generation: u32,
}

/// Chunks of places, with a free list. An id is an index and the generation of its place; a stale id finds nothing.
pub(crate) struct Slab<T> {
    /// All full but the last.
    chunks: Vec<Vec<Place<T>>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Slab<T> {
    pub(crate) fn new() -> Self {
        Self {
            chunks: Vec::new(),
            free: Vec::new(),
        }
    }

    #[inline]
    fn place(&self, index: u32) -> Option<&Place<T>> {
        let index = index as usize;
        self.chunks.get(index / CHUNK)?.get(index % CHUNK)
    }

    #[inline]
    fn place_mut(&mut self, index: u32) -> Option<&mut Place<T>> {
        let index = index as usize;
        self.chunks.get_mut(index / CHUNK)?.get_mut(index % CHUNK)
    }

    pub(crate) fn len(&self) -> usize {
        self.places() - self.free.len()
    }

    /// Places, taken and free: indices are below this.
    pub(crate) fn places(&self) -> usize {
        match self.chunks.last() {
            Some(last) => (self.chunks.len() - 1) * CHUNK + last.len(),
            None => 0,
        }
    }

    /// The id that the next `insert` will give.
    pub(crate) fn next_id(&self) -> ConnId {
        match self.free.last() {
            Some(&index) => ConnId {
                index,
                generation: self.place(index).map_or(0, |place| place.generation),
            },
            None => ConnId {
                index: self.places() as u32,
                generation: 0,
            },
        }
    }

    pub(crate) fn insert(&mut self, value: T) -> ConnId {
        let id = self.next_id();
        if self.free.pop().is_some() {
            if let Some(place) = self.place_mut(id.index) {
                place.value = Some(value);
            }
            return id;
        }
        let place = Place {
            value: Some(value),
            generation: 0,
        };
        match self.chunks.last_mut() {
            Some(last) if last.len() < CHUNK => last.push(place),
            _ => {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.push(place);
                self.chunks.push(chunk);
            }
        }
        id
    }

    pub(crate) fn remove(&mut self, index: u32) -> Option<T> {
        let place = self.place_mut(index)?;
        let value = place.value.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(index);
        Some(value)
    }

    #[inline]
    pub(crate) fn by_id(&mut self, id: ConnId) -> Option<&mut T> {
        let place = self.place_mut(id.index)?;
        if place.generation != id.generation {
            return None;
        }
        place.value.as_mut()
    }

    #[inline]
    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        self.place(index)?.value.as_ref()
    }

    #[inline]
    pub(crate) fn by_index(&mut self, index: u32) -> Option<&mut T> {
        self.place_mut(index)?.value.as_mut()
    }

    /// To read: for the control path.
    pub(crate) fn peek(&self, index: u32) -> Option<&T> {
        self.get(index)
    }

    #[inline]
    pub(crate) fn id_of(&self, index: u32) -> Option<ConnId> {
        let place = self.place(index)?;
        place.value.as_ref().map(|_| ConnId {
            index,
            generation: place.generation,
        })
    }

    /// Fetches a place into the cache, without looking at it.
    pub(crate) fn prefetch(&self, index: u32) {
        if let Some(place) = self.place(index) {
            prefetch(place);
        }
    }

    /// All values, in order of their index: for the control path and the end, never per packet.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (ConnId, &T)> {
        let places = self.chunks.iter().flatten();
        places.enumerate().filter_map(|(index, place)| {
            let id = ConnId {
                index: index as u32,
                generation: place.generation,
            };
            place.value.as_ref().map(|value| (id, value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_id_finds_nothing() {
        let mut slab = Slab::new();
        let first = slab.insert('a');
        assert_eq!(slab.by_id(first), Some(&mut 'a'));
        assert_eq!(slab.remove(first.index), Some('a'));
        let second = slab.insert('b');
        assert_eq!(second.index, first.index);
        assert_eq!(slab.by_id(first), None);
        assert_eq!(slab.by_id(second), Some(&mut 'b'));
        assert_eq!(slab.len(), 1);
    }

    #[test]
    fn the_next_id_is_the_one_given() {
        let mut slab = Slab::new();
        for round in 0..3 {
            let next = slab.next_id();
            assert_eq!(slab.insert(round), next);
        }
        slab.remove(1);
        let next = slab.next_id();
        assert_eq!(
            next,
            ConnId {
                index: 1,
                generation: 1
            }
        );
        assert_eq!(slab.insert(9), next);
    }
}
