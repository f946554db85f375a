// SPDX-License-Identifier: GPL-2.0
//! What can be typed.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::input::{parse_duration, parse_number};

/// Options that every command takes, told apart from its own.
const COMMON: &str = "Common options";

const AFTER_HELP: &str = "\
Keys are 1 to 1024 bytes, values 0 to 1048576 bytes; both may hold any bytes.

Exit codes:
  0  done
  1  no such key
  2  the command line is wrong, or its input cannot be read
  3  the store cannot be reached or used: module not loaded, no permission,
     module and program of different releases
  4  data is damaged
  5  the store or its device refused: condition does not hold, value too long,
     store full or read-only, device failed

Examples:
  hpkvctl put name alice
  hpkvctl get name
  hpkvctl scan --prefix user: --limit 10
  hpkvctl --json stat";

/// Command line of hpkv, a key-value store inside the Linux kernel
#[derive(Debug, Parser)]
#[command(name = "hpkvctl", version, after_help = AFTER_HELP, max_term_width = 100)]
pub(crate) struct Cli {
    /// The device of the module
    #[arg(long, global = true, help_heading = COMMON, value_name = "PATH", env = "HPKV_DEVICE",
          default_value = hpkv::DEFAULT_DEVICE)]
    pub(crate) device: PathBuf,

    /// Print JSON: one object, or one per line for scan; errors too
    #[arg(long, global = true, help_heading = COMMON)]
    pub(crate) json: bool,

    /// Take keys and values on the command line, and print them, in hexadecimal
    #[arg(long, global = true, help_heading = COMMON)]
    pub(crate) hex: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Store a value
    #[command(
        override_usage = "hpkvctl put [OPTIONS] <KEY> <VALUE>\n       hpkvctl put [OPTIONS] --file <PATH> <KEY>",
        after_help = "\
Examples:
  hpkvctl put name alice
  hpkvctl put --file photo.jpg photo
  date | hpkvctl put now -
  hpkvctl put --create --sync lock mine
  hpkvctl put --expires-in 15m session 8f2c
  hpkvctl put -- temperature -5
  hpkvctl --hex put 00ff 0a0d"
    )]
    Put(PutArgs),

    /// Print a value
    #[command(after_help = "\
The value is followed by a newline, unless --raw or --file is given.

Examples:
  hpkvctl get name
  hpkvctl get --raw photo > photo.jpg
  hpkvctl get --file photo.jpg photo
  hpkvctl --json get name")]
    Get(GetArgs),

    /// Remove a key
    #[command(
        visible_alias = "delete",
        after_help = "\
Examples:
  hpkvctl del name
  hpkvctl del --if-version 41 --sync name"
    )]
    Del(DelArgs),

    /// Add to the end of a value
    #[command(
        override_usage = "hpkvctl append [OPTIONS] <KEY> <VALUE>\n       hpkvctl append [OPTIONS] --file <PATH> <KEY>",
        after_help = "\
A key that does not exist counts as an empty value.

Examples:
  hpkvctl append log 'one more line'
  dmesg | tail -1 | hpkvctl append log -"
    )]
    Append(AppendArgs),

    /// Write into a value at an offset
    #[command(
        override_usage = "hpkvctl write-at [OPTIONS] <KEY> <OFFSET> <VALUE>\n       hpkvctl write-at [OPTIONS] --file <PATH> <KEY> <OFFSET>",
        after_help = "\
A gap between the end of the value and OFFSET is filled with zero bytes. A key
that does not exist counts as an empty value.

Examples:
  hpkvctl write-at name 0 A
  hpkvctl write-at --file block.bin image 4096"
    )]
    WriteAt(WriteAtArgs),

    /// Print keys in ascending order of their bytes
    #[command(after_help = "\
Each line is a key, a tab and the value. In both, a backslash is printed as \\\\,
tab, newline and carriage return as \\t, \\n, \\r, and other bytes that cannot be
printed as \\xNN, so that one entry is one line whatever it holds.

Examples:
  hpkvctl scan
  hpkvctl scan --prefix user: --keys-only
  hpkvctl scan --start a --end b --limit 100
  hpkvctl --json scan | jq -r .key")]
    Scan(ScanArgs),

    /// Print figures of the active database
    #[command(after_help = "\
Examples:
  hpkvctl stat
  hpkvctl --json stat | jq .records")]
    Stat,

    /// Wait until every change made before is on stable storage
    #[command(after_help = "\
Example:
  hpkvctl put a 1 && hpkvctl put b 2 && hpkvctl sync")]
    Sync,

    /// Remove everything, for good (takes CAP_SYS_ADMIN)
    #[command(after_help = "\
Asks for the word purge on a terminal; elsewhere --yes must be given.

Examples:
  hpkvctl purge
  hpkvctl purge --yes")]
    Purge(PurgeArgs),

    /// Print the versions of this program and of the running module
    Version,
}

/// Where a value comes from.
#[derive(Debug, Args)]
#[group(required = true, multiple = false, id = "source")]
pub(crate) struct Source {
    /// The value; - reads it from standard input
    #[arg(value_name = "VALUE")]
    pub(crate) value: Option<OsString>,

    /// Read the value from a file, as it is
    #[arg(long, value_name = "PATH")]
    pub(crate) file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    /// The key
    pub(crate) key: OsString,

    #[command(flatten)]
    pub(crate) source: Source,

    /// Only if the key does not exist
    #[arg(long, group = "condition")]
    pub(crate) create: bool,

    /// Only if the key exists
    #[arg(long, group = "condition")]
    pub(crate) replace: bool,

    /// Only if the key has this version (get --json tells it)
    #[arg(long, group = "condition", value_name = "VERSION")]
    pub(crate) if_version: Option<u64>,

    /// The value ends after this time: a number with ms, s, m, h or d
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) expires_in: Option<Duration>,

    /// A number to store beside the value
    #[arg(long, value_name = "NUMBER", value_parser = parse_number, default_value = "0")]
    pub(crate) user_flags: u32,

    /// Return only when the change is on stable storage
    #[arg(long)]
    pub(crate) sync: bool,
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// The key
    pub(crate) key: OsString,

    /// Print the value alone, without a newline after it
    #[arg(long, conflicts_with_all = ["json", "hex"])]
    pub(crate) raw: bool,

    /// Write the value to a file, as it is
    #[arg(long, value_name = "PATH", conflicts_with_all = ["raw", "json"])]
    pub(crate) file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct DelArgs {
    /// The key
    pub(crate) key: OsString,

    /// Only if the key has this version (get --json tells it)
    #[arg(long, value_name = "VERSION")]
    pub(crate) if_version: Option<u64>,

    /// Return only when the removal is on stable storage
    #[arg(long)]
    pub(crate) sync: bool,
}

/// What changes of a part of a value have in common.
#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    /// Only if the key exists
    #[arg(long, group = "condition")]
    pub(crate) replace: bool,

    /// Only if the key has this version (get --json tells it)
    #[arg(long, group = "condition", value_name = "VERSION")]
    pub(crate) if_version: Option<u64>,

    /// Return only when the change is on stable storage
    #[arg(long)]
    pub(crate) sync: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AppendArgs {
    /// The key
    pub(crate) key: OsString,

    #[command(flatten)]
    pub(crate) source: Source,

    #[command(flatten)]
    pub(crate) update: UpdateArgs,
}

#[derive(Debug, Args)]
pub(crate) struct WriteAtArgs {
    /// The key
    pub(crate) key: OsString,

    /// Where the bytes go, counted from the start of the value
    pub(crate) offset: u64,

    #[command(flatten)]
    pub(crate) source: Source,

    #[command(flatten)]
    pub(crate) update: UpdateArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ScanArgs {
    /// From this key on
    #[arg(long, value_name = "KEY")]
    pub(crate) start: Option<OsString>,

    /// Up to this key, without it
    #[arg(long, value_name = "KEY")]
    pub(crate) end: Option<OsString>,

    /// Keys that begin with this
    #[arg(long, value_name = "BYTES", conflicts_with_all = ["start", "end"])]
    pub(crate) prefix: Option<OsString>,

    /// At most this many entries
    #[arg(long, value_name = "NUMBER")]
    pub(crate) limit: Option<u64>,

    /// Without the values
    #[arg(long)]
    pub(crate) keys_only: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PurgeArgs {
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;

    fn parse(line: &str) -> Result<Cli, ErrorKind> {
        let words = std::iter::once("hpkvctl").chain(line.split(' '));
        Cli::try_parse_from(words).map_err(|error| error.kind())
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_may_stand_anywhere() {
        for line in [
            "--json --hex --device /x get k",
            "get k --json --hex --device /x",
        ] {
            let cli = parse(line).unwrap();
            assert!(cli.json && cli.hex, "{line}");
            assert_eq!(cli.device, PathBuf::from("/x"));
        }
    }

    #[test]
    fn put_takes_exactly_one_value_and_one_condition() {
        assert!(matches!(parse("put k v").unwrap().command, Command::Put(_)));
        assert!(parse("put --file f k").is_ok());
        assert_eq!(
            parse("put k").unwrap_err(),
            ErrorKind::MissingRequiredArgument
        );
        assert_eq!(
            parse("put --file f k v").unwrap_err(),
            ErrorKind::ArgumentConflict
        );
        assert_eq!(
            parse("put --create --replace k v").unwrap_err(),
            ErrorKind::ArgumentConflict
        );
        assert_eq!(
            parse("put --create --if-version 3 k v").unwrap_err(),
            ErrorKind::ArgumentConflict
        );
    }

    #[test]
    fn values_that_begin_with_a_hyphen() {
        let Command::Put(put) = parse("put k -").unwrap().command else {
            panic!()
        };
        assert_eq!(put.source.value.unwrap(), "-");
        let Command::Put(put) = parse("put --sync -- k -5").unwrap().command else {
            panic!()
        };
        assert_eq!(put.source.value.unwrap(), "-5");
        assert_eq!(parse("put k -5").unwrap_err(), ErrorKind::UnknownArgument);
    }

    #[test]
    fn options_of_put() {
        let line = "put --if-version 9 --expires-in 15m --user-flags 0x10 --sync k v";
        let Command::Put(put) = parse(line).unwrap().command else {
            panic!()
        };
        assert_eq!(put.if_version, Some(9));
        assert_eq!(put.expires_in, Some(Duration::from_secs(900)));
        assert_eq!(put.user_flags, 16);
        assert!(put.sync);
        assert_eq!(
            parse("put --expires-in soon k v").unwrap_err(),
            ErrorKind::ValueValidation
        );
    }

    #[test]
    fn options_of_the_others() {
        let Command::WriteAt(write) = parse("write-at --replace k 7 v").unwrap().command else {
            panic!()
        };
        assert_eq!((write.offset, write.update.replace), (7, true));
        assert!(parse("write-at --file f k 7").is_ok());
        assert_eq!(
            parse("write-at k seven v").unwrap_err(),
            ErrorKind::ValueValidation
        );
        assert!(parse("append k v").is_ok());
        assert!(matches!(
            parse("delete k").unwrap().command,
            Command::Del(_)
        ));
        assert_eq!(
            parse("get --raw --json k").unwrap_err(),
            ErrorKind::ArgumentConflict
        );
        assert_eq!(
            parse("scan --prefix a --start b").unwrap_err(),
            ErrorKind::ArgumentConflict
        );
        assert!(parse("scan --start a --end b --limit 3 --keys-only").is_ok());
    }
}
