//! A web server on loopback whose answers are a closure: for downloads that break, redirect and lie.
//!
//! One connection carries one request. What was asked is kept for the test to look at.

#![allow(dead_code)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

/// What a client asked.
#[derive(Clone, Debug)]
pub struct Asked {
    /// GET, POST, …
    pub method: String,
    /// With its query.
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Asked {
    /// Gives a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// What it gets.
#[derive(Clone, Debug)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// Close the connection after so many bytes of the body.
    cut: Option<usize>,
    /// Wait so long before each of this many bytes.
    trickle: Option<(std::time::Duration, usize)>,
}

impl Reply {
    /// 200 with a body.
    pub fn file(body: impl Into<Vec<u8>>) -> Reply {
        Reply::status(200).body(body)
    }

    /// A status and nothing else.
    pub fn status(status: u16) -> Reply {
        Reply { status, headers: Vec::new(), body: Vec::new(), cut: None, trickle: None }
    }

    /// A redirect.
    pub fn redirect(to: &str) -> Reply {
        Reply::status(302).header("location", to)
    }

    /// Adds a body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Reply {
        self.body = body.into();
        self
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Reply {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Breaks the connection off.
    pub fn cut(mut self, at: usize) -> Reply {
        self.cut = Some(at);
        self
    }

    /// Sends `bytes` at a time, with pauses.
    pub fn trickle(mut self, pause: std::time::Duration, bytes: usize) -> Reply {
        self.trickle = Some((pause, bytes));
        self
    }
}

type Handler = dyn Fn(&Asked) -> Reply + Send + Sync;

/// The server; ends with the process.
pub struct Web {
    address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Web {
    /// Starts one.
    pub fn start(handler: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Web {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
        let address = listener.local_addr().expect("it is bound").to_string();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (kept, handler): (_, Arc<Handler>) = (Arc::clone(&asked), Arc::new(handler));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (kept, handler) = (Arc::clone(&kept), Arc::clone(&handler));
                std::thread::spawn(move || {
                    let _ = serve(stream, &kept, &*handler);
                });
            }
        });
        Web { address, asked }
    }

    /// Serves one file at every path.
    pub fn with_file(body: impl Into<Vec<u8>>) -> Web {
        let body = body.into();
        Web::start(move |_| Reply::file(body.clone()))
    }

    /// `http://127.0.0.1:port` and a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// `127.0.0.1:port`.
    pub fn host(&self) -> &str {
        &self.address
    }

    /// What was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn serve(stream: TcpStream, asked: &Mutex<Vec<Asked>>, handler: &Handler) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(()) };
    let mut request = Asked {
        method: method.to_owned(),
        path: path.to_owned(),
        headers: Vec::new(),
        body: Vec::new(),
    };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        request.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = request.header("content-length").and_then(|text| text.parse().ok());
    if let Some(length) = length {
        request.body.resize(length, 0);
        reader.read_exact(&mut request.body)?;
    } else if request.header("transfer-encoding").is_some() {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size)?;
            let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
            let mut chunk = vec![0; size];
            reader.read_exact(&mut chunk)?;
            reader.read_line(&mut String::new())?;
            if size == 0 {
                break;
            }
            request.body.extend_from_slice(&chunk);
        }
    }
    asked.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
    let reply = handler(&request);
    let mut stream = stream;
    let mut head = format!("HTTP/1.1 {} Status\r\nconnection: close\r\n", reply.status);
    if !reply.headers.iter().any(|(name, _)| name == "content-length") && reply.status != 304 {
        head.push_str(&format!("content-length: {}\r\n", reply.body.len()));
    }
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    let body = &reply.body[..reply.cut.unwrap_or(reply.body.len()).min(reply.body.len())];
    match reply.trickle {
        None => stream.write_all(body)?,
        Some((pause, bytes)) => {
            for piece in body.chunks(bytes.max(1)) {
                std::thread::sleep(pause);
                stream.write_all(piece)?;
                stream.flush()?;
            }
        }
    }
    stream.flush()
}
