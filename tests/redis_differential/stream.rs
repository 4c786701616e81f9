//! Random streams of commands, each from one seed.

use sha1::{Digest, Sha1};

const TEMPLATES: &str = include_str!("templates.txt");
/// What the templates of the last section are about.
const CONNECTION: &str = "# the connection";

/// Scripts, all of which answer the same whenever they run.
const SCRIPTS: [&str; 12] = [
    "return redis.call('get', KEYS[1])",
    "return {1, 2.5, 'x', false, true, {ARGV[1]}}",
    "return redis.error_reply('MINE of my own')",
    "redis.setresp(3) return redis.call('hgetall', KEYS[1])",
    "redis.setresp(3) return {double=1.5}",
    "return redis.call('set', KEYS[1], ARGV[1])",
    "this is no lua",
    "return redis.call('nosuch')",
    "#!lua flags=no-writes\nreturn redis.call('set', KEYS[1], '1')",
    "return redis.pcall('lpush', KEYS[1], 'a')",
    "local k = redis.call('keys', '*') table.sort(k) return #k >= 0",
    "return redis.call('blpop', KEYS[1], 0)",
];
/// Words that mean nothing, or not what is expected.
const WORDS: [&[u8]; 10] = [
    b"nothing",
    b"NX",
    b"1",
    b"-1",
    b"",
    b"two words",
    b"line\r\nbreak",
    b"\xff\x00\xfe",
    b"'quoted\"",
    b"a-rather-long-word-that-goes-on-and-on-and-on-and-on-and-on-and-on-and-on-and-on-and-on-and-on-and-on-and-on-and-on-and-on-and-on-and-on-and-on",
];
const VALUES: [&[u8]; 14] = [
    b"",
    b"0",
    b"1",
    b"10",
    b"-3",
    b"3.5",
    b"abc",
    b"hello world",
    b"\r\n\x00\xff",
    b"$5\r\n",
    b"-ERR no\r\n",
    b"9223372036854775807",
    b"1e400",
    b"nan",
];
/// Bytes after which the server closes, having said why.
const MALFORMED: [&[u8]; 8] = [
    b"*x\r\n",
    b"*2\r\n$3\r\nGET\r\n:1\r\n",
    b"*1\r\n$-1\r\n",
    b"*1\r\n$99999999999\r\n",
    b"*99999999999\r\n",
    b"SET k \"a\r\n",
    b"GET 'a'b\r\n",
    b"*1\r\n$x\r\n",
];

/// xorshift64*: enough for choosing, and the same everywhere.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        let mut dice = Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        for _ in 0..4 {
            dice.roll(2);
        }
        dice
    }

    pub(crate) fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33).unwrap() % sides
    }

    fn one_in(&mut self, sides: usize) -> bool {
        self.roll(sides) == 0
    }

    fn pick<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.roll(of.len())]
    }
}

/// A piece of a stream that can be left out without making the rest senseless.
#[derive(Clone)]
pub(crate) struct Unit {
    pub(crate) bytes: Vec<u8>,
    /// What is sent after it waits until everything before has been answered. It ends in a `PING` of this word.
    pub(crate) barrier: Option<String>,
}

/// The commands of one client.
#[derive(Clone)]
pub(crate) struct Stream {
    pub(crate) units: Vec<Unit>,
    /// How its bytes are cut.
    pub(crate) cuts: u64,
}

/// Who the client is, and what is its own.
#[derive(Clone, Copy)]
pub(crate) struct Client<'a> {
    pub(crate) user: &'a str,
    pub(crate) password: &'a str,
    /// What its keys and channels begin with.
    pub(crate) prefix: &'a str,
}

struct Generator<'a> {
    dice: Dice,
    client: Client<'a>,
    data: Vec<&'static str>,
    connection: Vec<&'static str>,
    is_resp3: bool,
    units: Vec<Unit>,
}

type Words = Vec<Vec<u8>>;

/// A stream of that many units, from login to end.
pub(crate) fn generate(seed: u64, units: usize, client: Client<'_>) -> Stream {
    let (data, connection) = TEMPLATES.split_once(CONNECTION).unwrap();
    let mut generator = Generator {
        dice: Dice::new(seed),
        client,
        data: weighted(data),
        connection: weighted(connection),
        is_resp3: false,
        units: Vec::new(),
    };
    generator.log_in();
    for _ in 0..units {
        generator.unit();
    }
    generator.end();
    Stream {
        units: generator.units,
        cuts: seed,
    }
}

/// The library whose functions the streams call.
pub(crate) const LIBRARY: &str = "#!lua name=lib
local function f0(k, a) return redis.call('incr', k[1]) end
local function f2(k, a) return {k[1], a[1], {ok='FINE'}} end
redis.register_function('f0', f0)
redis.register_function('f1', function(k, a) return redis.call('get', k[1]) end)
redis.register_function{function_name='f2', callback=f2, flags={'no-writes'}}
redis.register_function('f3', function(k, a) return redis.error_reply('OWN error') end)";

/// Streams that have differed once, each with what it is about.
pub(crate) fn known(client: Client<'_>) -> Vec<(&'static str, Stream)> {
    let login = encode(&["AUTH", client.user, client.password]);
    let hello = encode(&["HELLO", "3", "AUTH", client.user, client.password]);
    let streams = include_str!("known.txt").split("\n\n").map(|text| {
        let (claim, lines) = text.split_once('\n').unwrap();
        let mut units: Vec<Vec<u8>> = lines
            .lines()
            .map(|line| match line {
                "LOGIN" => login.clone(),
                "HELLO3" => hello.clone(),
                line => encode(&line.split(' ').map(unescape).collect::<Vec<_>>()),
            })
            .collect();
        units.push(encode(&["QUIT"]));
        let units = units.into_iter().map(|bytes| Unit {
            bytes,
            barrier: None,
        });
        let stream = Stream {
            units: units.collect(),
            cuts: 1,
        };
        (claim, stream)
    });
    streams.collect()
}

/// A word of the file: `""` is nothing, `\xff` a byte, `\r` and `\n` as usual.
fn unescape(word: &str) -> Vec<u8> {
    let word = if word == "\"\"" { "" } else { word };
    let (mut out, mut rest) = (Vec::new(), word.as_bytes());
    while let [byte, after @ ..] = rest {
        rest = after;
        match (byte, rest) {
            (b'\\', [b'x', hex @ ..]) => {
                let digits = std::str::from_utf8(&hex[..2]).unwrap();
                out.push(u8::from_str_radix(digits, 16).unwrap());
                rest = &hex[2..];
            }
            (b'\\', [b'r', after @ ..]) => {
                out.push(b'\r');
                rest = after;
            }
            (b'\\', [b'n', after @ ..]) => {
                out.push(b'\n');
                rest = after;
            }
            _ => out.push(*byte),
        }
    }
    out
}

/// A command as an array of bulk strings.
pub(crate) fn encode<W: AsRef<[u8]>>(words: &[W]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        let word = word.as_ref();
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
    out
}

fn weighted(text: &'static str) -> Vec<&'static str> {
    let lines = text
        .lines()
        .filter(|line| line.starts_with(|c: char| c.is_ascii_digit()));
    lines
        .flat_map(|line| {
            let (weight, template) = line.split_once(' ').unwrap();
            std::iter::repeat_n(template, weight.parse().unwrap())
        })
        .collect()
}

impl Generator<'_> {
    fn unit(&mut self) {
        match self.dice.roll(40) {
            0..3 => self.transaction(),
            3 => self.watched_transaction(),
            4 => self.subscription(),
            5 => self.silence(),
            6 => self.start_again(),
            7 => self.switch(),
            8 => self.inline(),
            9 => {
                let nothing = self
                    .dice
                    .pick(&[&b"\r\n"[..], b"*0\r\n", b"*-1\r\n", b"\n"]);
                self.push(nothing.to_vec());
            }
            10 => self.big(),
            11 => self.barrier(),
            12..20 => {
                let words = self.draw(true);
                self.command(&words);
            }
            _ => {
                let words = self.draw(false);
                self.command(&words);
            }
        }
    }

    fn log_in(&mut self) {
        let (user, password) = (self.client.user, self.client.password);
        self.is_resp3 = self.dice.one_in(2);
        if self.is_resp3 {
            self.send(&["HELLO", "3", "AUTH", user, password]);
        } else {
            self.send(&["AUTH", user, password]);
        }
    }

    fn end(&mut self) {
        self.send(&["CLIENT", "REPLY", "ON"]);
        match self.dice.roll(9) {
            0..3 => {
                let bytes = self.dice.pick(&MALFORMED).to_vec();
                self.push(bytes);
            }
            3..5 => self.send(&["QUIT", "now", "please"]),
            _ => self.send(&["QUIT"]),
        }
    }

    /// MULTI to EXEC or DISCARD, in one piece or by and by.
    fn transaction(&mut self) {
        let last = self
            .dice
            .pick(&["EXEC", "EXEC", "EXEC", "exec", "DISCARD", "RESET"]);
        if last == "RESET" {
            self.barrier();
        }
        let mut bytes = encode(&["MULTI"]);
        for _ in 0..self.dice.roll(6) {
            let words = self.draw(false);
            bytes.extend(encode(&words));
            if self.dice.one_in(30) {
                let inner = self
                    .dice
                    .pick(&["MULTI", "PING", "NOSUCHCOMMAND", "UNWATCH", "GET"]);
                bytes.extend(encode(&[inner]));
            }
            if self.dice.one_in(40) {
                bytes.extend(encode(&["WATCH", "x"]));
            }
        }
        bytes.extend(encode(&[last]));
        self.push(bytes);
        if last == "RESET" {
            self.log_in();
        }
    }

    fn watched_transaction(&mut self) {
        let key = self.key();
        let mut bytes = encode(&[b"WATCH", key.as_bytes()]);
        for _ in 0..self.dice.roll(3) {
            let words = self.draw(false);
            bytes.extend(encode(&words));
        }
        match self.dice.roll(4) {
            0 => bytes.extend(encode(&["UNWATCH"])),
            1 => bytes.extend(encode(&["EXEC"])),
            _ => {}
        }
        bytes.extend(encode(&["MULTI"]));
        for _ in 0..self.dice.roll(4) {
            let words = self.draw(false);
            bytes.extend(encode(&words));
        }
        bytes.extend(encode(&["EXEC"]));
        self.push(bytes);
    }

    /// Subscriptions of all three kinds, with what a subscriber may send in its version.
    fn subscription(&mut self) {
        let prefix = self.client.prefix;
        let (one, two) = (format!("{prefix}one"), format!("{prefix}two"));
        let pattern = format!("{prefix}t*");
        let mut bytes = Vec::new();
        for _ in 0..=self.dice.roll(3) {
            bytes.extend(match self.dice.roll(5) {
                0 => encode(&["SUBSCRIBE", &one, &two, &one]),
                1 => encode(&["PSUBSCRIBE", &pattern]),
                2 => encode(&["SSUBSCRIBE", &one]),
                3 => encode(&["SUBSCRIBE"]),
                _ => encode(&["SUBSCRIBE", &two]),
            });
        }
        self.push(bytes);
        for _ in 0..self.dice.roll(6) {
            let channel = if self.dice.one_in(2) { &one } else { &two };
            match self.dice.roll(6) {
                0 => self.send(&["PING", "x"]),
                1 => self.send(&["PING"]),
                2 => self.send(&["GET", channel]),
                3 => self.send(&["SPUBLISH", channel, "shard"]),
                4 => {
                    // What is under way to a client that takes its leave is not waited for.
                    self.barrier();
                    self.send(&["UNSUBSCRIBE", channel, "absent"]);
                }
                _ => self.send(&["PUBLISH", channel, "hear"]),
            }
        }
        self.barrier();
        // In one unit with what follows it: RESP2 hears nothing else until all are gone.
        let mut bytes = Vec::new();
        for command in ["UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE"] {
            bytes.extend(encode(&[command]));
        }
        self.push(bytes);
    }

    /// Commands whose replies the client does not want.
    fn silence(&mut self) {
        let mut bytes = Vec::new();
        if self.dice.one_in(2) {
            bytes.extend(encode(&["CLIENT", "REPLY", "SKIP"]));
            let words = self.draw(false);
            bytes.extend(encode(&words));
        } else {
            bytes.extend(encode(&["CLIENT", "REPLY", "OFF"]));
            for _ in 0..self.dice.roll(5) {
                let words = self.draw(false);
                bytes.extend(encode(&words));
            }
            bytes.extend(encode(&["CLIENT", "REPLY", "ON"]));
        }
        self.push(bytes);
    }

    fn start_again(&mut self) {
        // A server with the mend of CVE-2025-21605 closes a client that RESET makes a stranger with output waiting.
        self.barrier();
        let mut bytes = encode(&["RESET"]);
        for _ in 0..self.dice.roll(3) {
            let connection = self.dice.one_in(2);
            let words = self.draw(connection);
            bytes.extend(encode(&words));
        }
        self.push(bytes);
        self.log_in();
    }

    fn switch(&mut self) {
        let version = self.dice.pick(&["2", "3"]);
        self.is_resp3 = version == "3";
        let (user, password) = (self.client.user, self.client.password);
        match self.dice.roll(6) {
            0 => self.send(&["HELLO", version, "AUTH", user, password, "SETNAME", "me"]),
            1 => self.send(&["HELLO", version, "SETNAME", "you"]),
            2 => self.send(&["HELLO"]),
            3 => self.send(&["HELLO", version, "AUTH", user]),
            4 => self.send(&["HELLO", "x"]),
            _ => self.send(&["HELLO", version]),
        }
    }

    fn inline(&mut self) {
        let words = self.draw(false);
        let mut bytes = Vec::new();
        for word in words {
            if !bytes.is_empty() {
                bytes.extend_from_slice(self.dice.pick(&[&b" "[..], b"  ", b"\t"]));
            }
            bytes.push(b'"');
            for byte in word {
                bytes.extend_from_slice(format!("\\x{byte:02x}").as_bytes());
            }
            bytes.push(b'"');
        }
        bytes.extend_from_slice(self.dice.pick(&[&b"\r\n"[..], b"\n"]));
        self.push(bytes);
    }

    fn big(&mut self) {
        let length = 1 + self.dice.roll(300_000);
        let value = vec![b'a' + u8::try_from(length % 26).unwrap(); length];
        let key = self.key();
        self.command(&[b"SET".to_vec(), key.clone().into_bytes(), value]);
        for _ in 0..self.dice.roll(4) {
            self.send(&["GET", &key]);
        }
    }

    /// What comes behind waits for what is before, messages included.
    fn barrier(&mut self) {
        let word = format!("barrier-{}", self.units.len());
        self.units.push(Unit {
            bytes: encode(&["PING", &word]),
            barrier: Some(word),
        });
    }

    fn send(&mut self, words: &[&str]) {
        self.push(encode(words));
    }

    fn command(&mut self, words: &[Vec<u8>]) {
        self.push(encode(words));
    }

    fn push(&mut self, bytes: Vec<u8>) {
        self.units.push(Unit {
            bytes,
            barrier: None,
        });
    }

    /// A command from the templates, sometimes with a mistake in it.
    fn draw(&mut self, connection: bool) -> Words {
        let templates = if connection {
            &self.connection
        } else {
            &self.data
        };
        let template = templates[self.dice.roll(templates.len())];
        let blocks = ["BLOCK", " 0.05"]
            .iter()
            .any(|sign| template.contains(sign));
        let mut words: Words = template.split(' ').map(|word| self.fill(word)).collect();
        if self.dice.one_in(8) {
            words[0].make_ascii_lowercase();
        }
        // A wrong password would be answered later and later.
        let is_login = template.starts_with("AUTH") || template.starts_with("HELLO");
        match self.dice.roll(60) {
            _ if is_login => {}
            0 if words.len() > 1 => {
                let at = 1 + self.dice.roll(words.len() - 1);
                words.remove(at);
            }
            // A blocking command must not come to wait for longer.
            1 if !blocks => {
                let word = self.own_word();
                words.push(word);
            }
            2 if !blocks && words.len() > 1 => {
                let at = 1 + self.dice.roll(words.len() - 1);
                words[at] = self.own_word();
            }
            _ => {}
        }
        words
    }

    /// A word that may come to be a key, and then has to be this client's own.
    fn own_word(&mut self) -> Vec<u8> {
        [self.client.prefix.as_bytes(), self.dice.pick(&WORDS)].concat()
    }

    fn key(&mut self) -> String {
        format!("{}k{}", self.client.prefix, self.dice.roll(9))
    }

    fn fill(&mut self, word: &str) -> Vec<u8> {
        let dice = &mut self.dice;
        let text = match word {
            "{k}" => self.key(),
            "{v}" => return self.dice.pick(&VALUES).to_vec(),
            "{word}" => return self.dice.pick(&WORDS).to_vec(),
            "bad{word}" => {
                let mut out = b"bad".to_vec();
                out.extend_from_slice(dice.pick(&WORDS));
                return out;
            }
            "{f}" => format!("f{}", dice.roll(5)),
            "{m}" => dice.pick(&["a", "b", "c", "1", "22", "d e"]).to_owned(),
            "{i}" => dice
                .pick(&["0", "1", "2", "-1", "-2", "5", "-100", "100", "x"])
                .to_owned(),
            "{n}" => dice.roll(6).to_string(),
            "f{n}" => format!("f{}", dice.roll(6)),
            "{d}" => dice
                .pick(&[
                    "0",
                    "1",
                    "2.5",
                    "-3",
                    "1e3",
                    "inf",
                    "-inf",
                    "0.1",
                    "3.0000000000000004",
                    "x",
                ])
                .to_owned(),
            "{t}" => format!("41024448{}0000", 10 + dice.roll(80)),
            "{ts}" => format!("41024448{}", 10 + dice.roll(80)),
            "{id}" => format!("{}-{}", dice.roll(40), dice.pick(&["1", "2", "*"])),
            "{g}" => format!("g{}", dice.roll(2)),
            "{c}" => format!("c{}", dice.roll(3)),
            "{bit}" => dice.pick(&["0", "7", "100", "-1", "4294967296"]).to_owned(),
            "{lon}" => dice.pick(&["13.36", "15.08", "-0.12", "200"]).to_owned(),
            "{lat}" => dice.pick(&["38.11", "37.5", "51.5"]).to_owned(),
            "{lua}" => self.script(),
            "{sha}" => {
                let script = self.script();
                let digest = Sha1::digest(script.as_bytes());
                let digits: Vec<_> = digest.iter().map(|byte| format!("{byte:02x}")).collect();
                digits.concat()
            }
            plain => plain.to_owned(),
        };
        text.into_bytes()
    }

    /// A script of this client's own: another must not put it into the server's cache.
    fn script(&mut self) -> String {
        format!("{}\n-- {}", self.dice.pick(&SCRIPTS), self.client.prefix)
    }
}
