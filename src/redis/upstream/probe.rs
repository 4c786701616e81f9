//! The connection test: reach the server as a client would, and say which step failed.

use std::time::Duration;

use super::{
    AskFault, Upstream,
    dial::{Opener, database_of, login_fault},
};
use crate::{
    net::{DialFault, DialStep, tls::ClientTls},
    tenant::Target,
};

/// Connects, logs in, selects the database and pings; the server's version.
///
/// # Errors
/// Which step failed, why, and what to do.
pub async fn probe(
    target: &Target,
    tls: &ClientTls,
    wait_max: Duration,
) -> Result<String, DialFault> {
    let database = database_of(target)?;
    let opener = Opener::new(tls.clone(), wait_max);
    let mut upstream = opener.open_any(target).await?;
    let version = upstream.version;
    upstream
        .prepare(version, database)
        .await
        .map_err(|fault| login_fault(&fault))?;
    upstream
        .ask(&["PING"])
        .await
        .map_err(|fault| ping_fault(&fault))?;
    let known = upstream.server.to_string();
    Ok(if known.is_empty() {
        version_by_info(&mut upstream).await
    } else {
        known
    })
}

fn ping_fault(fault: &AskFault) -> DialFault {
    let hint = match fault {
        AskFault::Refused(text) if text.starts_with("LOADING") => {
            "the server is loading its data; try again in a while"
        }
        AskFault::Refused(text) if text.starts_with("NOAUTH") => {
            "the server wants a password: redis://:password@host"
        }
        _ => "the server accepts logins but does not serve commands; look at its log",
    };
    DialFault::new(DialStep::Ping, fault.to_string(), hint)
}

async fn version_by_info(upstream: &mut Upstream) -> String {
    let reply = upstream.ask(&["INFO", "server"]).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&reply).into_owned();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("redis_version:"));
    line.unwrap_or("unknown").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// A server of the time before `HELLO`, for one connection; what it was asked.
    async fn old_server(listener: TcpListener) -> Vec<String> {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (mut asked, mut buffer) = (Vec::new(), [0; 1024]);
        loop {
            let bytes = stream.read(&mut buffer).await.unwrap();
            if bytes == 0 {
                return asked;
            }
            let text = String::from_utf8_lossy(&buffer[..bytes]).into_owned();
            let words: Vec<_> = text.split("\r\n").skip(2).step_by(2).collect();
            let line = words.join(" ").trim_end().to_owned();
            let reply = match words[0] {
                "HELLO" => "-ERR unknown command `HELLO`, with args beginning with: `3`, \r\n",
                "AUTH" | "SELECT" => "+OK\r\n",
                "PING" => "+PONG\r\n",
                "INFO" => "$22\r\nredis_version:3.2.12\r\n\r\n",
                other => panic!("asked for {other}"),
            };
            asked.push(line);
            stream.write_all(reply.as_bytes()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_server_without_hello_is_spoken_to_in_its_own_way() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = Target::parse(&format!("redis://:pw@127.0.0.1:{port}/2")).unwrap();
        let tls = ClientTls::new(None, None).unwrap();
        let (asked, version) = tokio::join!(
            old_server(listener),
            probe(&target, &tls, Duration::from_secs(5))
        );
        assert_eq!(version.unwrap(), "3.2.12");
        let wanted = [
            "HELLO 3 AUTH default pw",
            "AUTH pw",
            "SELECT 2",
            "PING",
            "INFO server",
        ];
        assert_eq!(asked, wanted);
    }
}
