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
        .send(&["CLIENT", "TRACKING", "ON", "REDIRECT", "1"])
        .await;
    client
        .expect("-ERR CLIENT TRACKING WITH REDIRECT is not supported by this gateway\r\n")
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
