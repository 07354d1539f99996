//! The shard's end: a [`Service`] that does what other threads ask.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bywash_tcp::State;
use bywash_xsk::Port;
use crossbeam::channel::Receiver;

use super::link::{ListenerShared, ShardLink, Shared};
use super::local::{Finish, Pending, Remote, outcome};
use super::message::{
    Accepted, Command, Failure, FailureCode, ListenerIndex, RemoteId, StreamEvent,
};
use super::slot::Status;
use crate::context::{ConnOptions, Context};
use crate::service::{ConnId, Event, ListenerId, Recv, Service};

/// Commands done in one turn; the rest waits, so that a flood of them cannot hold up ingress.
const COMMAND_BUDGET: usize = 256;

struct Listening {
    id: ListenerId,
    shared: Arc<ListenerShared>,
}

/// Runs on a shard and serves the handles of [`Remote`](super::Remote).
pub struct RemoteService {
    shared: Arc<Shared>,
    link: Arc<ShardLink>,
    commands: Receiver<Command>,
    /// By the index of [`RemoteId`].
    remotes: Vec<Option<Remote>>,
    /// By the index of [`ConnId`]: its generation, and the index of its `RemoteId`.
    places: Vec<Option<(ConnId, u32)>>,
    listeners: HashMap<ListenerIndex, Listening>,
    /// Connections whose last acknowledgment somebody waits for; looked at every turn.
    draining: Vec<RemoteId>,
    stopping: bool,
}

impl RemoteService {
    pub(super) fn new(
        shared: Arc<Shared>,
        link: Arc<ShardLink>,
        commands: Receiver<Command>,
    ) -> Self {
        Self {
            shared,
            link,
            commands,
            remotes: Vec::new(),
            places: Vec::new(),
            listeners: HashMap::new(),
            draining: Vec::new(),
            stopping: false,
        }
    }

    fn remote(&mut self, id: RemoteId) -> Option<&mut Remote> {
        let remote = self.remotes.get_mut(id.index as usize)?.as_mut()?;
        (remote.slot.id == id).then_some(remote)
    }

    fn of(&self, conn: ConnId) -> Option<RemoteId> {
        let (owner, index) = (*self.places.get(conn.index as usize)?)?;
        let remote = self.remotes.get(index as usize)?.as_ref()?;
        (owner == conn).then_some(remote.slot.id)
    }

    fn insert(&mut self, remote: Remote) {
        let id = remote.slot.id;
        if let Some(conn) = remote.conn {
            let place = conn.index as usize;
            if self.places.len() <= place {
                self.places.resize(place + 1, None);
            }
            self.places[place] = Some((conn, id.index));
        }
        let index = id.index as usize;
        if self.remotes.len() <= index {
            self.remotes.resize_with(index + 1, || None);
        }
        self.remotes[index] = Some(remote);
    }

    /// The connection is gone; the handle may still read what was lent.
    fn forget_conn(&mut self, conn: ConnId) {
        if let Some(place) = self.places.get_mut(conn.index as usize)
            && place.is_some_and(|(owner, _)| owner == conn)
        {
            *place = None;
        }
    }

    /// Neither side needs the place any more.
    fn free(&mut self, id: RemoteId) {
        let Some(remote) = self
            .remotes
            .get_mut(id.index as usize)
            .and_then(Option::take)
        else {
            return;
        };
        if let Some(conn) = remote.conn {
            self.forget_conn(conn);
        }
        // What was lent and never looked at goes back to its pool.
        while let Some(event) = remote.slot.incoming.pop() {
            if let StreamEvent::Data { lease } = event {
                drop(self.link.region.get().and_then(|region| region.open(lease)));
                self.link.lease_returned();
            }
        }
        self.link.release(id);
    }

    fn commands<P: Port>(&mut self, cx: &mut Context<'_, P>, budget: usize) -> usize {
        let mut done = 0;
        while done < budget
            && let Ok(command) = self.commands.try_recv()
        {
            self.command(cx, command);
            done += 1;
        }
        done
    }

    fn command<P: Port>(&mut self, cx: &mut Context<'_, P>, command: Command) {
        match command {
            Command::Listen {
                listener,
                port,
                options,
            } => self.listen(cx, listener, port, options),
            Command::Unlisten { listener } => self.unlisten(cx, listener),
            Command::Connect {
                conn,
                remote,
                options,
                first,
            } => {
                self.connect(cx, conn, remote, options);
                if let Some((chunk, len)) = first {
                    self.write(cx, conn, chunk, len as usize);
                }
            }
            Command::Write { conn, chunk, len } => self.write(cx, conn, chunk, len as usize),
            Command::SetNagle { conn, on } => {
                if let Some(tcp) = self.remote(conn).and_then(|remote| remote.conn) {
                    // Unknown only if it has just closed, which its handle is told anyway.
                    let _ = cx.set_nagle(tcp, on);
                }
            }
            Command::Shutdown { conn } => self.finish(cx, conn, Finish::Shutdown),
            Command::Drain { conn } => {
                if let Some(remote) = self.remote(conn)
                    && !remote.draining
                {
                    remote.draining = true;
                    self.draining.push(conn);
                }
            }
            Command::Resume { conn } => self.pump(cx, conn),
            Command::Close { conn } => {
                if let Some(remote) = self.remote(conn) {
                    remote.released = true;
                }
                self.finish(cx, conn, Finish::Close);
            }
            Command::Abort { conn } => {
                if let Some(tcp) = self.remote(conn).and_then(|remote| remote.conn) {
                    // Unknown means that it is gone already, which is what was asked for.
                    let _ = cx.abort(tcp);
                }
                self.free(conn);
            }
        }
    }

    fn listen<P: Port>(
        &mut self,
        cx: &mut Context<'_, P>,
        listener: ListenerIndex,
        port: u16,
        options: ConnOptions,
    ) {
        // Gone already: its handle was dropped before we looked.
        let Some(shared) = self.shared.listener(listener) else {
            return;
        };
        if self.stopping {
            shared.answer(Err(Failure::stopped()));
            return;
        }
        match cx.listen(port, options) {
            Ok(id) => {
                shared.answer(Ok(()));
                self.listeners.insert(listener, Listening { id, shared });
            }
            Err(error) => {
                shared.answer(Err(Failure::new(
                    FailureCode::NotStarted,
                    error.to_string(),
                )));
            }
        }
    }

    fn unlisten<P: Port>(&mut self, cx: &mut Context<'_, P>, listener: ListenerIndex) {
        let Some(listening) = self.listeners.remove(&listener) else {
            return;
        };
        cx.unlisten(listening.id);
        while let Some(accepted) = listening.shared.queues[self.link.shard as usize].pop() {
            self.command(
                cx,
                Command::Abort {
                    conn: accepted.conn,
                },
            );
        }
    }

    fn write<P: Port>(&mut self, cx: &mut Context<'_, P>, id: RemoteId, chunk: u32, len: usize) {
        if let Some(remote) = self.remote(id) {
            if remote.conn.is_some() && !remote.finished {
                remote.pending.push_back(Pending {
                    chunk,
                    len,
                    sent: 0,
                });
            } else {
                // The writer learns of the close by its next call.
                remote.slot.release_chunk(chunk);
            }
        }
        self.flush(cx, id);
    }

    fn connect<P: Port>(
        &mut self,
        cx: &mut Context<'_, P>,
        id: RemoteId,
        peer: SocketAddr,
        options: ConnOptions,
    ) {
        let Some(slot) = self.link.slot(id) else {
            return;
        };
        let begun = if self.stopping {
            Err(Failure::stopped())
        } else {
            cx.connect(peer, options)
                .map_err(|error| Failure::new(FailureCode::NotStarted, error.to_string()))
        };
        match begun {
            Ok(conn) => self.insert(Remote::new(slot, Some(conn), Some(peer))),
            Err(failure) => {
                slot.fail(failure);
                self.insert(Remote::new(slot, None, Some(peer)));
            }
        }
    }

    fn accepted<P: Port>(
        &mut self,
        cx: &mut Context<'_, P>,
        conn: ConnId,
        listener: ListenerId,
        peer: SocketAddr,
    ) {
        let listening = self
            .listeners
            .values()
            .find(|listening| listening.id == listener);
        let shared = listening.map(|listening| Arc::clone(&listening.shared));
        let (Some(shared), Ok((local, _))) = (shared, cx.addresses(conn)) else {
            // Accepted in the turn in which the listener went: nobody can take it.
            let _ = cx.abort(conn);
            return;
        };
        let slot = match self.link.allocate() {
            Ok(slot) => slot,
            Err(failure) => {
                tracing::warn!(%peer, %failure, "connection reset: no place for its handle");
                shared.overflows.fetch_add(1, Ordering::Relaxed);
                // Unknown only if it has just ended by itself, which is as well.
                let _ = cx.abort(conn);
                return;
            }
        };
        let id = slot.id;
        slot.set_addresses((local, peer));
        slot.set(Status::CONNECTED);
        self.insert(Remote::new(slot, Some(conn), Some(peer)));
        let queue = &shared.queues[self.link.shard as usize];
        if queue
            .push(Accepted {
                conn: id,
                local,
                peer,
            })
            .is_ok()
        {
            shared.signal.notify();
        } else {
            // As Linux does with tcp_abort_on_overflow: the peer learns it at once.
            tracing::warn!(%peer, port = shared.port, "connection reset: the accept queue is full");
            shared.overflows.fetch_add(1, Ordering::Relaxed);
            self.command(cx, Command::Abort { conn: id });
        }
    }

    /// Lends received frames while the connection's share lasts.
    fn pump<P: Port>(&mut self, cx: &mut Context<'_, P>, id: RemoteId) {
        let limit = self.link.config.leases;
        let link = Arc::clone(&self.link);
        let Some(remote) = self.remote(id) else {
            return;
        };
        let (Some(conn), slot) = (remote.conn, &remote.slot) else {
            return;
        };
        let mut lent = false;
        loop {
            if slot.outstanding.load(Ordering::SeqCst) >= limit {
                slot.stalled.store(true, Ordering::SeqCst);
                // Leases may have come back between the look and the note: then nobody resumes us.
                if slot.outstanding.load(Ordering::SeqCst) > limit / 2
                    || !slot.stalled.swap(false, Ordering::SeqCst)
                {
                    break;
                }
            }
            match cx.recv(conn) {
                Ok(Recv::Data(frame)) => {
                    slot.outstanding.fetch_add(1, Ordering::SeqCst);
                    link.lease_lent();
                    let lent_frame = StreamEvent::Data {
                        lease: frame.lend(),
                    };
                    let pushed = slot.incoming.push(lent_frame);
                    debug_assert!(pushed.is_ok(), "the queue has room for all leases");
                    lent = true;
                }
                Ok(Recv::End) => {
                    if !slot.status().has(Status::ENDED) {
                        let pushed = slot.incoming.push(StreamEvent::End);
                        debug_assert!(pushed.is_ok(), "the queue has room for the end");
                        slot.set(Status::ENDED);
                    }
                    break;
                }
                // Unknown: `Closed` says why, or has said it.
                Ok(Recv::Empty) | Err(_) => break,
            }
        }
        if lent {
            slot.signal.notify();
        }
    }

    /// Sends what was written while TCP takes it, then does what comes after the last byte.
    fn flush<P: Port>(&mut self, cx: &mut Context<'_, P>, id: RemoteId) {
        let Some(remote) = self.remote(id) else {
            return;
        };
        let Some(conn) = remote.conn else { return };
        while let Some(front) = remote.pending.front_mut() {
            let unsent = front.sent..front.len;
            let sent = remote
                .slot
                .with_chunk(front.chunk, |bytes| {
                    bytes.get(unsent).map(|b| cx.send(conn, b))
                })
                .flatten();
            match sent {
                Some(Ok(n)) => front.sent += n,
                // The connection has just gone, or the command was not one of ours.
                Some(Err(_)) | None => front.sent = front.len,
            }
            if front.sent < front.len {
                return;
            }
            remote.slot.release_chunk(front.chunk);
            remote.pending.pop_front();
        }
        if remote.finish == Finish::Open || remote.finished {
            return;
        }
        remote.finished = true;
        // Unknown: it is gone, so there is nothing left to close.
        let _ = match remote.finish {
            Finish::Close => cx.close(conn),
            Finish::Shutdown | Finish::Open => cx.shutdown(conn),
        };
    }

    /// Notes what follows the last byte written, and does it if nothing is pending.
    fn finish<P: Port>(&mut self, cx: &mut Context<'_, P>, id: RemoteId, finish: Finish) {
        let Some(remote) = self.remote(id) else {
            return;
        };
        if finish > remote.finish {
            remote.finish = finish;
            remote.finished = false;
        }
        self.flush(cx, id);
        self.free_if_done(id);
    }

    /// After its last command a connection is TCP's alone, once all bytes are with TCP.
    fn free_if_done(&mut self, id: RemoteId) {
        if let Some(remote) = self.remote(id)
            && remote.released
            && (remote.finished || remote.conn.is_none())
        {
            self.free(id);
        }
    }

    fn closed(&mut self, conn: ConnId, outcome: Result<(), (FailureCode, String)>) {
        let Some(id) = self.of(conn) else { return };
        self.forget_conn(conn);
        let Some(remote) = self.remote(id) else {
            return;
        };
        remote.conn = None;
        for pending in remote.pending.drain(..) {
            remote.slot.release_chunk(pending.chunk);
        }
        match outcome {
            Ok(()) => {
                remote.slot.set(Status::DRAINED);
                remote.slot.set(Status::CLOSED);
            }
            Err((code, what)) => {
                let text = match remote.remote {
                    Some(peer) => format!("connection with {peer}: {what}"),
                    None => what,
                };
                remote.slot.fail(Failure::new(code, text));
            }
        }
        self.free_if_done(id);
    }

    /// Reports connections whose FIN has been acknowledged.
    fn watch_drains<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        let mut draining = std::mem::take(&mut self.draining);
        draining.retain(|&id| {
            let Some(remote) = self.remote(id) else {
                return false;
            };
            let Some(conn) = remote.conn else {
                return false;
            };
            let drained = match cx.info(conn) {
                Ok(info) => matches!(
                    info.state,
                    State::FinWait2 | State::TimeWait | State::Closed
                ),
                // `Closed` has come or comes in this turn, and sets what is waited for.
                Err(_) => return false,
            };
            if drained {
                remote.slot.set(Status::DRAINED);
            }
            !drained
        });
        self.draining = draining;
    }

    /// Closes everything in order; the shard resets what is left after its linger time.
    fn stop<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        // What was written before the stop is sent before the close.
        self.commands(cx, self.commands.len());
        self.stopping = true;
        for listening in self.listeners.values() {
            listening.shared.fail(Failure::stopped());
        }
        let ids: Vec<RemoteId> = self.remotes.iter().flatten().map(|r| r.slot.id).collect();
        for id in ids {
            self.finish(cx, id, Finish::Close);
            if let Some(remote) = self.remote(id) {
                remote.slot.fail(Failure::stopped());
            }
        }
        self.stop_if_flushed(cx);
    }

    fn stop_if_flushed<P: Port>(&mut self, cx: &mut Context<'_, P>) {
        if self
            .remotes
            .iter()
            .flatten()
            .all(|remote| remote.pending.is_empty())
        {
            cx.stop();
        }
    }
}

impl Service for RemoteService {
    fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
        match event {
            Event::Started => self.link.attach(cx.waker(), cx.region()),
            Event::Accepted {
                conn,
                listener,
                peer,
            } => self.accepted(cx, conn, listener, peer),
            Event::Connected { conn } => {
                let addresses = cx.addresses(conn);
                if let Some(remote) = self.of(conn).and_then(|id| self.remote(id)) {
                    if let Ok(addresses) = addresses {
                        remote.slot.set_addresses(addresses);
                    }
                    remote.slot.set(Status::CONNECTED);
                }
            }
            Event::Readable { conn } => {
                if let Some(id) = self.of(conn) {
                    self.pump(cx, id);
                }
            }
            Event::Writable { conn } => {
                if let Some(id) = self.of(conn) {
                    self.flush(cx, id);
                    self.free_if_done(id);
                }
            }
            Event::Closed { conn, reason } => self.closed(conn, outcome(reason)),
            Event::Unreachable { conn, reason } => {
                self.closed(conn, Err((FailureCode::Unreachable, reason.to_string())));
            }
            Event::Timer { .. } => {}
            Event::Stopping => self.stop(cx),
        }
    }

    fn on_turn<P: Port>(&mut self, cx: &mut Context<'_, P>) -> usize {
        let done = self.commands(cx, COMMAND_BUDGET);
        if !self.draining.is_empty() {
            self.watch_drains(cx);
        }
        if self.stopping {
            self.stop_if_flushed(cx);
        }
        done
    }

    fn has_work(&self) -> bool {
        !self.commands.is_empty()
    }
}

impl Drop for RemoteService {
    fn drop(&mut self) {
        self.link.end();
        self.shared.end_listeners();
    }
}
