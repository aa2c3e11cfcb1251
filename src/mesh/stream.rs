//! Server-sent events out of the bytes they come in, as the HTML standard reads them. Pure.

/// The most bytes of one event. A peer with all it may have is some 40 KB.
const MOST: usize = 1024 * 1024;

/// One event as it was sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Event {
    /// What it is: `join`, `change`, `leave` or `reset`; what else there is, is for others.
    pub(super) name: String,
    /// The revision it led to.
    pub(super) id: Option<u64>,
    /// JSON.
    pub(super) data: String,
}

/// An event, or a line, of more bytes than any has.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

/// What has come of a stream so far.
#[derive(Default)]
pub(super) struct Stream {
    /// The line that has not ended yet.
    line: Vec<u8>,
    /// Whether the last byte was a CR: an LF after it ends no other line.
    after_cr: bool,
    /// Whether a line has ended.
    begun: bool,
    /// The event that has not ended yet.
    event: Event,
}

impl Stream {
    /// The events that end in `bytes`, which follow those before.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<Vec<Event>, TooLong> {
        let mut events = Vec::new();
        for &byte in bytes {
            let after_cr = std::mem::replace(&mut self.after_cr, byte == b'\r');
            match byte {
                b'\n' if after_cr => {}
                b'\n' | b'\r' => events.extend(self.end_line()),
                byte => self.line.push(byte),
            }
            if self.line.len() + self.event.data.len() > MOST {
                return Err(TooLong);
            }
        }
        Ok(events)
    }

    /// A line has ended; an empty one ends an event.
    fn end_line(&mut self) -> Option<Event> {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&line);
        let first = !std::mem::replace(&mut self.begun, true);
        let line = match line.strip_prefix('\u{feff}') {
            Some(rest) if first => rest,
            _ => &line,
        };
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            return (!event.data.is_empty()).then_some(event);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event.name),
            "id" => self.event.id = value.parse().ok(),
            "data" => {
                if !self.event.data.is_empty() {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            // A comment, or what is of no use here.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, id: Option<u64>, data: &str) -> Event {
        Event {
            name: name.into(),
            id,
            data: data.into(),
        }
    }

    #[test]
    fn events_end_at_empty_lines_however_lines_end_and_bytes_arrive() {
        let text = "\u{feff}: hello\n\nevent: join\nid: 7\ndata: {\"a\":\ndata:1}\n\n\
                    retry: 5\nevent: leave\ndata: x\nid:8\n\nevent: nothing\n\ndata: ü\n\ndata: half";
        let expected = [
            event("join", Some(7), "{\"a\":\n1}"),
            event("leave", Some(8), "x"),
            event("", None, "ü"),
        ];
        for line_end in ["\n", "\r", "\r\n"] {
            let text = text.replace('\n', line_end);
            for size in [1, 2, 3, 1000] {
                let mut stream = Stream::default();
                let mut events = Vec::new();
                for bytes in text.as_bytes().chunks(size) {
                    events.extend(stream.take(bytes).expect("short"));
                }
                assert_eq!(events, expected, "{line_end:?} {size}");
            }
        }
    }

    #[test]
    fn an_id_that_is_no_revision_is_none() {
        let mut stream = Stream::default();
        let events = stream.take(b"id: x\ndata: 1\n\nid: -1\ndata: 1\n\n");
        let ids: Vec<_> = events.expect("short").iter().map(|one| one.id).collect();
        assert_eq!(ids, [None, None]);
    }

    #[test]
    fn what_has_no_end_is_not_kept() {
        let mut stream = Stream::default();
        let line = [b'x'; 64 * 1024];
        let refused = (0..20).find_map(|_| stream.take(&line).err());
        assert_eq!(refused, Some(TooLong));
        let mut stream = Stream::default();
        let line = [b"data: ".as_slice(), &line, b"\n"].concat();
        let refused = (0..20).find_map(|_| stream.take(&line).err());
        assert_eq!(refused, Some(TooLong));
    }
}
