//! The builder's side: entering the user namespace once, then running RUNs in it.

use std::fmt;
use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::emulation::{Emulator, Registry};
use super::idmap::{self, Plan};
use super::init::{Init, Running, Start};
use super::owners::{Owners, supervise};
use super::spec::{Network, Order, Report, RunSpec};
use super::{Error, IdMap, MAX_LOWERS};
use crate::sys::cred::Namespaces;
use crate::sys::process::{self, Ended};
use crate::sys::stand_in::Owned;
use crate::sys::{cred, mem, mount};

/// How many milliseconds threads that have ended get to be gone.
const SETTLE: u32 = 1000;

/// How much isolation is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Isolation {
    /// The best that this host has.
    #[default]
    Auto,
    /// A user namespace with a range of ids, or an error.
    Userns,
    /// A user namespace with the one id of the caller.
    UsernsSingle,
}

/// What isolation a session got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rung {
    /// A user namespace with a range of ids.
    Userns,
    /// A user namespace with one id.
    UsernsSingle,
    /// No user namespace can be had, but this is root: mount and pid namespaces only.
    Root,
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rung::Userns => "userns",
            Rung::UsernsSingle => "userns-single",
            Rung::Root => "root",
        })
    }
}

/// How to enter a session.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What to ask for.
    pub isolation: Isolation,
    /// The user's name, for /etc/subuid, where /etc/passwd does not have it.
    pub user_name: Option<String>,
    /// Directories to look for newuidmap and newgidmap in (PATH).
    pub path: Vec<PathBuf>,
    /// The program to execute again for each RUN, whose `main` calls [`super::child_main`] first;
    /// this one when None.
    pub exe: Option<PathBuf>,
}

/// What a RUN wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// It exited with this code.
    Exited(i32),
    /// A signal killed it.
    Signaled(i32),
    /// It was never started: not found (127) or not executable (126).
    NotStarted {
        /// 126 or 127.
        code: u8,
        /// Why.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
}

impl Status {
    /// Says whether it ended well.
    pub fn success(&self) -> bool {
        *self == Status::Exited(0)
    }

    /// Gives the code a shell would give: 128 + n for a signal.
    pub fn code(&self) -> i32 {
        match self {
            Status::Exited(code) => *code,
            Status::Signaled(signal) => 128 + signal,
            Status::NotStarted { code, .. } => i32::from(*code),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Status::Exited(code) => write!(f, "exit code {code}"),
            Status::Signaled(signal) => write!(f, "killed by signal {signal}"),
            Status::NotStarted { message, .. } => f.write_str(message),
        }
    }
}

/// What came of a RUN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunOutcome {
    /// How it ended.
    pub status: Status,
    /// Who ran it, inside the image: `USER` resolved. New files belong to it on the rung
    /// `userns-single`, where the disk cannot tell.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Owners that it gave to what has no attributes, on the rung `userns-single`; None: nobody kept
    /// owners.
    pub owned: Option<Vec<Owned>>,
    /// Processor time in user mode, of the program and all that it waited for.
    pub user_time: Duration,
    /// Processor time in the kernel.
    pub system_time: Duration,
}

/// A wish to stop, shared by all who run something; cheap to clone.
#[derive(Clone, Debug)]
pub struct Cancel(Arc<CancelState>);

#[derive(Debug)]
struct CancelState {
    wished: AtomicBool,
    event: mem::Event,
}

impl Cancel {
    /// Makes one that nobody wished yet.
    pub fn new() -> Result<Cancel, Error> {
        let event = mem::Event::new()
            .map_err(|source| Error::Sys { doing: "preparing to cancel", source })?;
        Ok(Cancel(Arc::new(CancelState { wished: AtomicBool::new(false), event })))
    }

    /// Stops everything that watches this: RUNs are killed. Safe in a signal handler.
    pub fn cancel(&self) {
        self.0.wished.store(true, Ordering::SeqCst);
        self.0.event.set();
    }

    /// Says whether somebody cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.wished.load(Ordering::SeqCst) || crate::sys::process::stop_requested()
    }

    /// Takes SIGINT, SIGTERM and SIGHUP as wishes to stop; a second one ends the process at once.
    pub fn on_signals(&self) {
        // The handler may run until the process ends, so the event must live as long.
        std::mem::forget(self.clone());
        crate::sys::process::stop_on_signals(self.fd());
    }

    /// Gives a descriptor that can be polled: readable once somebody cancelled.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.event.fd()
    }
}

/// The user namespace of a build and what its RUNs share.
#[derive(Debug)]
pub struct Session {
    map: IdMap,
    rung: Rung,
    notes: Vec<String>,
    init: Init,
    emulators: Option<Registry>,
}

impl Session {
    /// Moves this process, which must have one thread, into the user namespace of a build.
    ///
    /// After an error from here the process may be inside of a namespace that is good for nothing:
    /// report and end.
    pub fn enter(options: &Options) -> Result<Session, Error> {
        // A thread that was joined may still be on its way out of the kernel.
        let mut threads = process::thread_count();
        for _ in 0..SETTLE {
            if threads == 1 {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
            threads = process::thread_count();
        }
        if threads != 1 {
            return Err(Error::Threads { threads });
        }
        let sys = |doing| move |source| Error::Sys { doing, source };
        let program = program_to_run(options)?;
        let (map, rung, short) = enter_namespaces(options)?;
        let mut notes = Vec::new();
        if let Some(short) = short {
            let cost = match rung {
                Rung::Root => "RUN is isolated by mount and pid namespaces only",
                _ => "only one user id is mapped: programs in RUN cannot become other users",
            };
            notes.push(format!("{cost} ({}); to mend: {}", short.reason, short.hint));
        }
        mount::make_all_private().map_err(sys("making the mounts private"))?;
        if rung != Rung::Root {
            cred::set_ids(0, 0).map_err(sys("becoming root of the user namespace"))?;
        }
        let init = Init::start(&program)?;
        if !init.fresh_proc {
            notes.push(
                "/proc cannot be mounted anew, so RUN sees the host's process ids in it; to mend: \
                 start the container with --security-opt systempaths=unconfined"
                    .into(),
            );
        }
        Ok(Session { map, rung, notes, init, emulators: None })
    }

    /// Gives the ids that the namespace has.
    pub fn id_map(&self) -> &IdMap {
        &self.map
    }

    pub(super) fn init(&self) -> &Init {
        &self.init
    }

    /// Gives the isolation that was reached.
    pub fn rung(&self) -> Rung {
        self.rung
    }

    /// Gives remarks for the user: what the host could not do, and what mends it.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Makes programs of these architectures runnable in RUNs of this session.
    pub fn register_emulators(&mut self, emulators: &[Emulator]) -> Result<(), Error> {
        if emulators.is_empty() {
            return Ok(());
        }
        let registry = match self.emulators.take() {
            Some(registry) => registry,
            None => match Registry::mount() {
                Ok(registry) => registry,
                Err(source) => return super::emulation::host_covers(emulators, &source),
            },
        };
        let done = emulators.iter().try_for_each(|emulator| registry.add(emulator));
        self.emulators = Some(registry);
        done
    }

    /// Runs one RUN to its end; may be called from many threads at a time. What it writes is given
    /// to `on_output` as it comes. Whatever it left running is killed. Where one id is mapped, `owners`
    /// says whom the files of the image belong to.
    pub fn run(
        &self,
        spec: &RunSpec,
        owners: &dyn Owners,
        on_output: &mut dyn FnMut(Stream, &[u8]),
        cancel: &Cancel,
    ) -> Result<RunOutcome, Error> {
        if spec.lowers.len() > MAX_LOWERS {
            return Err(Error::TooManyLowers { count: spec.lowers.len() });
        }
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let sys = |doing| move |source| Error::Sys { doing, source };
        let order = self.order(spec)?;
        let pipe = || mem::pipe().map_err(sys("making a pipe"));
        let ((out, out_end), (err, err_end), (report, report_end)) = (pipe()?, pipe()?, pipe()?);
        self.with_owners(spec, owners, |owners| {
            let running = self.init.start_run(&Start {
                out: out_end.as_fd(),
                err: err_end.as_fd(),
                order: order.as_fd(),
                report: report_end.as_fd(),
                owners,
                own_network: spec.network == Network::None,
                terminal: false,
            })?;
            drop((out_end, err_end, report_end));
            let (text, ended) = follow(&running, [out, err, report], on_output, cancel)?;
            if cancel.is_cancelled() && ended.signal.is_some() {
                return Err(Error::Cancelled);
            }
            outcome(&text, ended)
        })
    }

    /// Writes the order for a RUN of this session.
    pub(super) fn order(&self, spec: &RunSpec) -> Result<File, Error> {
        memfd_json(&Order {
            spec: std::borrow::Cow::Borrowed(spec),
            single_id: self.map.is_single(),
            fresh_proc: self.init.fresh_proc,
            keeps_owners: self.map.is_single(),
        })
    }

    /// Runs something with a thread beside it that keeps owners, where one id is mapped: `run` gets the
    /// socket for its listener.
    pub(super) fn with_owners(
        &self,
        spec: &RunSpec,
        owners: &dyn Owners,
        run: impl FnOnce(Option<BorrowedFd<'_>>) -> Result<RunOutcome, Error>,
    ) -> Result<RunOutcome, Error> {
        if !self.map.is_single() {
            return run(None);
        }
        let sys = |source| Error::Sys { doing: "keeping the owners of files", source };
        let (ours, theirs) = mem::socket_pair().map_err(sys)?;
        let stop = mem::Event::new().map_err(sys)?;
        std::thread::scope(|scope| {
            let keeper = scope.spawn(|| {
                // Nothing comes if the kernel has no such filters, or the RUN is another user's.
                match mem::receive(ours.as_fd(), &mut [0u8]) {
                    Ok((_, mut fds)) => match fds.pop() {
                        Some(listener) => {
                            supervise(listener.as_fd(), stop.fd(), &spec.upper, owners).map(Some)
                        }
                        None => Ok(None),
                    },
                    Err(source) => Err(sys(source)),
                }
            });
            let outcome = run(Some(theirs.as_fd()));
            drop(theirs);
            stop.set();
            let owned = keeper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok(RunOutcome { owned: owned?, ..outcome? })
        })
    }
}

/// Passes on what the child writes until it has ended; gives what it reported. The pipes may stay
/// open after that only if it passed them to somebody outside (over the host's network), so their
/// end is not waited for.
fn follow(
    running: &Running,
    mut pipes: [File; 3],
    on_output: &mut dyn FnMut(Stream, &[u8]),
    cancel: &Cancel,
) -> Result<(Vec<u8>, Ended), Error> {
    let sys = |doing| move |source| Error::Sys { doing, source };
    for pipe in &pipes {
        mem::set_nonblocking(pipe.as_fd()).map_err(sys("reading output"))?;
    }
    let mut report = Vec::new();
    let mut buffer = vec![0u8; 64 * 1024];
    let mut open = [true; 3];
    let mut killed = false;
    loop {
        let [out, err, rep] = &pipes;
        let ready = mem::poll_readable(
            &[
                open[0].then(|| out.as_fd()),
                open[1].then(|| err.as_fd()),
                open[2].then(|| rep.as_fd()),
                Some(running.fd()),
                (!killed).then(|| cancel.fd()),
            ],
            None,
        )
        .map_err(sys("waiting for output"))?;
        let ended = ready[3];
        if ready[4] {
            running.kill()?;
            killed = true;
        }
        for (i, pipe) in pipes.iter_mut().enumerate() {
            if !open[i] || !(ready[i] || ended) {
                continue;
            }
            // Once ended, all that is left is in the pipe already.
            loop {
                let n = match mem::read_available(pipe, &mut buffer) {
                    Ok(Some(n)) => n,
                    Ok(None) => break,
                    Err(e) => return Err(Error::Setup { message: format!("reading output: {e}") }),
                };
                if n == 0 {
                    open[i] = false;
                    break;
                }
                match i {
                    0 => on_output(Stream::Stdout, &buffer[..n]),
                    1 => on_output(Stream::Stderr, &buffer[..n]),
                    _ => report.extend_from_slice(&buffer[..n]),
                }
                if !ended {
                    break;
                }
            }
        }
        if ended {
            return Ok((report, running.ended()?));
        }
    }
}

/// Reads what the child reported, and its end, as an outcome.
pub(super) fn outcome(report: &[u8], ended: Ended) -> Result<RunOutcome, Error> {
    let mut user = None;
    let mut not_started = None;
    for line in report.split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
        match serde_json::from_slice(line) {
            Ok(Report::Ready { uid, gid }) => user = Some((uid, gid)),
            Ok(Report::NotStarted { code, message, hint }) => {
                not_started = Some(Status::NotStarted { code, message, hint });
            }
            Ok(Report::Setup { message }) => return Err(Error::Setup { message }),
            Err(source) => return Err(Error::Spec(source)),
        }
    }
    let ended_as = match (ended.code, ended.signal) {
        (Some(code), _) => Status::Exited(code),
        (None, signal) => Status::Signaled(signal.unwrap_or(0)),
    };
    let (status, (uid, gid)) = match (not_started, user) {
        // Perhaps because there is no such user.
        (Some(status), user) => (status, user.unwrap_or_default()),
        (None, Some(user)) => (ended_as, user),
        (None, None) => return Err(Error::Died { status: ended_as }),
    };
    let Ended { user_time, system_time, .. } = ended;
    Ok(RunOutcome { status, uid, gid, owned: None, user_time, system_time })
}

/// Writes JSON to a memfd, to be read from its start.
pub(super) fn memfd_json(value: &impl Serialize) -> Result<File, Error> {
    let text = serde_json::to_vec(value).map_err(Error::Spec)?;
    let mut file = mem::memfd("lapstrake-run")
        .map_err(|source| Error::Sys { doing: "passing the run on", source })?;
    file.write_all(&text)
        .and_then(|()| file.rewind())
        .map_err(|e| Error::Setup { message: format!("passing the run on: {e}") })?;
    Ok(file)
}

/// Opens the program that children execute, in a form that they cannot write to: a sealed copy in
/// memory, or (where the sysctl vm.memfd_noexec forbids it) the file itself, which the kernel
/// protects while this process runs it (ETXTBSY).
pub(super) fn program_to_run(options: &Options) -> Result<OwnedFd, Error> {
    let path = options.exe.clone().unwrap_or_else(|| "/proc/self/exe".into());
    let fail = |e: std::io::Error| Error::Setup { message: format!("{}: {e}", path.display()) };
    let mut file = File::open(&path).map_err(fail)?;
    match mem::sealed_copy(&mut file) {
        Ok(copy) => reopen_read_only(&copy).map_err(fail),
        Err(_) => Ok(file.into()),
    }
}

/// A memfd is open for writing, which exec refuses (ETXTBSY) even when it is sealed.
fn reopen_read_only(file: &File) -> std::io::Result<OwnedFd> {
    let number = std::os::fd::AsRawFd::as_raw_fd(file);
    File::open(format!("/proc/self/fd/{number}")).map(OwnedFd::from)
}

/// What a session falls short of, and why.
pub(super) struct Shortfall {
    pub(super) reason: String,
    pub(super) hint: String,
}

/// Unshares the user and mount namespaces and maps ids.
pub(super) fn enter_namespaces(
    options: &Options,
) -> Result<(IdMap, Rung, Option<Shortfall>), Error> {
    let sys = |doing| move |source| Error::Sys { doing, source };
    let plan = idmap::plan(options);
    let writer = match &plan {
        Plan::Single { .. } => None,
        _ => Some(idmap::Writer::start(&plan).map_err(sys("forking"))?),
    };
    if let Err(error) = cred::unshare(Namespaces::USER | Namespaces::MOUNT) {
        if let Some(writer) = writer {
            writer.dismiss();
        }
        return match plan {
            Plan::Direct(map) if cred::unshare(Namespaces::MOUNT).is_ok() => {
                let (why, hint) = idmap::why_no_userns();
                let reason = format!("no user namespace: {}{why}", error.one_line());
                Ok((map, Rung::Root, Some(Shortfall { reason, hint })))
            }
            _ => Err(idmap::explain_no_userns(&error)),
        };
    }
    let (single, reason, hint) = match (plan, writer) {
        (Plan::Single { map, reason, hint }, _) => (map, reason, hint),
        (Plan::Direct(map) | Plan::Programs { map, .. }, writer) => {
            let written = match writer {
                Some(writer) => writer.write(),
                None => Err("no helper process".into()),
            };
            let Err(reason) = written else {
                let rung = if map.is_single() { Rung::UsernsSingle } else { Rung::Userns };
                return Ok((map, rung, None));
            };
            (idmap::first_id(&map), reason, "run `lapstrake doctor`".to_owned())
        }
    };
    if options.isolation == Isolation::Userns {
        return Err(Error::NoIdRange { reason, hint });
    }
    idmap::write_single(&single).map_err(|reason| {
        let (why, hint) = idmap::why_no_userns();
        Error::NoUserNamespace { who: idmap::who(), reason: reason + &why, hint }
    })?;
    let short = (options.isolation == Isolation::Auto).then_some(Shortfall { reason, hint });
    Ok((single, Rung::UsernsSingle, short))
}
