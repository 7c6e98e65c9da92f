//! Every link has a target, every path in a page or in a code file exists, and every page can be
//! reached from README.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use crate::root;

/// Directories without text of ours: at any place, and only below the root.
const SKIPPED: &[&str] = &[".git", "fuzz_corpus", "golden", "node_modules"];
const SKIPPED_AT_ROOT: &[&str] = &["target", "state"];
const TEXT_MAX: u64 = 1 << 20;

#[test]
fn links_and_paths_of_pages_resolve() {
    let texts = texts();
    let anchors: BTreeMap<&Path, BTreeSet<String>> = texts
        .iter()
        .filter(|(p, _)| is_page(p))
        .map(|(p, t)| (p.as_path(), anchors(t)))
        .collect();
    let mut wrong = Vec::new();
    for (file, text) in &texts {
        for (line, link) in references(file, text) {
            if let Some(why) = broken(file, &link, &anchors) {
                wrong.push(format!("{}:{line}: {link}: {why}", file.display()));
            }
        }
    }

    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// A path of a code file in a page, such as `crates/engine/src/commit.rs`, must exist.
#[test]
fn files_of_code_that_pages_name_exist() {
    let texts = texts();
    let mut seen = 0;
    let mut gone = Vec::new();
    for (page, text) in texts.iter().filter(|(p, _)| is_page(p)) {
        for code in text.split('`').skip(1).step_by(2) {
            let path = Path::new(code);
            if code.ends_with(".rs") && code.contains('/') && !code.contains(' ') {
                seen += 1;
                let there = texts.contains_key(path);
                gone.extend((!there).then(|| format!("{}: {code}", page.display())));
            }
        }
    }

    assert!(seen >= 20, "pages name files: {seen}");
    assert!(gone.is_empty(), "no such file:\n{}", gone.join("\n"));
}

#[test]
fn every_page_is_reached_from_the_readme() {
    let texts = texts();
    let mut reached = BTreeSet::new();
    let mut next = vec![PathBuf::from("README.md")];
    while let Some(page) = next.pop() {
        if let Some(text) = texts.get(&page).filter(|_| reached.insert(page.clone())) {
            next.extend(
                links(text)
                    .into_iter()
                    .filter_map(|(_, l)| target(&page, &l))
                    .filter(|p| is_page(p)),
            );
        }
    }

    let lost: Vec<_> = texts
        .keys()
        .filter(|p| is_page(p) && p.starts_with("docs") && !reached.contains(*p))
        .collect();
    assert!(
        lost.is_empty(),
        "no way of links leads from README.md to {lost:?}"
    );
}

#[test]
fn the_messages_of_troubleshooting_are_those_of_the_program() {
    let texts = texts();
    let page = &texts[Path::new("docs/operating/troubleshooting.md")];
    let code: String = texts
        .iter()
        .filter(|(file, _)| file.extension().is_some_and(|e| e == "rs"))
        .filter(|(file, _)| !file.components().any(|part| part.as_os_str() == "tests"))
        .map(|(_, text)| joined(text))
        .collect();
    let tables = page.split("## By message").nth(1).expect("the part");
    let rows = tables.split("### To clients").next().into_iter();
    let mut seen = 0;
    let mut gone = Vec::new();
    for row in rows.flat_map(str::lines).filter(|l| l.starts_with("| `")) {
        let message = row.split('|').nth(1).unwrap_or_default();
        for part in message.split('`').skip(1).step_by(2) {
            let words = part
                .split("...")
                .map(|w| w.trim().trim_matches([',', ';']).trim());
            for words in words.filter(|w| w.len() > 3) {
                seen += 1;
                if !code.contains(words) {
                    gone.push(words.to_string());
                }
            }
        }
    }

    assert!(seen >= 20, "the page lists messages: {seen}");
    assert!(
        gone.is_empty(),
        "docs/operating/troubleshooting.md lists messages that the program does not say; correct the \
         page: {gone:#?}"
    );
}

/// Code with each string over several lines joined into one line.
fn joined(code: &str) -> String {
    let mut parts = code.split("\\\n");
    let mut whole = parts.next().unwrap_or_default().to_string();
    for part in parts {
        whole += part.trim_start();
    }
    whole
}

/// Pages that name tests.
const PAGES_OF_TESTS: &[&str] = &[
    "acceptance",
    "figures",
    "invariants",
    "reliability",
    "tests",
];

#[test]
fn the_tests_that_pages_name_exist() {
    let texts = texts();
    let mut known = BTreeSet::new();
    for (file, text) in texts
        .iter()
        .filter(|(file, _)| file.extension().is_some_and(|e| e == "rs"))
    {
        let stem = |p: &Path| p.file_stem().map(|s| s.to_string_lossy().into_owned());
        known.extend(stem(file).into_iter().chain(file.parent().and_then(stem)));
        for declared in ["fn ", "mod "] {
            let names = text.split(declared).skip(1);
            known.extend(names.map(|n| n.chars().take_while(is_of_name).collect::<String>()));
        }
    }

    let mut seen = 0;
    let mut gone = Vec::new();
    for page in PAGES_OF_TESTS {
        let page = format!("docs/internals/{page}.md");
        let text = &texts[Path::new(&page)];
        for name in text.split('`').skip(1).step_by(2).filter_map(test_name) {
            seen += 1;
            let start = name.trim_end_matches(['*', '.']);
            let exists = if start.len() == name.len() {
                known.contains(name)
            } else {
                known.iter().any(|k| k.starts_with(start))
            };
            if !exists {
                gone.push(format!("{page}: {name}"));
            }
        }
    }

    assert!(seen >= 150, "pages name tests: {seen}");
    assert!(
        gone.is_empty(),
        "pages name tests that do not exist: {gone:#?}"
    );
}

/// The last part of a word that looks like the name of a test: `module::name`, or at least three
/// `_`. `*` or `...` at the end stands for more.
fn test_name(code: &str) -> Option<&str> {
    let plain = |c: char| is_of_name(&c) || c == ':';
    let looks_like = code.contains("::") || code.matches('_').count() >= 3;
    (looks_like && code.trim_end_matches(['*', '.']).chars().all(plain))
        .then(|| code.rsplit("::").next().unwrap_or(code))
}

fn is_of_name(c: &char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '_'
}

#[test]
fn a_broken_link_is_seen() {
    let page = "# A title, and `more`\n\n## Twice\n\n## Twice\n\n```\n[no](link.md)\n## no heading\n```\n[a](b.md#c) `[d](e.md)` <img src=\"f.svg\">\n";
    let expected = ["a-title-and-more", "twice", "twice-1"].map(String::from);
    assert_eq!(anchors(page), BTreeSet::from(expected));
    assert_eq!(
        links(page),
        [(11, "b.md#c".to_string()), (11, "f.svg".to_string())]
    );
    let seen = doc_paths(
        "see docs/a.md. Or (../docs/b/c.md#d), https://x.org/docs/e.md, `docs/operating/`",
    );
    assert_eq!(seen, ["docs/a.md", "docs/b/c.md#d", "docs/operating/"]);
    let known = BTreeMap::from([(
        Path::new("README.md"),
        BTreeSet::from(["there".to_string()]),
    )]);
    let broken = |link: &str| broken(Path::new("docs/x.md"), link, &known);
    assert_eq!(broken("../README.md#there"), None);
    assert!(
        broken("../README.md#gone").is_some()
            && broken("../GONE.md").is_some()
            && broken("../../outside.md").is_some()
    );
}

/// Line and target of each reference in a file: links in pages, and paths of pages in any file.
fn references(file: &Path, text: &str) -> Vec<(usize, String)> {
    let mut all = if is_page(file) {
        links(text)
    } else {
        Vec::new()
    };
    let this_test = file == Path::new("crates/form/tests/form/links.rs");
    for (n, line) in text.lines().enumerate().filter(|_| !this_test) {
        // Written from the root, in any file.
        all.extend(
            doc_paths(line)
                .into_iter()
                .map(|p| (n + 1, format!("/{p}"))),
        );
    }

    all
}

/// The error of a link, if there is one.
fn broken(file: &Path, link: &str, anchors: &BTreeMap<&Path, BTreeSet<String>>) -> Option<String> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }

    let Some(to) = target(file, link) else {
        return Some("it leads out of the repository".into());
    };

    if !root().join(&to).exists() {
        return Some(format!("there is no {}", to.display()));
    }

    let anchor = link.split_once('#').map(|(_, a)| a)?;
    let known = anchors
        .get(to.as_path())
        .is_some_and(|known| known.contains(anchor));
    (!known).then(|| format!("{} has no heading #{anchor}", to.display()))
}

/// The file of a link, from the root; none outside the repository.
fn target(file: &Path, link: &str) -> Option<PathBuf> {
    let path = link.split('#').next().unwrap_or_default();
    let from_root = path.strip_prefix('/');
    let mut to = if from_root.is_some() {
        PathBuf::new()
    } else {
        file.parent()?.to_path_buf()
    };

    if path.is_empty() {
        return Some(file.to_path_buf());
    }

    for part in Path::new(from_root.unwrap_or(path)).components() {
        match part {
            Component::ParentDir if !to.pop() => return None,
            Component::Normal(name) => to.push(name),
            _ => {}
        }
    }

    Some(to)
}

/// Line and target of each Markdown link and each `src` or `href`, outside code.
fn links(page: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (n, line) in prose(page) {
        // Inline code is no link.
        let line: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        for (opening, closing) in [
            ("](", ')'),
            ("src=\"", '"'),
            ("href=\"", '"'),
            ("srcset=\"", '"'),
        ] {
            for part in line.split(opening).skip(1) {
                found.extend(part.split(closing).next().map(|link| (n, link.to_string())));
            }
        }
    }

    found
}

/// Paths that begin with `docs/`, with their anchors, but for those of other sites.
fn doc_paths(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in line.match_indices("docs/") {
        let before = &line[..at];
        let foreign = before.ends_with(|c: char| c.is_alphanumeric() || "-_.".contains(c))
            || before.ends_with('/') && !before.ends_with("../") && !before.ends_with("\"/");
        let in_path = |c: &char| c.is_ascii_alphanumeric() || "-_./#".contains(*c);
        let path: String = line[at..].chars().take_while(in_path).collect();
        if !foreign {
            found.push(path.trim_end_matches(['.', '#']).to_string());
        }
    }

    found
}

/// The anchors of a page's headings, in the form that forges use.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    for (_, line) in prose(page) {
        let title = line.trim_start_matches('#');
        if title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }

        let kept = |c: char| c.is_alphanumeric() || "-_ ".contains(c);
        let slug = title
            .trim()
            .to_lowercase()
            .chars()
            .filter(|c| kept(*c))
            .collect::<String>()
            .replace(' ', "-");

        let mut numbered = (1..).map(|n| format!("{slug}-{n}"));
        let free = std::iter::once(slug.clone())
            .chain(numbered.by_ref())
            .find(|s| !seen.contains(s));
        seen.extend(free);
    }

    seen
}

/// Numbered lines outside blocks of code.
fn prose(page: &str) -> Vec<(usize, &str)> {
    let mut code = false;
    let mut kept = Vec::new();
    for (n, line) in page.lines().enumerate() {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        if !code && !fence {
            kept.push((n + 1, line));
        }
    }

    kept
}

fn is_page(file: &Path) -> bool {
    file.extension().is_some_and(|e| e == "md")
}

/// Every text file of the repository, by its path from the root.
fn texts() -> BTreeMap<PathBuf, String> {
    let mut texts = BTreeMap::new();
    let mut dirs = vec![root().to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).expect("a directory") {
            let entry = entry.expect("an entry");
            let path = entry.path();
            let kind = entry.file_type().expect("a kind");
            let name = entry.file_name();
            let skipped = |all: &[&str]| all.iter().any(|s| name == *s);
            let at_root = dir == root();
            if kind.is_dir() && !skipped(SKIPPED) && !(at_root && skipped(SKIPPED_AT_ROOT)) {
                dirs.push(path);
            } else if kind.is_file() && entry.metadata().is_ok_and(|m| m.len() <= TEXT_MAX) {
                let name = path
                    .strip_prefix(root())
                    .expect("below the root")
                    .to_path_buf();
                texts.extend(std::fs::read_to_string(&path).ok().map(|text| (name, text)));
            }
        }
    }

    texts
}
