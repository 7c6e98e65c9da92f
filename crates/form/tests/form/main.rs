//! The form of the code and of the pages: what may use what, how long files are, where links lead.
//! These tests read files of the repository, and need no crate of it.

mod advice;
mod links;
mod structure;

use std::path::Path;

/// The directory of the repository.
fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors()
        .nth(2)
        .expect("crates/form is in the repository")
}
