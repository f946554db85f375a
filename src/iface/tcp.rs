// SPDX-License-Identifier: GPL-2.0

//! The line protocol over TCP.
//!
//! One thread accepts, each connection has a thread of its own, and one thread, the reaper, takes
//! away what has ended: a client that is slow, silent or gone stands in nobody's way but its own.
//!
//! # What bounds what
//!
//! | what | bound |
//! |---|---|
//! | connections | `max_clients`; whoever comes on top is told so and sent away |
//! | memory of a connection | [`INPUT_LEN_MIN`] up to one longest line, and [`OUTPUT_LEN`] |
//! | a client that does not read | [`SEND_TIMEOUT_MS`] without progress |
//! | taking leave of a client | [`DRAIN_MS`] |
//! | clients sent away that still talk | [`LINGERING_MAX`] of them, [`DRAIN_MS`] each |
//!
//! # Taking leave
//!
//! A socket that is closed while unread bytes lie in it resets the connection, and the reset may
//! overtake the last answer. So the sending side is shut down first, and what the client still
//! sends is read away until it closes as well, or time is up.
//!
//! # Locks
//!
//! `Shared::state` protects the table of connections. It is held while a connection's thread is
//! made, so that the table is complete before that thread can report its end, and never while a
//! request runs, a socket waits or a thread is joined.
//!
//! # The end
//!
//! Raise `stop`, shut the listener down, join the accepting thread: now no connection is added.
//! Shut every connection down, join the reaper, which has joined all others before it ends.

use super::{params, Service};
use crate::engine::{Error, WriteOptions};
use crate::proto::line::{LineBuffer, Next, NoMemory, Storage};
use crate::proto::text::{self, Request};
use crate::sys::atomic::{AtomicBool, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use crate::sys::errno::{EADDRINUSE, EADDRNOTAVAIL, EAGAIN, ECONNABORTED, ENOMEM};
use crate::sys::socket::{Connection, Listener};
use crate::sys::{arc_new, cond_resched, log_msg, now_ms, Arc, Condvar, Level, Mutex, Thread, Vec};

/// Room for what a client sends, while no line is longer.
const INPUT_LEN_MIN: usize = 4096;
/// Room for answers that leave together.
const OUTPUT_LEN: usize = 16 * 1024;
/// Longest time without progress for a client that does not read its answers.
const SEND_TIMEOUT_MS: u32 = 30_000;
/// Longest time that taking leave of a client lasts.
const DRAIN_MS: u64 = 2_000;
/// How long one wait lasts for a client's last words.
const DRAIN_STEP_MS: u32 = 100;
/// Clients sent away whose last words are waited for at the same time.
const LINGERING_MAX: usize = 64;
/// Connections that the protocol may complete before they are accepted.
const BACKLOG: u16 = 1024;
/// Pause after an accept that failed for lack of something.
const ACCEPT_PAUSE_MS: u32 = 100;

/// The server; dropping it closes every connection and ends every thread.
pub(crate) struct Server {
    shared: Arc<Shared>,
    acceptor: Option<Thread>,
    reaper: Option<Thread>,
}

/// What the threads share.
struct Shared {
    service: Arc<Service>,
    listener: Listener,
    requests_max: u32,
    stop: AtomicBool,
    state: Mutex<State>,
    /// Something for the reaper in `state`, or `stop` was raised.
    wake: Condvar,
}

/// The table of connections. All room in it is there from the beginning.
struct State {
    slots: Vec<Slot>,
    /// Numbers of slots that are not in use.
    free: Vec<usize>,
    /// Numbers of slots whose thread is about to end.
    finished: Vec<usize>,
    /// Clients that were sent away.
    lingering: Vec<Lingering>,
    /// The accepting thread has ended: nothing is added any more.
    closed: bool,
}

/// A place for a connection.
struct Slot {
    connection: Option<Arc<Connection>>,
    thread: Option<Thread>,
}

/// A client that was sent away, and until when its last words are read.
struct Lingering {
    connection: Connection,
    deadline_ms: u64,
}

impl Server {
    /// Listens as the parameters say; `None` if they say not to.
    pub(crate) fn start(service: Arc<Service>) -> Result<Option<Self>, i32> {
        let port = params::port();
        if port == 0 {
            return Ok(None);
        }
        let address = params::bind();
        let listener = Listener::bind(address, port, BACKLOG)
            .map_err(|errno| explain(address, port, errno))?;
        let shared = Shared::new(service, listener).map_err(|_| ENOMEM)?;
        let shared = arc_new(shared).map_err(|_| ENOMEM)?;

        // From here on dropping the server ends what was started.
        let mut server = Self {
            shared: shared.clone(),
            acceptor: None,
            reaper: None,
        };
        let reaper = shared.clone();
        server.reaper =
            Some(Thread::spawn(c"hpkv-reaper", move || reaper.reap()).map_err(|_| ENOMEM)?);
        server.acceptor =
            Some(Thread::spawn(c"hpkv-accept", move || shared.accept()).map_err(|_| ENOMEM)?);
        let [a, b, c, d] = address;
        log_msg!(Level::Info, "listening on {a}.{b}.{c}.{d}:{port}");
        Ok(Some(server))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Release);
        self.shared.listener.shutdown();
        {
            // Under the lock, so that a thread that has just looked at `stop` is waiting by now.
            let _state = self.shared.state.lock();
            self.shared.wake.notify_all();
        }
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.join();
        }
        {
            let mut state = self.shared.state.lock();
            state.closed = true;
            for slot in state.slots.iter() {
                if let Some(connection) = &slot.connection {
                    connection.shutdown();
                }
            }
            self.shared.wake.notify_all();
        }
        if let Some(reaper) = self.reaper.take() {
            reaper.join();
        }
    }
}

/// Says why nobody can be listened to.
fn explain(address: [u8; 4], port: u16, errno: i32) -> i32 {
    let [a, b, c, d] = address;
    match errno {
        EADDRINUSE => log_msg!(
            Level::Err,
            "PORT={port}: the port is in use; choose another, or PORT=0 to do without TCP"
        ),
        EADDRNOTAVAIL => log_msg!(
            Level::Err,
            "bind={a}.{b}.{c}.{d}: not an address of this machine; choose one that it has"
        ),
        _ => log_msg!(
            Level::Err,
            "cannot listen on bind={a}.{b}.{c}.{d} PORT={port} (errno {errno}); \
             PORT=0 does without TCP"
        ),
    }
    errno
}

impl Shared {
    fn new(service: Arc<Service>, listener: Listener) -> Result<Self, crate::sys::AllocError> {
        let clients = params::max_clients() as usize;
        let mut slots = Vec::with_capacity(clients)?;
        let mut free = Vec::with_capacity(clients)?;
        for number in 0..clients {
            slots.push(Slot {
                connection: None,
                thread: None,
            })?;
            free.push(number)?;
        }
        Ok(Self {
            service,
            listener,
            requests_max: params::requests_max(),
            stop: AtomicBool::new(false),
            state: Mutex::new(State {
                slots,
                free,
                finished: Vec::with_capacity(clients)?,
                lingering: Vec::with_capacity(LINGERING_MAX)?,
                closed: false,
            })?,
            wake: Condvar::new()?,
        })
    }

    fn stopping(&self) -> bool {
        self.stop.load(Acquire)
    }

    /// The accepting thread.
    fn accept(self: Arc<Self>) {
        while !self.stopping() {
            match self.listener.accept() {
                Ok(connection) => self.admit(connection),
                // The client was gone before it was its turn.
                Err(ECONNABORTED) => {}
                Err(errno) => {
                    if !self.stopping() {
                        log_msg!(
                            Level::Warning,
                            "accepting a connection failed (errno {errno})"
                        );
                        let mut state = self.state.lock();
                        self.wake.wait_timeout_ms(&mut state, ACCEPT_PAUSE_MS);
                    }
                }
            }
        }
    }

    /// Gives a new connection a thread, or sends it away.
    fn admit(self: &Arc<Self>, connection: Connection) {
        connection.set_timeouts_ms(0, SEND_TIMEOUT_MS);
        let mut state = self.state.lock();
        let Some(number) = state.free.pop() else {
            return self.send_away(&mut state, connection);
        };
        let Ok(connection) = arc_new(connection) else {
            // Its client sees the connection close.
            let _ = state.free.push(number);
            return;
        };

        let shared = self.clone();
        let session = connection.clone();
        let thread = Thread::spawn(c"hpkv-client", move || {
            Session::run(&shared, &session);
            // The socket is closed by the reaper, or here if the reaper was faster.
            drop(session);
            let mut state = shared.state.lock();
            let _ = state.finished.push(number);
            shared.wake.notify_all();
        });
        match (thread, state.slots.get_mut(number)) {
            (Ok(thread), Some(slot)) => {
                slot.thread = Some(thread);
                slot.connection = Some(connection);
                self.service.clients.fetch_add(1, Relaxed);
            }
            _ => {
                let _ = state.free.push(number);
                log_msg!(Level::Warning, "no memory for the thread of a connection");
            }
        }
    }

    /// Tells a client that there are too many, and leaves it to the reaper.
    fn send_away(&self, state: &mut State, connection: Connection) {
        let _ = connection.try_send(text::TOO_MANY_CLIENTS);
        connection.shutdown_send();
        if state.lingering.len() < LINGERING_MAX {
            let _ = state.lingering.push(Lingering {
                connection,
                deadline_ms: now_ms().saturating_add(DRAIN_MS),
            });
            self.wake.notify_all();
        }
    }

    /// The reaping thread.
    fn reap(self: Arc<Self>) {
        let mut state = self.state.lock();
        loop {
            if let Some(number) = state.finished.pop() {
                let slot = state.slots.get_mut(number);
                let (thread, connection) = match slot {
                    Some(slot) => (slot.thread.take(), slot.connection.take()),
                    None => (None, None),
                };
                drop(state);
                if let Some(thread) = thread {
                    thread.join();
                }
                drop(connection);
                self.service.clients.fetch_sub(1, Relaxed);
                state = self.state.lock();
                let _ = state.free.push(number);
                continue;
            }
            if state.closed && state.free.len() == state.slots.len() {
                return;
            }
            if state.lingering.is_empty() {
                self.wake.wait(&mut state);
            } else {
                // Reading what has arrived does not wait, so it may be done under the lock.
                state.let_go(self.stopping());
                if !state.lingering.is_empty() {
                    self.wake.wait_timeout_ms(&mut state, DRAIN_STEP_MS);
                }
            }
        }
    }
}

impl State {
    /// Closes the connections of clients sent away that have nothing more to say, or no more time.
    fn let_go(&mut self, all: bool) {
        let now_ms = now_ms();
        let mut kept = 0;
        for at in 0..self.lingering.len() {
            let keep = self.lingering.get(at).is_some_and(|lingering| {
                !all && now_ms < lingering.deadline_ms && still_talks(&lingering.connection)
            });
            if keep {
                self.lingering.swap(kept, at);
                kept = kept.saturating_add(1);
            }
        }
        self.lingering.truncate(kept);
    }
}

/// Reads away what a client has sent; says whether it may send more.
fn still_talks(connection: &Connection) -> bool {
    let mut words = [0; 512];
    // A bound, should the client be faster than this loop.
    for _ in 0..64 {
        match connection.try_recv(&mut words) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(errno) => return errno == EAGAIN,
        }
    }
    true
}

/// Memory for the lines of a client.
struct Heap(Vec<u8>);

impl Storage for Heap {
    fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }

    fn resize(&mut self, len: usize) -> bool {
        // A vector never gives memory back, so it is made anew.
        let mut bytes = Vec::new();
        if bytes.resize(len, 0).is_err() {
            return false;
        }
        let kept = len.min(self.0.len());
        if let (Some(to), Some(from)) = (bytes.get_mut(..kept), self.0.get(..kept)) {
            to.copy_from_slice(from);
        }
        self.0 = bytes;
        true
    }
}

/// Answers on their way: they leave together when the client has to be waited for.
struct Output<'a> {
    connection: &'a Connection,
    waiting: Vec<u8>,
}

impl Output<'_> {
    /// Sends what waits.
    fn flush(&mut self) -> Result<(), i32> {
        if !self.waiting.is_empty() {
            self.connection.send(&self.waiting)?;
            self.waiting.clear();
        }
        Ok(())
    }

    /// Returns the room that is left.
    fn room(&self) -> usize {
        OUTPUT_LEN.saturating_sub(self.waiting.len())
    }

    /// Adds to what waits; the room must be there, and so is the memory.
    fn push(&mut self, bytes: &[u8]) -> Result<(), i32> {
        self.waiting.extend_from_slice(bytes).map_err(|_| ENOMEM)
    }

    /// Sends bytes now or later, however many they are.
    fn write(&mut self, bytes: &[u8]) -> Result<(), i32> {
        if bytes.len() > self.room() {
            self.flush()?;
            if bytes.len() > self.room() {
                return self.connection.send(bytes);
            }
        }
        self.push(bytes)
    }
}

/// A conversation with one client.
struct Session<'a> {
    shared: &'a Shared,
    output: Output<'a>,
}

impl<'a> Session<'a> {
    /// The thread of a connection.
    fn run(shared: &'a Shared, connection: &'a Connection) {
        let (Ok(waiting), Ok(lines)) = (
            Vec::with_capacity(OUTPUT_LEN),
            LineBuffer::new(Heap(Vec::new()), INPUT_LEN_MIN, text::LINE_LEN_MAX),
        ) else {
            let _: Result<(), i32> =
                text::error(Error::NoMemory.text(), |bytes| connection.try_send(bytes));
            return;
        };
        let mut session = Self {
            shared,
            output: Output {
                connection,
                waiting,
            },
        };
        match session.converse(lines) {
            Ok(Leave::Politely) => session.take_leave(),
            Ok(Leave::AsTheClientDid) => {}
            Err(errno) => log_msg!(Level::Debug, "a connection ended with errno {errno}"),
        }
    }

    /// Answers requests until there is a reason to stop. Errors are those of the connection.
    fn converse(&mut self, mut lines: LineBuffer<Heap>) -> Result<Leave, i32> {
        let mut requests: u32 = 0;
        loop {
            loop {
                match lines.next_line() {
                    Next::Line(line) => {
                        let counts = self.answer(line)?;
                        requests = requests.saturating_add(u32::from(counts));
                        if counts && requests == self.shared.requests_max {
                            self.output.flush()?;
                            return Ok(Leave::Politely);
                        }
                    }
                    Next::More => break,
                    Next::TooLong => return self.give_up(text::LINE_TOO_LONG),
                }
            }
            self.output.flush()?;
            if self.shared.stopping() {
                return Ok(Leave::AsTheClientDid);
            }
            cond_resched();

            let spare = match lines.spare() {
                Ok(spare) => spare,
                Err(NoMemory) => return self.give_up(Error::NoMemory.text()),
            };
            let len = self.output.connection.recv(spare)?;
            if len == 0 {
                return Ok(Leave::AsTheClientDid);
            }
            lines.filled(len);
        }
    }

    /// Says why the conversation ends.
    fn give_up(&mut self, reason: &str) -> Result<Leave, i32> {
        self.error(reason)?;
        self.output.flush()?;
        Ok(Leave::Politely)
    }

    /// Answers one line; returns whether it counts as a request.
    fn answer(&mut self, line: &[u8]) -> Result<bool, i32> {
        let done = match text::parse(line) {
            Ok(Request::Put { key, value }) => self.put(key, value),
            Ok(Request::Delete { key }) => {
                let deleted = self.shared.service.db.delete(key, &options());
                deleted.map(|_| text::OK)
            }
            Ok(Request::Get { key }) => {
                self.get(key)?;
                return Ok(true);
            }
            Ok(Request::Ping) => {
                self.output.write(text::PONG)?;
                return Ok(false);
            }
            Err(malformed) => {
                self.error(malformed.text())?;
                return Ok(true);
            }
        };
        match done {
            Ok(answer) => self.output.write(answer)?,
            Err(error) => self.failed(error)?,
        }
        Ok(true)
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<&'static [u8], Error> {
        let staged = super::staged(key, value)?;
        self.shared.service.db.put(staged, &options())?;
        Ok(text::OK)
    }

    /// Answers with a value: with the other answers if it fits beside them, else alone.
    fn get(&mut self, key: &[u8]) -> Result<(), i32> {
        let db = &self.shared.service.db;
        let output = &mut self.output;
        let copied = db.get(key, |view| {
            let value = view.value();
            if value.len() < output.room() {
                // Within the room there is memory, so this neither fails nor sleeps.
                output.push(value).and_then(|()| output.push(b"\n")).is_ok()
            } else {
                false
            }
        });
        match copied {
            Ok(true) => Ok(()),
            Ok(false) => match db.get_shared(key) {
                Ok(record) => {
                    output.write(record.view().value())?;
                    output.write(b"\n")
                }
                Err(error) => self.failed(error),
            },
            Err(error) => self.failed(error),
        }
    }

    /// Says that a request failed.
    fn failed(&mut self, error: Error) -> Result<(), i32> {
        match error {
            Error::NotFound => self.output.write(text::NOT_FOUND),
            other => self.error(other.text()),
        }
    }

    fn error(&mut self, reason: &str) -> Result<(), i32> {
        text::error(reason, |bytes| self.output.write(bytes))
    }

    /// Closes the connection such that the client reads the last answer.
    fn take_leave(&self) {
        let connection = self.output.connection;
        connection.shutdown_send();
        connection.set_timeouts_ms(DRAIN_STEP_MS, SEND_TIMEOUT_MS);
        let deadline_ms = now_ms().saturating_add(DRAIN_MS);
        let mut words = [0; 512];
        while now_ms() < deadline_ms && !self.shared.stopping() {
            match connection.recv(&mut words) {
                Ok(0) => break,
                Ok(_) | Err(EAGAIN) => {}
                Err(_) => break,
            }
        }
    }
}

/// Who ends a conversation, and how.
enum Leave {
    /// This side, after an answer that the client should read.
    Politely,
    /// The client has closed, or the server stops.
    AsTheClientDid,
}

/// How text requests change the store.
fn options() -> WriteOptions {
    WriteOptions {
        durability: params::durability(),
        ..WriteOptions::default()
    }
}
