// SPDX-License-Identifier: GPL-2.0

//! hpkv, a key-value store in the kernel.
//!
//! | module | what it is | may use |
//! |---|---|---|
//! | [`iface`] | front ends: device, TCP, `/proc`, parameters | all below |
//! | [`proto`] | parsers and encoders of protocols | nothing |
//! | [`engine`] | the store | `sys` |
//! | [`sys`] | the kernel, made safe: the only `unsafe` | `abi` |
//! | [`abi`] | the types of the ioctl interface, generated | nothing |

use kernel::prelude::*;

use iface::chardev::Chardev;
use iface::mount::Mount;
use iface::params::{Live, Settings};
use iface::procfs::StatsFile;
use iface::tcp::Server;
use iface::Service;
use sys::chardev::Registration;

#[allow(dead_code, non_camel_case_types, unreachable_pub)]
mod abi;
// `engine` and `sys` are the public face of a library where the same source is compiled for tests.
#[allow(unreachable_pub, unused_imports)]
mod engine;
mod iface;
mod proto;
#[allow(dead_code, unused_imports)]
mod sys;

module! {
    type: Hpkv,
    name: "hpkv",
    authors: ["hpkv developers"],
    description: "A persistent key-value store in the kernel",
    license: "GPL v2",
}

/// The module while it is loaded.
///
/// Fields are dropped in the order in which they stand here, which is the order of teardown: first
/// the ways in are closed, one after the other, each waiting for what is under way on it; then the
/// store is flushed and its threads end; then whatever was freed with a delay is waited for. Init
/// goes the same way backwards, and what it has made is dropped in the same order if it fails.
struct Hpkv {
    /// Parameters stop acting on the service. No switch of databases runs from here on.
    _live: Live,
    /// `/dev/hpkv` goes. No file is open any more, since an open file holds the module.
    _device: Registration<Chardev>,
    /// `/proc/hpkv_stats` goes, after its readers.
    _stats: StatsFile,
    /// Connections are closed and their threads end.
    _server: Option<Server>,
    /// The store is flushed, its threads end and its device is closed.
    _store: ActiveStore,
    /// Grace periods and delayed work end: after this no code of the module runs.
    _runtime: sys::Runtime,
}

/// The last reference to the service; dropping it closes the store.
struct ActiveStore {
    service: sys::Arc<Service>,
    /// Loading has come to its end.
    is_loaded: bool,
}

impl Drop for ActiveStore {
    fn drop(&mut self) {
        let lost = self.service.db.close();
        if lost != 0 {
            pr_err!("the device has failed: {lost} acknowledged changes are lost\n");
        }
        if self.is_loaded {
            pr_info!("unloaded\n");
        }
    }
}

/// Turns a positive error number into the kernel's error.
fn error(errno: i32) -> Error {
    Error::from_errno(errno.wrapping_neg())
}

impl kernel::Module for Hpkv {
    fn init(module: &'static ThisModule) -> Result<Self> {
        let runtime = sys::Runtime::new().map_err(|_| ENOMEM)?;
        let settings = Settings::take().map_err(error)?;
        let (db, mount) = Mount::open(settings).map_err(error)?;
        let service = sys::arc_new(Service::new(db, mount)).map_err(|_| ENOMEM)?;
        let mut store = ActiveStore {
            service: service.clone(),
            is_loaded: false,
        };
        let server = Server::start(service.clone()).map_err(error)?;
        let stats = StatsFile::new(service.clone()).map_err(error)?;
        let device = sys::arc_new(Chardev::new(service.clone())).map_err(|_| ENOMEM)?;
        // The last step that may fail, for a file may be opened as soon as the device is there.
        let device = Registration::new(c"hpkv", 0o660, module, device).map_err(error)?;
        let live = Live::publish(service);
        store.is_loaded = true;
        pr_info!("loaded\n");
        Ok(Self {
            _live: live,
            _device: device,
            _stats: stats,
            _server: server,
            _store: store,
            _runtime: runtime,
        })
    }
}
