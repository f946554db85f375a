// SPDX-License-Identifier: GPL-2.0

//! The parameters of the module: their texts, their checks, and where their values are kept.
//!
//! A parameter that cannot be what it is asked to be fails with `EINVAL`, and one line in the
//! kernel's log says which, and what was expected. Numbers are decimal.
//!
//! # Life
//!
//! The kernel may call in here before the module's init, during it, and until after its exit has
//! returned. [`Stage`] says which of these it is; the service is reachable from [`Live::publish`]
//! until the [`Live`] is dropped, which is the first thing that teardown does and which waits for
//! a switch of databases that is under way.
//!
//! # Locks
//!
//! The parameter lock comes first: it is held when the engine's and the mount's are taken. Values
//! that requests read are atomics, each independent of the others.

use core::fmt::Write;

use super::mount::Place;
use super::Service;
use crate::engine::Durability;
use crate::sys::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering::Relaxed};
use crate::sys::errno::{EBUSY, EINVAL, ENODEV, ENOMEM};
use crate::sys::params::{lock, module_parameter, Cell, Locked, Parameter, Text};
use crate::sys::{log_level, log_msg, set_log_level, Arc, Level, Vec};

/// Longest path of a device, in bytes.
const PATH_LEN_MAX: usize = 1023;
/// Highest number of a loop device: minor numbers have 20 bits.
const LOOP_NUMBER_MAX: u32 = (1 << 20) - 1;
/// Most clients that may be connected at once. Each takes a thread and some 50 KiB.
const MAX_CLIENTS_MAX: u32 = 32_768;
/// Longest time that a buffered write waits before it is on its way to the device.
const FLUSH_INTERVAL_MS_MAX: u32 = 60_000;

/// How far the module's life has come.
enum Stage {
    /// Before init: values are collected.
    Collecting,
    /// Init runs, or has failed.
    Starting,
    /// The service runs.
    Running(Arc<Service>),
    /// Exit runs, or has run.
    Stopping,
}

/// What only the parameter lock protects.
struct State {
    stage: Stage,
    mount_path: [u8; PATH_LEN_MAX],
    mount_path_len: usize,
    loop_number: Option<u32>,
}

impl State {
    fn mount_path(&self) -> &[u8] {
        self.mount_path
            .get(..self.mount_path_len)
            .unwrap_or_default()
    }
}

static STATE: Cell<State> = Cell::new(State {
    stage: Stage::Collecting,
    mount_path: [0; PATH_LEN_MAX],
    mount_path_len: 0,
    loop_number: None,
});

static PORT: AtomicU16 = AtomicU16::new(12345);
static BIND: AtomicU32 = AtomicU32::new(u32::from_be_bytes([127, 0, 0, 1]));
static REQUESTS_MAX: AtomicU32 = AtomicU32::new(5);
static MAX_CLIENTS: AtomicU32 = AtomicU32::new(1024);
static INITIALIZE_IF_EMPTY: AtomicBool = AtomicBool::new(true);
static FORCE_INITIALIZE: AtomicBool = AtomicBool::new(false);
static FLUSH_INTERVAL_MS: AtomicU32 = AtomicU32::new(1000);
static SYNC: AtomicBool = AtomicBool::new(false);

/// What init needs to know, taken once.
pub(crate) struct Settings {
    /// Where the database lies.
    pub(crate) place: Place,
    /// Make a database on an empty device.
    pub(crate) initialize_if_empty: bool,
    /// Make a database whatever the device holds.
    pub(crate) force_initialize: bool,
    /// Longest wait of a buffered write.
    pub(crate) flush_interval_ms: u32,
}

impl Settings {
    /// Takes the values that were collected and checks them against each other.
    pub(crate) fn take() -> Result<Self, i32> {
        let mut locked = lock();
        let state = STATE.get_mut(&mut locked);
        state.stage = Stage::Starting;

        let path = state.mount_path();
        let place = match (path.is_empty(), state.loop_number) {
            (true, None) => Place::Memory,
            (true, Some(number)) => Place::Loop(number),
            (false, None) => {
                let mut bytes = Vec::new();
                bytes.extend_from_slice(path).map_err(|_| ENOMEM)?;
                Place::Path(bytes)
            }
            (false, Some(number)) => {
                log_msg!(
                    Level::Err,
                    "mount_path={} and loop={number} exclude each other; give one of them",
                    path.escape_ascii()
                );
                return Err(EINVAL);
            }
        };
        Ok(Self {
            place,
            initialize_if_empty: INITIALIZE_IF_EMPTY.load(Relaxed),
            force_initialize: FORCE_INITIALIZE.load(Relaxed),
            flush_interval_ms: FLUSH_INTERVAL_MS.load(Relaxed),
        })
    }
}

/// The TCP port; 0 = none.
pub(crate) fn port() -> u16 {
    PORT.load(Relaxed)
}

/// The IPv4 address to listen on.
pub(crate) fn bind() -> [u8; 4] {
    BIND.load(Relaxed).to_be_bytes()
}

/// Requests of the line protocol that one connection may make; 0 = no limit.
pub(crate) fn requests_max() -> u32 {
    REQUESTS_MAX.load(Relaxed)
}

/// Most clients connected at once.
pub(crate) fn max_clients() -> u32 {
    MAX_CLIENTS.load(Relaxed)
}

/// When a change is acknowledged that does not say itself.
pub(crate) fn durability() -> Durability {
    if SYNC.load(Relaxed) {
        Durability::Sync
    } else {
        Durability::Buffered
    }
}

/// While this exists parameters written at run time act on the service.
pub(crate) struct Live(());

impl Live {
    /// Opens the way from the parameters to the service.
    pub(crate) fn publish(service: Arc<Service>) -> Self {
        let mut locked = lock();
        // Whatever was written while init ran.
        service
            .mount
            .set_flush_interval_ms(FLUSH_INTERVAL_MS.load(Relaxed));
        STATE.get_mut(&mut locked).stage = Stage::Running(service);
        Self(())
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // Taking the lock waits for a callback that uses the service at this moment.
        let mut locked = lock();
        STATE.get_mut(&mut locked).stage = Stage::Stopping;
    }
}

/// Says what was expected and returns the errno for it.
fn refuse(name: &str, text: &[u8], expected: &str) -> i32 {
    // Enough to recognise the value by.
    let shown = text.get(..text.len().min(64)).unwrap_or_default();
    log_msg!(
        Level::Err,
        "{name}={}: expected {expected}",
        shown.escape_ascii()
    );
    EINVAL
}

/// Understands a decimal number from `min` to `max`.
fn number(name: &str, text: &[u8], min: u32, max: u32, expected: &str) -> Result<u32, i32> {
    decimal(text)
        .filter(|number| (min..=max).contains(number))
        .ok_or_else(|| refuse(name, text, expected))
}

/// Understands digits, and nothing but digits.
fn decimal(text: &[u8]) -> Option<u32> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u32, |number, &byte| {
        let digit = char::from(byte).to_digit(10)?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// Understands what the kernel takes for a truth value.
fn truth(name: &str, text: &[u8]) -> Result<bool, i32> {
    match text {
        b"1" | b"y" | b"Y" | b"on" | b"true" => Ok(true),
        b"0" | b"n" | b"N" | b"off" | b"false" => Ok(false),
        _ => Err(refuse(name, text, "0 or 1")),
    }
}

/// Understands an IPv4 address of four decimal numbers.
fn ipv4(text: &[u8]) -> Option<[u8; 4]> {
    let mut address = [0u8; 4];
    let mut parts = text.split(|&byte| byte == b'.');
    for part in &mut address {
        let text = parts.next().filter(|text| text.len() <= 3)?;
        *part = u8::try_from(decimal(text)?).ok()?;
    }
    parts.next().is_none().then_some(address)
}

/// Prints a truth value as the kernel does.
fn print_truth(out: &mut Text<'_>, value: bool) {
    out.push(if value { b"Y" } else { b"N" });
}

/// Prints a number.
fn print_number(out: &mut Text<'_>, value: impl core::fmt::Display) {
    // The buffer is a page.
    let _ = write!(out, "{value}");
}

struct MountPath;

impl Parameter for MountPath {
    fn set(text: &[u8], locked: &mut Locked) -> Result<(), i32> {
        let state = STATE.get_mut(locked);
        let room = state.mount_path.get_mut(..text.len());
        let absolute = text.is_empty() || text.first() == Some(&b'/');
        match room {
            Some(room) if absolute => {
                room.copy_from_slice(text);
                state.mount_path_len = text.len();
                Ok(())
            }
            _ => Err(refuse(
                "mount_path",
                text,
                "the absolute path of a block device, such as /dev/loop39",
            )),
        }
    }

    fn get(out: &mut Text<'_>, locked: &Locked) {
        out.push(STATE.get(locked).mount_path());
    }
}

module_parameter!(
    mount_path: "string", 0o444, MountPath,
    "block device that holds the database, such as /dev/loop39 (default: none, memory only)"
);

struct Loop;

impl Parameter for Loop {
    fn set(text: &[u8], locked: &mut Locked) -> Result<(), i32> {
        const EXPECTED: &str = "the number of a loop device";

        let state = STATE.get_mut(locked);
        if text == b"-1" && matches!(state.stage, Stage::Collecting) {
            state.loop_number = None;
            return Ok(());
        }
        let number = number("loop", text, 0, LOOP_NUMBER_MAX, EXPECTED)?;
        match &state.stage {
            Stage::Collecting => {
                state.loop_number = Some(number);
                Ok(())
            }
            Stage::Starting => {
                log_msg!(
                    Level::Err,
                    "loop={number}: the module is being loaded; try again"
                );
                Err(EBUSY)
            }
            Stage::Running(service) => service.mount.switch_to_loop(&service.db, number),
            Stage::Stopping => Err(ENODEV),
        }
    }

    fn get(out: &mut Text<'_>, locked: &Locked) {
        let state = STATE.get(locked);
        let number = match &state.stage {
            Stage::Running(service) => service.mount.loop_number(),
            Stage::Collecting | Stage::Starting | Stage::Stopping => state.loop_number,
        };
        match number {
            Some(number) => print_number(out, number),
            None => out.push(b"-1"),
        }
    }
}

module_parameter!(
    loop: "int", 0o644, Loop,
    "number of the loop device that holds the database; writable at run time (default: -1, none)"
);

struct Port;

impl Parameter for Port {
    fn set(text: &[u8], _locked: &mut Locked) -> Result<(), i32> {
        const EXPECTED: &str = "a number from 0 to 65535";
        let port = number("PORT", text, 0, 65535, EXPECTED)?;
        PORT.store(u16::try_from(port).map_err(|_| EINVAL)?, Relaxed);
        Ok(())
    }

    fn get(out: &mut Text<'_>, _locked: &Locked) {
        print_number(out, port());
    }
}

module_parameter!(
    PORT: "ushort", 0o444, Port,
    "TCP port to listen on, 0 = off (default: 12345)"
);

struct Bind;

impl Parameter for Bind {
    fn set(text: &[u8], _locked: &mut Locked) -> Result<(), i32> {
        let address =
            ipv4(text).ok_or_else(|| refuse("bind", text, "an IPv4 address, such as 127.0.0.1"))?;
        BIND.store(u32::from_be_bytes(address), Relaxed);
        Ok(())
    }

    fn get(out: &mut Text<'_>, _locked: &Locked) {
        let [a, b, c, d] = bind();
        print_number(out, format_args!("{a}.{b}.{c}.{d}"));
    }
}

module_parameter!(
    bind: "string", 0o444, Bind,
    "IPv4 address to listen on (default: 127.0.0.1)"
);

struct RequestsMax;

impl Parameter for RequestsMax {
    fn set(text: &[u8], _locked: &mut Locked) -> Result<(), i32> {
        let n = number("n", text, 0, u32::MAX, "a number, 0 = no limit")?;
        REQUESTS_MAX.store(n, Relaxed);
        Ok(())
    }

    fn get(out: &mut Text<'_>, _locked: &Locked) {
        print_number(out, requests_max());
    }
}

module_parameter!(
    n: "uint", 0o444, RequestsMax,
    "text requests after which a TCP connection is closed, 0 = no limit (default: 5)"
);

struct MaxClients;

impl Parameter for MaxClients {
    fn set(text: &[u8], _locked: &mut Locked) -> Result<(), i32> {
        const EXPECTED: &str = "a number from 1 to 32768";
        let clients = number("max_clients", text, 1, MAX_CLIENTS_MAX, EXPECTED)?;
        MAX_CLIENTS.store(clients, Relaxed);
        Ok(())
    }

    fn get(out: &mut Text<'_>, _locked: &Locked) {
        print_number(out, max_clients());
    }
}

module_parameter!(
    max_clients: "uint", 0o444, MaxClients,
    "TCP clients connected at once, 1 to 32768 (default: 1024)"
);

struct InitializeIfEmpty;

impl Parameter for InitializeIfEmpty {
    fn set(text: &[u8], _locked: &mut Locked) -> Result<(), i32> {
        INITIALIZE_IF_EMPTY.store(truth("initialize_if_empty", text)?, Relaxed);
        Ok(())
    }

    fn get(out: &mut Text<'_>, _locked: &Locked) {
        print_truth(out, INITIALIZE_IF_EMPTY.load(Relaxed));
    }
}

module_parameter!(
    initialize_if_empty: "bool", 0o444, InitializeIfEmpty,
    "make a database on a device that is empty (default: 1)"
);

struct ForceInitialize;

impl Parameter for ForceInitialize {
    fn set(text: &[u8], _locked: &mut Locked) -> Result<(), i32> {
        FORCE_INITIALIZE.store(truth("force_initialize", text)?, Relaxed);
        Ok(())
    }

    fn get(out: &mut Text<'_>, _locked: &Locked) {
        print_truth(out, FORCE_INITIALIZE.load(Relaxed));
    }
}

module_parameter!(
    force_initialize: "bool", 0o444, ForceInitialize,
    "at load, make a new database on the device whatever it holds, which is lost (default: 0)"
);

struct LogLevel;

impl Parameter for LogLevel {
    fn set(text: &[u8], _locked: &mut Locked) -> Result<(), i32> {
        let level = number("log_level", text, 0, 7, "a number from 0 to 7")?;
        set_log_level(u8::try_from(level).map_err(|_| EINVAL)?);
        Ok(())
    }

    fn get(out: &mut Text<'_>, _locked: &Locked) {
        print_number(out, log_level());
    }
}

module_parameter!(
    log_level: "uint", 0o644, LogLevel,
    "messages up to this level are printed, 0 to 7; 7 adds where they come from (default: 4)"
);

struct FlushIntervalMs;

impl Parameter for FlushIntervalMs {
    fn set(text: &[u8], locked: &mut Locked) -> Result<(), i32> {
        const EXPECTED: &str = "a number from 1 to 60000";
        let ms = number(
            "flush_interval_ms",
            text,
            1,
            FLUSH_INTERVAL_MS_MAX,
            EXPECTED,
        )?;
        FLUSH_INTERVAL_MS.store(ms, Relaxed);
        if let Stage::Running(service) = &STATE.get(locked).stage {
            service.mount.set_flush_interval_ms(ms);
        }
        Ok(())
    }

    fn get(out: &mut Text<'_>, _locked: &Locked) {
        print_number(out, FLUSH_INTERVAL_MS.load(Relaxed));
    }
}

module_parameter!(
    flush_interval_ms: "uint", 0o644, FlushIntervalMs,
    "longest time in milliseconds that a buffered write is not on the device, 1 to 60000 (default: 1000)"
);

struct DurabilityDefault;

impl Parameter for DurabilityDefault {
    fn set(text: &[u8], _locked: &mut Locked) -> Result<(), i32> {
        let sync = match text {
            b"buffered" => false,
            b"sync" => true,
            _ => return Err(refuse("durability", text, "buffered or sync")),
        };
        SYNC.store(sync, Relaxed);
        Ok(())
    }

    fn get(out: &mut Text<'_>, _locked: &Locked) {
        out.push(match durability() {
            Durability::Sync => b"sync",
            Durability::Buffered => b"buffered",
        });
    }
}

module_parameter!(
    durability: "string", 0o644, DurabilityDefault,
    "when writes are acknowledged: buffered (in the write buffer) or sync (on stable storage) (default: buffered)"
);
