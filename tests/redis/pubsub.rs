//! Subscribers in numbers: one upstream, everything in order, and counts that are the truth.

use super::*;

/// So many subscribers of each of so many channels.
async fn subscribed(gateway: &Gateway, channels: usize, each: usize) -> Vec<(String, Client)> {
    let mut subscribers = Vec::new();
    for at in 0..channels * each {
        let channel = format!("crowd-{}", at % channels);
        let mut client = gateway.client(Role::Read).await;
        client.send(&["SUBSCRIBE", &channel]).await;
        client
            .expect(&format!(
                "*3\r\n$9\r\nsubscribe\r\n$7\r\n{channel}\r\n:1\r\n"
            ))
            .await;
        subscribers.push((channel, client));
    }
    subscribers
}

#[tokio::test]
async fn many_subscribers_hear_all_in_order_and_are_counted() {
    const CHANNELS: usize = 10;
    const EACH: usize = 20;
    const MESSAGES: usize = 50;
    let Some(gateway) = Gateway::start("crowd").await else {
        return;
    };
    let mut direct = gateway.direct().await;
    let mut publisher = gateway.client(Role::Write).await;
    publisher.send(&["PUBLISH", "crowd-0", "nobody"]).await;
    publisher.expect(":0\r\n").await;
    let mut subscribers = subscribed(&gateway, CHANNELS, EACH).await;
    assert!(gateway.upstreams(&mut direct).await.len() <= 2);
    let mut pattern = gateway.client(Role::Read).await;
    pattern.send(&["PSUBSCRIBE", "crowd-[0-3]"]).await;
    pattern
        .expect("*3\r\n$10\r\npsubscribe\r\n$11\r\ncrowd-[0-3]\r\n:1\r\n")
        .await;
    let mut other = gateway.direct().await;
    other.send(&["SUBSCRIBE", "crowd-1", "crowd-alone"]).await;
    other
        .expect("*3\r\n$9\r\nsubscribe\r\n$7\r\ncrowd-1\r\n:1\r\n*3\r\n$9\r\nsubscribe\r\n$11\r\ncrowd-alone\r\n:2\r\n")
        .await;
    // The truth: those behind the gateway, and those elsewhere.
    publisher
        .send(&[
            "PUBSUB",
            "NUMSUB",
            "crowd-1",
            "crowd-9",
            "crowd-alone",
            "crowd-none",
        ])
        .await;
    publisher
        .expect(
            "*8\r\n$7\r\ncrowd-1\r\n:21\r\n$7\r\ncrowd-9\r\n:20\r\n$11\r\ncrowd-alone\r\n:1\r\n\
             $10\r\ncrowd-none\r\n:0\r\n",
        )
        .await;
    for message in 0..MESSAGES {
        for channel in 0..CHANNELS {
            let (channel, text) = (format!("crowd-{channel}"), message.to_string());
            publisher.send(&["PUBLISH", &channel, &text]).await;
        }
    }
    for _ in 0..MESSAGES {
        for channel in 0..CHANNELS {
            let heard = match channel {
                1 => 22,
                0..=3 => 21,
                _ => 20,
            };
            publisher.expect(&format!(":{heard}\r\n")).await;
        }
    }
    for (channel, client) in &mut subscribers {
        for message in 0..MESSAGES {
            let text = message.to_string();
            let wanted = format!(
                "*3\r\n$7\r\nmessage\r\n$7\r\n{channel}\r\n${}\r\n{text}\r\n",
                text.len()
            );
            client.expect(&wanted).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_does_not_read_is_closed_and_others_hear_everything() {
    const BATCH: usize = 16;
    // What a subscriber may leave unread, what both sockets hold, and then some.
    const BATCHES_MAX: usize = 160;
    let Some(gateway) = Gateway::start("stopped").await else {
        return;
    };
    let mut publisher = gateway.client(Role::Write).await;
    let (mut stops, mut reads) = (
        gateway.client(Role::Read).await,
        gateway.client(Role::Read).await,
    );
    for client in [&mut stops, &mut reads] {
        client.send(&["SUBSCRIBE", "stopped"]).await;
        client
            .expect("*3\r\n$9\r\nsubscribe\r\n$7\r\nstopped\r\n:1\r\n")
            .await;
    }
    let mut sent = 0;
    let mut is_closed = false;
    while !is_closed {
        let texts: Vec<String> = (0..BATCH)
            .map(|at| format!("{:032768}", sent + at))
            .collect();
        for text in &texts {
            publisher.send(&["PUBLISH", "stopped", text]).await;
        }
        for text in &texts {
            let mut heard = [0; 4];
            publisher.stream.read_exact(&mut heard).await.unwrap();
            is_closed |= &heard == b":1\r\n";
            reads
                .expect(&format!(
                    "*3\r\n$7\r\nmessage\r\n$7\r\nstopped\r\n$32768\r\n{text}\r\n"
                ))
                .await;
        }
        sent += BATCH;
        assert!(sent < BATCH * BATCHES_MAX, "never closed");
    }
    assert!(sent * 32768 > Settings::default().subscriber_bytes_max);
    let mut had = Vec::new();
    let end = timeout(WAIT_MAX, stops.stream.read_to_end(&mut had)).await;
    assert!(end.unwrap().is_ok_and(|bytes| bytes < sent * 32768));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_counted_who_has_left() {
    let Some(gateway) = Gateway::start("left").await else {
        return;
    };
    let mut publisher = gateway.client(Role::Write).await;
    let mut client = gateway.client(Role::Read).await;
    for round in 0..200 {
        let channel = format!("left-{:03}", round % 7);
        client.send(&["SUBSCRIBE", &channel]).await;
        client
            .expect(&format!(
                "*3\r\n$9\r\nsubscribe\r\n$8\r\n{channel}\r\n:1\r\n"
            ))
            .await;
        publisher.send(&["PUBLISH", &channel, "x"]).await;
        publisher.expect(":1\r\n").await;
        client
            .expect(&format!(
                "*3\r\n$7\r\nmessage\r\n$8\r\n{channel}\r\n$1\r\nx\r\n"
            ))
            .await;
        client.send(&["UNSUBSCRIBE", &channel]).await;
        client
            .expect(&format!(
                "*3\r\n$11\r\nunsubscribe\r\n$8\r\n{channel}\r\n:0\r\n"
            ))
            .await;
        publisher.send(&["PUBLISH", &channel, "x"]).await;
        publisher.expect(":0\r\n").await;
    }
}
