//! Clients that block: sharing, order, their own timeouts, and that nothing is lost when they leave.

use super::{alone::Alone, *};

/// Joins the line and returns when the client stands in it: what is answered at once shows that what
/// follows in the same packet has been taken up.
async fn join(client: &mut Client, words: &[&str]) {
    let mut bytes = command(&["ECHO", "here"]);
    bytes.extend(command(words));
    client.stream.write_all(&bytes).await.unwrap();
    client.expect("$4\r\nhere\r\n").await;
}

fn popped(key: &str, element: &str) -> String {
    format!(
        "*2\r\n${}\r\n{key}\r\n${}\r\n{element}\r\n",
        key.len(),
        element.len()
    )
}

async fn length(direct: &mut Client, key: &str) -> usize {
    direct.send(&["LLEN", key]).await;
    while !direct.input.ends_with(b"\r\n") {
        direct.stream.read_buf(&mut direct.input).await.unwrap();
    }
    let text = String::from_utf8(std::mem::take(&mut direct.input)).unwrap();
    text.trim_start_matches(':').trim().parse().unwrap()
}

/// The element of a pop; `None` at the end of the connection.
async fn element(client: &mut Client) -> Option<String> {
    while String::from_utf8_lossy(&client.input).lines().count() < 5
        || !client.input.ends_with(b"\n")
    {
        let read = client.stream.read_buf(&mut client.input).await;
        if read.unwrap_or(0) == 0 {
            return None;
        }
    }
    let text = String::from_utf8(std::mem::take(&mut client.input)).unwrap();
    text.lines().nth(4).map(str::to_owned)
}

#[tokio::test]
async fn clients_that_wait_for_the_same_share_an_upstream_in_their_order() {
    const CLIENTS: usize = 300;
    let Some(gateway) = Gateway::start("share").await else {
        return;
    };
    let mut direct = gateway.direct().await;
    direct.send(&["DEL", "share-q"]).await;
    direct.stream.read_buf(&mut direct.input).await.unwrap();
    direct.input.clear();
    let mut clients = Vec::new();
    for at in 0..CLIENTS {
        let mut client = gateway.client(Role::Write).await;
        // The timeout is each client's own, and does not part those who wait for the same.
        join(&mut client, &["BLPOP", "share-q", &format!("{}", 100 + at)]).await;
        clients.push(client);
    }
    assert!(gateway.upstreams(&mut direct).await.len() <= 3);
    // One by one, then many at once.
    for (at, client) in clients.iter_mut().enumerate().take(10) {
        direct.send(&["RPUSH", "share-q", &at.to_string()]).await;
        direct.expect(":1\r\n").await;
        client.expect(&popped("share-q", &at.to_string())).await;
    }
    let rest: Vec<String> = (10..CLIENTS).map(|at| at.to_string()).collect();
    let mut push = vec!["RPUSH", "share-q"];
    push.extend(rest.iter().map(String::as_str));
    direct.send(&push).await;
    for (at, client) in clients.iter_mut().enumerate().skip(10) {
        client.expect(&popped("share-q", &at.to_string())).await;
    }
}

#[tokio::test]
async fn elements_for_clients_that_leave_are_had_by_others_or_stay() {
    const CLIENTS: usize = 60;
    const ELEMENTS: usize = 3000;
    let Some(gateway) = Gateway::start("share-leave").await else {
        return;
    };
    let mut direct = gateway.direct().await;
    direct.send(&["DEL", "leave-q"]).await;
    direct.stream.read_buf(&mut direct.input).await.unwrap();
    direct.input.clear();
    let tasks = Shutdown::new();
    let (heard, mut delivered) = tokio::sync::mpsc::channel::<String>(ELEMENTS);
    for at in 0..CLIENTS {
        let (mut client, heard) = (gateway.client(Role::Write).await, heard.clone());
        // Some leave while they wait, or while they are about to be served, and hear the rest.
        let leaves_after = (at % 3 == 0).then_some(at);
        tasks.spawn("test-worker", async move {
            let mut count = 0;
            loop {
                client.send(&["BLPOP", "leave-q", "0"]).await;
                if leaves_after == Some(count) {
                    client.stream.shutdown().await.unwrap();
                }
                let Some(element) = element(&mut client).await else {
                    return;
                };
                heard.send(element).await.unwrap();
                count += 1;
            }
        });
    }
    drop(heard);
    let push = tasks.clone();
    let mut pusher = gateway.client(Role::Write).await;
    push.spawn("test-pusher", async move {
        for first in (0..ELEMENTS).step_by(10) {
            let names: Vec<String> = (first..first + 10).map(|at| at.to_string()).collect();
            let mut words = vec!["RPUSH", "leave-q"];
            words.extend(names.iter().map(String::as_str));
            pusher.send(&words).await;
            while !pusher.input.ends_with(b"\r\n") {
                pusher.stream.read_buf(&mut pusher.input).await.unwrap();
            }
            pusher.input.clear();
        }
    });
    let mut seen = std::collections::HashSet::new();
    while seen.len() < ELEMENTS {
        let element = timeout(WAIT_MAX, delivered.recv()).await;
        let element = element
            .unwrap_or_else(|_| panic!("{} of {ELEMENTS}", seen.len()))
            .unwrap();
        assert!(seen.insert(element), "delivered twice");
    }
    assert_eq!(length(&mut direct, "leave-q").await, 0);
}

#[tokio::test]
async fn nothing_is_popped_once_everybody_has_left() {
    let Some(gateway) = Gateway::start("share-left").await else {
        return;
    };
    let mut direct = gateway.direct().await;
    let key = |round: usize| format!("left-{round}");
    for round in 0..40 {
        let key = key(round);
        direct.send(&["SET", &key, ""]).await;
        direct.send(&["DEL", &key]).await;
        direct.expect("+OK\r\n:1\r\n").await;
        let mut client = gateway.client(Role::Write).await;
        if round % 2 == 0 {
            join(&mut client, &["BLPOP", &key, "0"]).await;
        } else {
            let pop = ["BLMPOP", "0", "1", &key, "RIGHT", "COUNT", "2"];
            join(&mut client, &pop).await;
        }
        drop(client);
        // While the gateway may not know it yet: what is on its way comes back.
        direct.send(&["RPUSH", &key, "a", "b", "c"]).await;
        direct.expect(":3\r\n").await;
    }
    until(async || gateway.blocked(&mut direct).await == 0).await;
    let listed = "return table.concat(redis.call('lrange', KEYS[1], 0, -1))";
    for round in 0..40 {
        let ask = ["EVAL", listed, "1", &key(round)];
        until(async || direct.ask(&ask).await == "abc").await;
    }
}

#[tokio::test]
async fn more_lines_than_leases_take_turns_and_nobody_starves() {
    const LINES: usize = 40;
    let Some(gateway) = Gateway::start("share-turns").await else {
        return;
    };
    let mut direct = gateway.direct().await;
    let mut clients = Vec::new();
    for at in 0..LINES {
        let mut client = gateway.client(Role::Write).await;
        let key = format!("turn-{at}");
        direct.send(&["SET", &key, ""]).await;
        direct.send(&["DEL", &key]).await;
        direct.expect("+OK\r\n:1\r\n").await;
        match at % 3 {
            0 => join(&mut client, &["BZPOPMIN", &key, "0"]).await,
            1 => join(&mut client, &["BRPOPLPUSH", &key, "turn-to", "0"]).await,
            _ => join(&mut client, &["XREAD", "BLOCK", "0", "STREAMS", &key, "$"]).await,
        }
        clients.push(client);
    }
    // A transaction step by step needs a lease, too.
    let mut other = gateway.client(Role::Write).await;
    other.send(&["WATCH", "w"]).await;
    other.expect("+OK\r\n").await;
    other.send(&["UNWATCH"]).await;
    other.expect("+OK\r\n").await;
    for (at, client) in clients.iter_mut().enumerate() {
        let key = format!("turn-{at}");
        match at % 3 {
            0 => {
                direct.send(&["ZADD", &key, "1.5", "m"]).await;
                direct.expect(":1\r\n").await;
                let wanted = format!("*3\r\n${}\r\n{key}\r\n$1\r\nm\r\n$3\r\n1.5\r\n", key.len());
                client.expect(&wanted).await;
            }
            1 => {
                direct.send(&["RPUSH", &key, "v"]).await;
                direct.expect(":1\r\n").await;
                client.expect("$1\r\nv\r\n").await;
            }
            _ => {
                direct.send(&["XADD", &key, "5-1", "f", "v"]).await;
                direct.expect("$3\r\n5-1\r\n").await;
                let entry = "*1\r\n*2\r\n$3\r\n5-1\r\n*2\r\n$1\r\nf\r\n$1\r\nv\r\n";
                let wanted = format!("*1\r\n*2\r\n${}\r\n{key}\r\n{entry}", key.len());
                client.expect(&wanted).await;
            }
        }
    }
    until(async || gateway.blocked(&mut direct).await == 0).await;
}

#[tokio::test]
async fn each_client_keeps_its_own_timeout_and_can_be_unblocked() {
    let Some(gateway) = Gateway::start("share-time").await else {
        return;
    };
    let mut direct = gateway.direct().await;
    let mut long = gateway.client(Role::Write).await;
    let mut short = gateway.client(Role::Write).await;
    let mut wrong = gateway.client(Role::Write).await;
    long.send(&["CLIENT", "ID"]).await;
    until(async || {
        long.stream.read_buf(&mut long.input).await.unwrap();
        long.input.ends_with(b"\r\n")
    })
    .await;
    let id = String::from_utf8(std::mem::take(&mut long.input)).unwrap();
    let id = id.trim_start_matches(':').trim().to_owned();
    join(&mut long, &["BRPOP", "time-q", "0"]).await;
    let began = Instant::now();
    short.send(&["BRPOP", "time-q", "0.2"]).await;
    short.expect("*-1\r\n").await;
    let took = began.elapsed();
    assert!(
        took >= Duration::from_millis(195) && took < Duration::from_millis(900),
        "{took:?}"
    );
    for (reason, wanted) in [
        (
            &["CLIENT", "UNBLOCK", &id, "ERROR"][..],
            "-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n",
        ),
        (&["CLIENT", "UNBLOCK", &id], "*-1\r\n"),
    ] {
        short.send(reason).await;
        short.expect(":1\r\n").await;
        long.expect(wanted).await;
        join(&mut long, &["BRPOP", "time-q", "0"]).await;
    }
    direct.send(&["SET", "time-s", "x"]).await;
    direct.expect("+OK\r\n").await;
    wrong.send(&["BLPOP", "time-s", "0"]).await;
    wrong
        .expect("-WRONGTYPE Operation against a key holding the wrong kind of value\r\n")
        .await;
    wrong.send(&["BLPOP", "time-q", "-1"]).await;
    wrong.expect("-ERR timeout is negative\r\n").await;
}

/// Takes every lease, so that what blocks gets none.
async fn hold_all(gateway: &Gateway) -> Vec<Client> {
    let mut holders = Vec::new();
    for _ in 0..8 {
        let mut holder = gateway.client(Role::Write).await;
        holder.send(&["WATCH", "late-w"]).await;
        let watches = holder.expect("+OK\r\n");
        let Ok(()) = timeout(Duration::from_millis(300), watches).await else {
            break;
        };
        holders.push(holder);
    }
    holders
}

/// Commands that block for a millisecond, on keys of [`fill`], and what they are answered.
fn late(is_new: bool) -> Vec<(&'static str, String)> {
    let wrong = "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n".to_owned();
    let (score, null, streams) = if is_new {
        (",1.5\r\n", "_\r\n".to_owned(), "%1\r\n")
    } else {
        ("$3\r\n1.5\r\n", "*-1\r\n".to_owned(), "*1\r\n*2\r\n")
    };
    let entry = "*2\r\n$3\r\n1-1\r\n*2\r\n$1\r\nf\r\n$1\r\nv\r\n";
    let read = format!("{streams}$6\r\nlate-x\r\n*1\r\n{entry}");
    let listed = "*2\r\n$6\r\nlate-l\r\n*1\r\n$1\r\nc\r\n".to_owned();
    let scored = |member| format!("$6\r\nlate-z\r\n$1\r\n{member}\r\n{score}");
    let many = format!("*2\r\n$6\r\nlate-z\r\n*1\r\n*2\r\n$1\r\nn\r\n{score}");
    vec![
        ("BLPOP late-l 0.001", popped("late-l", "a")),
        ("BRPOP late-none late-l 0.001", popped("late-l", "f")),
        (
            "BLMOVE late-l late-none LEFT LEFT 0.001",
            "$1\r\nb\r\n".into(),
        ),
        ("BRPOPLPUSH late-l late-none 0.001", "$1\r\ne\r\n".into()),
        ("BLMPOP 0.001 1 late-l LEFT", listed),
        ("BLPOP late-s 0.001", wrong.clone()),
        ("BZPOPMIN late-s 0.001", wrong),
        ("BZPOPMIN late-z 0.001", format!("*3\r\n{}", scored("m"))),
        ("BZPOPMAX late-z 0.001", format!("*3\r\n{}", scored("o"))),
        ("BZMPOP 0.001 1 late-z MIN", many),
        ("XREAD BLOCK 1 STREAMS late-x 0", read.clone()),
        ("XREADGROUP GROUP g c BLOCK 1 STREAMS late-x >", read),
        (
            "XREADGROUP GROUP g c BLOCK 1 STREAMS late-x >",
            null.clone(),
        ),
        ("BLPOP late-gone 0.001", null),
        ("LRANGE late-l 0 -1", "*1\r\n$1\r\nd\r\n".into()),
    ]
}

async fn fill(direct: &mut Client) {
    for line in [
        "DEL late-l late-z late-x late-none late-q",
        "RPUSH late-l a b c d e f",
        "ZADD late-z 1.5 m 1.5 n 1.5 o",
        "XADD late-x 1-1 f v",
        "XGROUP CREATE late-x g 0",
        "SET late-s x",
    ] {
        direct.send(&line.split(' ').collect::<Vec<_>>()).await;
    }
    until(async || {
        direct.stream.read_buf(&mut direct.input).await.unwrap();
        direct.input.ends_with(b"+OK\r\n+OK\r\n")
    })
    .await;
    direct.input.clear();
}

#[tokio::test]
async fn a_wait_that_ends_before_its_turn_has_what_is_there() {
    let Some(gateway) = Gateway::start("share-late").await else {
        return;
    };
    let mut direct = gateway.direct().await;
    let holders = hold_all(&gateway).await;
    for version in ["2", "3"] {
        fill(&mut direct).await;
        let mut client = gateway.client(Role::Write).await;
        client.send(&["HELLO", version]).await;
        until(async || {
            client.stream.read_buf(&mut client.input).await.unwrap();
            client.input.ends_with(b"modules\r\n*0\r\n")
        })
        .await;
        client.input.clear();
        for (line, wanted) in late(version == "3") {
            client.send(&line.split(' ').collect::<Vec<_>>()).await;
            client.expect(&wanted).await;
        }
    }
    // A line of them: the first to the first, and nothing for those for whom there is nothing.
    let mut line = Vec::new();
    for _ in 0..10 {
        let mut client = gateway.client(Role::Write).await;
        join(&mut client, &["BLPOP", "late-q", "0.5"]).await;
        line.push(client);
    }
    direct.send(&["RPUSH", "late-q", "0", "1", "2", "3"]).await;
    direct.expect(":4\r\n").await;
    for (at, client) in line.iter_mut().enumerate() {
        if at < 4 {
            client.expect(&popped("late-q", &at.to_string())).await;
        } else {
            client.expect("*-1\r\n").await;
        }
    }
    drop(holders);
}

#[tokio::test]
async fn a_wait_in_a_pause_of_writes_ends_after_it_and_holds_nobody_up() {
    let Some(alone) = Alone::start().await else {
        return;
    };
    let gateway = Gateway::before(&alone.url, &alone.url, "share-pause").await;
    let mut direct = gateway.direct().await;
    let mut pauser = gateway.client(Role::Admin).await;
    let mut reader = gateway.client(Role::Write).await;
    reader.send(&["SET", "pause-k", "v"]).await;
    reader.expect("+OK\r\n").await;
    // With a lease for the line, and with none.
    for is_crowded in [false, true] {
        let holders = if is_crowded {
            hold_all(&gateway).await
        } else {
            Vec::new()
        };
        let mut before = gateway.client(Role::Write).await;
        join(&mut before, &["BLPOP", "pause-before", "0"]).await;
        let mut client = gateway.client(Role::Write).await;
        let mut leaving = gateway.client(Role::Write).await;
        let mut unblocked = gateway.client(Role::Write).await;
        let number = id(&mut unblocked).await;
        pauser.send(&["CLIENT", "PAUSE", "60000", "WRITE"]).await;
        pauser.expect("+OK\r\n").await;
        join(&mut client, &["BLPOP", "pause-q", "0.05"]).await;
        join(&mut leaving, &["BLPOP", "pause-left", "0"]).await;
        join(&mut unblocked, &["BLPOP", "pause-other", "0"]).await;
        drop((before, leaving));
        pauser.send(&["CLIENT", "UNBLOCK", &number]).await;
        pauser.expect(":1\r\n").await;
        unblocked.expect("*-1\r\n").await;
        // A wait that is over is not ended: only its absence could be seen.
        sleep(Duration::from_millis(300)).await;
        reader.send(&["GET", "pause-k"]).await;
        reader.expect("$1\r\nv\r\n").await;
        pauser.send(&["CLIENT", "UNPAUSE"]).await;
        pauser.expect("+OK\r\n").await;
        client.expect("*-1\r\n").await;
        drop(holders);
        until(async || gateway.blocked(&mut direct).await == 0).await;
    }
    // A pause that ends by itself.
    pauser.send(&["CLIENT", "PAUSE", "400", "WRITE"]).await;
    pauser.expect("+OK\r\n").await;
    let mut client = gateway.client(Role::Write).await;
    client.send(&["BLPOP", "pause-q", "0.05"]).await;
    reader.send(&["GET", "pause-k"]).await;
    reader.expect("$1\r\nv\r\n").await;
    client.expect("*-1\r\n").await;
    // The server has served all of it.
    direct.send(&["PING"]).await;
    direct.expect("+PONG\r\n").await;
}
