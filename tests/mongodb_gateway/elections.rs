//! What clients hear of elections, against a set of two members that say what a test has them say.

use std::collections::VecDeque;

use tokio::{
    net::TcpListener,
    sync::{Mutex, watch},
};

use super::{
    Arc, AsyncWriteExt, Document, Duration, RawDocumentBuf, Rig, Role, Shutdown, Wire, doc,
    message, number, rawdoc, section, session, timeout,
};

/// How long what needs no heartbeat may take; one comes every ten seconds.
const AT_ONCE: Duration = Duration::from_secs(5);

/// What a primary answers a command with.
#[derive(Clone)]
pub(super) struct Answer {
    reply: Document,
    /// Whether it bears the order of its word.
    bears_version: bool,
    /// Whether it is deposed, and how long there is no other then.
    is_deposed: Option<Duration>,
}

impl Answer {
    fn deposed(reply: Document) -> Self {
        Self {
            reply,
            bears_version: true,
            is_deposed: Some(Duration::ZERO),
        }
    }

    /// As a failpoint has it: nothing has changed, and the order of its word says so.
    fn of_a_failpoint(reply: Document) -> Self {
        Self {
            is_deposed: None,
            ..Self::deposed(reply)
        }
    }

    /// Nothing has changed.
    pub(super) fn only_said(reply: Document) -> Self {
        Self {
            bears_version: false,
            is_deposed: None,
            ..Self::deposed(reply)
        }
    }
}

struct State {
    primary: Option<usize>,
    election: u8,
    counter: i64,
    script: VecDeque<Answer>,
    /// The commands that came, each with the member that it came to.
    seen: Vec<(usize, Document)>,
}

/// A set whose members agree at once.
#[derive(Clone)]
pub(super) struct FakeSet {
    state: Arc<Mutex<State>>,
    changes: watch::Sender<()>,
    hosts: Vec<String>,
    tasks: Shutdown,
}

impl FakeSet {
    /// Its primary gives these answers, and good ones after them.
    pub(super) async fn start(script: impl IntoIterator<Item = Answer>) -> Self {
        let listeners = [
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
        ];
        let hosts = listeners
            .iter()
            .map(|it| it.local_addr().unwrap().to_string());
        let state = State {
            primary: Some(0),
            election: 1,
            counter: 1,
            script: script.into_iter().collect(),
            seen: Vec::new(),
        };
        let set = Self {
            state: Arc::new(Mutex::new(state)),
            changes: watch::Sender::new(()),
            hosts: hosts.collect(),
            tasks: Shutdown::new(),
        };
        for (member, listener) in listeners.into_iter().enumerate() {
            let set = set.clone();
            let tasks = set.tasks.clone();
            tasks.clone().spawn("member", async move {
                while let Ok((socket, _)) = listener.accept().await {
                    let wire = Wire { socket, next: 0 };
                    tasks.spawn("wire", set.clone().act(member, wire));
                }
            });
        }
        set
    }

    pub(super) async fn rig(&self) -> Rig {
        let hosts = self.hosts.join(",");
        Rig::start_for(format!("mongodb://{hosts}/app?replicaSet=fake")).await
    }

    /// What its primary answers next.
    pub(super) async fn follow(&self, script: impl IntoIterator<Item = Answer>) {
        self.state.lock().await.script = script.into_iter().collect();
    }

    pub(super) async fn seen(&self) -> Vec<(usize, Document)> {
        self.state.lock().await.seen.clone()
    }

    async fn act(self, member: usize, mut wire: Wire) {
        while let Some((header, rest)) = wire.read_raw().await {
            let request = RawDocumentBuf::from_bytes(rest[5..].to_vec()).unwrap();
            let request = Document::try_from(&*request).unwrap();
            let is_hello = request.contains_key("hello") || request.contains_key("isMaster");
            let reply = if is_hello {
                self.hello(member, &request).await
            } else {
                self.answer(member, request).await
            };
            let reply = RawDocumentBuf::try_from(&reply).unwrap();
            let mut bytes = message(1, 0, &section(&reply));
            bytes[8..12].copy_from_slice(&header[4..8]);
            wire.socket.write_all(&bytes).await.unwrap();
        }
    }

    async fn hello(&self, member: usize, request: &Document) -> Document {
        let mut changes = self.changes.subscribe();
        let known = request.get_document("topologyVersion");
        let known = known.ok().and_then(|known| known.get_i64("counter").ok());
        let is_known = known == Some(self.state.lock().await.counter);
        if let (true, Ok(millis)) = (is_known, request.get_i64("maxAwaitTimeMS")) {
            let wait_max = Duration::from_millis(millis.unsigned_abs());
            let _changed = timeout(wait_max, changes.changed()).await;
        }
        let state = self.state.lock().await;
        let is_primary = state.primary == Some(member);
        let mut hello = doc! {
            "isWritablePrimary": is_primary, "secondary": !is_primary, "setName": "fake",
            "setVersion": 1, "me": self.hosts[member].as_str(), "hosts": self.hosts.clone(),
            "topologyVersion": version(member, state.counter),
            "minWireVersion": 0, "maxWireVersion": 17, "ok": 1.0,
        };
        if is_primary {
            let election = bson::oid::ObjectId::from_bytes([state.election; 12]);
            hello.insert("electionId", election);
        }
        hello
    }

    async fn answer(&self, member: usize, request: Document) -> Document {
        let mut state = self.state.lock().await;
        if request.contains_key("ping") {
            return doc! { "ok": 1.0 };
        }
        state.seen.push((member, request));
        let Some(answer) = state.script.pop_front() else {
            return doc! { "n": 1, "ok": 1.0 };
        };
        if let Some(vacancy) = answer.is_deposed {
            state.primary = None;
            state.counter += 1;
            let set = self.clone();
            self.tasks.spawn("election", async move {
                tokio::time::sleep(vacancy).await;
                let mut state = set.state.lock().await;
                state.primary = Some(1 - member);
                state.election += 1;
                state.counter += 1;
                set.changes.send_replace(());
            });
        }
        let mut reply = answer.reply;
        if answer.bears_version {
            reply.insert("topologyVersion", version(member, state.counter));
        }
        reply
    }
}

fn version(member: usize, counter: i64) -> Document {
    let process = u8::try_from(member).unwrap() + 1;
    doc! { "processId": bson::oid::ObjectId::from_bytes([process; 12]), "counter": counter }
}

fn not_primary() -> Document {
    doc! { "ok": 0.0, "errmsg": "not primary", "code": 10107, "errorLabels": ["RetryableWriteError"] }
}

fn interrupted_later() -> Document {
    let error =
        doc! { "code": 11602, "codeName": "InterruptedDueToReplStateChange", "errmsg": "x" };
    doc! { "n": 1, "writeConcernError": error, "errorLabels": ["RetryableWriteError"], "ok": 1.0 }
}

fn stepped_down_in_the_middle() -> Document {
    let error = doc! { "index": 0, "code": 189, "errmsg": "Not primary while writing" };
    doc! { "n": 0, "writeErrors": [error], "ok": 1.0 }
}

fn numbered_insert() -> RawDocumentBuf {
    rawdoc! {
        "insert": "c", "documents": [{ "_id": 1 }], "lsid": session(), "txnNumber": 1_i64, "$db": "app",
    }
}

pub(super) async fn asked(wire: &mut Wire, command: &RawDocumentBuf) -> Document {
    let answer = timeout(AT_ONCE, wire.ask(command)).await;
    answer.expect("stood still")
}

#[tokio::test]
async fn a_primary_that_was_wrongly_doubted_is_asked_at_once() {
    let shutting_down = doc! { "ok": 0.0, "errmsg": "shutting down", "code": 91 };
    let set = FakeSet::start([Answer::only_said(shutting_down)]).await;
    let rig = set.rig().await;
    let mut wire = rig.login(Role::Read).await;
    let find = rawdoc! { "find": "c", "$db": "app" };
    assert_eq!(number(&asked(&mut wire, &find).await, "code"), 91);
    // Its awaited hello would come ten seconds later.
    assert_eq!(number(&asked(&mut wire, &find).await, "ok"), 1);
    rig.end().await;
}

#[tokio::test]
async fn what_a_deposed_primary_refuses_the_next_one_is_asked() {
    let find = rawdoc! { "find": "c", "$db": "app" };
    let without_version = Answer {
        bears_version: false,
        ..Answer::deposed(not_primary())
    };
    for (command, answer) in [
        (numbered_insert(), Answer::deposed(not_primary())),
        (numbered_insert(), Answer::deposed(interrupted_later())),
        (
            numbered_insert(),
            Answer::deposed(stepped_down_in_the_middle()),
        ),
        (numbered_insert(), without_version),
        (find, Answer::deposed(not_primary())),
    ] {
        let set = FakeSet::start([answer]).await;
        let rig = set.rig().await;
        let mut wire = rig.login(Role::Write).await;
        let reply = asked(&mut wire, &command).await;
        assert_eq!(reply, doc! { "n": 1, "ok": 1.0 });
        let seen = set.seen().await;
        assert_eq!(seen[0].1, seen[1].1);
        let members: Vec<_> = seen.iter().map(|(member, _)| *member).collect();
        assert_eq!(members, [0, 1]);
        rig.end().await;
    }
}

#[tokio::test]
async fn refusals_that_come_again_and_again_are_the_clients() {
    let set = FakeSet::start(vec![Answer::deposed(not_primary()); 10]).await;
    let rig = set.rig().await;
    let mut wire = rig.login(Role::Write).await;
    let reply = asked(&mut wire, &numbered_insert()).await;
    assert_eq!(number(&reply, "code"), 10107);
    assert_eq!(set.seen().await.len(), 4);
    rig.end().await;
}

/// Else no test of an application could have its driver meet one.
#[tokio::test]
async fn refusals_of_a_server_that_has_not_changed_are_the_clients() {
    let set = FakeSet::start([Answer::of_a_failpoint(not_primary())]).await;
    let rig = set.rig().await;
    let mut wire = rig.login(Role::Write).await;
    let reply = asked(&mut wire, &numbered_insert()).await;
    assert_eq!(number(&reply, "code"), 10107);
    assert_eq!(set.seen().await.len(), 1);
    assert_eq!(number(&asked(&mut wire, &numbered_insert()).await, "ok"), 1);
    rig.end().await;
}

#[tokio::test]
async fn writes_that_might_run_twice_are_not_sent_again() {
    let set = FakeSet::start([Answer::deposed(not_primary())]).await;
    let rig = set.rig().await;
    let mut wire = rig.login(Role::Write).await;
    let insert = rawdoc! { "insert": "c", "documents": [{}], "lsid": session(), "$db": "app" };
    let reply = asked(&mut wire, &insert).await;
    assert_eq!(number(&reply, "code"), 10107);
    let statement = rawdoc! {
        "insert": "c", "documents": [{}], "lsid": session(), "txnNumber": 2_i64,
        "startTransaction": true, "autocommit": false, "$db": "app",
    };
    set.state.lock().await.script = [Answer::deposed(not_primary())].into();
    let reply = asked(&mut wire, &statement).await;
    assert_eq!(number(&reply, "code"), 10107);
    assert_eq!(set.seen().await.len(), 2);
    let abort = rawdoc! {
        "abortTransaction": 1, "lsid": session(), "txnNumber": 2_i64, "autocommit": false,
        "$db": "admin",
    };
    assert_eq!(number(&asked(&mut wire, &abort).await, "ok"), 1);
    rig.end().await;
}

/// Drivers look for no version there, would take the gateway for what its server was, and stand still.
#[tokio::test]
async fn errors_inside_good_replies_make_no_driver_ask_who_is_primary() {
    let set = FakeSet::start([Answer::only_said(interrupted_later())]).await;
    let rig = set.rig().await;
    let mut wire = rig.login(Role::Write).await;
    let reply = asked(&mut wire, &numbered_insert()).await;
    let error = reply.get_document("writeConcernError").unwrap();
    let told = doc! { "code": 6, "codeName": "HostUnreachable", "errmsg": "x" };
    assert_eq!(*error, told);
    let labels = reply.get_array("errorLabels").unwrap();
    assert_eq!(labels[0].as_str(), Some("RetryableWriteError"));
    assert_eq!(number(&reply, "n"), 1);
    assert_eq!(set.seen().await.len(), 1);
    rig.end().await;
}

#[tokio::test]
async fn time_that_an_election_takes_is_the_commands_own() {
    let vacancy = Duration::from_millis(300);
    let answer = Answer {
        is_deposed: Some(vacancy),
        ..Answer::deposed(not_primary())
    };
    let set = FakeSet::start([answer.clone()]).await;
    let rig = set.rig().await;
    let mut wire = rig.login(Role::Write).await;
    let find = |millis: i32| rawdoc! { "find": "c", "maxTimeMS": millis, "$db": "app" };
    assert_eq!(number(&asked(&mut wire, &find(4000)).await, "ok"), 1);
    let seen = set.seen().await;
    let given = |at: usize| number(&seen[at].1, "maxTimeMS");
    assert!(given(1) <= given(0) - 300, "{seen:?}");
    // Nobody waits for longer than that.
    set.state.lock().await.script = [answer].into();
    assert_eq!(number(&asked(&mut wire, &find(100)).await, "code"), 10107);
    assert_eq!(set.seen().await.len(), 3);
    rig.end().await;
}
