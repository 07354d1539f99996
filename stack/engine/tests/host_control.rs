//! The control socket: good questions, bad ones, and who is found. Needs no rights.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use bywash_engine::host::control::{
    CLIENTS, ControlError, ControlServer, Operation, ask, engines_in,
};
use bywash_engine::host::lock::EngineLock;
use serde_json::{Value, json};

/// An engine's directory under a root of this test's own.
struct Bench {
    root: PathBuf,
    server: Option<ControlServer>,
    lock: Option<EngineLock>,
}

impl Bench {
    fn new(name: &str) -> Self {
        let root =
            std::env::temp_dir().join(format!("bywash-control-{}-{name}", std::process::id()));
        let lock = EngineLock::acquire_in(&root, "7-2", "eth9").unwrap();
        let server = ControlServer::start(
            &lock,
            Box::new(|request| match request.operation {
                Operation::Version => Ok(json!({"version": "x"})),
                Operation::Doctor => Err("no shard answers".to_owned()),
                // Larger than any socket buffer.
                Operation::Ss => Ok(Value::String("s".repeat(4 << 20))),
                Operation::Counters | Operation::Reload => Ok(json!([])),
            }),
        );
        Self {
            root,
            server: Some(server.unwrap()),
            lock: Some(lock),
        }
    }

    fn socket(&self) -> &Path {
        self.server.as_ref().unwrap().path()
    }

    /// What the server answers to these bytes.
    fn send(&self, bytes: &[u8]) -> Value {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        // The server may refuse and close before it has read all.
        let _ = stream.write_all(bytes);
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
    }

    fn end(mut self) {
        drop(self.server.take());
        drop(self.lock.take());
        assert!(
            !self.root.exists(),
            "left behind: {:?}",
            fs::read_dir(&self.root).unwrap().collect::<Vec<_>>()
        );
    }
}

#[test]
fn questions_are_answered() {
    let bench = Bench::new("answers");
    let found = engines_in(&bench.root).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].key, "7-2");
    assert_eq!(found[0].owner.as_ref().unwrap().pid, std::process::id());
    assert_eq!(
        ask(&found[0], Operation::Version).unwrap(),
        json!({"version": "x"})
    );
    assert_eq!(
        ask(&found[0], Operation::Ss)
            .unwrap()
            .as_str()
            .unwrap()
            .len(),
        4 << 20
    );
    let error = ask(&found[0], Operation::Doctor).unwrap_err();
    assert!(
        matches!(&error, ControlError::Engine(text) if text == "no shard answers"),
        "{error}"
    );
    assert_eq!(
        fs::metadata(bench.socket()).unwrap().permissions().mode() & 0o777,
        0o600
    );
    bench.end();
}

#[test]
fn bad_input_gets_an_error_reply_and_harms_nobody() {
    let bench = Bench::new("bad");
    for (input, reason) in [
        (b"\n".to_vec(), "not a JSON request"),
        (b"GET / HTTP/1.1\r\n".to_vec(), "not a JSON request"),
        (vec![0xff, 0, 0xfe, b'\n'], "not a JSON request"),
        (b"{\"v\":1,\"op\":\"format\"}\n".to_vec(), "no such request"),
        (b"{\"v\":9,\"op\":\"ss\"}\n".to_vec(), "version 1"),
        (b"{\"op\":\"ss\"}\n".to_vec(), "no version"),
        (
            [vec![b'['; 4000], b"\n".to_vec()].concat(),
            "not a JSON request",
        ),
        (vec![b'x'; 1 << 20], "longer than"),
    ] {
        let reply = bench.send(&input);
        assert_eq!(reply["v"], 1);
        assert!(reply["error"].as_str().unwrap().contains(reason), "{reply}");
        assert!(reply.get("ok").is_none());
    }
    // In two parts, and with more behind it.
    let mut stream = UnixStream::connect(bench.socket()).unwrap();
    stream.write_all(b"{\"v\":1,").unwrap();
    stream.write_all(b"\"op\":\"counters\"}\nmore").unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    assert_eq!(line, "{\"ok\":[],\"v\":1}\n");
    bench.end();
}

#[test]
fn a_client_that_says_nothing_is_sent_away_and_holds_nobody_up() {
    let bench = Bench::new("silent");
    let mut silent = UnixStream::connect(bench.socket()).unwrap();
    silent.write_all(b"{").unwrap();
    assert_eq!(
        bench.send(b"{\"v\":1,\"op\":\"counters\"}\n")["ok"],
        json!([])
    );
    let mut reply = String::new();
    silent.read_to_string(&mut reply).unwrap();
    assert!(reply.contains("no request line"), "{reply}");
    bench.end();
}

#[test]
fn there_is_a_limit_on_clients() {
    let bench = Bench::new("many");
    let held: Vec<_> = (0..CLIENTS)
        .map(|_| UnixStream::connect(bench.socket()).unwrap())
        .collect();
    // The listener's queue is in order: by the time this one is answered, the others are served.
    let reply = bench.send(b"{\"v\":1,\"op\":\"version\"}\n");
    assert!(
        reply["error"].as_str().unwrap().contains("try again"),
        "{reply}"
    );
    drop(held);
    bench.end();
}

#[test]
fn dead_engines_are_not_found() {
    let bench = Bench::new("dead");
    let dead = bench.root.join("7-3");
    fs::create_dir(&dead).unwrap();
    drop(UnixListener::bind(dead.join("control.sock")).unwrap());
    fs::create_dir(bench.root.join("7-4")).unwrap();
    fs::write(bench.root.join("file"), "").unwrap();
    let keys: Vec<_> = engines_in(&bench.root)
        .unwrap()
        .into_iter()
        .map(|engine| engine.key)
        .collect();
    assert_eq!(keys, ["7-2"]);
    assert!(engines_in(&bench.root.join("nowhere")).unwrap().is_empty());
    let gone = engines_in(&bench.root).unwrap().remove(0);
    fs::remove_dir_all(&dead).unwrap();
    fs::remove_dir_all(bench.root.join("7-4")).unwrap();
    fs::remove_file(bench.root.join("file")).unwrap();
    bench.end();
    assert!(matches!(
        ask(&gone, Operation::Ss),
        Err(ControlError::Io { .. })
    ));
}
