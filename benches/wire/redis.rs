//! Replies as a trunk reads them.
#[path = "../../src/redis/wire/mod.rs"]
mod wire;

use bytes::Bytes;
use redis_protocol::resp2::decode::{decode_bytes, decode_range};

use super::measure;

pub(super) fn run() {
    let one = |size: usize| format!("${size}\r\n{}\r\n", "x".repeat(size));
    let hash = format!("*20\r\n{}", one(12).repeat(20));
    for (name, reply) in [
        ("bulk 64 B", one(64)),
        ("bulk 16 KB", one(16 * 1024)),
        ("array of 20", hash),
    ] {
        let many = Bytes::from(reply.repeat(100));
        measure(&format!("redis {name}: polypool scanner"), 100, || {
            let (mut scanner, mut at, mut count) = (wire::Scanner::default(), 0, 0);
            while let Some(frame) = scanner.scan(many.get(at..).unwrap()).unwrap() {
                at += frame.end;
                count += 1;
            }
            count
        });
        measure(
            &format!("redis {name}: redis-protocol decode_bytes"),
            100,
            || {
                let (mut at, mut count) = (0, 0);
                while let Some((_, used)) = decode_bytes(&many.slice(at..)).unwrap() {
                    at += used;
                    count += 1;
                }
                count
            },
        );
        measure(
            &format!("redis {name}: redis-protocol decode_range"),
            100,
            || {
                let (mut at, mut count) = (0, 0);
                while let Some((_, used)) = decode_range(many.get(at..).unwrap()).unwrap() {
                    at += used;
                    count += 1;
                }
                count
            },
        );
    }
}
