//! epoll(7) over the readiness of the other descriptors.
//!
//! Level-triggered entries are looked at. An edge-triggered one is told only after something has happened to its
//! descriptor since it was last told: the socket counts its edges, the entry remembers the counts.

use std::os::fd::RawFd;

use bywash_engine::context::Context;
use bywash_engine::xsk::Port;
use nix::errno::Errno;

use super::ready::ALWAYS;
use super::socket::Edges;
use super::{Object, Sockets};

/// `struct epoll_event` without its packing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpollEvent {
    /// `EPOLL*` bits.
    pub events: u32,
    /// The application's word.
    pub data: u64,
}

struct Entry {
    fd: RawFd,
    asked: EpollEvent,
    /// Edges at the last report; `None`: never told since it was added or changed.
    told: Option<Edges>,
    /// `EPOLLONESHOT` has fired.
    spent: bool,
}

/// An epoll descriptor: entries in the order in which they were added.
#[derive(Default)]
pub(super) struct Epoll {
    entries: Vec<Entry>,
}

impl Epoll {
    pub(super) fn forget(&mut self, fd: RawFd) {
        self.entries.retain(|entry| entry.fd != fd);
    }
}

/// Readable and writable bits, and what is told with them.
const READ_EDGE: u32 = (libc::EPOLLIN | libc::EPOLLRDNORM | libc::EPOLLRDHUP) as u32;
const WRITE_EDGE: u32 = (libc::EPOLLOUT | libc::EPOLLWRNORM) as u32;

impl Sockets {
    /// `epoll_create(2)`.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn epoll_new(&mut self) -> Result<RawFd, Errno> {
        self.open(Object::Epoll(Epoll::default()))
    }

    /// `epoll_ctl(2)`.
    ///
    /// # Errors
    /// `EEXIST`, `ENOENT`, `EBADF`, `EINVAL` as Linux.
    pub fn epoll_control(
        &mut self,
        epoll: RawFd,
        operation: i32,
        fd: RawFd,
        asked: EpollEvent,
    ) -> Result<(), Errno> {
        if !self.fds.contains_key(&fd) {
            return Err(Errno::EBADF);
        }
        if epoll == fd {
            return Err(Errno::EINVAL);
        }
        let entries = self.entries(epoll)?;
        let place = entries.iter().position(|entry| entry.fd == fd);
        let fresh = Entry {
            fd,
            asked,
            told: None,
            spent: false,
        };
        match (operation, place) {
            (libc::EPOLL_CTL_ADD, None) => entries.push(fresh),
            (libc::EPOLL_CTL_ADD, Some(_)) => return Err(Errno::EEXIST),
            (libc::EPOLL_CTL_MOD, Some(place)) => entries[place] = fresh,
            (libc::EPOLL_CTL_DEL, Some(place)) => {
                entries.remove(place);
            }
            (libc::EPOLL_CTL_MOD | libc::EPOLL_CTL_DEL, None) => return Err(Errno::ENOENT),
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }

    /// One look of `epoll_wait(2)`: at most `most` events.
    ///
    /// # Errors
    /// It is no epoll descriptor.
    pub fn epoll_events<P: Port>(
        &mut self,
        cx: &mut Context<'_, P>,
        epoll: RawFd,
        most: usize,
    ) -> Result<Vec<EpollEvent>, Errno> {
        let mut found = Vec::new();
        for place in 0..self.entries(epoll)?.len() {
            if found.len() == most {
                break;
            }
            let Some((event, edges)) = self.epoll_event(cx, epoll, place)? else {
                continue;
            };
            found.push(event);
            let entry = &mut self.entries(epoll)?[place];
            entry.told = Some(edges);
            entry.spent = entry.asked.events & libc::EPOLLONESHOT as u32 != 0;
        }
        Ok(found)
    }

    /// Whether `epoll_wait` would give anything.
    pub(super) fn has_epoll_events<P: Port>(
        &mut self,
        cx: &mut Context<'_, P>,
        epoll: RawFd,
    ) -> bool {
        let count = self.entries(epoll).map_or(0, |entries| entries.len());
        (0..count).any(|place| matches!(self.epoll_event(cx, epoll, place), Ok(Some(_))))
    }

    /// What one entry has to say now, and the edges that this accounts for.
    fn epoll_event<P: Port>(
        &mut self,
        cx: &mut Context<'_, P>,
        epoll: RawFd,
        place: usize,
    ) -> Result<Option<(EpollEvent, Edges)>, Errno> {
        let entry = &self.entries(epoll)?[place];
        let (fd, asked, told, spent) = (entry.fd, entry.asked, entry.told, entry.spent);
        if spent {
            return Ok(None);
        }
        let edges = self
            .socket(fd)
            .map_or(Edges::default(), |socket| socket.edges);
        if asked.events & libc::EPOLLET as u32 != 0
            && let Some(told) = told
        {
            let read = asked.events & READ_EDGE != 0 && edges.read != told.read;
            let write = asked.events & WRITE_EDGE != 0 && edges.write != told.write;
            if !read && !write && edges.error == told.error {
                return Ok(None);
            }
        }
        let bits = u32::from(self.ready(cx, fd) as u16) & (asked.events | u32::from(ALWAYS as u16));
        let event = EpollEvent {
            events: bits,
            data: asked.data,
        };
        Ok((bits != 0).then_some((event, edges)))
    }

    fn entries(&mut self, epoll: RawFd) -> Result<&mut Vec<Entry>, Errno> {
        match self.fds.get_mut(&epoll) {
            Some(Object::Epoll(epoll)) => Ok(&mut epoll.entries),
            Some(_) => Err(Errno::EINVAL),
            None => Err(Errno::EBADF),
        }
    }
}
