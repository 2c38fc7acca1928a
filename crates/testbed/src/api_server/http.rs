//! The parts of HTTP/1.1 that lists, watches and new objects need, and error answers.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use super::format::Format;
use super::{Ask, Resource, Verb};

/// The next request; none at the end of the connection, or if its path does not exist.
pub(super) fn read(
    stream: &mut BufReader<TcpStream>,
    prefix: impl FnOnce() -> String,
) -> io::Result<Option<Result<Ask, ()>>> {
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        head.push(line);
    }
    let mut words = head.first().map_or("", String::as_str).split(' ');
    let method = words.next().unwrap_or_default();
    let target = words.next().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    // A client of a proxy sends the whole URL (RFC 9112, 3.2.2).
    let path = path.strip_prefix("http://").map_or(path, |path| {
        path.find('/').and_then(|at| path.get(at..)).unwrap_or("/")
    });
    let prefix = prefix();
    let query: Vec<_> = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (decode(key), decode(value)))
        .collect();
    let header = |wanted: &str| {
        head.iter().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case(wanted).then(|| value.to_owned())
        })
    };
    let length = header("content-length").and_then(|length| length.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body)?;
    let watch = query
        .iter()
        .any(|(key, value)| key == "watch" && matches!(value.as_str(), "true" | "1"));
    let at = path.strip_prefix(&*prefix).and_then(Resource::of_path);
    let verb = match method {
        "GET" if at.is_some_and(|(.., name)| name.is_some()) => Some(Verb::Get),
        "GET" if watch => Some(Verb::Watch),
        "GET" => Some(Verb::List),
        "POST" => Some(Verb::Create),
        _ => None,
    };
    let ask = verb.zip(at);
    let ask = ask.map(|(verb, (resource, namespace, name))| Ask {
        resource,
        verb,
        query,
        authorization: header("authorization"),
        accepts_protobuf: header("accept")
            .is_some_and(|value| Format::is_protobuf_accepted(&value)),
        accepts_gzip: header("accept-encoding").is_some_and(|value| value.contains("gzip")),
        namespace: namespace.map(str::to_owned),
        name: name.map(str::to_owned),
        body: serde_json::from_slice(&body).ok(),
    });
    Ok(Some(ask.ok_or(())))
}

/// Writes a complete answer.
pub(super) fn write(
    stream: &mut TcpStream,
    code: u16,
    content_type: &str,
    headers: &str,
    body: &[u8],
) -> io::Result<()> {
    write_head(stream, code, content_type, headers, body.len())?;
    stream.write_all(body)
}

pub(super) fn write_head(
    stream: &mut TcpStream,
    code: u16,
    content_type: &str,
    headers: &str,
    length: usize,
) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 {code} Said\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n{headers}\r\n",
    );
    stream.write_all(head.as_bytes())
}

/// Writes the beginning of an answer in chunks.
pub(super) fn begin_chunks(stream: &mut TcpStream, content_type: &str) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes())
}

pub(super) fn write_chunk(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    let length = format!("{:x}\r\n", bytes.len());
    let chunk = [length.as_bytes(), bytes, b"\r\n"].concat();
    stream.write_all(&chunk)
}

pub(super) fn end_chunks(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"0\r\n\r\n")
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digits = [rest.next().unwrap_or(b'0'), rest.next().unwrap_or(b'0')];
                let digits = String::from_utf8_lossy(&digits).into_owned();
                bytes.push(u8::from_str_radix(&digits, 16).unwrap_or(b'?'));
            }
            byte => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An error answer.
pub(super) struct Refusal {
    pub(super) code: u16,
    pub(super) reason: &'static str,
    pub(super) message: &'static str,
}

pub(super) const GONE: Refusal = Refusal {
    code: 410,
    reason: "Expired",
    message: "too old resource version",
};

pub(super) const TOO_LARGE: Refusal = Refusal {
    code: 504,
    reason: "Timeout",
    message: "Too large resource version",
};

pub(super) const FORBIDDEN: Refusal = Refusal {
    code: 403,
    reason: "Forbidden",
    message: "the user cannot list the resource at the cluster scope",
};

pub(super) const NOT_FOUND: Refusal = Refusal {
    code: 404,
    reason: "NotFound",
    message: "the server could not find the requested resource",
};

pub(super) const EXISTS: Refusal = Refusal {
    code: 409,
    reason: "AlreadyExists",
    message: "an object of that name already exists",
};

impl Refusal {
    /// The `Status` object.
    pub(super) fn status(&self) -> Value {
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        })
    }
}
