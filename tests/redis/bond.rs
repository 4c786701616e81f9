//! State of a connection that a client has for itself: tracking, and being told of every command.

use super::*;

#[tokio::test]
async fn tracked_keys_are_invalidated_while_the_client_is_idle_and_busy() {
    let Some(gateway) = Gateway::start("track").await else {
        return;
    };
    let mut direct = gateway.direct().await;
    let mut client = gateway.client(Role::Read).await;
    client.send(&["HELLO", "3"]).await;
    until_contains(&mut client, "modules\r\n*0\r\n").await;
    client.send(&["CLIENT", "TRACKING", "ON"]).await;
    client.expect("+OK\r\n").await;
    client.send(&["GET", "track-k"]).await;
    client.expect("_\r\n").await;
    direct.send(&["SET", "track-k", "v"]).await;
    direct.expect("+OK\r\n").await;
    client
        .expect(">2\r\n$10\r\ninvalidate\r\n*1\r\n$7\r\ntrack-k\r\n")
        .await;
    client.send(&["GET", "track-k"]).await;
    client.expect("$1\r\nv\r\n").await;
    client
        .send(&["CLIENT", "TRACKING", "ON", "REDIRECT", "999999"])
        .await;
    client
        .expect("-ERR The client ID you want redirect to does not exist\r\n")
        .await;
    direct.send(&["DEL", "track-k"]).await;
    direct.expect(":1\r\n").await;
    client
        .expect(">2\r\n$10\r\ninvalidate\r\n*1\r\n$7\r\ntrack-k\r\n")
        .await;
}

#[tokio::test]
async fn an_admin_is_told_of_every_command() {
    let Some(gateway) = Gateway::start("monitor").await else {
        return;
    };
    let mut writer = gateway.client(Role::Write).await;
    writer.send(&["MONITOR"]).await;
    writer
        .expect("-NOPERM this user has no permissions to run the 'monitor' command\r\n")
        .await;
    let mut admin = gateway.client(Role::Admin).await;
    admin.send(&["MONITOR"]).await;
    admin.expect("+OK\r\n").await;
    writer.send(&["SET", "monitor-k", "seen"]).await;
    writer.expect("+OK\r\n").await;
    until_contains(&mut admin, "\"SET\" \"monitor-k\" \"seen\"").await;
    admin.send(&["QUIT"]).await;
    until_contains(&mut admin, "+OK\r\n").await;
    assert!(admin.is_closed().await);
}

#[tokio::test]
async fn invalidations_are_redirected_in_the_version_of_who_hears_them() {
    let Some(gateway) = Gateway::start("redirect").await else {
        return;
    };
    let mut direct = gateway.direct().await;
    let mut tracking = gateway.client(Role::Read).await;
    let mut hearing = gateway.client(Role::Read).await;
    let number = id(&mut hearing).await;
    hearing.send(&["SUBSCRIBE", "__redis__:invalidate"]).await;
    hearing
        .expect("*3\r\n$9\r\nsubscribe\r\n$20\r\n__redis__:invalidate\r\n:1\r\n")
        .await;
    let on = ["CLIENT", "TRACKING", "ON", "REDIRECT", &number];
    tracking.send(&on).await;
    tracking.expect("+OK\r\n").await;
    let own = format!(":{number}\r\n");
    tracking.send(&["CLIENT", "GETREDIR"]).await;
    tracking.expect(&own).await;
    tracking.send(&["CLIENT", "TRACKINGINFO"]).await;
    tracking
        .expect(&format!(
            "*6\r\n$5\r\nflags\r\n*1\r\n$2\r\non\r\n$8\r\nredirect\r\n{own}$8\r\nprefixes\r\n*0\r\n"
        ))
        .await;
    tracking.send(&["GET", "redirect-k"]).await;
    tracking.expect("$-1\r\n").await;
    direct.send(&["SET", "redirect-k", "v"]).await;
    direct.expect("+OK\r\n").await;
    let key = "*1\r\n$10\r\nredirect-k\r\n";
    let message = "*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n";
    hearing.expect(&format!("{message}{key}")).await;
    // It goes on, in RESP3, until the one who hears has left: then who tracks is told so.
    tracking.send(&["HELLO", "3"]).await;
    until_contains(&mut tracking, "modules\r\n*0\r\n").await;
    tracking.send(&["GET", "redirect-k"]).await;
    tracking.expect("$1\r\nv\r\n").await;
    hearing.send(&["QUIT"]).await;
    hearing.expect("+OK\r\n").await;
    direct.send(&["DEL", "redirect-k"]).await;
    direct.expect(":1\r\n").await;
    until_contains(&mut tracking, "tracking-redir-broken").await;
    tracking.send(&["CLIENT", "TRACKING", "OFF"]).await;
    until_contains(&mut tracking, "+OK\r\n").await;
}

#[tokio::test]
async fn databases_are_selected_while_watching_and_inside_transactions() {
    let Some(gateway) = Gateway::start("selects").await else {
        return;
    };
    let mut client = gateway.client(Role::Admin).await;
    for (words, reply) in [
        (&["SELECT", "5"][..], "+OK\r\n"),
        (&["SET", "selects", "5"], "+OK\r\n"),
        (&["WATCH", "selects"], "+OK\r\n"),
        (&["SELECT", "6"], "+OK\r\n"),
        (&["SET", "selects", "6"], "+OK\r\n"),
        (&["MULTI"], "+OK\r\n"),
        (&["SELECT", "7"], "+QUEUED\r\n"),
        (&["SET", "selects", "7"], "+QUEUED\r\n"),
        (&["SELECT", "77777"], "+QUEUED\r\n"),
        (&["SELECT", "05"], "+QUEUED\r\n"),
        (&["DEBUG", "SLEEP", "0"], "+QUEUED\r\n"),
        (
            &["EXEC"],
            "*5\r\n+OK\r\n+OK\r\n-ERR DB index is out of range\r\n\
             -ERR value is not an integer or out of range\r\n+OK\r\n",
        ),
        (&["GET", "selects"], "$1\r\n7\r\n"),
        (&["MULTI"], "+OK\r\n"),
        (&["SELECT", "5"], "+QUEUED\r\n"),
        (&["DISCARD"], "+OK\r\n"),
        (&["GETDEL", "selects"], "$1\r\n7\r\n"),
        (&["SELECT", "6"], "+OK\r\n"),
        (&["GETDEL", "selects"], "$1\r\n6\r\n"),
        (&["SELECT", "5"], "+OK\r\n"),
        (&["GETDEL", "selects"], "$1\r\n5\r\n"),
    ] {
        client.send(words).await;
        client.expect(reply).await;
    }
}

#[tokio::test]
async fn nothing_is_redirected_to_a_client_that_has_begun_anew() {
    let Some(gateway) = Gateway::start("anew").await else {
        return;
    };
    let mut direct = gateway.direct().await;
    let (_, password) = &gateway.passwords[0];
    let login = format!("{}.{}", Role::Read.label(), gateway.slug);
    for again in [&["RESET"][..], &["AUTH", login.as_str(), password.expose()]] {
        let mut hearing = gateway.client(Role::Read).await;
        let number = id(&mut hearing).await;
        let mut tracking = gateway.client(Role::Read).await;
        tracking.send(&["HELLO", "3"]).await;
        until_contains(&mut tracking, "modules\r\n*0\r\n").await;
        let on = ["CLIENT", "TRACKING", "ON", "REDIRECT", &number];
        tracking.send(&on).await;
        tracking.expect("+OK\r\n").await;
        tracking.send(&["GET", "anew-k"]).await;
        tracking.expect("_\r\n").await;
        hearing.send(again).await;
        until_contains(&mut hearing, "\r\n").await;
        direct.send(&["SET", "anew-k", "v"]).await;
        direct.expect("+OK\r\n").await;
        until_contains(&mut tracking, "tracking-redir-broken").await;
        direct.send(&["DEL", "anew-k"]).await;
        direct.expect(":1\r\n").await;
    }
}
