//! The form of the code and of the pages. No broker and no C++ libraries are needed:
//! `--no-default-features` is enough for all but what the pages say of the program.

mod advice;
mod pages;
mod structure;
