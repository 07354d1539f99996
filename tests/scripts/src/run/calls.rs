//! System calls: arguments from the script, the call, and the comparison of what came back.

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::values::{check, field, int, list, number, option, structure, vectors};
use super::wire::{Socket, Stage};
use super::{Fault, Outcome, Player, When, mismatch, unsupported};
use crate::script::{Call, Expression, Micros};
use crate::table::{Answer, Message, Table};

/// Port of the sockets that scripts bind, and of the peer that they connect to.
const PORT: u16 = 8080;

/// Real time that the player waits for a blocking call to end or to fall asleep: packetdrill gives it a second.
const PATIENCE: Duration = Duration::from_secs(5);

type Work = Box<dyn FnOnce(&Table) -> Outcome<Done> + Send>;

/// A call that returns no more than a number.
type Ask = Box<dyn FnOnce(&Table) -> Answer + Send>;

/// What a call has changed in the script's view.
enum Done {
    Nothing,
    /// A new descriptor, and the script's number for it.
    Opened(i64, i32),
    /// `pipe`.
    Pipe([(i64, i32); 2]),
    Accepted(i64, i32, Option<SocketAddr>),
}

/// A call that runs in a thread of its own, as packetdrill's blocking calls do.
pub(super) struct Blocked {
    name: String,
    result: Receiver<(Outcome<Done>, Micros)>,
    until: Micros,
    thread: JoinHandle<()>,
}

impl Blocked {
    /// Waits for the end of the thread; everything it could wait for was closed. True if it has ended.
    pub(super) fn finish(self) -> bool {
        match self.result.recv_timeout(PATIENCE) {
            Ok(_) | Err(RecvTimeoutError::Disconnected) => self.thread.join().is_ok(),
            Err(RecvTimeoutError::Timeout) => false,
        }
    }
}

/// Whether the thread sleeps, as packetdrill asks.
fn is_asleep(thread: i32) -> bool {
    let path = format!("/proc/self/task/{thread}/stat");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.rsplit(')')
        .next()
        .is_some_and(|rest| rest.trim_start().starts_with('S'))
}

impl Player {
    pub(super) fn call(&mut self, call: &Call, until: Option<Micros>) -> Outcome {
        let work = self.prepare(call)?;
        let Some(until) = until else {
            let done = work(&self.table).map_err(|fault| name_it(fault, &call.name))?;
            return self.note(done);
        };
        let (table, start) = (self.table, self.start);
        let (send, result) = channel();
        let (send_id, id) = channel();
        let thread = std::thread::spawn(move || {
            let tid = std::fs::read_link("/proc/thread-self")
                .ok()
                .and_then(|path| path.file_name()?.to_str()?.parse::<i32>().ok());
            if send_id.send(tid.unwrap_or(0)).is_err() {
                return;
            }
            let outcome = work(&table);
            let ended = table.now_us() - start;
            // Nobody listens any more if the script has failed meanwhile.
            drop(send.send((outcome, ended)));
        });
        let Ok(id) = id.recv() else {
            return mismatch("the thread of a blocking call did not start");
        };
        self.blocked = Some(Blocked {
            name: call.name.clone(),
            result,
            until,
            thread,
        });
        let patience = Instant::now() + PATIENCE;
        while !is_asleep(id) && Instant::now() < patience {
            if self
                .blocked
                .as_ref()
                .is_some_and(|blocked| blocked.thread.is_finished())
            {
                break;
            }
            std::thread::yield_now();
        }
        // An `accept` that did not have to wait is known before the packets behind it.
        if self
            .blocked
            .as_ref()
            .is_some_and(|blocked| blocked.thread.is_finished())
        {
            return self.await_blocked();
        }
        Ok(())
    }

    /// Waits for the blocking call, if there is one, and checks its result and its end.
    pub(super) fn await_blocked(&mut self) -> Outcome {
        let Some(blocked) = self.blocked.take() else {
            return Ok(());
        };
        let (outcome, ended) = match blocked.result.recv_timeout(PATIENCE) {
            Ok(result) => result,
            Err(_) => {
                let what = format!("{} is still blocked", blocked.name);
                self.blocked = Some(blocked);
                return mismatch(what);
            }
        };
        let done = outcome.map_err(|fault| name_it(fault, &blocked.name))?;
        self.note(done)?;
        let when = When {
            any: false,
            first: blocked.until,
            last: blocked.until,
        };
        self.check_time(&format!("the return of {}", blocked.name), &when, ended)
    }

    fn note(&mut self, done: Done) -> Outcome {
        match done {
            Done::Nothing => {}
            Done::Opened(script, live) => self.name_descriptor(script, live)?,
            Done::Pipe(ends) => {
                for (script, live) in ends {
                    self.name_descriptor(script, live)?;
                }
            }
            Done::Accepted(script, live, peer) => {
                self.name_descriptor(script, live)?;
                let port = peer.map(|peer| peer.port());
                let mut sockets = self.sockets.iter_mut();
                let child = sockets
                    .find(|socket| Some(socket.remote_port()) == port && socket.fd.is_none());
                match child {
                    Some(child) => child.fd = Some(live),
                    None => return mismatch(format!("accept gave a connection of {peer:?}")),
                }
            }
        }
        Ok(())
    }

    fn name_descriptor(&mut self, script: i64, live: i32) -> Outcome {
        // As packetdrill: the newest has the number.
        self.fds.insert(script, live);
        Ok(())
    }

    pub(super) fn descriptor_under_test(&self) -> Option<i32> {
        let place = self.current?;
        self.sockets[place].fd
    }

    fn fd(&self, call: &Call) -> Outcome<i32> {
        self.fd_at(call, 0)
    }

    fn fd_at(&self, call: &Call, place: usize) -> Outcome<i32> {
        self.live(number(argument(call, place)?)?)
    }

    fn live(&self, script: i64) -> Outcome<i32> {
        match self.fds.get(&script) {
            Some(live) => Ok(*live),
            None if script < 0 => Ok(-1),
            None => mismatch(format!("the script has no descriptor {script}")),
        }
    }

    /// What the call will do, with all arguments read.
    fn prepare(&mut self, call: &Call) -> Outcome<Work> {
        let expected = call.result.clone();
        let error = call.error.clone();
        let check = move |answer: Answer| check(answer, &expected, error.as_deref());
        let plain =
            |run: Ask| -> Work { Box::new(move |table| check(run(table)).map(|()| Done::Nothing)) };
        match call.name.as_str() {
            "socket" | "epoll_create" | "accept" | "accept4" | "pipe" => self.prepare_opening(call),
            "bind" | "listen" | "connect" | "close" | "shutdown" | "fcntl" => {
                Ok(plain(self.prepare_state(call)?))
            }
            "read" | "recv" | "recvfrom" | "readv" | "write" | "send" | "sendto" | "writev"
            | "splice" => Ok(plain(self.prepare_stream(call)?)),
            "setsockopt" => {
                let (fd, level, name) = (
                    self.fd(call)?,
                    int(argument(call, 1)?)?,
                    int(argument(call, 2)?)?,
                );
                let mut value = option(argument(call, 3)?)?;
                let length = usize::try_from(number(argument(call, 4)?)?).unwrap_or(0);
                value.resize(length.max(value.len()), 0);
                if !matches!(argument(call, 3)?, Expression::Text(_)) {
                    value.truncate(length);
                }
                Ok(plain(Box::new(move |table| {
                    table.setsockopt(fd, level, name, &value)
                })))
            }
            "getsockopt" => self.prepare_getsockopt(call),
            "ioctl" => self.prepare_ioctl(call),
            "poll" => self.prepare_poll(call),
            "sendmsg" | "recvmsg" => self.prepare_message(call),
            "epoll_ctl" | "epoll_wait" => self.prepare_epoll(call),
            other => unsupported(format!("the call {other}")),
        }
    }

    /// Calls that give a descriptor.
    fn prepare_opening(&mut self, call: &Call) -> Outcome<Work> {
        let expected = call.result.clone();
        let error = call.error.clone();
        // The script's number for the new descriptor need not be the live one; a failure must be the same.
        let script = match &expected {
            Expression::Number(script) => *script,
            other => return unsupported(format!("{other:?} as a descriptor")),
        };
        let opened = move |answer: Answer, peer: Option<SocketAddr>, accepted: bool| match answer {
            Ok(live) if error.is_none() && script >= 0 => Ok(if accepted {
                Done::Accepted(script, live as i32, peer)
            } else {
                Done::Opened(script, live as i32)
            }),
            other => check(other, &expected, error.as_deref()).map(|()| Done::Nothing),
        };
        match call.name.as_str() {
            "socket" => {
                let domain = match argument(call, 0)? {
                    Expression::Ellipsis
                        if self.settings.local == self.settings.for_socket(self.settings.local)
                            && self.settings.local.is_ipv4() =>
                    {
                        libc::AF_INET
                    }
                    Expression::Ellipsis => libc::AF_INET6,
                    other => int(other)?,
                };
                let (kind, protocol) = (int(argument(call, 1)?)?, int(argument(call, 2)?)?);
                // Needed at once: the next packets are about this socket.
                let answer = self.table.socket(domain, kind, protocol);
                if let Ok(live) = answer
                    && script >= 0
                {
                    let local = (self.settings.local, 0);
                    let remote = (self.settings.remote, PORT);
                    self.sockets
                        .push(Socket::new(Some(live as i32), local, remote));
                    self.current = Some(self.sockets.len() - 1);
                }
                Ok(Box::new(move |_| opened(answer, None, false)))
            }
            "epoll_create" => {
                let size = int(argument(call, 0)?)?;
                Ok(Box::new(move |table| {
                    opened(table.epoll_create(size), None, false)
                }))
            }
            "pipe" => {
                let [read, write] = list(argument(call, 0)?)? else {
                    return unsupported("pipe without two descriptors");
                };
                let names = [number(read)?, number(write)?];
                Ok(Box::new(move |table| {
                    let (answer, ends) = table.pipe();
                    check(answer, &call_result(0), None)?;
                    Ok(Done::Pipe([(names[0], ends[0]), (names[1], ends[1])]))
                }))
            }
            _ => {
                let fd = self.fd(call)?;
                Ok(Box::new(move |table| {
                    let (answer, peer) = table.accept(fd);
                    opened(answer, peer, true)
                }))
            }
        }
    }

    /// Calls that change what a descriptor is.
    fn prepare_state(&mut self, call: &Call) -> Outcome<Ask> {
        let fd = self.fd(call)?;
        Ok(match call.name.as_str() {
            "bind" => {
                let to = SocketAddr::new(self.settings.for_socket(self.settings.local), PORT);
                Box::new(move |table| table.bind(fd, to))
            }
            "listen" => {
                let backlog = int(argument(call, 1)?)?;
                self.stage(fd, Stage::Listening);
                Box::new(move |table| table.listen(fd, backlog))
            }
            "connect" => {
                let to = self.destination(argument(call, 1)?)?;
                self.stage(
                    fd,
                    if to.is_some() {
                        Stage::Connecting
                    } else {
                        Stage::Fresh
                    },
                );
                Box::new(move |table| table.connect(fd, to))
            }
            "close" => {
                let script = number(argument(call, 0)?)?;
                self.fds.remove(&script);
                Box::new(move |table| table.close(fd))
            }
            "shutdown" => {
                let how = int(argument(call, 1)?)?;
                Box::new(move |table| table.shutdown(fd, how))
            }
            _ => {
                let command = int(argument(call, 1)?)?;
                let value = call.arguments.get(2).map_or(Ok(0), int)?;
                Box::new(move |table| table.fcntl(fd, command, value))
            }
        })
    }

    /// A socket that is connected or listens from here on; one that packets know already stays so.
    fn stage(&mut self, fd: i32, stage: Stage) {
        // The newest: numbers of closed descriptors are given out again.
        let mut sockets = self.sockets.iter_mut().rev();
        if let Some(socket) = sockets.find(|socket| socket.fd == Some(fd))
            && (socket.stage != Stage::Known || stage == Stage::Fresh)
        {
            socket.stage = stage;
        }
    }

    /// Where `connect` and `sendto` go: `...` is the script's end, `{sa_family = AF_UNSPEC}` nowhere.
    fn destination(&self, expression: &Expression) -> Outcome<Option<SocketAddr>> {
        match expression {
            Expression::Ellipsis => {
                let ip = self.settings.for_socket(self.settings.remote);
                Ok(Some(SocketAddr::new(ip, PORT)))
            }
            Expression::Struct(fields) => {
                let family = field(fields, "sa_family").map_or(Ok(-1), int)?;
                if family == libc::AF_UNSPEC {
                    return Ok(None);
                }
                unsupported(format!("an address of family {family}"))
            }
            other => unsupported(format!("{other:?} as an address")),
        }
    }

    /// Calls that move bytes.
    fn prepare_stream(&mut self, call: &Call) -> Outcome<Ask> {
        let fd = self.fd(call)?;
        if let "readv" | "writev" = call.name.as_str() {
            let writes = call.name == "writev";
            let lengths = vectors(argument(call, 1)?)?;
            let mut buffers: Vec<Vec<u8>> = lengths.iter().map(|length| vec![0; *length]).collect();
            return Ok(Box::new(move |table| {
                table.vectors(fd, &mut buffers, writes)
            }));
        }
        if call.name == "splice" {
            let to = self.fd_at(call, 2)?;
            let length = usize::try_from(number(argument(call, 4)?)?).unwrap_or(0);
            let flags = int(argument(call, 5)?)? as u32;
            return Ok(Box::new(move |table| table.splice(fd, to, length, flags)));
        }
        let is_null = *argument(call, 1)? == Expression::Number(0);
        let length = usize::try_from(number(argument(call, 2)?)?).unwrap_or(0);
        let flags = call.arguments.get(3).map_or(Ok(0), int)?;
        let mut buffer = vec![0u8; if is_null { 0 } else { length }];
        Ok(match call.name.as_str() {
            "read" => {
                Box::new(move |table| table.read(fd, (!is_null).then_some(&mut buffer), length))
            }
            "recv" | "recvfrom" => {
                let from = call.name == "recvfrom";
                Box::new(move |table| {
                    table.recv(fd, (!is_null).then_some(&mut buffer), length, flags, from)
                })
            }
            "write" => {
                Box::new(move |table| table.write(fd, (!is_null).then_some(&buffer), length))
            }
            "sendto" if flags & libc::MSG_FASTOPEN != 0 => {
                let to = self.destination(argument(call, 4)?)?;
                self.stage(fd, Stage::Connecting);
                Box::new(move |table| {
                    table.send(fd, (!is_null).then_some(&buffer), length, flags, Some(to))
                })
            }
            _ => Box::new(move |table| {
                table.send(fd, (!is_null).then_some(&buffer), length, flags, None)
            }),
        })
    }

    fn prepare_getsockopt(&mut self, call: &Call) -> Outcome<Work> {
        let (fd, level, name) = (
            self.fd(call)?,
            int(argument(call, 1)?)?,
            int(argument(call, 2)?)?,
        );
        let value = match argument(call, 3)? {
            Expression::Ellipsis => None,
            other => Some(option(other)?),
        };
        let (expected, error) = (call.result.clone(), call.error.clone());
        Ok(Box::new(move |table| {
            let mut room = vec![0; 256];
            let answer = table.getsockopt(fd, level, name, &mut room);
            check(answer.map(|_| 0), &expected, error.as_deref())?;
            let found = &room[..answer.unwrap_or(0) as usize];
            match value {
                Some(value) if !found.starts_with(&value) => {
                    mismatch(format!("the option is {found:?} instead of {value:?}"))
                }
                _ => Ok(Done::Nothing),
            }
        }))
    }

    fn prepare_ioctl(&mut self, call: &Call) -> Outcome<Work> {
        let (fd, request) = (self.fd(call)?, number(argument(call, 1)?)? as u64);
        let value = call.arguments.get(2).map_or(Ok(0), int)?;
        let (expected, error) = (call.result.clone(), call.error.clone());
        Ok(Box::new(move |table| {
            let mut found = value;
            check(
                table.ioctl(fd, request, &mut found),
                &expected,
                error.as_deref(),
            )?;
            if error.is_none() && found != value {
                return mismatch(format!("ioctl says {found} instead of {value}"));
            }
            Ok(Done::Nothing)
        }))
    }

    fn prepare_poll(&mut self, call: &Call) -> Outcome<Work> {
        let mut fds = Vec::new();
        let mut wanted = Vec::new();
        for one in list(argument(call, 0)?)? {
            let fields = structure(one)?;
            let get = |name| field(fields, name).map_or(Ok(0), int);
            fds.push((self.live(get("fd")?.into())?, get("events")? as i16, 0));
            wanted.push(get("revents")? as i16);
        }
        let timeout = int(argument(call, 2)?)?;
        let (expected, error) = (call.result.clone(), call.error.clone());
        Ok(Box::new(move |table| {
            check(table.poll(&mut fds, timeout), &expected, error.as_deref())?;
            for ((_, _, found), wanted) in fds.iter().zip(&wanted) {
                if found != wanted {
                    return mismatch(format!("revents are {found:#x} instead of {wanted:#x}"));
                }
            }
            Ok(Done::Nothing)
        }))
    }

    fn prepare_message(&mut self, call: &Call) -> Outcome<Work> {
        let fd = self.fd(call)?;
        let fields = structure(argument(call, 1)?)?;
        let lengths = field(fields, "msg_iov").map_or(Ok(Vec::new()), vectors)?;
        let flags = int(argument(call, 2)?)?;
        let mut message = Message {
            buffers: lengths.iter().map(|length| vec![0; *length]).collect(),
            ..Message::default()
        };
        let (expected, error) = (call.result.clone(), call.error.clone());
        if call.name == "sendmsg" {
            if flags & libc::MSG_FASTOPEN != 0 {
                message.to = self.destination(&Expression::Ellipsis)?;
                self.stage(fd, Stage::Connecting);
            }
            return Ok(Box::new(move |table| {
                let answer = table.sendmsg(fd, &mut message, flags);
                check(answer, &expected, error.as_deref()).map(|()| Done::Nothing)
            }));
        }
        let mut control = Vec::new();
        for one in field(fields, "msg_control").map_or(Ok(&[][..]), list)? {
            let fields = structure(one)?;
            let get = |name| field(fields, name).map_or(unsupported(format!("no {name}")), Ok);
            let data = control_data(get("cmsg_data")?)?;
            control.push((int(get("cmsg_level")?)?, int(get("cmsg_type")?)?, data));
        }
        let wanted = field(fields, "msg_flags").map(int).transpose()?;
        Ok(Box::new(move |table| {
            let answer = table.recvmsg(fd, &mut message, flags);
            check(answer, &expected, error.as_deref())?;
            if error.is_some() {
                return Ok(Done::Nothing);
            }
            // An error's address is not compared.
            let same = message.control.len() == control.len()
                && message.control.iter().zip(&control).all(|(found, wanted)| {
                    (found.0, found.1) == (wanted.0, wanted.1) && found.2.starts_with(&wanted.2)
                });
            if !same {
                return mismatch(format!(
                    "control messages {:?} instead of {control:?}",
                    message.control
                ));
            }
            match wanted {
                Some(wanted) if wanted != message.flags => mismatch(format!(
                    "msg_flags {:#x} instead of {wanted:#x}",
                    message.flags
                )),
                _ => Ok(Done::Nothing),
            }
        }))
    }

    fn prepare_epoll(&mut self, call: &Call) -> Outcome<Work> {
        let epoll = self.fd(call)?;
        let (expected, error) = (call.result.clone(), call.error.clone());
        // As in the kernel's union: `fd` and `u32` are the low half of the word.
        let event = |expression: &Expression| -> Outcome<(u32, u64)> {
            let fields = structure(expression)?;
            let get = |name| field(fields, name).map(number).transpose();
            let events = get("events")?.unwrap_or(0) as u32;
            let data = match get("fd")? {
                Some(fd) => u64::from(self.live(fd)? as u32),
                None => get("ptr")?.or(get("u32")?).or(get("u64")?).unwrap_or(0) as u64,
            };
            Ok((events, data))
        };
        if call.name == "epoll_ctl" {
            let (operation, fd) = (int(argument(call, 1)?)?, self.fd_at(call, 2)?);
            let (events, data) = event(argument(call, 3)?)?;
            return Ok(Box::new(move |table| {
                let answer = table.epoll_ctl(epoll, operation, fd, events, data);
                check(answer, &expected, error.as_deref()).map(|()| Done::Nothing)
            }));
        }
        let wanted = match argument(call, 1)? {
            Expression::List(all) => all.iter().map(event).collect::<Outcome<Vec<_>>>()?,
            one => vec![event(one)?],
        };
        let (most, timeout) = (int(argument(call, 2)?)?, int(argument(call, 3)?)?);
        Ok(Box::new(move |table| {
            let (answer, found) = table.epoll_wait(epoll, most, timeout);
            check(answer, &expected, error.as_deref())?;
            if found != wanted[..found.len().min(wanted.len())] {
                return mismatch(format!("events {found:x?} instead of {wanted:x?}"));
            }
            Ok(Done::Nothing)
        }))
    }
}

/// The bytes of a control message: a number, or `struct sock_extended_err`.
fn control_data(expression: &Expression) -> Outcome<Vec<u8>> {
    let Ok(fields) = structure(expression) else {
        return Ok(int(expression)?.to_ne_bytes().to_vec());
    };
    let get = |name| field(fields, name).map_or(unsupported(format!("no {name}")), int);
    let mut bytes = get("ee_errno")?.to_ne_bytes().to_vec();
    for name in ["ee_origin", "ee_type", "ee_code"] {
        bytes.push(get(name)? as u8);
    }
    bytes.push(0);
    bytes.extend(get("ee_info")?.to_ne_bytes());
    bytes.extend(get("ee_data")?.to_ne_bytes());
    Ok(bytes)
}

fn call_result(value: i64) -> Expression {
    Expression::Number(value)
}

fn argument(call: &Call, place: usize) -> Outcome<&Expression> {
    match call.arguments.get(place) {
        Some(argument) => Ok(argument),
        None => unsupported(format!(
            "{} with {} arguments",
            call.name,
            call.arguments.len()
        )),
    }
}

fn name_it(fault: Fault, name: &str) -> Fault {
    match fault {
        Fault::Mismatch(what) => Fault::Mismatch(format!("{name}: {what}")),
        unsupported @ Fault::Unsupported(_) => unsupported,
    }
}
