//! Pipes, only so that `splice` has somewhere to go to.

use std::collections::VecDeque;
use std::os::fd::RawFd;

use bywash_engine::context::Context;
use bywash_engine::xsk::Port;
use nix::errno::Errno;

use super::stream::{Progress, Received, Sending};
use super::{Attempt, Object, Sockets};

/// One end of a pipe.
pub(super) struct PipeEnd {
    pipe: u64,
    writes: bool,
    pub(super) nonblocking: bool,
}

/// The bytes between two ends.
#[derive(Default)]
pub(super) struct Pipe {
    bytes: VecDeque<u8>,
    reader_gone: bool,
    writer_gone: bool,
}

impl Pipe {
    /// Linux's default: 16 pages.
    pub(super) const CAPACITY: usize = 65_536;
}

impl Sockets {
    /// `pipe(2)`: the reading and the writing end.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn pipe_new(&mut self) -> Result<[RawFd; 2], Errno> {
        let pipe = self.fresh_key().0;
        self.pipes.insert(pipe, Pipe::default());
        let mut end = |writes| {
            self.open(Object::Pipe(PipeEnd {
                pipe,
                writes,
                nonblocking: false,
            }))
        };
        Ok([end(false)?, end(true)?])
    }

    fn pipe(&mut self, fd: RawFd, writes: bool) -> Result<&mut Pipe, Errno> {
        match self.fds.get(&fd) {
            Some(Object::Pipe(end)) if end.writes == writes => {
                self.pipes.get_mut(&end.pipe).ok_or(Errno::EBADF)
            }
            _ => Err(Errno::EBADF),
        }
    }

    pub(super) fn read_pipe(&mut self, fd: RawFd, want: usize) -> Attempt<Received> {
        let pipe = self.pipe(fd, false)?;
        if pipe.bytes.is_empty() && !pipe.writer_gone {
            return Ok(None);
        }
        let n = want.min(pipe.bytes.len());
        let bytes: Vec<u8> = pipe.bytes.drain(..n).collect();
        Ok(Some(Received {
            counted: bytes.len(),
            bytes,
            left: None,
            copied: None,
        }))
    }

    pub(super) fn write_pipe(&mut self, fd: RawFd, bytes: &[u8]) -> Attempt<usize> {
        let pipe = self.pipe(fd, true)?;
        if pipe.reader_gone {
            return Err(Errno::EPIPE);
        }
        let n = bytes.len().min(Pipe::CAPACITY - pipe.bytes.len());
        if n == 0 && !bytes.is_empty() {
            return Ok(None);
        }
        pipe.bytes.extend(&bytes[..n]);
        Ok(Some(n))
    }

    pub(super) fn pipe_ready(&mut self, fd: RawFd) -> i16 {
        if let Ok(pipe) = self.pipe(fd, false) {
            return match (pipe.bytes.is_empty(), pipe.writer_gone) {
                (false, false) => libc::POLLIN,
                (false, true) => libc::POLLIN | libc::POLLHUP,
                (true, true) => libc::POLLHUP,
                (true, false) => 0,
            };
        }
        match self.pipe(fd, true) {
            Ok(pipe) if pipe.reader_gone => libc::POLLOUT | libc::POLLERR,
            Ok(pipe) if pipe.bytes.len() < Pipe::CAPACITY => libc::POLLOUT,
            Ok(_) | Err(_) => 0,
        }
    }

    pub(super) fn close_pipe(&mut self, end: PipeEnd) {
        if let Some(pipe) = self.pipes.get_mut(&end.pipe) {
            if end.writes {
                pipe.writer_gone = true;
            } else {
                pipe.reader_gone = true;
            }
            if pipe.writer_gone && pipe.reader_gone {
                self.pipes.remove(&end.pipe);
            }
        }
    }

    /// `splice(2)` between a pipe and a socket, either way. One end must be a pipe.
    ///
    /// # Errors
    /// `EINVAL` if neither is a pipe, and the errors of reading and writing.
    pub fn splice<P: Port>(
        &mut self,
        cx: &mut Context<'_, P>,
        from: RawFd,
        to: RawFd,
        most: usize,
    ) -> Attempt<usize> {
        if let Ok(pipe) = self.pipe(to, true) {
            let room = (Pipe::CAPACITY - pipe.bytes.len()).min(most);
            let Some(bytes) = self.splice_in(cx, from, room)? else {
                return Ok(None);
            };
            return self.write_pipe(to, &bytes);
        }
        let pipe = self.pipe(from, false).map_err(|_| Errno::EINVAL)?;
        if pipe.bytes.is_empty() {
            return Ok(pipe.writer_gone.then_some(0));
        }
        let n = most.min(pipe.bytes.len());
        let bytes: Vec<u8> = pipe.bytes.iter().copied().take(n).collect();
        let mut progress = Progress::default();
        self.transmit(cx, to, &bytes, Sending::default(), &mut progress)?;
        self.pipe(from, false)?.bytes.drain(..progress.done);
        Ok((progress.done > 0).then_some(progress.done))
    }
}
