//! The program must understand the commands in the pages, and docs/cli.md must equal the program's
//! help.

use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser};
use processor::cli::args::Args;

#[test]
fn the_pages_type_only_what_the_program_understands() {
    let mut seen = 0;
    let mut wrong = Vec::new();
    for page in pages() {
        let text = std::fs::read_to_string(&page).expect("a page");
        for (n, typed, whole) in commands_in(&text) {
            let complaint = Args::try_parse_from(&typed)
                .err()
                .filter(|e| e.use_stderr());
            let counts = |e: &clap::Error| whole || names_nothing_there_is(e);
            seen += 1;
            if let Some(e) = complaint.filter(counts) {
                wrong.push(format!("{}:{n}: {}: {e}", page.display(), typed.join(" ")));
            }
        }
    }

    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert!(
        seen >= 100,
        "pages show how to use the program: {seen} commands"
    );
}

#[test]
fn a_command_that_does_not_exist_is_seen() {
    let page = "Say `processor gone`, `processor ...`.\n```sh\n$ ./processor tail x | processor order --sell   # no\n```\n```text\nprocessor no\n```\n";
    let found: Vec<_> = commands_in(page)
        .into_iter()
        .map(|(n, typed, whole)| (n, typed.join(" "), whole))
        .collect();
    let expected = [
        (1, "processor gone", false),
        (3, "processor tail x", true),
        (3, "processor order --sell", true),
    ];
    assert_eq!(
        found,
        expected.map(|(n, typed, whole)| (n, typed.to_string(), whole))
    );
}

/// Line and words of each command in a page, and true inside a block of code. Blocks marked `text`
/// are output.
pub fn commands_in(page: &str) -> Vec<(usize, Vec<String>, bool)> {
    let mut found = Vec::new();
    let mut fence: Option<&str> = None;
    for (n, line) in page.lines().enumerate() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            fence = if fence.is_some() {
                None
            } else {
                Some(language)
            };
            continue;
        }

        let parts: Vec<&str> = match fence {
            Some("text") => continue,
            Some(_) => line
                .split(" | ")
                .map(|p| p.split(" #").next().unwrap_or_default())
                .collect(),
            None => line
                .split('`')
                .skip(1)
                .step_by(2)
                .filter(|p| !p.contains("...") && !p.contains("COMMAND"))
                .collect(),
        };
        for part in parts {
            let part = part
                .trim()
                .trim_start_matches("$ ")
                .trim_start_matches("./");
            if let Some(rest) = part.strip_prefix("processor ") {
                let rest = rest.split(['>', '&']).next().unwrap_or_default();
                let typed = std::iter::once("processor".to_string())
                    .chain(words(rest))
                    .collect();
                found.push((n + 1, typed, fence.is_some()));
            }
        }
    }

    found
}

/// True for an unknown command or option. A sentence may leave out a value, or put a letter in its
/// place.
fn names_nothing_there_is(e: &clap::Error) -> bool {
    use clap::error::ErrorKind::{InvalidSubcommand, UnknownArgument};
    matches!(e.kind(), InvalidSubcommand | UnknownArgument)
}

/// README and all pages below `docs`.
pub fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut pages, mut dirs) = (vec![root.join("README.md")], vec![root.join("docs")]);
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "md") {
                pages.push(path);
            }
        }
    }
    pages
}

const CLI_PAGE_HEAD: &str = "\
# The command line

For people who type commands or write scripts: each command, with its options and defaults.
`processor COMMAND --help` says the same. See also [exit codes](operating/troubleshooting.md#exit-codes)
and [configuration](operating/configuration.md).

This page is made from the program, and a test compares the two. After a change of the program, make
the page anew:

```sh
PAGES=write cargo test --locked --features faults --test embedded page_of_the_command_line
```
";

/// The head of docs/cli.md says how to generate the page again.
#[test]
fn the_page_of_the_command_line_is_made_from_the_program() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cli.md");
    let mut program = Args::command();
    program.build();
    let mut commands = Vec::new();
    collect(&program, "", &mut commands);
    let mut page = format!("{CLI_PAGE_HEAD}\n| command | |\n|---|---|\n");
    for (name, command) in &commands[1..] {
        let about = cell(
            &command
                .get_about()
                .map(ToString::to_string)
                .unwrap_or_default(),
        );
        page += &format!(
            "| [`{name}`](#{}) | {about} |\n",
            format!("processor {name}").replace(' ', "-")
        );
    }
    for (name, command) in commands {
        page += &section(&name, command);
    }
    if std::env::var("PAGES").is_ok_and(|v| v == "write") {
        std::fs::write(path, &page).expect("the page can be written");
    }
    let there = std::fs::read_to_string(path).unwrap_or_default();
    let differs = there
        .lines()
        .zip(page.lines())
        .position(|(a, b)| a != b)
        .unwrap_or(there.lines().count().min(page.lines().count()));
    let anew = "PAGES=write cargo test --locked --features faults --test embedded page_of_the_command_line";
    assert!(
        there == page,
        "docs/cli.md and the program differ from line {} on; make the page anew: {anew}",
        differs + 1
    );
}

/// The program and its commands, each with its name behind `processor`.
fn collect<'a>(command: &'a clap::Command, name: &str, all: &mut Vec<(String, &'a clap::Command)>) {
    all.push((name.to_string(), command));
    for sub in command
        .get_subcommands()
        .filter(|s| s.get_name() != "help" && !s.is_hide_set())
    {
        collect(sub, format!("{name} {}", sub.get_name()).trim(), all);
    }
}

/// One command: its purpose, its own options, and the end of its help.
fn section(name: &str, command: &clap::Command) -> String {
    let title = if name.is_empty() {
        "Options of every command".to_string()
    } else {
        format!("`processor {name}`")
    };
    let about = command
        .get_long_about()
        .or(command.get_about())
        .map(ToString::to_string)
        .unwrap_or_default();
    let usage = command.clone().render_usage().to_string();
    let mut text = format!(
        "\n## {title}\n\n{}\n\n```text\n{}\n```\n",
        prose(&about),
        usage.trim_start_matches("Usage: ")
    );
    let own = |a: &&clap::Arg| {
        !a.is_hide_set()
            && (name.is_empty() || !a.is_global_set())
            && !["help", "version"].contains(&a.get_id().as_str())
    };
    let options: Vec<_> = command.get_arguments().filter(own).collect();
    if !options.is_empty() {
        text += "\n| option | meaning | default |\n|---|---|---|\n";
    }
    for option in options {
        let help = option
            .get_long_help()
            .or(option.get_help())
            .map(ToString::to_string)
            .unwrap_or_default();
        // A default that the help text states belongs in the column.
        let (help, written) = match help.split_once(" [default: ") {
            Some((help, rest)) => (help.to_string(), rest.trim_end_matches(']').to_string()),
            None => (help, String::new()),
        };
        let given: Vec<_> = option
            .get_default_values()
            .iter()
            .map(|v| v.to_string_lossy())
            .collect();
        let values: Vec<_> = option
            .get_possible_values()
            .iter()
            .map(|v| v.get_name().to_string())
            .collect();
        let values = if values.is_empty() || values == ["true", "false"] {
            String::new()
        } else {
            format!(": {}", values.join(", "))
        };
        let default = if option.get_action().takes_values() {
            given.join(", ") + &written
        } else {
            written
        };
        text += &format!(
            "| `{}` | {}{} | {} |\n",
            cell(&option.to_string()).replace("&lt;", "<"),
            cell(&help),
            cell(&values),
            cell(&default)
        );
    }
    if let Some(after) = command.get_after_long_help().or(command.get_after_help()) {
        text += &format!("\n```text\n{}\n```\n", after.to_string().trim_end());
    }
    text
}

/// Text of the help as a cell of a table.
fn cell(text: &str) -> String {
    prose(text)
        .replace('|', "\\|")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

/// Text of the help as Markdown: `<role>` outside code would be taken for HTML.
fn prose(text: &str) -> String {
    text.split('`')
        .enumerate()
        .map(|(i, part)| {
            if i % 2 == 0 {
                part.replace('<', "&lt;")
            } else {
                part.to_string()
            }
        })
        .collect::<Vec<_>>()
        .join("`")
}

/// Splits a line like a shell, with single quotes.
fn words(text: &str) -> Vec<String> {
    let quoted = |(i, part): (usize, &str)| match i % 2 {
        0 => part.split_whitespace().map(String::from).collect(),
        _ => vec![part.to_string()],
    };
    text.split('\'').enumerate().flat_map(quoted).collect()
}
