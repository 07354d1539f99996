//! From a configuration to an attached, pinned program, and back.
//!
//! ```text
//! lock the engine's directory ──> load ──> a dead engine's link there? ── yes ─> bpf_link_update: the new program takes its place
//!    │ held: AlreadyRunning                       │ no                           in one step, no packet sees a gap
//!    └─> error                                    └─> bpf_link_create: native, then generic if the mode is Auto
//! ──> pin link and maps ──> write the owner file
//! ```
//! Any error on the way removes what was made.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread;
use std::time::Duration;

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, XdpMode};
use nix::libc;

use crate::abi::{ABI_VERSION, Config, SLOTS_PER_QUEUE};
use crate::demux::{AttachConfig, AttachedMode, Mode};
use crate::error::{AttachError, DetachError, errno};
use crate::inherit::{Inherited, inherit};
use crate::interface::{self, Interface};
use crate::object::{Maps, Object};
use crate::pin::{self, LINK_PIN, OpenError, PinDir, Scope, pin_error, sweep};

/// Queues for which the tables' sizes stay sensible; no NIC has as many.
const QUEUES_MAX: u32 = 1024;

/// From Linux's single-buffer XDP on a veth with 4 KiB pages: beyond this an EINVAL or its like is most likely about the MTU.
const MTU_SINGLE_BUFFER: u32 = 3498;

/// The kernel frees a link's last reference in an RCU callback and a work queue: milliseconds.
const GONE_ATTEMPTS: u32 = 1000;
const GONE_INTERVAL: Duration = Duration::from_millis(1);

/// What has to go at the end.
#[derive(Debug)]
pub(crate) struct Attachment {
    link: FdLink,
    /// As it came out: with the mode that it became.
    config: AttachConfig,
    program: u32,
    object: Object,
    pin_dir: PinDir,
}

/// How it came out, for the caller to show.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) mode: AttachedMode,
    pub(crate) took_over: bool,
    /// Why Auto ended generic.
    pub(crate) native_refusal: Option<AttachError>,
    pub(crate) scope: Scope,
    /// What is ours because it was a dead engine's.
    pub(crate) inherited: Inherited,
}

/// A link with our program, and how it came about.
struct Attached {
    link: FdLink,
    took_over: bool,
    inherited: Inherited,
    native_refusal: Option<AttachError>,
}

impl Attachment {
    /// The link's id, by which another process can open it.
    pub(crate) fn link_id(&self) -> Result<u32, AttachError> {
        match self.link.info() {
            Ok(info) => Ok(info.id()),
            Err(error) => Err(AttachError::Link {
                interface: self.config.interface.clone(),
                source: io_error(error),
            }),
        }
    }

    /// Puts the same program with the same maps back, in the mode that it had, if somebody has detached its link.
    pub(crate) fn reattach(&mut self) -> Result<Reattached, AttachError> {
        match state_of(&self.config)?.xdp {
            Some(xdp) if xdp.id == self.program => return Ok(Reattached::WasThere),
            _ => {}
        }
        let (config, object, pin_dir) = (&self.config, &mut self.object, &self.pin_dir);
        self.link = pin::in_host_mounts(|_| {
            let (link, _) = create_link(config, object)?;
            // The detached one's pin holds a link to nothing.
            pin_dir.unpin(LINK_PIN)?;
            pin_link(link, pin_dir)
        })?;
        Ok(Reattached::Anew)
    }

    /// Puts the program, loaded afresh, in the place of the one that runs, with the same maps: in one step, no packet sees a gap.
    pub(crate) fn replace(&mut self) -> Result<(), AttachError> {
        let (config, pin_dir) = (&self.config, &self.pin_dir);
        let (object, link) = pin::in_host_mounts(|_| {
            let mut object = Object::load_with(pin_dir)?;
            let link = update_stale(config, &mut object, pin_dir)?;
            Ok::<_, AttachError>((object, link))
        })?;
        let link = link.ok_or_else(|| AttachError::NotAttached {
            interface: config.interface.clone(),
        })?;
        let program = state_of(config)?.xdp.map(|xdp| xdp.id);
        self.program = program.ok_or_else(|| AttachError::NotAttached {
            interface: config.interface.clone(),
        })?;
        self.link = link;
        self.object = object;
        Ok(())
    }

    /// Removes pins and mount, closes the link, and waits until the program is off the interface.
    pub(crate) fn remove(self) -> Result<(), DetachError> {
        let Self {
            link,
            object,
            pin_dir,
            ..
        } = self;
        let removed = pin::in_host_mounts(move |_| pin_dir.remove());
        drop(link);
        drop(object);
        wait_until_gone(self.config.ifindex, self.program)?;
        Ok(removed?)
    }
}

/// What [`crate::Demux::reattach`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reattached {
    /// The program was on the interface.
    WasThere,
    /// It had been detached, and is on the interface again, by a new link.
    Anew,
}

/// Pins a link; without the pin it would end with the process.
fn pin_link(link: FdLink, pin_dir: &PinDir) -> Result<FdLink, AttachError> {
    let path = pin_dir.path(LINK_PIN);
    let pinned = link
        .pin(&path)
        .map_err(|error| pin_error("pin the link at", &path)(io_error(error)))?;
    Ok(pinned.into())
}

/// Attaches as configured; see [`crate::Demux::attach`].
pub(crate) fn attach(
    config: &AttachConfig,
) -> Result<((Maps, OwnedFd), Attachment, Outcome), AttachError> {
    check(config)?;
    state_of(config)?;
    let mut object = Object::load(config.queues)?;
    object.write_config(initial(config))?;
    // Only paths need the host's mount namespace, but lock, take-over and pins are one transaction: all of it runs there.
    let (mut attachment, outcome) = pin::in_host_mounts(|scope| attach_in(config, scope, object))?;
    match attachment.object.take_maps() {
        Ok(maps) => Ok((maps, attachment, outcome)),
        Err(error) => {
            // The first error is the one to report.
            let _ = attachment.remove();
            Err(error)
        }
    }
}

/// What the program goes by from its first packet on: shards, and no ports yet.
pub(crate) fn initial(config: &AttachConfig) -> Config {
    let bare = Config {
        abi_version: ABI_VERSION,
        queues: config.queues,
        ..Config::default()
    };
    config.settings.apply(bare, false)
}

fn check(config: &AttachConfig) -> Result<(), AttachError> {
    let reason = if config.queues == 0 || config.queues > QUEUES_MAX {
        format!(
            "{} queues were asked for: 1 to {QUEUES_MAX} are possible",
            config.queues
        )
    } else if !config.pin_dir.is_absolute() || config.pin_dir.parent() == Some(Path::new("/")) {
        format!(
            "`{}` cannot hold the pins: an absolute path such as {}/<key>/bpf is needed",
            config.pin_dir.display(),
            pin::RUN_DIRECTORY
        )
    } else if let Some(reason) = config.settings.refusal() {
        reason
    } else {
        return Ok(());
    };
    Err(AttachError::Config {
        interface: config.interface.clone(),
        reason,
    })
}

fn attach_in(
    config: &AttachConfig,
    scope: Scope,
    mut object: Object,
) -> Result<(Attachment, Outcome), AttachError> {
    let mut pin_dir = PinDir::open(&config.pin_dir).map_err(|error| match error {
        OpenError::Owned(owner) => AttachError::AlreadyRunning {
            interface: config.interface.clone(),
            owner,
        },
        OpenError::Pin(error) => error.into(),
    })?;
    sweep(&config.pin_dir);
    match attach_and_pin(config, &mut object, &mut pin_dir) {
        Ok((attached, mode, program)) => {
            let attachment = Attachment {
                link: attached.link,
                config: AttachConfig {
                    mode: mode.into(),
                    ..config.clone()
                },
                program,
                object,
                pin_dir,
            };
            let outcome = Outcome {
                mode,
                took_over: attached.took_over,
                native_refusal: attached.native_refusal,
                scope,
                inherited: attached.inherited,
            };
            Ok((attachment, outcome))
        }
        Err(error) => {
            // The first error is the one to report; `error` tells what stands in the way of both.
            let _ = pin_dir.remove();
            Err(error)
        }
    }
}

fn attach_and_pin(
    config: &AttachConfig,
    object: &mut Object,
    pin_dir: &mut PinDir,
) -> Result<(Attached, AttachedMode, u32), AttachError> {
    let attached = match take_over(config, object, pin_dir)? {
        Some((link, inherited)) => Attached {
            link,
            took_over: true,
            inherited,
            native_refusal: None,
        },
        None => {
            let (link, native_refusal) = create_link(config, object)?;
            Attached {
                link: pin_link(link, pin_dir)?,
                took_over: false,
                inherited: Inherited::default(),
                native_refusal,
            }
        }
    };
    for (name, map) in object.maps() {
        pin_dir.unpin(name)?;
        let path = pin_dir.path(name);
        map.pin(&path)
            .map_err(|error| pin_error("pin the map at", &path)(io_error(error)))?;
    }
    let found = state_of(config)?.xdp;
    let (Some(mode), Some(program)) = (
        found.as_ref().and_then(|xdp| xdp.mode),
        found.as_ref().map(|xdp| xdp.id),
    ) else {
        return Err(AttachError::Attach {
            interface: config.interface.clone(),
            mode: "any",
            source: format!("the kernel made the link but reports {found:?}").into(),
        });
    };
    pin_dir.describe(&format!(
        "pid {}\ninterface {} index {}\nabi {ABI_VERSION}\nqueues {} of {SLOTS_PER_QUEUE} slots\nmode {}\n",
        std::process::id(),
        config.interface,
        config.ifindex,
        config.queues,
        mode.name(),
    ))?;
    Ok((attached, mode, program))
}

/// The link that a dead engine left, with our program in it. None: there is none of use, and the pin, if any, is gone.
fn take_over(
    config: &AttachConfig,
    object: &mut Object,
    pin_dir: &PinDir,
) -> Result<Option<(FdLink, Inherited)>, AttachError> {
    if !pin_dir.contains(LINK_PIN) {
        return Ok(None);
    }
    let before = state_of(config)?.xdp;
    // A link keeps its mode. Auto does not settle for the generic link of an engine that wanted it.
    let suits = match before.as_ref().and_then(|xdp| xdp.mode) {
        Some(AttachedMode::Native) => config.mode != Mode::Generic,
        Some(AttachedMode::Generic) => config.mode == Mode::Generic,
        None => false,
    };
    if suits {
        let inherited = inherit(pin_dir, object, initial(config))?;
        if let Some(link) = update_stale(config, object, pin_dir)? {
            return Ok(Some((link, inherited)));
        }
        // A new link on a new interface: nothing of the old one's is ours there.
        object.forget(&inherited)?;
        object.write_config(initial(config))?;
    }
    pin_dir.unpin(LINK_PIN)?;
    if let Some(stale) = before {
        // If the program is another's, not the link's, it stays, and creating our link will say so.
        let _ = wait_until_gone(config.ifindex, stale.id);
    }
    Ok(None)
}

/// bpf_link_update on the pinned link. None: the link lost its interface (ENOLINK), or the pin is no XDP link.
fn update_stale(
    config: &AttachConfig,
    object: &mut Object,
    pin_dir: &PinDir,
) -> Result<Option<FdLink>, AttachError> {
    let Ok(pinned) = PinnedLink::from_pin(pin_dir.path(LINK_PIN)) else {
        return Ok(None);
    };
    let Ok(stale) = XdpLink::try_from(FdLink::from(pinned)) else {
        return Ok(None);
    };
    let program = object.program()?;
    match program.attach_to_link(stale) {
        Ok(id) => {
            let link = program
                .take_link(id)
                .map_err(|error| attach_error(config, "the stale link's", error))?;
            // It was a bpf_link when it came.
            Ok(FdLink::try_from(link).ok())
        }
        Err(error) if matches!(errno(&error), Some(libc::ENOLINK | libc::EINVAL)) => Ok(None),
        Err(error) => Err(attach_error(config, "the stale link's", error)),
    }
}

/// A new link, and why it is generic although native would do as well.
fn create_link(
    config: &AttachConfig,
    object: &mut Object,
) -> Result<(FdLink, Option<AttachError>), AttachError> {
    let native = |object: &mut Object| create_link_as(config, object, XdpMode::Driver, "native");
    let generic = |object: &mut Object| create_link_as(config, object, XdpMode::Skb, "generic");
    match config.mode {
        Mode::Native => Ok((native(object)?, None)),
        Mode::Generic => Ok((generic(object)?, None)),
        Mode::Auto => match native(object) {
            Ok(link) => Ok((link, None)),
            Err(refusal @ AttachError::ModeRefused { .. }) => Ok((generic(object)?, Some(refusal))),
            Err(error) => Err(error),
        },
    }
}

fn create_link_as(
    config: &AttachConfig,
    object: &mut Object,
    mode: XdpMode,
    name: &'static str,
) -> Result<FdLink, AttachError> {
    let program = object.program()?;
    let link = program
        .attach_to_if_index(config.ifindex, mode)
        .and_then(|id| program.take_link(id))
        .map_err(|error| attach_error(config, name, error))?;
    // On EINVAL aya tries the old netlink attach instead, which no pin keeps alive. It cannot succeed where bpf_links exist.
    FdLink::try_from(link).map_err(|_| AttachError::NoLink {
        interface: config.interface.clone(),
    })
}

/// Says what an errno of the attach means. The driver's own words (extack) do not come with a bpf_link.
fn attach_error(config: &AttachConfig, mode: &'static str, error: ProgramError) -> AttachError {
    let interface = config.interface.clone();
    let Some(code) = errno(&error).or_else(|| netlink_errno(&error)) else {
        return AttachError::Attach {
            interface,
            mode,
            source: Box::new(error),
        };
    };
    let source = io::Error::from_raw_os_error(code);
    let state = match state_of(config) {
        Ok(state) => state,
        Err(error) => return error,
    };
    match (code, state.xdp) {
        (libc::EPERM | libc::EACCES, _) => AttachError::NotPrivileged {
            operation: "attaching the XDP program",
            source,
        },
        (libc::EBUSY | libc::EEXIST, Some(xdp)) => AttachError::OtherProgram {
            interface,
            found: format!(
                "id {}, {}",
                xdp.id,
                xdp.mode.map_or("other mode", AttachedMode::name)
            ),
        },
        (libc::ENOSPC | libc::ENOMEM, _) => AttachError::Queues { interface, source },
        (libc::ERANGE | libc::EINVAL | libc::EOPNOTSUPP, _)
            if code == libc::ERANGE || state.mtu > MTU_SINGLE_BUFFER =>
        {
            AttachError::MtuTooLarge {
                interface,
                mtu: state.mtu,
                source,
            }
        }
        (libc::EINVAL | libc::EOPNOTSUPP, _) => AttachError::ModeRefused {
            interface,
            mode,
            mtu: state.mtu,
            source,
        },
        _ => AttachError::Attach {
            interface,
            mode,
            source: Box::new(error),
        },
    }
}

fn netlink_errno(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::XdpError(aya::programs::xdp::XdpError::NetlinkError(error)) => {
            error.raw_os_error()
        }
        _ => None,
    }
}

fn io_error(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    match errno(&error) {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::other(error),
    }
}

fn state_of(config: &AttachConfig) -> Result<Interface, AttachError> {
    match interface::query(config.ifindex) {
        Ok(Some(state)) => Ok(state),
        Ok(None) => Err(AttachError::UnknownInterface {
            interface: config.interface.clone(),
            ifindex: config.ifindex,
        }),
        Err(source) => Err(AttachError::Netlink {
            interface: config.interface.clone(),
            source,
        }),
    }
}

/// Returns once the program with this id is off the interface, or the interface itself is gone.
fn wait_until_gone(ifindex: u32, program: u32) -> Result<(), DetachError> {
    for _ in 0..GONE_ATTEMPTS {
        match interface::query(ifindex).map_err(DetachError::Netlink)? {
            Some(Interface { xdp: Some(xdp), .. }) if xdp.id == program => {
                thread::sleep(GONE_INTERVAL)
            }
            _ => return Ok(()),
        }
    }
    Err(DetachError::StillAttached { program })
}
