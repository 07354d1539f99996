//! iperf3's control channel: any bytes as the greeting and the peer's messages, whole and in pieces.

use bywash::iperf3::control::{
    ClientControl, ClientStep, MAX_PARAMETERS, ProtocolError, ServerControl, ServerStep,
};
use bywash::iperf3::message::{Cookie, Greeting, Parameters, Results, StreamResults};

use crate::Input;

/// What came of the peer's bytes: steps in words, and what we sent.
#[derive(Debug, Default, PartialEq)]
struct Transcript {
    steps: Vec<String>,
    output: Vec<u8>,
    parameters: Option<Parameters>,
    error: Option<ProtocolError>,
}

/// The first byte says who we are, the second in what pieces the bytes come.
pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (role, piece) = (input.byte(), usize::from(input.byte()) + 1);
    let bytes = expand(input.rest());
    let side = match role % 3 {
        0 => client,
        1 => server,
        _ => greeted,
    };
    let whole = side(&bytes, bytes.len().max(1));
    assert_eq!(whole, side(&bytes, piece), "in pieces of {piece}");
    assert_eq!(whole, side(&bytes, 1), "byte by byte");
    if let Some(parameters) = whole.parameters {
        told_is_read(parameters);
    }
}

/// A document's length cannot be guessed: 0xff becomes the four bytes of the length of what follows up to 0xfe.
fn expand(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = bytes;
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first == 0xff {
            let len = behind.iter().position(|byte| *byte == 0xfe);
            let (text, behind) = behind.split_at(len.unwrap_or(behind.len()));
            out.extend_from_slice(&(text.len() as u32).to_be_bytes());
            out.extend_from_slice(text);
            rest = behind.get(1..).unwrap_or(&[]);
        } else {
            out.push(*first);
        }
    }
    out
}

fn results() -> Results {
    Results {
        cpu_util_total: 1.5,
        cpu_util_user: 0.5,
        cpu_util_system: 1.0,
        sender_has_retransmits: 1,
        congestion_used: Some("cubic".into()),
        streams: vec![StreamResults {
            id: 1,
            bytes: 1 << 40,
            retransmits: 3,
            jitter: 0.0,
            errors: 0,
            packets: 0,
            start_time: 0.0,
            end_time: 10.0,
        }],
    }
}

/// A connection from its first byte: cookie, then a server.
fn greeted(bytes: &[u8], piece: usize) -> Transcript {
    let mut greeting = Greeting::default();
    let mut control: Option<ServerControl> = None;
    let mut transcript = Transcript::default();
    for mut piece in bytes.chunks(piece) {
        if control.is_none() {
            match greeting.on_bytes(&mut piece) {
                Ok(None) => {
                    assert!(piece.is_empty(), "bytes of the cookie were left");
                    continue;
                }
                Ok(Some(cookie)) => {
                    assert_eq!(cookie.bytes().last(), Some(&0));
                    transcript.steps.push(cookie.text());
                    control = Some(ServerControl::new());
                }
                Err(error) => {
                    assert!(error.at < Cookie::LEN);
                    transcript.error = Some(error.into());
                    return transcript;
                }
            }
        }
        let control = control.as_mut().expect("greeted");
        control.on_bytes(piece);
        if let Err(error) = serve(control, &mut transcript) {
            transcript.error = Some(error);
            return transcript;
        }
    }
    transcript
}

fn server(bytes: &[u8], piece: usize) -> Transcript {
    let mut control = ServerControl::new();
    let mut transcript = Transcript::default();
    for piece in bytes.chunks(piece) {
        control.on_bytes(piece);
        if let Err(error) = serve(&mut control, &mut transcript) {
            transcript.error = Some(error);
            break;
        }
    }
    let end = control.on_end();
    transcript.steps.push(format!("end: {end:?}"));
    transcript
}

/// Answers every step at once.
fn serve(control: &mut ServerControl, transcript: &mut Transcript) -> Result<(), ProtocolError> {
    let result = loop {
        match control.poll() {
            Ok(Some(step)) => {
                transcript.steps.push(format!("{step:?}"));
                match step {
                    ServerStep::Parameters(parameters) => {
                        match parameters.check() {
                            Ok(()) => {
                                // What a driver asks of parameters that it runs.
                                assert!(parameters.streams() >= 1);
                                let _blocks = parameters.blocks();
                                control.accept();
                                control.start();
                            }
                            Err(refusal) => control.refuse(&refusal),
                        }
                        transcript.parameters = Some(parameters);
                    }
                    ServerStep::TestEnd => control.exchange(),
                    ServerStep::Results(_) => control.results(&results()),
                    ServerStep::Done | ServerStep::ClientTerminated => {
                        assert_eq!(control.on_end(), Ok(()));
                    }
                }
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    transcript.output.extend_from_slice(control.output());
    control.sent(control.output().len());
    result
}

fn client(bytes: &[u8], piece: usize) -> Transcript {
    let cookie = Cookie::from_random(&[7; 36]);
    let mut control = ClientControl::new(&cookie, Parameters::default());
    let mut transcript = Transcript::default();
    for piece in bytes.chunks(piece) {
        control.on_bytes(piece);
        if let Err(error) = ask(&mut control, &mut transcript) {
            transcript.error = Some(error);
            break;
        }
    }
    let end = control.on_end();
    let waits = control.waiting_for();
    transcript.steps.push(format!("end: {end:?}, {waits}"));
    transcript
}

/// Answers every step at once.
fn ask(control: &mut ClientControl, transcript: &mut Transcript) -> Result<(), ProtocolError> {
    let result = loop {
        match control.poll() {
            Ok(Some(step)) => {
                transcript.steps.push(format!("{step:?}"));
                match step {
                    ClientStep::TestRunning => control.end_test(),
                    ClientStep::ExchangeResults => control.results(&results()),
                    ClientStep::DisplayResults => control.goodbye(),
                    _ => {}
                }
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    transcript.output.extend_from_slice(control.output());
    control.sent(control.output().len());
    result
}

/// A client that tells these parameters is read by a server as it meant them.
fn told_is_read(parameters: Parameters) {
    let cookie = Cookie::from_random(&[7; 36]);
    let mut client = ClientControl::new(&cookie, parameters.clone());
    let mut server = ServerControl::new();
    client.sent(client.output().len());
    client.on_bytes(server.output());
    assert_eq!(client.poll(), Ok(None));
    if client.output().len() > MAX_PARAMETERS as usize {
        // Escapes have made a text longer than the limit on reading.
        return;
    }
    server.on_bytes(client.output());
    assert_eq!(server.poll(), Ok(Some(ServerStep::Parameters(parameters))));
}
