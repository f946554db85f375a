// SPDX-License-Identifier: GPL-2.0
//! Virtual machines, as `scripts/vm` runs them.

use hpkv_vmtests::is_alarm;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// What a run was asked to do, and where its things are.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) vm: PathBuf,
    pub(crate) module: PathBuf,
    pub(crate) guest: Option<PathBuf>,
    pub(crate) out: PathBuf,
    pub(crate) full: bool,
    pub(crate) seed: u64,
    pub(crate) payload: PathBuf,
}

/// A console's log.
#[derive(Debug)]
pub(crate) struct Console {
    pub(crate) path: PathBuf,
}

fn run(command: &mut Command) -> Result<Vec<u8>, String> {
    let out = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if out.status.success() {
        Ok(out.stdout)
    } else {
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        Err(format!("{command:?}: {}\n{text}", out.status))
    }
}

impl Host {
    pub(crate) fn dose<T>(&self, short: T, full: T) -> T {
        if self.full { full } else { short }
    }

    pub(crate) fn console(&self, name: &str) -> Console {
        let path = self.out.join(format!("console-{name}.log"));
        let _ = fs::remove_file(&path);
        Console { path }
    }

    /// Builds the guest program and puts together what the guest gets.
    pub(crate) fn prepare(&mut self) -> Result<(), String> {
        let text = |e: std::io::Error| e.to_string();
        fs::create_dir_all(&self.out).map_err(text)?;
        self.out = self.out.canonicalize().map_err(text)?;
        if self.guest.is_none() {
            self.guest = Some(self.build_guest()?);
        }
        let payload = self.out.join("payload");
        let place = payload.join("hpkv-test");
        let _ = fs::remove_dir_all(&payload);
        fs::create_dir_all(&place).map_err(text)?;
        let guest = self.guest.as_ref().expect("set above");
        fs::copy(guest, place.join("vmguest")).map_err(|e| format!("{}: {e}", guest.display()))?;
        fs::copy(&self.module, place.join("hpkv.ko"))
            .map_err(|e| format!("{}: {e} (build the module first)", self.module.display()))?;
        let image = place.join("ext4.img");
        File::create(&image)
            .and_then(|f| f.set_len(4 << 20))
            .map_err(text)?;
        let path = format!(
            "{}:/usr/sbin:/sbin",
            std::env::var("PATH").unwrap_or_default()
        );
        run(Command::new("mkfs.ext4")
            .env("PATH", path)
            .args(["-q", "-F"])
            .arg(&image))?;
        self.payload = payload;
        Ok(())
    }

    /// The guest program must be static: the guest has no libraries of ours.
    fn build_guest(&self) -> Result<PathBuf, String> {
        let target = self.out.join("target");
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| "tests/vm".into());
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        run(Command::new(cargo)
            .args([
                "rustc",
                "--release",
                "--quiet",
                "--bin",
                "vmguest",
                "--manifest-path",
            ])
            .arg(Path::new(&manifest).join("Cargo.toml"))
            .arg("--target-dir")
            .arg(&target)
            .args([
                "--",
                "-C",
                "target-feature=+crt-static",
                "-C",
                "strip=debuginfo",
            ]))?;
        Ok(target.join("release/vmguest"))
    }

    /// The names of the tests inside the guest: the program runs here as well.
    pub(crate) fn guest_tests(&self) -> Result<Vec<String>, String> {
        let guest = self.payload.join("hpkv-test/vmguest");
        let names = run(Command::new(guest).arg("list"))?;
        Ok(String::from_utf8_lossy(&names)
            .lines()
            .map(str::to_string)
            .collect())
    }
}

impl Console {
    fn text(&self) -> String {
        fs::read(&self.path).map_or_else(
            |_| String::new(),
            |b| String::from_utf8_lossy(&b).into_owned(),
        )
    }

    pub(crate) fn tail(&self, count: usize) -> String {
        let text = self.text();
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(count);
        lines[from..]
            .iter()
            .map(|l| format!("console: {}\n", l.trim_end()))
            .collect()
    }

    /// The first line that a healthy kernel never writes.
    pub(crate) fn alarm(&self) -> Option<String> {
        self.text()
            .lines()
            .find(|l| is_alarm(l))
            .map(|l| l.trim_end().to_string())
    }
}

/// A machine that is not started yet.
#[derive(Debug)]
pub(crate) struct Machine {
    command: Command,
}

impl Machine {
    pub(crate) fn new(host: &Host, console: &Console) -> Self {
        let mut command = Command::new(&host.vm);
        command
            .arg("--console")
            .arg(&console.path)
            .arg("--payload")
            .arg(&host.payload);
        Machine { command }
    }

    pub(crate) fn option(&mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> &mut Self {
        self.command.arg(name).arg(value);
        self
    }

    /// Boots and runs a shell command.
    pub(crate) fn start(&mut self, command: &str) -> Running {
        let mut child = self
            .command
            .arg("--")
            .arg(command)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{:?}: {e}", self.command));
        let (sender, lines) = channel();
        let out = child.stdout.take().expect("piped");
        let err = child.stderr.take().expect("piped");
        for stream in [
            Box::new(out) as Box<dyn std::io::Read + Send>,
            Box::new(err),
        ] {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                    if sender
                        .send(String::from_utf8_lossy(&line).trim_end().to_string())
                        .is_err()
                    {
                        return;
                    }
                }
            });
        }
        Running { child, lines }
    }
}

/// A machine that runs. It ends with this object.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    /// The next line of output; None at its end or after too long a silence.
    pub(crate) fn line(&mut self, patience: Duration) -> Option<String> {
        self.lines.recv_timeout(patience).ok()
    }

    /// The plug is pulled: the runner of the machine kills it with SIGKILL.
    pub(crate) fn cut_power(&mut self) {
        self.signal();
        let _ = self.child.wait();
    }

    fn signal(&self) {
        // SAFETY: A child of ours that was not waited for yet, so that the
        // number cannot belong to another process.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGTERM) };
    }

    /// Everything that is said until the machine ends, and how it ended.
    pub(crate) fn rest(mut self, patience: Duration) -> (Vec<String>, String) {
        let mut lines = Vec::new();
        while let Some(line) = self.line(patience) {
            lines.push(line);
        }
        let end = self.end();
        (lines, end)
    }

    /// Waits for the end of a machine that has nothing more to say, and tells
    /// how it ended.
    pub(crate) fn end(mut self) -> String {
        for _ in 0..1_000 {
            if let Ok(Some(status)) = self.child.try_wait() {
                return status.to_string();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.cut_power();
        "killed".to_string()
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.has_ended() {
            self.cut_power();
        }
    }
}
