//! Programs that run while a test looks on: their output collected, their end awaited with a limit, killed with their test.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How often a wait looks.
const GLANCE: Duration = Duration::from_millis(2);

/// What a program has written on one of its outputs so far.
#[derive(Clone, Default)]
struct Collected(Arc<Mutex<Vec<u8>>>);

impl Collected {
    fn from(mut source: impl Read + Send + 'static) -> (Self, JoinHandle<()>) {
        let collected = Self::default();
        let sink = collected.clone();
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // A pipe of our own: an error is its end.
            while let Ok(n @ 1..) = source.read(&mut buffer) {
                sink.0
                    .lock()
                    .expect("no panic while held")
                    .extend_from_slice(&buffer[..n]);
            }
        });
        (collected, thread)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("no panic while held")).into_owned()
    }
}

/// A program that has ended.
#[derive(Debug)]
pub struct Finished {
    /// The command line, for messages.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
}

impl Finished {
    /// Fails the test unless the exit status is 0.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert!(self.status.success(), "{self:#?}");
        self
    }

    /// Its standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("no JSON: {error}: {self:#?}"))
    }
}

/// A program that runs. Dropped, it is killed.
pub struct Running {
    command: String,
    child: Child,
    stdout: Collected,
    stderr: Collected,
    readers: Vec<JoinHandle<()>>,
    /// When it was started.
    pub started: Instant,
}

impl Running {
    /// Starts it with nothing on its standard input.
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        Self::start_with(command, Stdio::null())
    }

    /// Starts it with a standard input of its own.
    #[track_caller]
    pub fn start_with(command: &mut Command, stdin: impl Into<Stdio>) -> Self {
        let line = format!("{command:?}").replace('"', "");
        let started = Instant::now();
        let mut child = command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("{line}: {error}; ./tests/run.sh installs what is missing")
            });
        let (stdout, out) = Collected::from(child.stdout.take().expect("a pipe"));
        let (stderr, err) = Collected::from(child.stderr.take().expect("a pipe"));
        Self {
            command: line,
            child,
            stdout,
            stderr,
            readers: vec![out, err],
            started,
        }
    }

    /// Process id. `ip netns exec` becomes the program that it runs, so this is the program's.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How long its threads, all together, were ready to run and did not: other programs had the CPUs.
    pub fn waited_for_a_cpu(&self) -> Duration {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id()));
        // "on a CPU, ready without one (both in ns), times": Documentation/scheduler/sched-stats.rst.
        let waited = |task: std::fs::DirEntry| -> Option<u64> {
            let line = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
            line.split_whitespace().nth(1)?.parse().ok()
        };
        let tasks = tasks.into_iter().flatten().flatten();
        Duration::from_nanos(tasks.filter_map(waited).sum())
    }

    /// Its resident memory, in bytes.
    ///
    /// # Panics
    /// If it has ended.
    #[track_caller]
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("a process that runs");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .expect("a process with memory");
        let kib = line.split_whitespace().next().expect("a number of kB");
        kib.parse::<u64>().expect("a number of kB") * 1024
    }

    /// Standard output so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// Standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child of ours").is_none()
    }

    /// Waits until a whole line of its standard output satisfies `wanted`; answers the line.
    #[track_caller]
    pub fn line(&mut self, limit: Duration, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + limit;
        loop {
            let ended = !self.is_running();
            let text = self.stdout();
            let whole = text.rfind('\n').map_or("", |end| &text[..end]);
            if let Some(line) = whole.lines().find(|line| wanted(line)) {
                return line.to_owned();
            }
            assert!(
                !ended,
                "ended before the line that was waited for: {}",
                self.story()
            );
            assert!(
                Instant::now() < deadline,
                "no such line within {limit:?}: {}",
                self.story()
            );
            std::thread::sleep(GLANCE);
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        // Not waited for yet, so the pid is still this process's.
        kill(Pid::from_raw(pid), signal).expect("a signal to a child of ours");
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(mut self, limit: Duration) -> Finished {
        let deadline = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                break status;
            }
            assert!(
                Instant::now() < deadline,
                "still running after {limit:?}: {}",
                self.story()
            );
            std::thread::sleep(GLANCE);
        };
        for reader in self.readers.drain(..) {
            reader.join().expect("a reader does not panic");
        }
        Finished {
            command: self.command.clone(),
            status,
            stdout: self.stdout(),
            stderr: self.stderr(),
        }
    }

    /// Sends a signal and waits for the end.
    #[track_caller]
    pub fn end_by(self, signal: Signal, limit: Duration) -> Finished {
        self.signal(signal);
        self.wait(limit)
    }

    fn story(&self) -> String {
        format!(
            "{}\n-- stdout:\n{}\n-- stderr:\n{}",
            self.command,
            self.stdout(),
            self.stderr()
        )
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // SIGTERM first: an engine that is killed leaves what only its namespace's end removes.
            self.signal(Signal::SIGTERM);
            let deadline = Instant::now() + Duration::from_secs(5);
            while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
                std::thread::sleep(GLANCE);
            }
            // It may have ended in between, which is what is wanted.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("-- what a program had said: {}", self.story());
        }
    }
}
