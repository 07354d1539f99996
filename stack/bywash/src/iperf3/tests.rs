//! Client and server against each other, over a wire in memory: the real stack, one thread, no root.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bywash_engine::config::{IdlePolicy, ShardConfig};
use bywash_engine::context::{ConnOptions, Context};
use bywash_engine::memory::{ADDRESSES_A, MemoryPair};
use bywash_engine::service::{ConnId, Event, Recv, Service};
use bywash_engine::tcp::CongestionControl;
use bywash_engine::xsk::Port;

use super::control::ProtocolError;
use super::*;

/// Generous: nothing here is judged by how long it takes.
const LIMIT: Duration = Duration::from_secs(60);

/// What a report wrote.
#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl Paper {
    fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8(bytes.clone()).expect("reports are UTF-8")
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.text()).expect("one JSON document")
    }
}

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn config() -> ShardConfig {
    ShardConfig {
        idle: IdlePolicy::Spin,
        ..ShardConfig::default()
    }
}

fn server_options() -> ServerOptions {
    ServerOptions {
        one_off: true,
        ..ServerOptions::default()
    }
}

fn client_options(extent: Extent) -> ClientOptions {
    ClientOptions {
        extent,
        ..ClientOptions::new(ADDRESSES_A[0])
    }
}

/// One test; both sides' papers and the client's outcome.
struct Run {
    server: Paper,
    client: Paper,
    outcome: Result<Summary, Iperf3Error>,
}

fn run(server: ServerOptions, client: ClientOptions) -> Run {
    let (server_paper, client_paper) = (Paper::default(), Paper::default());
    let state = ServerState::new(server, Box::new(server_paper.clone()));
    let client = Client::new(client, Box::new(client_paper.clone()));
    let mut pair = MemoryPair::new(&config(), Server::new(Arc::clone(&state)), client)
        .expect("a wire in memory");
    let done = pair.run_until(
        |_, client| client.outcome().is_some() && state.is_finished(),
        LIMIT,
    );
    assert!(
        done,
        "not over:\n{}\n{}",
        server_paper.text(),
        client_paper.text()
    );
    assert!(state.take_failure().is_none());
    let outcome = pair.b.into_service().into_outcome();
    Run {
        server: server_paper,
        client: client_paper,
        outcome,
    }
}

/// Both sides' totals of a test by amount, which must agree to the byte.
fn moved(options: ClientOptions) -> (u64, u64) {
    let run = run(server_options(), options);
    let end = run.outcome.expect("a good test").end;
    (end.sum_sent.bytes, end.sum_received.bytes)
}

#[test]
fn an_amount_arrives_to_the_byte() {
    let block = u64::from(options::DEFAULT_LENGTH);
    assert_eq!(
        moved(client_options(Extent::Bytes(10_000_000))),
        (77 * block, 77 * block)
    );
}

#[test]
fn blocks_are_counted_over_all_streams() {
    let client = ClientOptions {
        parallel: 8,
        length: 1000,
        ..client_options(Extent::Blocks(5000))
    };
    assert_eq!(moved(client), (5_000_000, 5_000_000));
}

#[test]
fn tiny_writes_and_an_odd_length() {
    for length in [16, 1461] {
        let client = ClientOptions {
            length,
            ..client_options(Extent::Blocks(20_000))
        };
        let bytes = 20_000 * u64::from(length);
        assert_eq!(moved(client), (bytes, bytes));
    }
}

#[test]
fn a_write_larger_than_the_payload_s_buffer() {
    let client = ClientOptions {
        length: options::MAX_LENGTH,
        ..client_options(Extent::Blocks(8))
    };
    assert_eq!(moved(client), (8 << 20, 8 << 20));
}

#[test]
fn in_reverse_the_server_sends_the_amount() {
    let client = ClientOptions {
        reverse: true,
        parallel: 3,
        ..client_options(Extent::Bytes(5_000_000))
    };
    let run = run(server_options(), client);
    let end = run.outcome.expect("a good test").end;
    let expected = 39 * u64::from(options::DEFAULT_LENGTH);
    assert_eq!(
        (end.sum_sent.bytes, end.sum_received.bytes),
        (expected, expected)
    );
    assert!(!end.sum_received.sender);
    assert!(
        run.client
            .text()
            .contains("Reverse mode, remote host 10.0.0.1 is sending")
    );
    assert!(
        run.server
            .text()
            .lines()
            .any(|line| line.starts_with("[SUM]") && line.ends_with("sender"))
    );
}

#[test]
fn over_ipv6() {
    let mut client = client_options(Extent::Bytes(1_000_000));
    client.server.set_ip(ADDRESSES_A[1]);
    let (sent, received) = moved(client);
    assert_eq!(sent, received);
    assert!(sent >= 1_000_000);
}

#[test]
fn time_ends_a_test_and_the_intervals_join() {
    let client = ClientOptions {
        interval: Duration::from_millis(250),
        json: true,
        ..client_options(Extent::Seconds(1))
    };
    let run = run(server_options(), client);
    let end = run.outcome.expect("a good test").end;
    assert!(end.sum_sent.bytes > 0 && end.sum_received.bytes > 0);
    let document = run.client.json();
    let intervals = document["intervals"].as_array().expect("intervals");
    let mut previous = serde_json::json!(0.0);
    for interval in intervals {
        assert_eq!(interval["sum"]["start"], previous);
        previous = interval["sum"]["end"].clone();
    }
    assert_eq!(previous.as_f64(), Some(end.sum_sent.seconds));
}

#[test]
fn lines_tell_both_sides_at_the_client_and_one_at_the_server() {
    let run = run(server_options(), client_options(Extent::Bytes(1_000_000)));
    let (ours, theirs) = (run.client.text(), run.server.text());
    assert!(
        ours.contains("Retr  Cwnd") && ours.trim_end().ends_with("iperf Done."),
        "{ours}"
    );
    let ends = |text: &str, word| text.lines().any(|line| line.trim_end().ends_with(word));
    assert!(ends(&ours, "sender") && ends(&ours, "receiver"), "{ours}");
    assert!(
        !ends(&theirs, "sender") && ends(&theirs, "receiver"),
        "{theirs}"
    );
    assert!(theirs.contains("Accepted connection from 10.0.0.2, port "));
}

#[test]
fn what_is_omitted_is_shown_and_not_counted() {
    let client = ClientOptions {
        omit: 1,
        json: true,
        ..client_options(Extent::Seconds(1))
    };
    let server = ServerOptions {
        json: true,
        ..server_options()
    };
    let run = run(server, client);
    for paper in [run.client.json(), run.server.json()] {
        let intervals = paper["intervals"].as_array().expect("intervals");
        let omitted: Vec<bool> = intervals
            .iter()
            .map(|i| i["sum"]["omitted"].as_bool().expect("omitted"))
            .collect();
        assert!(
            omitted.contains(&true) && omitted.contains(&false),
            "{omitted:?}"
        );
        let bytes = |omitted: bool| -> u64 {
            let of_part = intervals.iter().filter(|i| i["sum"]["omitted"] == omitted);
            of_part.filter_map(|i| i["sum"]["bytes"].as_u64()).sum()
        };
        let own = if intervals[0]["sum"]["sender"] == true {
            "sum_sent"
        } else {
            "sum_received"
        };
        let total = paper["end"][own]["bytes"].as_u64().expect("bytes");
        // What moves in the very turn that ends the last interval is in the total alone.
        assert!(
            bytes(false) <= total && total < bytes(false) + bytes(true),
            "{paper}"
        );
    }
}

#[test]
fn documents_have_the_stock_program_s_layout() {
    let client = ClientOptions {
        json: true,
        parallel: 2,
        ..client_options(Extent::Bytes(3_000_000))
    };
    let server = ServerOptions {
        json: true,
        ..server_options()
    };
    let run = run(server, client);
    let (ours, theirs) = (run.client.json(), run.server.json());
    assert_eq!(ours["start"]["connected"].as_array().map(Vec::len), Some(2));
    assert_eq!(ours["start"]["connecting_to"]["host"], "10.0.0.1");
    assert_eq!(theirs["start"]["accepted_connection"]["host"], "10.0.0.2");
    assert_eq!(ours["start"]["cookie"], theirs["start"]["cookie"]);
    assert_eq!(ours["start"]["test_start"]["num_streams"], 2);
    for document in [&ours, &theirs] {
        let end = &document["end"];
        assert_eq!(end["streams"].as_array().map(Vec::len), Some(2));
        assert!(end["streams"][1]["sender"]["retransmits"].is_u64());
        assert!(end["sum_sent"]["bits_per_second"].as_f64().expect("a rate") > 0.0);
        assert!(
            end["sum_received"]["bits_per_second"]
                .as_f64()
                .expect("a rate")
                > 0.0
        );
        assert!(end["cpu_utilization_percent"]["host_total"].is_f64());
        assert!(document.get("error").is_none());
    }
    assert!(ours["intervals"][0]["streams"][0]["snd_cwnd"].is_u64());
}

#[test]
fn both_directions_at_once() {
    let client = ClientOptions {
        bidirectional: true,
        json: true,
        parallel: 2,
        ..client_options(Extent::Seconds(1))
    };
    let run = run(server_options(), client);
    let end = run.outcome.expect("a good test").end;
    assert!(end.sum_sent.sender && end.sum_sent.bytes > 0 && end.sum_received.bytes > 0);
    let reverse = end.sum_received_bidir_reverse.expect("the other direction");
    assert!(!reverse.sender && reverse.bytes > 0);
    let text = run.server.text();
    assert!(
        text.contains("[  5][RX-S]")
            && text.contains("[ 11][TX-S]")
            && text.contains("[SUM][TX-S]"),
        "{text}"
    );
}

#[test]
fn nobody_listens() {
    let paper = Paper::default();
    let mut options = ClientOptions {
        json: true,
        ..client_options(Extent::Seconds(1))
    };
    options.server.set_port(9);
    let state = ServerState::new(server_options(), Box::new(io::sink()));
    let client = Client::new(options, Box::new(paper.clone()));
    let mut pair =
        MemoryPair::new(&config(), Server::new(state), client).expect("a wire in memory");
    assert!(pair.run_until(|_, client| client.outcome().is_some(), LIMIT));
    let error = pair
        .b
        .into_service()
        .into_outcome()
        .expect_err("refused")
        .to_string();
    assert!(
        error.contains("unable to connect to server 10.0.0.1:9: Connection refused"),
        "{error}"
    );
    assert_eq!(paper.json()["error"], error.as_str());
}

/// A peer that connects to a server and says one thing, or accepts connections and says one thing.
struct Talker {
    connect: Option<SocketAddr>,
    says: Vec<u8>,
    hangs_up: bool,
    heard: Vec<u8>,
    closed: bool,
}

impl Talker {
    fn new(connect: Option<SocketAddr>, says: &[u8]) -> Self {
        Self {
            connect,
            says: says.to_vec(),
            hangs_up: false,
            heard: Vec::new(),
            closed: false,
        }
    }

    fn speak<P: Port>(&mut self, cx: &mut Context<'_, P>, conn: ConnId) {
        let sent = cx.send(conn, &self.says).expect("connected");
        assert_eq!(sent, self.says.len(), "a short saying fits");
        if self.hangs_up && self.connect.is_some() {
            cx.close(conn).expect("connected");
        }
    }
}

impl Talker {
    fn listen<P: Port>(&mut self, cx: &mut Context<'_, P>, conn: ConnId) {
        loop {
            match cx.recv(conn) {
                Ok(Recv::Data(frame)) => self.heard.extend_from_slice(frame.bytes()),
                Ok(Recv::End) => {
                    self.closed = true;
                    let _ = cx.close(conn);
                    return;
                }
                Ok(Recv::Empty) | Err(_) => break,
            }
        }
        // Not before the cookie is read: what is unread would turn the FIN into a RST.
        if self.hangs_up && self.connect.is_none() {
            let _ = cx.close(conn);
        }
    }
}

impl Service for Talker {
    fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
        match event {
            Event::Started => match self.connect {
                Some(peer) => {
                    cx.connect(peer, ConnOptions::default()).expect("a route");
                }
                None => {
                    cx.listen(options::DEFAULT_PORT, ConnOptions::default())
                        .expect("a free port");
                }
            },
            Event::Connected { conn } | Event::Accepted { conn, .. } => self.speak(cx, conn),
            Event::Readable { conn } => self.listen(cx, conn),
            Event::Closed { .. } => self.closed = true,
            _ => {}
        }
    }
}

fn server_address() -> SocketAddr {
    SocketAddr::new(ADDRESSES_A[0], options::DEFAULT_PORT)
}

/// A server that meets a `talker`; what it printed and what the talker heard. The server must go on.
fn meet(options: ServerOptions, talker: Talker, awaited: &str) -> (String, Vec<u8>) {
    let paper = Paper::default();
    let state = ServerState::new(options, Box::new(paper.clone()));
    let mut pair = MemoryPair::new(&config(), Server::new(Arc::clone(&state)), talker)
        .expect("a wire in memory");
    let done = pair.run_until(
        |_, talker| talker.closed && paper.text().contains(awaited),
        LIMIT,
    );
    assert!(done, "waited for {awaited:?} in\n{}", paper.text());
    assert!(
        !state.is_finished(),
        "a peer that began no test does not use up -1"
    );
    let heard = pair.b.into_service().heard;
    (paper.text(), heard)
}

#[test]
fn a_web_browser_is_turned_away_at_once() {
    let talker = Talker::new(Some(server_address()), b"GET / HTTP/1.0\r\n\r\n");
    let (text, heard) = meet(
        server_options(),
        talker,
        "does not speak the iperf3 protocol",
    );
    assert!(heard.is_empty());
    assert!(text.contains("10.0.0.2"), "{text}");
}

#[test]
fn parameters_of_absurd_length_end_the_test() {
    let mut says = message::Cookie::from_random(&[1; 36]).bytes().to_vec();
    says.extend_from_slice(&[0xff; 8]);
    let (_, heard) = meet(
        server_options(),
        Talker::new(Some(server_address()), &says),
        "beyond the limit of 8192",
    );
    assert_eq!(heard, [9]);
}

#[test]
fn a_client_that_leaves_early_is_named() {
    let says = message::Cookie::from_random(&[1; 36]).bytes().to_vec();
    let talker = Talker {
        hangs_up: true,
        ..Talker::new(Some(server_address()), &says)
    };
    meet(
        server_options(),
        talker,
        "closed the control connection while we waited for the test's parameters",
    );
}

#[test]
fn a_silent_client_is_dropped_after_our_patience() {
    let patience = Duration::from_millis(50);
    let options = ServerOptions {
        patience,
        ..server_options()
    };
    meet(
        options.clone(),
        Talker::new(Some(server_address()), b"abc"),
        "sent no cookie",
    );
    let says = message::Cookie::from_random(&[1; 36]).bytes().to_vec();
    meet(
        options,
        Talker::new(Some(server_address()), &says),
        "fell silent",
    );
}

#[test]
fn a_test_that_is_not_served_is_refused_with_iperf3_s_number() {
    let mut says = message::Cookie::from_random(&[1; 36]).bytes().to_vec();
    let text = br#"{"udp":true,"time":1,"parallel":1,"len":1460,"client_version":"3.12"}"#;
    says.extend_from_slice(&u32::try_from(text.len()).expect("short").to_be_bytes());
    says.extend_from_slice(text);
    let (_, heard) = meet(
        server_options(),
        Talker::new(Some(server_address()), &says),
        "only TCP is served",
    );
    assert_eq!(heard, [9, 0xfe, 0, 0, 0, 13, 0, 0, 0, 0]);
}

#[test]
fn an_algorithm_that_is_not_there_is_refused_with_iperf3_s_number() {
    let mut says = message::Cookie::from_random(&[1; 36]).bytes().to_vec();
    let text = br#"{"tcp":true,"time":1,"parallel":1,"len":1460,"congestion":"vegas"}"#;
    says.extend_from_slice(&u32::try_from(text.len()).expect("short").to_be_bytes());
    says.extend_from_slice(text);
    let (_, heard) = meet(
        server_options(),
        Talker::new(Some(server_address()), &says),
        "there are cubic, reno and bbr",
    );
    assert_eq!(heard, [9, 0xfe, 0, 0, 0, 134, 0, 0, 0, 0]);
}

#[test]
fn the_client_s_algorithm_holds_for_both_sides() {
    for congestion in CongestionControl::ALL {
        let client = ClientOptions {
            congestion: Some(congestion),
            reverse: true,
            json: true,
            ..client_options(Extent::Bytes(3_000_000))
        };
        let run = run(server_options(), client);
        let end = &run.client.json()["end"];
        for side in ["sender_tcp_congestion", "receiver_tcp_congestion"] {
            assert_eq!(end[side], congestion.name());
        }
    }
}

/// What a client makes of a peer that accepts its connection and says `says`.
fn client_meets(says: &[u8], hangs_up: bool) -> Iperf3Error {
    let talker = Talker {
        hangs_up,
        ..Talker::new(None, says)
    };
    let client = Client::new(client_options(Extent::Seconds(1)), Box::new(io::sink()));
    let mut pair = MemoryPair::new(&config(), talker, client).expect("a wire in memory");
    assert!(pair.run_until(|_, client| client.outcome().is_some(), LIMIT));
    pair.b
        .into_service()
        .into_outcome()
        .expect_err("not a server")
}

#[test]
fn a_client_names_what_it_met() {
    let ssh = client_meets(b"SSH-2.0-OpenSSH_9.2\r\n", false);
    assert!(
        matches!(ssh, Iperf3Error::Protocol(ProtocolError::NotAServer(b'S'))),
        "{ssh}"
    );
    assert!(matches!(client_meets(&[0xff], false), Iperf3Error::Busy));
    assert!(matches!(client_meets(&[0xff], true), Iperf3Error::Busy));
    assert!(matches!(
        client_meets(&[], true),
        Iperf3Error::Protocol(ProtocolError::Closed(_))
    ));
    let failed = client_meets(&[0xfe, 0, 0, 0, 103, 0, 0, 0, 2], true);
    assert!(
        matches!(
            failed,
            Iperf3Error::ServerError {
                code: 103,
                errno: 2
            }
        ),
        "{failed}"
    );
}

#[test]
fn a_client_that_leaves_without_goodbye_has_been_served() {
    let cookie = message::Cookie::from_random(&[1; 36]);
    let state = ServerState::new(ServerOptions::default(), Box::new(io::sink()));
    let paper = Paper::default();
    let client = Client::new(
        client_options(Extent::Bytes(1_000_000)),
        Box::new(paper.clone()),
    );
    let server = Server::new(Arc::clone(&state));
    let mut pair = MemoryPair::new(&config(), server, client).expect("a wire in memory");
    // Until the client has all results and its goodbye is not yet on the wire.
    assert!(pair.run_until(|_, client| client.outcome().is_some(), LIMIT));
    assert!(
        matches!(state.welcome(cookie), shared::Welcome::Control(test) if test.number == 2),
        "the next client is welcome"
    );
}
