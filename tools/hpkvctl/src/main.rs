// SPDX-License-Identifier: GPL-2.0
//! Command line of hpkv, a key-value store inside the Linux kernel.
//!
//! `cli` says what can be typed, `input` turns it into bytes, `run` carries it
//! out and `output` and `failure` say what came of it.
#![forbid(unsafe_code)]

mod cli;
mod failure;
mod input;
mod output;
mod run;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::Cli;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run::run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report(cli.json);
            failure.exit_code()
        }
    }
}
