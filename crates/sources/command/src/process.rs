//! A program under way: started in a process group of its own, watched, and ended as a whole.

use std::io::{self, Read as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::sync::watch;

use crate::config::CommandConfig;
use crate::pump::widen;
use crate::tail::Tail;

/// The end of a program that nobody has taken note of yet keeps its process id, and with it the
/// id of its group, from being given to anybody else; so the group is only ever signalled before.
#[derive(Debug)]
enum State {
    Running(Child),
    Over(ExitStatus),
}

/// A program and everything that it started, unless that left its process group.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    state: Mutex<State>,
    ended: watch::Receiver<bool>,
    said: Arc<Mutex<Tail>>,
    heard_out: watch::Receiver<bool>,
}

/// Sets its flag when a thread ends, however it ends.
struct Done(watch::Sender<bool>);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}

fn keep_tail(mut stderr: ChildStderr, said: &Mutex<Tail>) {
    let mut buffer = vec![0; 8 << 10];
    loop {
        match stderr.read(&mut buffer) {
            Ok(0) => return,
            Ok(read) => {
                let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
                said.add(buffer.get(..read).unwrap_or_default());
            }
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

fn spawn(config: &CommandConfig) -> io::Result<Child> {
    let (program, arguments) = config
        .argv
        .split_first()
        .ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    command.args(arguments).envs(&config.env).process_group(0);
    if let Some(cwd) = &config.cwd {
        command.current_dir(cwd);
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
}

impl Process {
    /// Starts a command. Also returns its standard output.
    pub(crate) fn start(config: &CommandConfig) -> io::Result<(Self, ChildStdout)> {
        let mut child = spawn(config)?;
        let taken = (
            child.stdout.take(),
            child.stderr.take(),
            Pid::from_child(&child),
        );
        let (Some(stdout), Some(stderr), pid) = taken else {
            return Err(io::Error::other("its output cannot be reached"));
        };
        widen(&stdout);
        let (end, ended) = watch::channel(false);
        let (heard, heard_out) = watch::channel(false);
        let said = Arc::new(Mutex::new(Tail::default()));
        let process = Self {
            pid,
            state: Mutex::new(State::Running(child)),
            ended,
            said: Arc::clone(&said),
            heard_out,
        };
        let name = |name: &str| thread::Builder::new().name(name.into());
        name("stderr").spawn(move || {
            let _done = Done(heard);
            keep_tail(stderr, &said);
        })?;
        name("wait").spawn(move || {
            let _done = Done(end);
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            while matches!(waitid(WaitId::Pid(pid), options), Err(Errno::INTR)) {}
        })?;
        Ok((process, stdout))
    }

    /// Waits until the program has ended, and takes note of how. What it left behind in its group
    /// is ended too if it failed.
    pub(crate) async fn wait(&self) -> io::Result<ExitStatus> {
        let mut ended = self.ended.clone();
        // The sender sets the flag before it goes.
        let _ = ended.wait_for(|&ended| ended).await;
        self.reap()
    }

    fn reap(&self) -> io::Result<ExitStatus> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let child = match &mut *state {
            State::Over(status) => return Ok(*status),
            State::Running(child) => child,
        };
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let seen = waitid(WaitId::Pid(self.pid), options)?;
        if seen.is_none_or(|status| status.exit_status() != Some(0)) {
            let _ = kill_process_group(self.pid, Signal::KILL);
        }
        let status = child.wait()?;
        *state = State::Over(status);
        Ok(status)
    }

    /// Ends the program and its whole group, if it has not ended and been taken note of.
    pub(crate) fn kill(&self) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*state, State::Running(_)) {
            // It fails only when nothing is left to be ended.
            let _ = kill_process_group(self.pid, Signal::KILL);
        }
    }

    /// What the program said last on its standard error, once it has fallen silent or after a
    /// moment: something that it started may hold on to it for ever.
    pub(crate) async fn last_words(&self) -> String {
        let mut heard_out = self.heard_out.clone();
        let moment = std::time::Duration::from_secs(1);
        let _ = tokio::time::timeout(moment, heard_out.wait_for(|&heard| heard)).await;
        self.said
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .text()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let State::Running(child) = state {
            // After the kill this is a matter of a moment; should the program hang in the kernel,
            // nobody here hangs with it.
            if child.try_wait().is_ok_and(|status| status.is_none()) {
                let pid = self.pid;
                let _ = thread::Builder::new().name("reap".into()).spawn(move || {
                    let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED);
                });
            }
        }
    }
}

/// How a program ended, in words.
pub(crate) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("it failed with exit status {code}"),
        (None, Some(signal)) => format!("it was killed by signal {signal}"),
        (None, None) => "it failed".to_owned(),
    }
}
