//! What a supervisor and its task process say to each other: one JSON value per line.

use outboard_core::{
    Event,
    error::{Error, ErrorKind, Result},
};
use outboard_protocol::{
    Envelope, TaskResult,
    envelope::{Failure, MAX_MESSAGE_BYTES, decode},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

/// A line is refused beyond this many bytes: a message, and what is around it.
pub const MAX_LINE_BYTES: usize = MAX_MESSAGE_BYTES + 64;

/// From the supervisor, on standard input.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Run this.
    Run(Box<Envelope>),
    /// Stop the task of this key: training stops after the batch, with a checkpoint.
    Stop(String),
}

/// From the task process, on standard output.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// It is ready. Always the first line.
    Hello(Hello),
    /// Something happened.
    Event(Event),
    /// It got on, though nothing is to be told; first of all, it took the task.
    Alive(bool),
    /// The task has ended.
    Result(Box<TaskResult>),
    /// A line that can't be read, or a task for which there is no room.
    Refused(Failure),
}

/// What a task process is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// The version it speaks.
    pub protocol: u32,
    /// What it computes on, in words.
    pub device: String,
    /// The class within which bytes are equal.
    pub numerics: String,
    /// Layers it knows, by `type`.
    pub layers: Vec<String>,
}

/// As bytes, with the end of the line.
///
/// # Errors
/// `Unexpected` where it can't be encoded.
pub fn line(message: &impl Serialize) -> Result<Vec<u8>> {
    let mut line = outboard_protocol::envelope::encode(message)?;
    line.push(b'\n');
    Ok(line)
}

impl Request {
    /// Reads a line.
    ///
    /// # Errors
    /// `CorruptPayload`; `Unsupported` for an envelope of another version.
    pub fn read(line: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum Raw<'a> {
            #[serde(borrow)]
            Run(&'a RawValue),
            Stop(String),
        }
        Ok(match parse(line)? {
            Raw::Run(envelope) => Self::Run(versioned(envelope)?),
            Raw::Stop(key) => Self::Stop(key),
        })
    }
}

impl Reply {
    /// Reads a line.
    ///
    /// # Errors
    /// `CorruptPayload`; `Unsupported` for a message of another version.
    pub fn read(line: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum Raw<'a> {
            #[serde(borrow)]
            Hello(&'a RawValue),
            Event(Event),
            Alive(bool),
            #[serde(borrow)]
            Result(&'a RawValue),
            Refused(Failure),
        }
        Ok(match parse(line)? {
            Raw::Hello(hello) => Self::Hello(*versioned(hello)?),
            Raw::Event(event) => Self::Event(event),
            Raw::Alive(alive) => Self::Alive(alive),
            Raw::Result(result) => Self::Result(versioned(result)?),
            Raw::Refused(failure) => Self::Refused(failure),
        })
    }
}

fn parse<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Result<T> {
    serde_json::from_slice(line)
        .map_err(|e| Error::new(ErrorKind::CorruptPayload, format!("a line cannot be read: {e}")))
}

fn versioned<T: DeserializeOwned>(raw: &RawValue) -> Result<Box<T>> {
    decode(raw.get().as_bytes()).map(Box::new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use outboard_protocol::PROTOCOL_VERSION;

    #[test]
    fn lines_read_back() {
        let hello = Hello { protocol: PROTOCOL_VERSION, device: "CPU".into(), numerics: "x".into(), layers: vec![] };
        let bytes = line(&Reply::Hello(hello.clone())).unwrap();
        assert!(bytes.starts_with(br#"{"hello":{"protocol":1,"#) && bytes.ends_with(b"}\n"));
        assert!(matches!(Reply::read(&bytes).unwrap(), Reply::Hello(read) if read == hello));
        let Request::Stop(key) = Request::read(b"{\"stop\": \"k\"}\n").unwrap() else { panic!() };
        assert_eq!(key, "k");
    }

    #[test]
    fn what_cannot_be_read_is_refused_naming_why() {
        for line in ["", "{", "[]", "{\"run\": 1}", "{\"walk\": {}}", "{\"run\": {\"protocol\": 1}}", "\u{0}"] {
            assert_eq!(Request::read(line.as_bytes()).unwrap_err().kind(), ErrorKind::CorruptPayload, "{line}");
        }
        let error = Request::read(b"{\"run\": {\"protocol\": 7, \"colour\": 1}}").unwrap_err();
        assert_eq!(error.to_string(), "the file is of protocol version 7, but this program speaks version 1");
    }
}
