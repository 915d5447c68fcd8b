//! Server-sent events as servers of language models use them: the data of each event, and when its
//! last byte was here.

use std::io::{self, BufRead, BufReader, Read};

use crate::protocol::MAX_REPLY;
use crate::units::MonoNs;

/// The events of a body.
pub struct Events<R> {
    input: BufReader<R>,
}

impl<R: Read> Events<R> {
    pub fn of(body: R) -> Self {
        Self { input: BufReader::with_capacity(1 << 16, body) }
    }

    /// The data of the next event and when it had arrived; `None` at the end. Comments, which keep a
    /// connection alive, and the other fields are left out.
    ///
    /// # Errors
    /// The body breaks off, or an event is longer than any token could make it.
    pub fn next(&mut self) -> io::Result<Option<(MonoNs, String)>> {
        let mut data: Option<String> = None;
        loop {
            let mut line = Vec::new();
            let n =
                Read::take(&mut self.input, MAX_REPLY as u64 + 1).read_until(b'\n', &mut line)?;
            let at = MonoNs::now();
            let size = line.len() + data.as_ref().map_or(0, String::len);
            if size > MAX_REPLY {
                return Err(io::Error::other(format!("an event of more than {MAX_REPLY} bytes")));
            }
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\n', '\r']);
            if let Some(more) = line.strip_prefix("data:") {
                let more = more.strip_prefix(' ').unwrap_or(more);
                match &mut data {
                    Some(data) => *data = format!("{data}\n{more}"),
                    None => data = Some(more.to_string()),
                }
            }
            // An empty line ends an event; some servers leave it out at the end.
            if (line.is_empty() || n == 0)
                && let Some(data) = data.take()
            {
                return Ok(Some((at, data)));
            }
            if n == 0 {
                return Ok(None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &[u8]) -> Vec<String> {
        let mut events = Events::of(text);
        std::iter::from_fn(|| events.next().unwrap()).map(|(_, data)| data).collect()
    }

    #[test]
    fn events_are_cut_at_empty_lines() {
        let text = b": ping\n\ndata: {\"a\":1}\n\nevent: x\r\ndata:b\r\ndata: c\r\n\r\nid: 4\n\ndata: [DONE]";
        assert_eq!(all(text), ["{\"a\":1}", "b\nc", "[DONE]"]);
        assert!(all(b"").is_empty() && all(b"\n\n\n").is_empty());
    }

    #[test]
    fn an_endless_line_is_refused() {
        let endless = io::repeat(b'x');
        let error = Events::of(endless).next().unwrap_err();
        assert!(error.to_string().contains("more than"), "{error}");
        let split = [vec![b'd'; 10], b"ata: \xf0\x9f".to_vec(), b"\n\n".to_vec()].concat();
        assert!(all(&split).is_empty(), "bytes that are no text do no harm");
    }
}
