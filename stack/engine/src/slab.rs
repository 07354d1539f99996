//! Connections by index, with a generation per place.

use crate::service::ConnId;

struct Place<T> {
    generation: u32,
    value: Option<T>,
}

/// A vector with free list. An id is an index and the generation of its place; a stale id finds
/// nothing.
pub(crate) struct Slab<T> {
    places: Vec<Place<T>>,
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
            places: Vec::new(),
            free: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Places, taken and free: indices are below this.
    pub(crate) fn places(&self) -> usize {
        self.places.len()
    }

    /// The id that the next `insert` will give.
    pub(crate) fn next_id(&self) -> ConnId {
        match self.free.last() {
            Some(&index) => ConnId {
                index,
                generation: self.places[index as usize].generation,
            },
            None => ConnId {
                index: self.places.len() as u32,
                generation: 0,
            },
        }
    }

    pub(crate) fn insert(&mut self, value: T) -> ConnId {
        let id = self.next_id();
        if self.free.pop().is_some() {
            self.places[id.index as usize].value = Some(value);
        } else {
            self.places.push(Place {
                generation: 0,
                value: Some(value),
            });
        }
        id
    }

    pub(crate) fn remove(&mut self, index: u32) -> Option<T> {
        let place = self.places.get_mut(index as usize)?;
        let value = place.value.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(index);
        Some(value)
    }

    pub(crate) fn by_id(&mut self, id: ConnId) -> Option<&mut T> {
        let place = self.places.get_mut(id.index as usize)?;
        if place.generation != id.generation {
            return None;
        }
        place.value.as_mut()
    }

    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        self.places.get(index as usize)?.value.as_ref()
    }

    pub(crate) fn by_index(&mut self, index: u32) -> Option<&mut T> {
        self.places.get_mut(index as usize)?.value.as_mut()
    }

    /// To read: for the control path.
    pub(crate) fn peek(&self, index: u32) -> Option<&T> {
        self.places.get(index as usize)?.value.as_ref()
    }

    pub(crate) fn id_of(&self, index: u32) -> Option<ConnId> {
        let place = self.places.get(index as usize)?;
        place.value.as_ref().map(|_| ConnId {
            index,
            generation: place.generation,
        })
    }

    /// All values, in order of their index: for the control path and the end, never per packet.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (ConnId, &T)> {
        self.places.iter().enumerate().filter_map(|(index, place)| {
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
