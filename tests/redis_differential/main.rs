//! The same random commands on a direct connection and through the gateway give the same bytes.
//!
//! Each test has a `redis-server` of its own, on which the gateway's login exists as an ACL user, so
//! that even the bytes of a login are the same. What may differ is in `wire.rs`, with its reasons.
//! `POLYPOOL_DIFFERENTIAL_STREAMS` sets how many streams are run, `POLYPOOL_DIFFERENTIAL_SEED` where
//! they begin; a failure prints its seed and the shortest stream that still fails.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test may stop here"
)]

mod servers;
mod stream;
mod wire;

use std::{cell::RefCell, env, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Notify,
    time::timeout,
};

use servers::Pair;
use stream::{Dice, Stream, Unit, encode, generate, known};
use wire::{Heard, frame, shown, sort};

/// How long a stream may take.
const WAIT_MAX: Duration = Duration::from_secs(20);
/// The same while a stream is shortened: what is left may have no end.
const WAIT_SHORT: Duration = Duration::from_secs(1);
/// How often a stream is tried while it is shortened.
const TRIES: usize = 150;
/// Units of a stream.
const UNITS: usize = 120;
/// Upstream connections of the tenant whose clients crowd: a trunk for each version, one for the
/// subscriptions, one to lease.
const FEW: u32 = 4;

#[tokio::test]
async fn what_has_differed_once_differs_no_more() {
    let Some(pair) = Pair::start(10).await else {
        return;
    };
    for (claim, stream) in known(pair.client("")) {
        if let Some(difference) = difference(&pair, &stream, WAIT_MAX).await {
            panic!("{claim}: {difference}");
        }
    }
}

#[tokio::test]
async fn one_client_hears_through_the_gateway_what_it_hears_directly() {
    let Some(pair) = Pair::start(10).await else {
        return;
    };
    let mut failed = 0;
    for seed in seeds(15) {
        let stream = generate(seed, UNITS, pair.client(""));
        if let Some(difference) = difference(&pair, &stream, WAIT_MAX).await {
            eprintln!("seed {seed} differs, to be shortened: {difference}");
            let (stream, last) = shorten(&pair, stream, difference).await;
            eprintln!("seed {seed} differs:\n{last}\nafter\n{}", listed(&stream));
            failed += 1;
        }
    }
    assert_eq!(failed, 0, "streams that differ");
}

#[tokio::test]
async fn clients_that_share_few_upstreams_each_hear_what_they_hear_alone() {
    let Some(pair) = Pair::start(FEW).await else {
        return;
    };
    for seed in seeds(8) {
        let streams = [(0, "a:"), (1, "b:"), (2, "c:")]
            .map(|(at, prefix)| generate(seed * 3 + at, UNITS, pair.client(prefix)));
        let mut wanted = Vec::new();
        for stream in &streams {
            pair.clear().await;
            wanted.push(play(pair.direct, stream, None, WAIT_MAX).await);
        }
        pair.clear().await;
        let through = pair.gateway;
        let heard = tokio::join!(
            play(through, &streams[0], Some(&wanted[0].marks), WAIT_MAX),
            play(through, &streams[1], Some(&wanted[1].marks), WAIT_MAX),
            play(through, &streams[2], Some(&wanted[2].marks), WAIT_MAX),
        );
        let heard = [heard.0, heard.1, heard.2];
        for ((at, heard), wanted) in heard.into_iter().enumerate().zip(wanted) {
            if let Some(difference) = compare(wanted, heard) {
                panic!(
                    "seed {seed}, client {at} differs:\n{difference}\nafter\n{}",
                    listed(&streams[at])
                );
            }
        }
    }
}

fn seeds(usual: u64) -> std::ops::Range<u64> {
    let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let first = number("POLYPOOL_DIFFERENTIAL_SEED");
    let alone = first.map(|_| 1);
    let count = number("POLYPOOL_DIFFERENTIAL_STREAMS")
        .or(alone)
        .unwrap_or(usual);
    let first = first.unwrap_or(1);
    eprintln!("seeds {first} to {}", first + count - 1);
    first..first + count
}

/// What came back of a stream.
#[derive(Default)]
struct Take {
    frames: Vec<Vec<u8>>,
    /// How many frames there were at each barrier.
    marks: Vec<usize>,
    /// The server has closed.
    is_closed: bool,
    /// What kept it from its end.
    fault: Option<String>,
}

async fn difference(pair: &Pair, stream: &Stream, wait: Duration) -> Option<String> {
    pair.clear().await;
    let wanted = play(pair.direct, stream, None, wait).await;
    if wanted.fault.is_some() {
        return compare(wanted, Take::default());
    }
    pair.clear().await;
    let heard = play(pair.gateway, stream, Some(&wanted.marks), wait).await;
    compare(wanted, heard)
}

/// Plays a stream to the server's end of it. A barrier waits for as many frames as came directly.
async fn play(
    address: SocketAddr,
    stream: &Stream,
    marks: Option<&[usize]>,
    wait: Duration,
) -> Take {
    let (mut reader, mut writer) = tokio::io::split(servers::dial(address).await.unwrap());
    let (take, news) = (RefCell::new(Take::default()), Notify::new());
    let read = async {
        let mut input = Vec::new();
        let mut at = 0;
        // An end by reset is an end, too.
        while let Ok(1..) = reader.read_buf(&mut input).await {
            while let Some(length) = frame(&input[at..]) {
                take.borrow_mut()
                    .frames
                    .push(input[at..at + length].to_vec());
                at += length;
            }
            if at == input.len() {
                input.clear();
                at = 0;
            }
            news.notify_waiters();
        }
        take.borrow_mut().is_closed = true;
        news.notify_waiters();
        if at < input.len() {
            take.borrow_mut().fault = Some(format!("a part: {}", shown(&input[at..])));
        }
    };
    let write = async {
        let mut dice = Dice::new(stream.cuts);
        let mut waiting = Vec::new();
        for unit in &stream.units {
            waiting.extend_from_slice(&unit.bytes);
            let Some(word) = &unit.barrier else { continue };
            send(&mut writer, &mut waiting, &mut dice).await;
            let at = take.borrow().marks.len();
            loop {
                let told = news.notified();
                let is_there = {
                    let take = take.borrow();
                    match marks {
                        _ if take.is_closed => true,
                        Some(marks) => marks.get(at).is_none_or(|mark| take.frames.len() >= *mark),
                        None => take
                            .frames
                            .last()
                            .is_some_and(|frame| ends_with(frame, word)),
                    }
                };
                if is_there {
                    break;
                }
                told.await;
            }
            let frames = take.borrow().frames.len();
            take.borrow_mut().marks.push(frames);
        }
        send(&mut writer, &mut waiting, &mut dice).await;
    };
    let outcome = timeout(wait, async { tokio::join!(read, write) }).await;
    let mut take = take.into_inner();
    if outcome.is_err() {
        take.fault = Some("no end".to_owned());
    }
    take
}

/// Sends what waits, cut at random. The server may have closed: what it said before that counts.
async fn send(writer: &mut (impl AsyncWriteExt + Unpin), waiting: &mut Vec<u8>, dice: &mut Dice) {
    let mut rest = waiting.as_slice();
    while !rest.is_empty() {
        let length = match dice.roll(4) {
            0 => 1 + dice.roll(3),
            1 => 1 + dice.roll(200),
            _ => 1 + dice.roll(20_000),
        };
        let (piece, after) = rest.split_at(length.min(rest.len()));
        if writer.write_all(piece).await.is_err() {
            break;
        }
        rest = after;
        tokio::task::yield_now().await;
    }
    waiting.clear();
}

fn ends_with(frame: &[u8], word: &str) -> bool {
    frame.ends_with(format!("\r\n{word}\r\n").as_bytes())
}

/// Where two takes of one stream part; `None`: nowhere.
fn compare(wanted: Take, heard: Take) -> Option<String> {
    if wanted.fault.is_some() || heard.fault.is_some() {
        let counts = (wanted.frames.len(), heard.frames.len());
        return Some(format!(
            "direct: {:?}, through: {:?}, frames {counts:?}, last {:?}",
            wanted.fault,
            heard.fault,
            heard.frames.last().map(|frame| shown(frame)),
        ));
    }
    let (wanted, heard): (Heard, Heard) = (sort(wanted.frames), sort(heard.frames));
    for (kind, wanted, heard) in [
        ("reply", &wanted.replies, &heard.replies),
        ("message", &wanted.messages, &heard.messages),
    ] {
        for at in 0..wanted.len().max(heard.len()) {
            if wanted.get(at) != heard.get(at) {
                let text = |of: &[Vec<u8>]| {
                    of.get(at)
                        .map_or("nothing".to_owned(), |frame| shown(frame))
                };
                return Some(format!(
                    "{kind} {at}\n  direct   {}\n  through  {}",
                    text(wanted),
                    text(heard)
                ));
            }
        }
    }
    None
}

/// Leaves out of a stream what is not needed for it to differ.
async fn shorten(pair: &Pair, mut stream: Stream, mut last: String) -> (Stream, String) {
    let mut size = stream.units.len() / 2;
    let mut tries = 0;
    while size > 0 {
        // Never without the login.
        let mut at = 1;
        while at < stream.units.len() && tries < TRIES {
            tries += 1;
            let mut units: Vec<Unit> = stream.units.clone();
            units.drain(at..(at + size).min(units.len()));
            // Without an end the server would wait.
            units.push(Unit {
                bytes: encode(&["QUIT"]),
                barrier: None,
            });
            let shorter = Stream { units, ..stream };
            match difference(pair, &shorter, WAIT_SHORT).await {
                Some(difference) if !difference.starts_with("direct: Some") => {
                    stream = shorter;
                    stream.units.pop();
                    last = difference;
                }
                _ => at += size,
            }
        }
        size /= 2;
    }
    (stream, last)
}

fn listed(stream: &Stream) -> String {
    let units = stream.units.iter();
    let lines: Vec<_> = units
        .map(|unit| format!("  {}\n", shown(&unit.bytes)))
        .collect();
    lines.concat()
}
