// SPDX-License-Identifier: GPL-2.0

//! The engine and the protocols of the hpkv kernel module, from the very sources of the module.
//!
//! Only `sys`, the world around them, is another: its host twin stands in for the kernel.

#[path = "../../../src/engine/mod.rs"]
pub mod engine;
// The module's front ends use the parsers, and here only their own tests do.
#[allow(dead_code)]
#[path = "../../../src/proto/mod.rs"]
pub mod proto;
#[path = "../../../src/sys/mod.rs"]
pub mod sys;
