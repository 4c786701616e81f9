//! Cancelling, and who is gone meanwhile: the one who asks for it, or the one who is cancelled.
//!
//! Between the gateway and its server stands a wire that can hold back requests to cancel.

use std::{sync::Arc, time::Duration};

use polypool::shutdown::Shutdown;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
};

use crate::{
    gateway::{Database, Gateway, account, server_url},
    killed::nothing_is_left,
    wire::{Client, query},
};

const CANCEL_CODE: u32 = 80_877_102;

/// A wire to the server: requests to cancel pass as far as there are permits.
struct Wire {
    address: String,
    permits: Arc<Semaphore>,
    /// One for each request that has come.
    asked: mpsc::Receiver<()>,
}

impl Wire {
    async fn to(server: String, shutdown: &Shutdown) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let permits = Arc::new(Semaphore::new(0));
        let (said, asked) = mpsc::channel(100);
        let (held, tasks) = (Arc::clone(&permits), shutdown.clone());
        shutdown.spawn("wire", async move {
            while let Ok((client, _)) = listener.accept().await {
                let pass = pass(client, server.clone(), Arc::clone(&held), said.clone());
                tasks.spawn("passing", pass);
            }
        });
        Self {
            address,
            permits,
            asked,
        }
    }
}

async fn pass(
    mut client: TcpStream,
    server: String,
    permits: Arc<Semaphore>,
    said: mpsc::Sender<()>,
) {
    let mut head = [0; 8];
    if client.read_exact(&mut head).await.is_err() {
        return;
    }
    if head[4..] == CANCEL_CODE.to_be_bytes() {
        said.send(()).await.unwrap();
        permits.acquire().await.unwrap().forget();
    }
    let mut server = TcpStream::connect(server).await.unwrap();
    server.write_all(&head).await.unwrap();
    drop(copy_bidirectional(&mut client, &mut server).await);
}

/// A connection that has asked for a client's query to be cancelled.
async fn ask(gateway: &Gateway, key: (u32, u32), bytes: usize) -> TcpStream {
    let mut socket = TcpStream::connect(&gateway.app.address).await.unwrap();
    let words = [16, CANCEL_CODE, key.0, key.1];
    let request = words.map(u32::to_be_bytes).concat();
    socket.write_all(&request[..bytes]).await.unwrap();
    socket
}

async fn asked(wire: &mut Wire) {
    let asked = tokio::time::timeout(Duration::from_secs(10), wire.asked.recv());
    asked.await.expect("nobody asks the server").unwrap();
}

fn waiting(gateway: &Gateway) -> usize {
    let pools = gateway.service.fleet().snapshot();
    pools.iter().map(|pool| pool.waiting).sum()
}

async fn running(client: &mut Client) {
    // A row comes before the sleep, so that the query is known to run.
    let text =
        "select repeat('x', 20000) from generate_series(1, 3) union all select pg_sleep(60)::text";
    client.send(&query(text)).await;
    while client.read().await.tag != b'D' {}
}

#[tokio::test]
async fn who_is_gone_during_a_cancel_leaves_nothing() {
    let Some(url) = server_url() else {
        return;
    };
    crate::gateway::roles().await;
    let database = Database::create(format!("cancelled_{}", std::process::id())).await;
    let shutdown = Shutdown::new();
    let direct = account(&url, &database.name);
    let mut wire = Wire::to(direct.address, &shutdown).await;
    let mut through = url::Url::parse(&url).unwrap();
    let port = wire.address.rsplit_once(':').unwrap().1.parse().unwrap();
    through.set_host(Some("127.0.0.1")).unwrap();
    through.set_port(Some(port)).unwrap();
    let gateway = Gateway::start(through.as_str(), &database.name, 1).await;
    let mut other = gateway.client().await;
    other.must("create table kept (a int)").await;

    // The asking connection is gone in the middle of its request: nothing happens.
    let mut client = gateway.client().await;
    drop(ask(&gateway, client.key, 9).await);
    client.must("begin; set local work_mem = '9MB'").await;
    drop(ask(&gateway, client.key, 15).await);
    client.must("commit").await;

    // It is gone once it has asked: the query is cancelled all the same.
    running(&mut client).await;
    drop(ask(&gateway, client.key, 16).await);
    asked(&mut wire).await;
    wire.permits.add_permits(1);
    assert!(client.unit().await.0.ends_with("D57014EZI"));
    drop(client);
    nothing_is_left(&gateway, &mut other, "asking").await;

    // The cancelled client is gone while the request is on its way, in a transaction or not: nobody
    // gets its upstream before the server has heard the request, which so hits nobody.
    for begin in [
        "select 1",
        "begin; set local work_mem = '9MB'; select pg_advisory_xact_lock(1)",
    ] {
        let mut client = gateway.client().await;
        client.must(begin).await;
        running(&mut client).await;
        let asking = ask(&gateway, client.key, 16).await;
        asked(&mut wire).await;
        drop(client);
        // The gateway ends what was left running by a request of its own.
        asked(&mut wire).await;
        wire.permits.add_permits(1);
        other.send(&query("select pg_sleep(0.2)")).await;
        while waiting(&gateway) == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        wire.permits.add_permits(1);
        assert_eq!(other.unit().await.0, "TDCZI");
        drop(asking);
        nothing_is_left(&gateway, &mut other, begin).await;
    }

    // One that waits in line, and is cancelled and gone at once.
    other.must("begin").await;
    let mut client = gateway.client().await;
    client.send(&query("insert into kept values (1)")).await;
    while waiting(&gateway) == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(ask(&gateway, client.key, 16).await);
    drop(client);
    while waiting(&gateway) > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    other.must("commit").await;
    nothing_is_left(&gateway, &mut other, "in line").await;
    drop(gateway);
    database.drop().await;
}
