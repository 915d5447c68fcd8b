//! Lines of JSON: one complete session each.

use std::io::{BufRead, Write};
use std::path::Path;

use anyhow::{Context, Result};

use super::{Lines, checked};
use crate::history::{Filter, Session, Store};

pub(super) fn write(store: &Store, filter: &Filter, out: &mut dyn Write) -> Result<()> {
    store.each(filter, |session| {
        serde_json::to_writer(&mut *out, &session)
            .map_err(std::io::Error::from)
            .and_then(|()| out.write_all(b"\n"))?;
        Ok(())
    })
}

pub(super) fn read<'p>(
    path: &'p Path,
    from: impl BufRead + 'p,
) -> impl Iterator<Item = Result<Session>> + 'p {
    let mut lines = Lines::new(path, from);
    std::iter::from_fn(move || {
        loop {
            let line = match lines.next()? {
                Ok(line) => line,
                Err(e) => return Some(Err(e)),
            };
            if !line.trim().is_empty() {
                let session = serde_json::from_str(&line)
                    .with_context(|| format!("{}: expected a session as JSON", lines.at()));
                return Some(session.and_then(|s| checked(s, &lines.at())));
            }
        }
    })
}
