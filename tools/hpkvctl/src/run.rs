// SPDX-License-Identifier: GPL-2.0
//! Carries a command out.

use std::io::{self, BufRead, BufWriter, IsTerminal, Write};

use hpkv::{Client, DeleteOptions, PutOptions, ScanOptions, UpdateOptions, Updated};
use serde_json::json;

use crate::cli::{
    AppendArgs, Cli, Command, DelArgs, GetArgs, PurgeArgs, PutArgs, ScanArgs, UpdateArgs,
    WriteAtArgs,
};
use crate::failure::Failure;
use crate::{input, output};

/// What must be typed before everything is removed.
const PURGE_WORD: &str = "purge";

pub(crate) fn run(cli: &Cli) -> Result<(), Failure> {
    match &cli.command {
        Command::Put(arguments) => put(cli, arguments),
        Command::Get(arguments) => get(cli, arguments),
        Command::Del(arguments) => del(cli, arguments),
        Command::Append(arguments) => append(cli, arguments),
        Command::WriteAt(arguments) => write_at(cli, arguments),
        Command::Scan(arguments) => scan(cli, arguments),
        Command::Stat => stat(cli),
        Command::Sync => sync(cli),
        Command::Purge(arguments) => purge(cli, arguments),
        Command::Version => version(cli),
    }
}

fn open(cli: &Cli) -> Result<Client, Failure> {
    Ok(Client::open(&cli.device)?)
}

/// For what changes no key: a permission to read is enough.
fn open_read_only(cli: &Cli) -> Result<Client, Failure> {
    Ok(Client::open_read_only(&cli.device)?)
}

fn print(bytes: impl AsRef<[u8]>) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(bytes.as_ref())
        .and_then(|()| out.flush())
        .map_err(Failure::stdout)
}

fn put(cli: &Cli, arguments: &PutArgs) -> Result<(), Failure> {
    let key = input::bytes(&arguments.key, cli.hex)?;
    let mut options = PutOptions::new().user_flags(arguments.user_flags);
    if arguments.create {
        options = options.create_only();
    }
    if arguments.replace {
        options = options.replace_only();
    }
    if let Some(version) = arguments.if_version {
        options = options.if_version(version);
    }
    if arguments.sync {
        options = options.sync();
    }
    let client = open(cli)?;
    let value = input::value(&arguments.source, cli.hex)?;
    // Counted from the end of the input, which may take its time.
    if let Some(after) = arguments.expires_in {
        options = options.expires_in(after);
    }
    let version = client.put_with(&key, &value, &options)?;
    if cli.json {
        print(format!(
            "{}\n",
            output::change_json(&key, version, None, cli.hex)
        ))?;
    }
    Ok(())
}

fn get(cli: &Cli, arguments: &GetArgs) -> Result<(), Failure> {
    let key = input::bytes(&arguments.key, cli.hex)?;
    let Some(found) = open_read_only(cli)?.get_with(&key)? else {
        return Err(Failure::NotFound { verb: "get", key });
    };
    if let Some(path) = &arguments.file {
        return std::fs::write(path, &found.value).map_err(|error| Failure::Output {
            name: path.display().to_string(),
            error,
        });
    }
    if cli.json {
        let value = &found.value;
        let json = output::record_json(&key, Some(value), value.len(), &found.metadata, cli.hex);
        return print(format!("{json}\n"));
    }
    let mut text = output::value_text(&found.value, cli.hex);
    if !arguments.raw {
        text.push(b'\n');
    }
    print(text)
}

fn del(cli: &Cli, arguments: &DelArgs) -> Result<(), Failure> {
    let key = input::bytes(&arguments.key, cli.hex)?;
    let mut options = DeleteOptions::new();
    if let Some(version) = arguments.if_version {
        options = options.if_version(version);
    }
    if arguments.sync {
        options = options.sync();
    }
    let Some(version) = open(cli)?.delete_with(&key, &options)? else {
        return Err(Failure::NotFound {
            verb: "delete",
            key,
        });
    };
    if cli.json {
        print(format!(
            "{}\n",
            output::change_json(&key, version, None, cli.hex)
        ))?;
    }
    Ok(())
}

fn update_options(arguments: &UpdateArgs) -> UpdateOptions {
    let mut options = UpdateOptions::new();
    if arguments.replace {
        options = options.replace_only();
    }
    if let Some(version) = arguments.if_version {
        options = options.if_version(version);
    }
    if arguments.sync {
        options = options.sync();
    }
    options
}

fn append(cli: &Cli, arguments: &AppendArgs) -> Result<(), Failure> {
    let key = input::bytes(&arguments.key, cli.hex)?;
    let client = open(cli)?;
    let data = input::value(&arguments.source, cli.hex)?;
    let updated = client.append_with(&key, &data, &update_options(&arguments.update))?;
    print_updated(cli, &key, updated)
}

fn write_at(cli: &Cli, arguments: &WriteAtArgs) -> Result<(), Failure> {
    let key = input::bytes(&arguments.key, cli.hex)?;
    let client = open(cli)?;
    let data = input::value(&arguments.source, cli.hex)?;
    let options = update_options(&arguments.update);
    let updated = client.write_at_with(&key, arguments.offset, &data, &options)?;
    print_updated(cli, &key, updated)
}

fn print_updated(cli: &Cli, key: &[u8], updated: Updated) -> Result<(), Failure> {
    if cli.json {
        let json = output::change_json(key, updated.version, Some(updated.value_len), cli.hex);
        print(format!("{json}\n"))?;
    }
    Ok(())
}

fn scan(cli: &Cli, arguments: &ScanArgs) -> Result<(), Failure> {
    let mut options = ScanOptions::new();
    if let Some(start) = &arguments.start {
        options = options.start(&input::bytes(start, cli.hex)?);
    }
    if let Some(end) = &arguments.end {
        options = options.end(&input::bytes(end, cli.hex)?);
    }
    if let Some(prefix) = &arguments.prefix {
        options = options.prefix(&input::bytes(prefix, cli.hex)?);
    }
    if let Some(limit) = arguments.limit {
        options = options.limit(limit);
    }
    if arguments.keys_only {
        options = options.keys_only();
    }
    let client = open_read_only(cli)?;
    let mut out = BufWriter::new(io::stdout().lock());
    for entry in client.scan(options) {
        let line = entry.map_err(Failure::from).map(|entry| match cli.json {
            true => {
                let value = entry.value.as_deref();
                output::record_json(&entry.key, value, entry.value_len, &entry.metadata, cli.hex)
                    .to_string()
            }
            false => output::entry_line(&entry, cli.hex),
        });
        match line {
            Ok(line) => writeln!(out, "{line}").map_err(Failure::stdout)?,
            Err(failure) => {
                // What was read stands before the error.
                out.flush().map_err(Failure::stdout)?;
                return Err(failure);
            }
        }
    }
    out.flush().map_err(Failure::stdout)
}

fn stat(cli: &Cli) -> Result<(), Failure> {
    let stat = open_read_only(cli)?.stat()?;
    print(match cli.json {
        true => format!("{}\n", output::stat_json(&stat)),
        false => output::stat_text(&stat),
    })
}

fn sync(cli: &Cli) -> Result<(), Failure> {
    let version = open_read_only(cli)?.sync()?;
    print(match cli.json {
        true => format!("{}\n", json!({ "version": version })),
        false => format!("on stable storage up to version {version}\n"),
    })
}

fn purge(cli: &Cli, arguments: &PurgeArgs) -> Result<(), Failure> {
    let client = open(cli)?;
    let records = client.stat()?.records;
    if !arguments.yes {
        confirm(cli, records)?;
    }
    client.purge()?;
    print(match cli.json {
        true => format!("{}\n", json!({ "purged": true, "records": records })),
        false => String::new(),
    })
}

/// Returns if the person at the terminal has typed the word.
fn confirm(cli: &Cli, records: u64) -> Result<(), Failure> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::usage(
            "purge asks a person, and standard input is no terminal",
            "Give --yes to remove everything without being asked.",
        ));
    }
    eprint!(
        "This removes all {records} records of {} for good.\nType {PURGE_WORD} to go on: ",
        cli.device.display()
    );
    let mut answer = String::new();
    let heard = stdin.lock().read_line(&mut answer);
    if heard.is_ok() && answer.trim() == PURGE_WORD {
        return Ok(());
    }
    Err(Failure::refused(
        "not confirmed: nothing was removed",
        "Type the word, or give --yes.",
    ))
}

fn version(cli: &Cli) -> Result<(), Failure> {
    let program = env!("CARGO_PKG_VERSION");
    let abi = hpkv::ABI_VERSION;
    let client = open_read_only(cli);
    let module = client.as_ref().ok().map(Client::version);
    print(match cli.json {
        true => {
            let module = module.map(|module| {
                json!({
                    "abi_version": module.abi_version,
                    "key_len_max": module.key_len_max,
                    "value_len_max": module.value_len_max,
                })
            });
            let all = json!({ "hpkvctl": program, "abi_version": abi, "module": module });
            format!("{all}\n")
        }
        false => {
            let module = module.map_or(String::new(), |module| {
                format!(
                    "module: interface version {}, keys to {} bytes, values to {} bytes\n",
                    module.abi_version, module.key_len_max, module.value_len_max
                )
            });
            format!("hpkvctl {program}, interface version {abi}\n{module}")
        }
    })?;
    client.map(drop)
}
