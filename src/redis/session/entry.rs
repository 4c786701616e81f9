//! Entry: carrying out a login, and what comes with it.

use std::sync::Arc;

use super::{Control, Member, Next, Over, Session, clients, request::Request};
use crate::{
    redis::{
        cluster::Route,
        commands::Lookup,
        login::{Caller, Credentials, Hello},
        policy,
        refusal::{self, Plain},
        service::Service,
        wire::{self, Version},
    },
    session::Admitted,
    signal::Seldom,
    telemetry::SessionEnd,
};

impl Session {
    /// A client that has not logged in may log in, and leave.
    ///
    /// As on the server, what is no command at all is told before the login is missed.
    pub(super) fn dispatch_stranger(&mut self, request: &Request) -> Result<usize, Next> {
        let service = Arc::clone(&self.service);
        let lookup = service.commands().lookup(request.name(), request.second());
        let command = match lookup {
            Lookup::Known(command) => command,
            Lookup::MissingSubcommand(command) if command.takes(1) => command,
            Lookup::MissingSubcommand(command) => {
                return self.decline(request, |out| refusal::wrong_arity(out, &command.name));
            }
            Lookup::UnknownSubcommand => return self.decline_subcommand(request),
            Lookup::Unknown if policy::is_poison(request.name()) => {
                return Err(Next::End(SessionEnd::Malformed));
            }
            Lookup::Unknown => {
                return self.decline(request, |out| {
                    refusal::unknown_command(out, request.name(), request.args());
                });
            }
        };
        if !command.takes(request.words.len()) {
            return self.reject(request, |out| refusal::wrong_arity(out, &command.name));
        }
        match command.name.as_str() {
            "auth" | "hello" | "quit" | "reset" => self.dispatch_local(request, command),
            _ => self.reject(request, |out| refusal::plain(out, Plain::NoAuth)),
        }
    }

    /// Refuses a subcommand that its container does not have.
    pub(super) fn decline_subcommand(&mut self, request: &Request) -> Result<usize, Next> {
        let sub = request.second().unwrap_or_default();
        self.decline(request, |out| {
            refusal::unknown_subcommand(out, request.name(), sub);
        })
    }

    pub(super) async fn log_in(
        &mut self,
        hello: Hello,
        credentials: Option<Credentials>,
    ) -> Result<(), Over> {
        if let Some(credentials) = credentials {
            let admission = Arc::clone(self.service.admission());
            let (peer, name) = (self.peer, self.server_name.clone());
            let checked = self
                .meanwhile(async move {
                    let caller = Caller {
                        peer,
                        server_name: name.as_deref(),
                    };
                    credentials.check(&admission, caller).await
                })
                .await?;
            match checked {
                Ok(admitted) => {
                    // From now on it has another number.
                    self.leave_redirected().await;
                    self.sit_down(admitted);
                }
                Err(refusal) => {
                    let answered = self.answer(|out, _| refusal::refuse(out, &refusal));
                    return answered.map_err(|_| Over(SessionEnd::UpstreamLost));
                }
            }
        }
        self.finish_login(hello).await
    }

    /// What a `HELLO` asks for besides the login.
    async fn finish_login(&mut self, hello: Hello) -> Result<(), Over> {
        let name = hello.name.as_deref().map(clients::clean_name);
        let fault = match (&hello.bad_option, &name, &self.member) {
            (Some(option), _, _) => Some(Err(option.clone())),
            (None, Some(None), _) => Some(Ok(Plain::ClientName)),
            (None, _, None) => Some(Ok(Plain::HelloNoAuth)),
            (None, _, Some(_)) => None,
        };
        let answered = match (fault, hello.wants_map) {
            (Some(Ok(plain)), _) => self.answer(|out, _| refusal::plain(out, plain)),
            (Some(Err(option)), _) => self.answer(|out, _| refusal::hello_option(out, &option)),
            (None, false) => self.answer(|out, _| wire::simple(out, "OK")),
            (None, true) => {
                if let Some(Some(name)) = name {
                    self.call(name);
                }
                return self.greet(hello.version).await;
            }
        };
        answered.map_err(|_| Over(SessionEnd::UpstreamLost))
    }

    /// The reply to a `HELLO`, in the version that it asked for.
    async fn greet(&mut self, version: Option<Version>) -> Result<(), Over> {
        let Some(member) = &self.member else {
            return Ok(());
        };
        let (id, station) = (member.seat.id(), Arc::clone(&member.station));
        if let Some(version) = version.filter(|version| *version != self.version) {
            self.switch_held(version).await?;
            self.version = version;
            self.trunk = None;
            if let Some(subscriber) = &mut self.subscriber {
                subscriber.switch(version);
            }
        }
        let (version, database) = (self.version, self.database);
        let server = self
            .meanwhile(async move { station.server(version, database).await })
            .await?;
        let answered = self.answer(|out, version| {
            wire::map(out, version, 7);
            for (key, value) in [("server", "redis"), ("version", &*server)] {
                wire::bulk(out, key.as_bytes());
                wire::bulk(out, value.as_bytes());
            }
            wire::bulk(out, b"proto");
            wire::integer(out, u64::from(version.number()));
            wire::bulk(out, b"id");
            wire::integer(out, id);
            for (key, value) in [("mode", "standalone"), ("role", "master")] {
                wire::bulk(out, key.as_bytes());
                wire::bulk(out, value.as_bytes());
            }
            wire::bulk(out, b"modules");
            wire::array(out, 0);
        });
        answered.map_err(|_| Over(SessionEnd::UpstreamLost))
    }

    /// Takes the place that a login has given.
    fn sit_down(&mut self, admitted: Admitted) {
        let station = self.service.station(&admitted.tenant);
        // A login as somebody else of the same tenant leaves the connection where it is, as on the server.
        let before = self.member.as_ref().map(|member| member.station.tenant());
        if before != Some(station.tenant()) {
            self.database = station.home();
            self.trunk = None;
        }
        self.route = station.cluster().map(|cluster| {
            let bytes_max = self.service.settings().output_bytes_max;
            Route::new(Arc::clone(cluster), Arc::clone(&self.outbox), bytes_max)
        });
        let (shutdown, end) = (self.service.shutdown().clone(), admitted.seat.end_token());
        self.control = Seldom::new(async move {
            tokio::select! {
                () = shutdown.draining() => Control::Drain,
                () = end.cancelled_owned() => Control::Killed,
            }
        });
        let (seat, user, role) = (admitted.seat, admitted.user, admitted.role);
        if !self.name.is_empty() {
            seat.set_label(&self.name);
        }
        let presence = station
            .presences()
            .enter(seat.id(), self.local, &self.outbox);
        self.member = Some(Member {
            station,
            seat,
            user,
            role,
            presence,
        });
    }
}

/// What ends a client that has not logged in.
pub(super) fn stranger(service: &Service) -> Seldom<Control> {
    let (shutdown, late) = (
        service.shutdown().clone(),
        service.settings().login_wait_max,
    );
    Seldom::new(async move {
        tokio::select! {
            () = shutdown.draining() => Control::Drain,
            () = tokio::time::sleep(late) => Control::LoginLate,
        }
    })
}
