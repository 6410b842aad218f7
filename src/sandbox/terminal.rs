//! A RUN that somebody talks to: its standard streams are a pseudo-terminal, which is joined to the
//! builder's own standard input and error.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::init::{Running, Start};
use super::owners::Owners;
use super::session::{RunOutcome, Session, outcome};
use super::spec::{Network, RunSpec};
use super::{Cancel, Error};
use crate::sys::process::Ended;
use crate::sys::{mem, tty};

/// How long a change of the window's size, or room in the pseudo-terminal, may go unnoticed.
const TICK: Duration = Duration::from_millis(100);

/// What a terminal takes for the end of input.
const END_OF_INPUT: u8 = 4;

impl Session {
    /// Runs a RUN whose input and output are this process's, through a pseudo-terminal. Output goes
    /// to standard error: standard output is for data.
    pub fn converse(
        &self,
        spec: &RunSpec,
        owners: &dyn Owners,
        cancel: &Cancel,
    ) -> Result<RunOutcome, Error> {
        let sys = |doing| move |source| Error::Sys { doing, source };
        let mut spec = spec.clone();
        spec.terminal = true;
        let order = self.order(&spec)?;
        let (mut ours, theirs) = tty::open_pair().map_err(sys("making a terminal"))?;
        let (mut report, report_end) = mem::pipe().map_err(sys("making a pipe"))?;
        mem::set_nonblocking(report.as_fd()).map_err(sys("making a pipe"))?;
        let stdin = std::io::stdin();
        tty::copy_size(stdin.as_fd(), ours.as_fd());
        self.with_owners(&spec, owners, |owners| {
            let running = self.init().start_run(&Start {
                out: theirs.as_fd(),
                err: theirs.as_fd(),
                order: order.as_fd(),
                report: report_end.as_fd(),
                owners,
                own_network: spec.network == Network::None,
                terminal: true,
            })?;
            drop((theirs, report_end));
            let raw = tty::Raw::enter(stdin.as_fd());
            let result = relay(&running, &mut ours, cancel);
            drop(raw);
            let ended = result?;
            let mut text = Vec::new();
            let mut buffer = [0u8; 4096];
            while let Ok(Some(n @ 1..)) = mem::read_available(&mut report, &mut buffer) {
                text.extend_from_slice(&buffer[..n]);
            }
            if cancel.is_cancelled() && ended.signal.is_some() {
                return Err(Error::Cancelled);
            }
            outcome(&text, ended)
        })
    }
}

/// Passes bytes both ways until the program has ended.
fn relay(running: &Running, ours: &mut File, cancel: &Cancel) -> Result<Ended, Error> {
    let sys = |doing| move |source| Error::Sys { doing, source };
    let stdin = std::io::stdin();
    // At least as large as the buffer of `Stdin`, which then keeps nothing back.
    let mut buffer = vec![0u8; 64 * 1024];
    let mut pending: Vec<u8> = Vec::new();
    let (mut input_open, mut output_open, mut killed) = (true, true, false);
    let mut told_end: Option<Instant> = None;
    loop {
        let ready = mem::poll_readable(
            &[
                output_open.then(|| ours.as_fd()),
                (input_open && pending.is_empty()).then(|| stdin.as_fd()),
                Some(running.fd()),
                (!killed).then(|| cancel.fd()),
            ],
            Some(TICK),
        )
        .map_err(sys("waiting for the terminal"))?;
        tty::copy_size(stdin.as_fd(), ours.as_fd());
        let ended = ready[2];
        if ready[3] {
            running.kill()?;
            killed = true;
        }
        if ready[1] {
            match stdin.lock().read(&mut buffer) {
                Ok(n @ 1..) => pending.extend_from_slice(&buffer[..n]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => input_open = false,
            }
        }
        // Not a terminal: its end is told as a terminal's is, and told again, as what was typed before
        // a shell has set its terminal up may be thrown away, and a program of the shell's may have
        // taken the last.
        if !input_open && pending.is_empty() && told_end.is_none_or(|at| at.elapsed() >= TICK) {
            pending.push(END_OF_INPUT);
            told_end = Some(Instant::now());
        }
        if !pending.is_empty() {
            match ours.write(&pending) {
                Ok(n) => drop(pending.drain(..n)),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                // The other side was closed.
                Err(_) => pending.clear(),
            }
        }
        // Once ended, all that is left is there already.
        while output_open && (ready[0] || ended) {
            match ours.read(&mut buffer) {
                Ok(n @ 1..) => {
                    // A terminal that went away is no reason to fail.
                    let _ = std::io::stderr().write_all(&buffer[..n]);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // EIO: nobody has the other side open.
                _ => output_open = false,
            }
            if !ended {
                break;
            }
        }
        if ended {
            return running.ended();
        }
    }
}
