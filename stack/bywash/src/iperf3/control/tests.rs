//! Both machines against each other and against peers that misbehave.

use super::*;
use crate::iperf3::message::{Cookie, Greeting, Parameters, Refusal, Results, StreamResults};

fn cookie() -> Cookie {
    Cookie::from_random(&[3; 36])
}

fn results(bytes: u64) -> Results {
    let stream = StreamResults {
        id: 1,
        bytes,
        retransmits: -1,
        jitter: 0.0,
        errors: 0,
        packets: 0,
        start_time: 0.0,
        end_time: 1.0,
    };
    Results {
        cpu_util_total: 12.5,
        cpu_util_user: 2.5,
        cpu_util_system: 10.0,
        sender_has_retransmits: -1,
        congestion_used: Some("reno".into()),
        streams: vec![stream],
    }
}

/// Both machines and the greeting between them, wired with pieces of at most `piece` bytes.
struct Pair {
    client: ClientControl,
    greeting: Greeting,
    server: Option<ServerControl>,
    piece: usize,
    server_steps: Vec<ServerStep>,
    client_steps: Vec<ClientStep>,
}

impl Pair {
    fn new(piece: usize) -> Self {
        let client = ClientControl::new(&cookie(), Parameters::default());
        Self {
            client,
            greeting: Greeting::default(),
            server: None,
            piece,
            server_steps: vec![],
            client_steps: vec![],
        }
    }

    /// Moves bytes until both are quiet, noting steps. Drivers' answers are given by the story.
    fn settle(&mut self) {
        loop {
            let up: Vec<u8> = self
                .client
                .output()
                .iter()
                .copied()
                .take(self.piece)
                .collect();
            self.client.sent(up.len());
            let mut rest = up.as_slice();
            if self.server.is_none()
                && self
                    .greeting
                    .on_bytes(&mut rest)
                    .expect("a cookie")
                    .is_some()
            {
                self.server = Some(ServerControl::new());
            }
            let Some(server) = self.server.as_mut() else {
                continue;
            };
            server.on_bytes(rest);
            self.server_steps
                .extend(server.poll().expect("a good client"));
            let down: Vec<u8> = server.output().iter().copied().take(self.piece).collect();
            server.sent(down.len());
            self.client.on_bytes(&down);
            self.client_steps
                .extend(self.client.poll().expect("a good server"));
            if up.is_empty() && down.is_empty() && self.client.output().is_empty() {
                return;
            }
        }
    }

    fn server(&mut self) -> &mut ServerControl {
        self.server.as_mut().expect("greeted")
    }
}

#[test]
fn a_whole_test_in_pieces_of_any_size() {
    for piece in [1, 2, 3, 7, 64, 10_000] {
        let mut pair = Pair::new(piece);
        pair.settle();
        assert_eq!(
            pair.server_steps,
            [ServerStep::Parameters(Parameters::default())],
            "pieces of {piece}"
        );
        pair.server().accept();
        pair.settle();
        assert_eq!(pair.client_steps, [ClientStep::CreateStreams]);
        pair.server().start();
        pair.settle();
        assert_eq!(
            pair.client_steps[1..],
            [ClientStep::TestStart, ClientStep::TestRunning]
        );
        pair.client.end_test();
        pair.settle();
        assert_eq!(pair.server_steps[1..], [ServerStep::TestEnd]);
        pair.server().exchange();
        pair.settle();
        assert_eq!(pair.client_steps[3..], [ClientStep::ExchangeResults]);
        pair.client.results(&results(77));
        pair.settle();
        assert_eq!(pair.server_steps[2..], [ServerStep::Results(results(77))]);
        pair.server().results(&results(99));
        pair.settle();
        assert_eq!(
            pair.client_steps[4..],
            [ClientStep::Results(results(99)), ClientStep::DisplayResults]
        );
        pair.client.goodbye();
        pair.settle();
        assert_eq!(pair.server_steps[3..], [ServerStep::Done]);
        assert_eq!(pair.server().on_end(), Ok(()));
        assert_eq!(pair.client.on_end(), Ok(()));
    }
}

#[test]
fn an_early_end_says_what_was_going_on() {
    let mut pair = Pair::new(64);
    assert!(
        matches!(pair.client.on_end(), Err(ProtocolError::Closed(text)) if text.contains("greeting"))
    );
    pair.settle();
    assert!(
        matches!(pair.server().on_end(), Err(ProtocolError::Closed(text)) if text.contains("parameters"))
    );
    pair.server().accept();
    pair.settle();
    pair.server().start();
    pair.settle();
    assert!(matches!(
        pair.server().on_end(),
        Err(ProtocolError::Closed("the test was running"))
    ));
    assert!(matches!(
        pair.client.on_end(),
        Err(ProtocolError::Closed("the test was running"))
    ));
}

#[test]
fn an_oversized_length_is_refused_before_its_bytes_are_awaited() {
    let mut server = ServerControl::new();
    server.on_bytes(&0x4745_5420u32.to_be_bytes());
    let error = server.poll().expect_err("1.2 GB of parameters");
    assert_eq!(
        error,
        ProtocolError::TooLong {
            what: "parameters",
            length: 0x4745_5420,
            limit: MAX_PARAMETERS
        }
    );
}

#[test]
fn parameters_that_are_not_json_are_an_error() {
    for text in ["hello", "[]", "{\"omit\":\"x\"}", "{\"parallel\":-1}", ""] {
        let mut server = ServerControl::new();
        server.on_bytes(&u32::try_from(text.len()).expect("short").to_be_bytes());
        server.on_bytes(text.as_bytes());
        assert!(
            matches!(
                server.poll(),
                Err(ProtocolError::BadJson {
                    what: "parameters",
                    ..
                })
            ),
            "{text:?}"
        );
    }
}

#[test]
fn states_out_of_place_are_errors_on_both_sides() {
    let mut pair = Pair::new(64);
    pair.settle();
    pair.server().accept();
    pair.settle();
    pair.server().on_bytes(&[State::IperfDone.byte()]);
    let state = State::IperfDone;
    assert_eq!(
        pair.server().poll(),
        Err(ProtocolError::Unexpected {
            state,
            during: "we waited for the data connections"
        })
    );
    pair.client.on_bytes(&[State::DisplayResults.byte()]);
    assert!(matches!(
        pair.client.poll(),
        Err(ProtocolError::Unexpected {
            state: State::DisplayResults,
            ..
        })
    ));
    pair.client.on_bytes(&[99]);
    assert!(matches!(
        pair.client.poll(),
        Err(ProtocolError::UnknownState { byte: 99, .. })
    ));
}

#[test]
fn a_peer_of_another_protocol_is_named() {
    let mut client = ClientControl::new(&cookie(), Parameters::default());
    client.on_bytes(b"SSH-2.0-OpenSSH");
    let error = client.poll().expect_err("not a server");
    assert_eq!(error, ProtocolError::NotAServer(b'S'));
    assert!(error.to_string().contains("not an iperf3 server"));
}

#[test]
fn a_busy_a_failing_and_a_stopped_server_are_told_apart() {
    let greet = || ClientControl::new(&cookie(), Parameters::default());
    let mut busy = greet();
    busy.on_bytes(&[State::AccessDenied.byte()]);
    assert_eq!(busy.poll(), Ok(Some(ClientStep::AccessDenied)));

    let mut stopped = greet();
    stopped.on_bytes(&[State::ServerTerminate.byte()]);
    assert_eq!(stopped.poll(), Ok(Some(ClientStep::ServerTerminated)));

    let refusal = Refusal::Protocol("UDP");
    let mut server = ServerControl::new();
    server.sent(1);
    server.refuse(&refusal);
    let mut failing = greet();
    for byte in server.output() {
        assert_eq!(failing.poll(), Ok(None));
        failing.on_bytes(&[*byte]);
    }
    assert_eq!(
        failing.poll(),
        Ok(Some(ClientStep::ServerError {
            code: refusal.code(),
            errno: 0
        }))
    );
}

#[test]
fn a_client_that_is_stopped_says_so_at_any_time() {
    let mut pair = Pair::new(64);
    pair.settle();
    pair.server().accept();
    pair.settle();
    pair.client.terminate();
    pair.settle();
    assert_eq!(
        pair.server_steps.last(),
        Some(&ServerStep::ClientTerminated)
    );
    assert_eq!(pair.server().on_end(), Ok(()));
}

proptest::proptest! {
    /// Whatever arrives, neither machine panics, and each comes to rest.
    #[test]
    fn garbage_ends_in_an_error_or_in_silence(bytes in proptest::collection::vec(0u8..=255, 0..300), state in 0u8..20) {
        let mut server = ServerControl::new();
        let mut client = ClientControl::new(&cookie(), Parameters::default());
        client.on_bytes(&[9, state]);
        for byte in bytes {
            server.on_bytes(&[byte]);
            client.on_bytes(&[byte]);
            if let Ok(Some(ServerStep::Parameters(_))) = server.poll() {
                server.accept();
            }
            let _ = client.poll();
        }
    }
}
