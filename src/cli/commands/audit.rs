//! `audit`: verifies, anchors and exports the audit log. `audit find` is in `find.rs`.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

use audit::anchor::{self, Anchor};
use audit::chains::{ChainReport, Chains, heads};
use audit::export::{ExportError, ExportPlan, ExportSummary};
use audit::export_verifier::{self, FileDamage, Verified};
use audit::hex::hex;
use os::files;
use ports::Log;
use ports::topics::TopicTable;
use roles::Role;
use serde_json::{Value, json};
use wire::topics;

use crate::cli::args::audit::{Anchor as AnchorArgs, Audit, Export as ExportArgs, Verify};
use crate::cli::config::Config;
use crate::cli::exit::{Code, Failure};
use crate::cli::moment;
use crate::cli::open::{self, Access};
use crate::cli::output::{self, JobProgress, OutputFormat};

pub(crate) fn run(config: &Config, audit: &Audit) -> Result<(), Failure> {
    match audit {
        Audit::Verify(Verify {
            anchors,
            file: Some(path),
        }) => verify_file(config, path, &load(anchors.as_deref())?),
        Audit::Verify(Verify {
            anchors,
            file: None,
        }) => verify(config, load(anchors.as_deref())?),
        Audit::Anchor(args) => take_anchor(config, args),
        Audit::Find(args) => super::find::run(config, args),
        Audit::Export(args) => export(config, args),
    }
}

fn moment(flag: &str, text: Option<&String>) -> Result<Option<i64>, Failure> {
    text.map(|text| moment::ms(text).map_err(|why| Failure::usage(format!("{flag}: {why}"))))
        .transpose()
}

/// Parses a time range; either end may be open.
pub(crate) fn range(
    from: Option<&String>,
    to: Option<&String>,
) -> Result<(Option<i64>, Option<i64>), Failure> {
    let range = (moment("--from", from)?, moment("--to", to)?);
    match range {
        (Some(from_ms), Some(to_ms)) if from_ms > to_ms => {
            let said = |t: Option<&String>| t.cloned().unwrap_or_default();
            Err(Failure::usage(format!(
                "--from {} is later than --to {}: nothing lies between them",
                said(from),
                said(to)
            )))
        }
        _ => Ok(range),
    }
}

fn load(path: Option<&Path>) -> Result<Vec<Anchor>, Failure> {
    let Some(path) = path else {
        return Ok(Vec::new());
    };

    let text =
        std::fs::read(path).map_err(|e| Failure::config(format!("{}: {e}", path.display())))?;
    let anchors = anchor::parse_all(&text)
        .map_err(|why| Failure::config(format!("{}, {why}", path.display())))?;
    match anchors.is_empty() {
        true => Err(Failure::config(format!(
            "{} has no anchors in it: `processor audit anchor -o` adds them",
            path.display()
        ))),
        false => Ok(anchors),
    }
}

fn of_this_log(anchors: &[Anchor], cluster: &str) -> Result<(), Failure> {
    match anchors.iter().find(|a| a.cluster != cluster) {
        None => Ok(()),
        Some(a) => Err(Failure::config(format!(
            "the anchor of {} is of log {}, this is log {cluster}: was the log replaced, or is it another one?",
            a.time, a.cluster
        ))),
    }
}

/// Keeps the anchors of our topic prefix. Several prefixes may share a log and a file of anchors.
/// If no anchor matches, the function fails: a check without a matching anchor would report every
/// chain as good.
fn of_this_prefix(mut anchors: Vec<Anchor>, prefix: &str) -> Result<Vec<Anchor>, Failure> {
    let all = anchors.len();
    anchors.retain(|a| a.is_of(prefix));
    match (all, anchors.len()) {
        (1.., 0) => Err(Failure::config(format!(
            "none of the {all} anchors names a chain of topics with the prefix `{prefix}`: are they of another --topic-prefix?"
        ))),
        (all, ours) if ours < all => {
            output::note(format_args!(
                "{} of {all} anchors are of another --topic-prefix and say nothing here",
                all - ours
            ));
            Ok(anchors)
        }
        _ => Ok(anchors),
    }
}

/// Verifies all chains, with a progress bar.
fn walk(
    config: &Config,
    log: &dyn Log,
    table: &TopicTable,
    anchors: &[Anchor],
) -> Result<Vec<ChainReport>, Failure> {
    let group = config.group(Role::Audit);
    let chains = Chains {
        log,
        topics: table,
        group: &group,
        sources: true,
        anchors,
    };

    let mut progress = JobProgress::new("verifying", chains.total()?);
    let reports = chains.verify(&mut |done| progress.set(done));
    progress.finish();
    Ok(reports?)
}

fn open(config: &Config) -> Result<(Arc<dyn Log>, TopicTable), Failure> {
    Ok((
        open::log(config, Access::Read)?,
        topics::table(&config.topic_prefix),
    ))
}

fn verify(config: &Config, anchors: Vec<Anchor>) -> Result<(), Failure> {
    let (log, table) = open(config)?;
    of_this_log(&anchors, &log.cluster_id()?)?;
    let anchors = of_this_prefix(anchors, table.prefix())?;
    let reports = walk(config, &*log, &table, &anchors)?;
    let bound = |r: &ChainReport| {
        anchors
            .iter()
            .any(|a| a.heads.iter().any(|h| h.chain == r.name))
    };

    for r in &reports {
        match config.format {
            OutputFormat::Json => output::json(&report_json(&table, r, bound(r)))?,
            OutputFormat::Text => output::line(report_text(&table, r))?,
        }
    }

    let bad = reports.iter().filter(|r| r.damage.is_some()).count();
    if bad > 0 {
        return Err(Failure::new(
            Code::Bug,
            format!(
                "{bad} of {} chains are damaged; the first bad record of each is named above",
                reports.len()
            ),
        ));
    }

    if config.format == OutputFormat::Text {
        let records: u64 = reports.iter().map(|r| r.good.entries).sum();
        let against = match &anchors[..] {
            [] => {
                "without anchors, which alone show that all was cut short or rewritten".to_string()
            }
            [a] => format!("as the anchor of {} saw them", a.time),
            all => format!("as {} anchors saw them", all.len()),
        };

        output::line(format_args!(
            "{} chains with {records} records are whole, {against}",
            reports.len()
        ))?;
    }

    let unbound: Vec<String> = reports
        .iter()
        .filter(|r| !anchors.is_empty() && !bound(r))
        .map(|r| r.name.clone())
        .collect();
    match unbound.is_empty() {
        true => Ok(()),
        false => Err(Failure::failed(format!(
            "{}; `processor audit anchor` binds them from now on",
            unbound_text(&unbound)
        ))),
    }
}

/// Text about chains without an anchor: they are consistent, but may have been rewritten as a
/// whole.
fn unbound_text(unbound: &[String]) -> String {
    const NAMED: usize = 5;
    let more = if unbound.len() > NAMED { ", ..." } else { "" };
    let names = unbound
        .iter()
        .take(NAMED)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    format!(
        "no anchor binds anything of {} chains: {names}{more}",
        unbound.len()
    )
}

fn report_text(table: &TopicTable, r: &ChainReport) -> String {
    let good = match r.good.last {
        Some(last) => format!(
            "{} records up to offset {last}, head {}",
            r.good.entries,
            &hex(&r.good.head)[..16]
        ),
        None => "no record".to_string(),
    };

    match &r.damage {
        None => format!("ok   {}: {good}", r.name),
        Some(d) => {
            let at =
                d.at.map(|at| format!(" (entry: {} offset {at})", table.show(r.kept_in)))
                    .unwrap_or_default();
            format!(
                "BAD  {} offset {}{at}: {}: {}; good: {good}",
                r.name, d.offset, d.kind, d.text
            )
        }
    }
}

fn report_json(table: &TopicTable, r: &ChainReport, bound: bool) -> Value {
    let damage = r.damage.as_ref().map(|d| json!({"kind": d.kind.name(), "offset": d.offset, "entry_offset": d.at, "text": d.text}));
    json!({
        "chain": r.name,
        "ok": r.damage.is_none(),
        "entries": r.good.entries,
        "last_offset": r.good.last,
        "head": hex(&r.good.head),
        "entries_in": table.show(r.kept_in).to_string(),
        "damage": damage,
        "anchored": bound,
    })
}

fn take_anchor(config: &Config, args: &AnchorArgs) -> Result<(), Failure> {
    let file = args.output.as_ref().filter(|path| !is_stdout(path));
    let kept = match file {
        Some(path) if path.exists() => {
            load(Some(path.as_path()).filter(|p| p.metadata().is_ok_and(|m| m.len() > 0)))?
        }
        _ => Vec::new(),
    };

    let (log, table) = open(config)?;
    of_this_log(&kept, &log.cluster_id()?)?;
    let kept_ours = of_this_prefix(kept.clone(), table.prefix())?;
    let group = config.group(Role::Audit);
    let chains = Chains {
        log: &*log,
        topics: &table,
        group: &group,
        sources: false,
        anchors: &kept_ours,
    };

    let start = kept_ours
        .last()
        .filter(|a| !args.from_start && !a.positions.is_empty());
    let mut progress = JobProgress::new("verifying", 0);
    let walked = chains.verify_after(start, &mut |done| progress.set(done));
    progress.finish();
    let (reports, positions) = walked?;
    if let Some(bad) = reports.iter().find(|r| r.damage.is_some()) {
        return Err(Failure::new(
            Code::Bug,
            format!(
                "no anchor is made over a damaged log. {}",
                report_text(&table, bad)
            ),
        ));
    }

    let anchor = Anchor::new(now(), log.cluster_id()?, heads(&reports)).read_to(positions);
    if anchor.heads.is_empty() {
        return Err(Failure::failed(format!(
            "there is nothing to anchor: no record of topics with the prefix `{}` has been audited. Is --topic-prefix right, and does `audit` run?",
            table.prefix()
        )));
    }

    let Some(path) = file else {
        output::json(&anchor.line())?;

        // An anchor that nobody received is useless, so report the failed write.
        return if output::broken() {
            Err(Failure::failed(
                "the anchor could not be written: nobody reads this output",
            ))
        } else {
            Ok(())
        };
    };

    append(path, &anchor).map_err(|e| Failure::failed(format!("{}: {e}", path.display())))?;
    output::note(format_args!(
        "anchored {} chains, root {}; {} anchors in {}",
        anchor.heads.len(),
        hex(&anchor.root),
        kept.len() + 1,
        path.display()
    ));

    Ok(())
}

/// Adds the anchor to a file of anchors.
fn append(path: &Path, anchor: &Anchor) -> std::io::Result<()> {
    let mut file = files::options()
        .create(true)
        .read(true)
        .append(true)
        .open(path)?;

    // An editor may have removed the last line end. Without a line end, the new anchor would
    // continue the last line and break the file.
    let begin = if ends_in_a_line(&mut file)? { "" } else { "\n" };
    let line = format!("{begin}{}\n", anchor.line());
    file.write_all(line.as_bytes())?;
    file.sync_all()
}

/// True if appended text starts a new line.
fn ends_in_a_line(file: &mut File) -> std::io::Result<bool> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(true);
    }

    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// True for `-`, the usual name of stdout.
fn is_stdout(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn now() -> String {
    format!("{:.3}", jiff::Timestamp::now())
}

fn export(config: &Config, args: &ExportArgs) -> Result<(), Failure> {
    let (from_ms, to_ms) = range(args.from.as_ref(), args.to.as_ref())?;
    let (log, table) = open(config)?;
    let export = ExportPlan {
        log: &*log,
        topics: &table,
        from_ms,
        to_ms,
        created: now(),
    };

    let mut progress = JobProgress::new("exporting", 0);
    let mut tell = |done| progress.set(done);
    let summary = match args.output.as_ref().filter(|path| !is_stdout(path)) {
        None => export
            .write(BufWriter::new(std::io::stdout().lock()), &mut tell)
            .map_err(refused)?,
        Some(path) => to_file(&export, path, &mut tell)?,
    };

    progress.finish();
    output::note(summary_text("exported", &summary));
    Ok(())
}

/// Writes under another name until the export is complete: a file with the final name always
/// verifies.
fn to_file(
    export: &ExportPlan<'_>,
    path: &Path,
    tell: &mut dyn FnMut(u64),
) -> Result<ExportSummary, Failure> {
    if path.exists() {
        return Err(Failure::usage(format!(
            "{} exists: evidence is not overwritten; choose another name",
            path.display()
        )));
    }

    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    let part = std::path::PathBuf::from(name);
    let wrong = |e| Failure::failed(format!("{}: {e}", part.display()));

    // Another export may be writing this part file, or has left it behind: do not overwrite the
    // file.
    let file = files::options().write(true).create_new(true).open(&part).map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => Failure::usage(format!(
            "{} exists: another export is writing it, or broke off; remove it, or choose another name",
            part.display()
        )),
        _ => wrong(e),
    })?;

    let written = export.write(BufWriter::new(&file), tell).map_err(refused);
    let done = written.and_then(|summary| {
        file.sync_all()
            .and_then(|()| std::fs::rename(&part, path))
            .map_err(wrong)?;
        Ok(summary)
    });

    if done.is_err()
        && let Err(e) = std::fs::remove_file(&part)
    {
        output::note(format_args!(
            "{} is not whole and stays behind: {e}",
            part.display()
        ));
    }

    done
}

fn refused(e: ExportError) -> Failure {
    match e {
        ExportError::Log(e) => e.into(),
        ExportError::Write(_) => Failure::failed(e.to_string()),
        ExportError::Damaged { .. } => Failure::new(Code::Bug, e.to_string()),
    }
}

fn summary_text(what: &str, s: &ExportSummary) -> String {
    format!(
        "{what} {} records of {} chains in {} lines, log {}",
        s.records, s.chains, s.lines, s.cluster
    )
}

fn verify_file(config: &Config, path: &Path, anchors: &[Anchor]) -> Result<(), Failure> {
    let wrong = |e| Failure::failed(format!("{}: {e}", path.display()));
    let (input, size): (Box<dyn Read>, u64) = if path.as_os_str() == "-" {
        (Box::new(std::io::stdin()), 0)
    } else {
        let file = File::open(path).map_err(wrong)?;
        let size = file.metadata().map_err(wrong)?.len();
        (Box::new(file), size)
    };

    let mut progress = JobProgress::new("verifying", size);
    let verdict = export_verifier::verify(
        BufReader::with_capacity(1 << 16, input),
        anchors,
        &mut |bytes| progress.set(bytes),
    )
    .map_err(wrong)?;
    progress.finish();
    match verdict {
        Ok(verified) => {
            of_this_log(anchors, &verified.summary.cluster)?;
            show_verified(config, path, anchors, &verified)?;
            if anchors.is_empty() {
                Ok(())
            } else {
                all_bound(
                    verified.bound_records,
                    verified.summary.records,
                    &verified.unbound,
                )
            }
        }
        Err(damage) => {
            show_damage(config, path, &damage)?;
            Err(Failure::new(
                Code::Bug,
                "the file is damaged; its first bad line is named above",
            ))
        }
    }
}

fn show_verified(
    config: &Config,
    path: &Path,
    anchors: &[Anchor],
    v: &Verified,
) -> Result<(), Failure> {
    match config.format {
        OutputFormat::Json => {
            let heads: Vec<Value> = v.summary.heads.iter().map(anchor::head_json).collect();
            output::json(
                &json!({"file": path, "ok": true, "cluster": v.summary.cluster, "records": v.summary.records, "chains": heads,
                "bound_records": v.bound_records, "unbound_chains": v.unbound, "contents_gone": v.gone}),
            )?;
        }
        OutputFormat::Text => {
            let bound = match anchors {
                [] => "without anchors, which alone show that it was not written anew".to_string(),
                _ => format!(
                    "anchors bind {} records of {} chains",
                    v.bound_records,
                    v.summary.chains - v.unbound.len() as u64
                ),
            };

            let gone = match v.gone {
                0 => String::new(),
                n => format!(
                    "; the contents of {n} are gone by compaction, and only their hashes are here"
                ),
            };

            output::line(format_args!(
                "{}; {bound}{gone}",
                summary_text("whole:", &v.summary)
            ))?;
        }
    }

    Ok(())
}

fn show_damage(config: &Config, path: &Path, d: &FileDamage) -> Result<(), Failure> {
    match config.format {
        OutputFormat::Json => output::json(
            &json!({"file": path, "ok": false, "damage": {"kind": d.kind.name(), "line": d.line, "record": d.record, "text": d.text}}),
        )?,
        OutputFormat::Text => {
            output::line(format_args!(
                "BAD  {} line {} ({}): {}: {}",
                path.display(),
                d.line,
                d.record,
                d.kind,
                d.text
            ))?;
        }
    }

    Ok(())
}

/// Fails if some records are not covered by an anchor. Such records may have been rewritten with
/// new sums, and a user with anchors expects a proof of all records.
fn all_bound(bound: u64, records: u64, unbound: &[String]) -> Result<(), Failure> {
    if bound == 0 && records > 0 {
        return Err(Failure::failed(
            "no anchor lies within this file, so nothing shows that it was not written anew. An anchor binds the records that it saw, from \
             the file's first one on: a day's file needs an anchor of that day, one of everything needs any that is older than the file",
        ));
    }

    if unbound.is_empty() {
        Ok(())
    } else {
        Err(Failure::failed(unbound_text(unbound)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        let read = |t: &str| moment("--from", Some(&t.to_string()));
        assert_eq!(read("1970-01-01T00:00:01Z").ok(), Some(Some(1000)));
        assert_eq!(read("1970-01-02").ok(), Some(Some(86_400_000)));
        assert!(read("yesterday").is_err_and(|f| f.code == Code::Usage));
        let between = |from: &str, to: &str| range(Some(&from.to_string()), Some(&to.to_string()));
        assert_eq!(
            between("1970-01-01", "1970-01-02").ok(),
            Some((Some(0), Some(86_400_000)))
        );
        assert!(between("1970-01-02", "1970-01-01").is_err_and(
            |f| f.code == Code::Usage && f.message.contains("later than --to 1970-01-01")
        ));
    }
}
