//! Bounds: who is given up, and who is not.

use tokio::{io::AsyncReadExt, net::TcpListener};

use super::*;
use crate::net::{self, Address};

const BOUNDS: Bounds = Bounds {
    bytes_max: 1_000_000,
    message_bytes_max: 500_000,
    message_bytes_soft: 100_000,
    message_bytes_for: Duration::from_mins(1),
};

async fn outbox() -> (Arc<Outbox>, Stream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address {
        host: "127.0.0.1",
        port: listener.local_addr().unwrap().port(),
    };
    let client = net::dial(address, Duration::from_secs(10)).await;
    let (accepted, _) = listener.accept().await.unwrap();
    let outbox = Outbox::new(Stream::plain(accepted).unwrap(), BOUNDS);
    (outbox, client.unwrap())
}

fn message(bytes: usize) -> Bytes {
    Bytes::from(vec![b'm'; bytes])
}

#[tokio::test]
async fn a_subscriber_is_given_up_beyond_its_bound_and_holds_nothing() {
    let (outbox, _client) = outbox().await;
    for _ in 0..5 {
        outbox.publish(&message(100_000));
    }
    assert_eq!(outbox.standing().waiting, 500_000);
    assert_eq!(outbox.standing().ending, None);
    outbox.publish(&message(1));
    let standing = outbox.standing();
    assert_eq!((standing.waiting, standing.ending), (0, Some(Ending::Slow)));
    outbox.publish(&message(1));
    assert_eq!(outbox.standing().waiting, 0);
}

#[tokio::test]
async fn messages_that_wait_for_the_end_of_a_reply_count_too() {
    let (outbox, _client) = outbox().await;
    outbox.owe(1);
    outbox.deliver(&vec![b'r'; 300_000], 0);
    outbox.publish(&message(200_000));
    assert_eq!(outbox.standing().ending, None);
    outbox.publish(&message(1));
    assert_eq!(outbox.standing().ending, Some(Ending::Slow));
}

#[tokio::test]
async fn a_subscriber_may_be_slow_for_some_time_only() {
    let (outbox, _client) = outbox().await;
    tokio::time::pause();
    outbox.publish(&message(99_999));
    assert!(!outbox.look_at_clock(), "not slow");
    outbox.publish(&message(1));
    tokio::time::advance(Duration::from_secs(59)).await;
    assert!(outbox.look_at_clock());
    assert_eq!(outbox.standing().ending, None);
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(outbox.look_at_clock());
    assert_eq!(outbox.standing().ending, Some(Ending::Slow));
    assert!(!outbox.look_at_clock(), "looked after no longer");
}

#[tokio::test]
async fn a_subscriber_that_has_caught_up_is_slow_no_longer() {
    let (outbox, mut client) = outbox().await;
    outbox.publish(&message(400_000));
    let mut read = vec![0; 400_000];
    let reads = client.read_exact(&mut read);
    let writes = async {
        while outbox.standing().waiting > 0 {
            outbox.line.lock().write_now();
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(reads, writes).0.unwrap();
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(61)).await;
    outbox.publish(&message(150_000));
    assert!(outbox.look_at_clock());
    assert_eq!(outbox.standing().ending, None, "its time begins anew");
}

#[tokio::test]
async fn the_reply_under_way_is_let_through_and_nothing_after_it() {
    let (outbox, _client) = outbox().await;
    outbox.owe(3);
    outbox.deliver(&[b'r'; 10], 1);
    outbox.deliver(&vec![b'r'; 900_000], 0);
    outbox.deliver(&vec![b'r'; 900_000], 0);
    outbox.deliver(&[b'r'; 10], 1);
    assert_eq!(outbox.standing().waiting, 1_800_020);
    assert_eq!(outbox.standing().ending, None);
    outbox.deliver(&[b'r'; 10], 1);
    let standing = outbox.standing();
    assert_eq!((standing.waiting, standing.ending), (0, Some(Ending::Slow)));
}

#[tokio::test]
async fn a_trunk_that_flushes_leaves_a_slow_subscriber_to_be_watched() {
    let (outbox, _client) = outbox().await;
    outbox.owe(1);
    assert!(outbox.deliver(b"r", 0));
    // Behind the reply under way, whatever the socket takes.
    assert!(outbox.publish(&message(200_000)), "by those who tell it");
    outbox.flush();
    assert!(outbox.flush_watching());
    assert!(!outbox.flush_watching(), "once");
}
