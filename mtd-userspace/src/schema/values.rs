//! Values that several sections use: conversion of text, or what is wrong with it.

use std::path::PathBuf;
use std::time::Duration;

use humantime::{format_duration, parse_duration};

use super::problems::nearest;
use crate::model::{Fault, shown};

/// The kernel's IFNAMSIZ minus the zero byte.
pub const MAX_INTERFACE_NAME: usize = 15;

/// Longest name of a peer, client or server.
const MAX_NAME: usize = 32;

/// The name of an interface of at most `most` bytes: the rules of the kernel's `dev_valid_name`, in ASCII, and no `%`,
/// which the kernel takes for a pattern.
///
/// # Errors
/// When the text is none.
pub fn interface_name(text: &str, most: usize) -> Result<String, Fault> {
    let valid = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | ':' | '%');
    if (1..=most).contains(&text.len()) && text.chars().all(valid) && text != "." && text != ".." {
        return Ok(text.to_owned());
    }
    let what = format!("\"{}\" is no interface name", shown(text));
    Err(Fault::new(what, format!("write 1 to {most} ASCII characters without spaces and without / : %")))
}

/// A duration within the range, both ends included.
///
/// # Errors
/// When the text is not one.
pub fn duration(text: &str, (least, most): (Duration, Duration)) -> Result<Duration, Fault> {
    let remedy = || {
        format!(
            "write a time from {} to {}, such as \"3s\", \"1500ms\" or \"1min\"",
            format_duration(least),
            format_duration(most)
        )
    };
    let duration = parse_duration(text)
        .map_err(|error| Fault::new(format!("\"{}\" is no duration ({error})", shown(text)), remedy()))?;
    if (least..=most).contains(&duration) {
        return Ok(duration);
    }
    Err(Fault::new(format!("{} is out of range", format_duration(duration)), remedy()))
}

/// The name of a peer, client or server: `[A-Za-z0-9._-]{1,32}`.
///
/// # Errors
/// When the text is not one.
pub fn name(text: &str) -> Result<String, Fault> {
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if (1..=MAX_NAME).contains(&text.len()) && text.chars().all(valid) {
        return Ok(text.to_owned());
    }
    let what = format!("\"{}\" is no name for a peer", shown(text));
    Err(Fault::new(
        what,
        format!("write 1 to {MAX_NAME} letters, digits, dots, underscores or hyphens, in ASCII"),
    ))
}

/// One of the words of a choice.
///
/// # Errors
/// When the text is none of them.
pub(super) fn choice<T: Copy>(text: &str, choices: &[(&'static str, T)]) -> Result<T, Fault> {
    if let Some((_, choice)) = choices.iter().find(|(word, _)| *word == text) {
        return Ok(*choice);
    }
    let words: Vec<_> = choices.iter().map(|(word, _)| format!("\"{word}\"")).collect();
    let remedy = match nearest(text, choices.iter().map(|(word, _)| *word)) {
        Some(word) => format!("did you mean \"{word}\"?"),
        None => format!("write {}", words.join(" or ")),
    };
    Err(Fault::new(format!("\"{}\" is not one of {}", shown(text), words.join(", ")), remedy))
}

/// An absolute path, such as `example`.
///
/// # Errors
/// When the text is not one.
pub fn absolute_path(text: &str, example: &str) -> Result<PathBuf, Fault> {
    let path = path(text, example)?;
    if path.is_absolute() {
        return Ok(path);
    }
    let what = format!("\"{}\" is a relative path", shown(text));
    Err(Fault::new(what, "write an absolute path, which begins with /"))
}

/// A path, such as `example`.
///
/// # Errors
/// When the text is not one.
pub fn path(text: &str, example: &str) -> Result<PathBuf, Fault> {
    if text.is_empty() || text.contains('\0') {
        return Err(Fault::new(
            format!("\"{}\" is no path", shown(text)),
            format!("write a path such as {example}"),
        ));
    }
    Ok(PathBuf::from(text))
}
