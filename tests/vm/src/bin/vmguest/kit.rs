// SPDX-License-Identifier: GPL-2.0
//! What tests are made of: the module, loop devices, clients, the kernel's log.

use crate::sys::{self, Errno};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

/// Where the runner puts what it gives to the guest.
pub(crate) const PLACE: &str = "/hpkv-test";

pub(crate) const PORT: u16 = 12345;

/// True when the runner asks for the long campaigns.
pub(crate) fn full_dose() -> bool {
    std::env::var("HPKV_VMTEST_FULL").is_ok_and(|v| v == "1")
}

/// `short` in an ordinary run, `full` in a long campaign.
pub(crate) fn dose<T>(short: T, full: T) -> T {
    if full_dose() { full } else { short }
}

/// Waits for a condition; the time is a bound for hopeless cases only.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "waited a minute for {what}"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The module, loaded. Unloads it when it goes out of scope.
#[derive(Debug)]
pub(crate) struct Module(());

impl Module {
    pub(crate) fn try_load(parameters: &str) -> Result<Self, Errno> {
        let file = File::open(format!("{PLACE}/hpkv.ko")).expect("the module is in the payload");
        sys::module_load(&file, parameters)?;
        wait_until("/dev/hpkv", || fs::metadata("/dev/hpkv").is_ok());
        Ok(Module(()))
    }

    #[track_caller]
    pub(crate) fn load(parameters: &str) -> Self {
        match Self::try_load(parameters) {
            Ok(module) => module,
            Err(errno) => panic!("insmod hpkv.ko {parameters}: {}", name_of(errno)),
        }
    }

    /// rmmod, which must succeed.
    #[track_caller]
    pub(crate) fn unload(self) {
        unload_soon();
        std::mem::forget(self);
    }
}

/// rmmod as soon as nobody holds the device: a descriptor closed a moment ago
/// by another thread may be on its way out yet.
#[track_caller]
fn unload_soon() {
    let start = Instant::now();
    loop {
        match sys::module_unload("hpkv") {
            Ok(()) => return,
            Err(libc::EAGAIN | libc::EBUSY) if start.elapsed() < Duration::from_secs(10) => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(errno) => panic!("rmmod hpkv: {}", name_of(errno)),
        }
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if sys::module_unload("hpkv").is_err() {
            println!("rmmod at the end of the test failed");
        }
    }
}

pub(crate) fn is_loaded() -> bool {
    fs::metadata("/sys/module/hpkv").is_ok()
}

pub(crate) fn parameter(name: &str) -> String {
    fs::read_to_string(format!("/sys/module/hpkv/parameters/{name}"))
        .unwrap_or_else(|e| panic!("parameter {name}: {e}"))
        .trim_end()
        .to_string()
}

/// Writes a parameter, as `echo value > /sys/module/hpkv/parameters/name`.
pub(crate) fn set_parameter(name: &str, value: &str) -> Result<(), Errno> {
    let path = format!("/sys/module/hpkv/parameters/{name}");
    let mut file = OpenOptions::new()
        .write(true)
        .open(path)
        .map_err(|e| errno_of(&e))?;
    file.write_all(format!("{value}\n").as_bytes())
        .map_err(|e| errno_of(&e))
}

pub(crate) fn errno_of(error: &std::io::Error) -> Errno {
    error.raw_os_error().unwrap_or(-1)
}

/// An errno as a person reads it.
pub(crate) fn name_of(errno: Errno) -> String {
    format!(
        "errno {errno} ({})",
        std::io::Error::from_raw_os_error(errno)
    )
}

/// Asserts that something fails with one of the errnos.
#[track_caller]
pub(crate) fn fails_with<T: std::fmt::Debug>(
    what: &str,
    result: Result<T, Errno>,
    expected: &[Errno],
) {
    match result {
        Ok(value) => panic!("{what}: succeeded with {value:?}, expected {expected:?}"),
        Err(errno) => assert!(
            expected.contains(&errno),
            "{what}: {}, expected {}",
            name_of(errno),
            expected
                .iter()
                .map(|&e| name_of(e))
                .collect::<Vec<_>>()
                .join(" or ")
        ),
    }
}

/// Runs a shell command and returns its status and output.
pub(crate) fn shell(command: &str) -> (bool, String) {
    let out = Command::new("sh")
        .arg("-c")
        .arg(command)
        .output()
        .expect("sh");
    let mut text = String::from_utf8_lossy(&out.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&out.stderr));
    (out.status.success(), text)
}

#[track_caller]
pub(crate) fn shell_ok(command: &str) -> String {
    let (ok, text) = shell(command);
    assert!(ok, "{command}: {text}");
    text
}

/// A loop device over a file or a part of one. Detached at the end of its
/// scope.
#[derive(Debug)]
pub(crate) struct Loop {
    pub(crate) number: u32,
    file: Option<String>,
}

const LOOP_CONFIGURE: u64 = 0x4c0a;
const LOOP_CLR_FD: u64 = 0x4c01;
const LOOP_CTL_ADD: u64 = 0x4c80;
const LOOP_CTL_REMOVE: u64 = 0x4c81;
const LO_FLAGS_READ_ONLY: u32 = 1;

#[repr(C)]
#[derive(Clone, Copy)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    names_and_keys: [u64; 20],
    init: [u64; 2],
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<LoopConfig>() == 304);

impl Loop {
    /// /dev/loop`number` over a new file of zeros.
    pub(crate) fn new(number: u32, len: u64) -> Self {
        let path = format!("/tmp/loop{number}.img");
        let file = File::create(&path).expect(&path);
        file.set_len(len).unwrap();
        let mut made = Self::over(number, &path, 0, 0, false);
        made.file = Some(path);
        made
    }

    /// /dev/loop`number` over `size_limit` bytes (0 = all) of a file.
    pub(crate) fn over(
        number: u32,
        path: &str,
        offset: u64,
        size_limit: u64,
        read_only: bool,
    ) -> Self {
        let backing = OpenOptions::new()
            .read(true)
            .write(!read_only)
            .open(path)
            .expect(path);
        let control = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/loop-control")
            .unwrap();
        match sys::ioctl_raw(control.as_raw_fd(), LOOP_CTL_ADD, u64::from(number)) {
            Ok(_) | Err(libc::EEXIST) => {}
            Err(errno) => panic!("LOOP_CTL_ADD {number}: {}", name_of(errno)),
        }
        let made = Loop { number, file: None };
        wait_until("the loop device node", || fs::metadata(made.path()).is_ok());
        let device = OpenOptions::new()
            .read(true)
            .write(!read_only)
            .open(made.path())
            .unwrap();
        let mut config = LoopConfig {
            fd: backing.as_raw_fd() as u32,
            block_size: 0,
            device: 0,
            inode: 0,
            rdevice: 0,
            offset,
            size_limit,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: if read_only { LO_FLAGS_READ_ONLY } else { 0 },
            names_and_keys: [0; 20],
            init: [0; 2],
            reserved: [0; 8],
        };
        sys::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &mut config)
            .unwrap_or_else(|e| panic!("LOOP_CONFIGURE {number}: {}", name_of(e)));
        made
    }

    pub(crate) fn path(&self) -> String {
        format!("/dev/loop{}", self.number)
    }

    /// A checksum of all that is on the device, read past the page cache of
    /// the device by reading its file where there is one.
    pub(crate) fn checksum(&self) -> u64 {
        let path = self.file.clone().unwrap_or_else(|| self.path());
        let mut file = File::open(&path).expect(&path);
        let mut buffer = vec![0; 1 << 20];
        let mut sum = 0xcbf2_9ce4_8422_2325_u64;
        loop {
            let n = file.read(&mut buffer).unwrap();
            if n == 0 {
                return sum;
            }
            for chunk in buffer[..n].chunks(8) {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                sum = (sum ^ u64::from_le_bytes(word))
                    .wrapping_mul(0x0100_0000_01b3)
                    .rotate_left(23);
            }
        }
    }

    pub(crate) fn backing_file(&self) -> &str {
        self.file
            .as_deref()
            .expect("a loop device with a file of its own")
    }
}

/// Detaches a loop device whoever made it.
pub(crate) fn detach(number: u32) {
    if let Ok(device) = File::open(format!("/dev/loop{number}")) {
        let _ = sys::ioctl_raw(device.as_raw_fd(), LOOP_CLR_FD, 0);
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        detach(self.number);
        if self.number >= 8
            && let Ok(control) = OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/loop-control")
        {
            let _ = sys::ioctl_raw(control.as_raw_fd(), LOOP_CTL_REMOVE, u64::from(self.number));
        }
        if let Some(file) = &self.file {
            let _ = fs::remove_file(file);
        }
    }
}

/// A position in the kernel's log.
#[derive(Debug)]
pub(crate) struct LogMark(File);

impl LogMark {
    pub(crate) fn new() -> Self {
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/kmsg")
            .unwrap();
        let _ = std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0));
        LogMark(file)
    }

    /// The messages since the mark or the last call.
    pub(crate) fn lines(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut buffer = vec![0; 8192];
        loop {
            match self.0.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => {
                    let record = String::from_utf8_lossy(&buffer[..n]);
                    let first = record.lines().next().unwrap_or("");
                    lines.push(
                        first
                            .split_once(';')
                            .map_or(first, |(_, text)| text)
                            .to_string(),
                    );
                }
                // Messages were overwritten before they were read: go on.
                Err(e) if e.raw_os_error() == Some(libc::EPIPE) => {}
                Err(_) => break,
            }
        }
        lines
    }

    /// Those of them that the module wrote.
    pub(crate) fn ours(&mut self) -> Vec<String> {
        self.lines()
            .into_iter()
            .filter(|l| l.starts_with("hpkv: "))
            .collect()
    }
}

/// Words of which the kernel's log must be free.
pub(crate) fn is_alarm(line: &str) -> bool {
    hpkv_vmtests::is_alarm(line)
}

/// A client of the text protocol.
#[derive(Debug)]
pub(crate) struct Text(BufReader<TcpStream>);

impl Text {
    pub(crate) fn connect() -> Self {
        Self::try_connect(PORT).expect("connect to the store")
    }

    pub(crate) fn try_connect(port: u16) -> std::io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.set_write_timeout(Some(Duration::from_secs(60)))?;
        stream.set_nodelay(true)?;
        Ok(Text(BufReader::new(stream)))
    }

    pub(crate) fn stream(&mut self) -> &mut TcpStream {
        self.0.get_mut()
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("send");
    }

    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.get_mut().write_all(bytes)
    }

    /// One line without its line feed; None at the end of the connection.
    pub(crate) fn line(&mut self) -> std::io::Result<Option<String>> {
        let mut bytes = Vec::new();
        self.0.read_until(b'\n', &mut bytes)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        if bytes.pop() != Some(b'\n') {
            return Err(std::io::Error::new(ErrorKind::UnexpectedEof, "half a line"));
        }
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    pub(crate) fn ask(&mut self, request: &str) -> String {
        self.try_ask(request)
            .unwrap_or_else(|e| panic!("{request:.40}: {e}"))
    }

    pub(crate) fn try_ask(&mut self, request: &str) -> std::io::Result<String> {
        self.try_send(format!("{request}\n").as_bytes())?;
        self.line()?.ok_or_else(|| ErrorKind::UnexpectedEof.into())
    }

    /// Everything until the server closes; a reset is an error.
    pub(crate) fn rest(&mut self) -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.0.read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// A line of /proc/meminfo in KiB.
pub(crate) fn meminfo(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let line = text
        .lines()
        .find(|l| l.starts_with(&format!("{name}:")))
        .expect(name);
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// How often a thread of this process went to sleep of its own accord.
pub(crate) fn sleeps_of(thread: i64) -> u64 {
    let text = fs::read_to_string(format!("/proc/self/task/{thread}/status")).unwrap();
    let line = text
        .lines()
        .find(|l| l.starts_with("voluntary_ctxt_switches"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
