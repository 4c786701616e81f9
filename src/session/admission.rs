//! From what a client says of itself to a seat: one rule for three protocols (DESIGN 1.4).

use std::{net::SocketAddr, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Board, Seat, board::Newcomer, password::PasswordCheck};
use crate::{
    auth::{Throttle, ThrottleKey, scram::Verifier},
    crypto::Secret,
    fault::Refusal,
    protocol::Protocol,
    registry::{Address, Found, Place, Query, Registry},
    telemetry::{LoginOutcome, SessionMeters},
    tenant::{Account, Role, ScramVerifier, Tenant, hmac},
};

/// Bytes of salt of SHA-1 verifiers, as MongoDB's.
const SHA1_SALT_BYTES: usize = 16;

/// Admits clients; shared by all listeners.
pub struct Admission {
    registry: Arc<Registry>,
    board: Arc<Board>,
    throttle: Mutex<Throttle>,
    passwords: PasswordCheck,
    mock_key: [u8; 32],
    meters: [SessionMeters; 3],
}

/// What a client says of itself before it proves anything.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// The protocol it speaks.
    pub protocol: Protocol,
    /// The user name as sent: `user.t`, or the plain user where another signal names the tenant.
    pub login: &'a str,
    /// The database it asks for, which may pick one of a project's.
    pub database: Option<&'a str>,
    /// The TLS server name.
    pub server_name: Option<&'a str>,
    /// PostgreSQL's `options=reference=t`.
    pub reference: Option<&'a str>,
    /// Its address.
    pub peer: SocketAddr,
}

/// A client that has said who it is, and now has to prove it.
///
/// Names that do not exist make a candidate too: with a verifier that nothing fits, so that the
/// answers and the work are the same.
pub struct Candidate {
    admission: Arc<Admission>,
    protocol: Protocol,
    peer: SocketAddr,
    sought: Sought,
    place: Place,
    account: Option<Account>,
    verifier: ScramVerifier,
    /// Two signals name two databases; told to a proven login only.
    contradiction: Option<Refusal>,
}

/// Whom a claim was found to mean, to be looked up again once it is proven.
struct Sought {
    address: SoughtAddress,
    database: Option<String>,
}

enum SoughtAddress {
    Login { user: String, name: String },
    Issued { public_id: String },
}

/// A client that is in.
pub struct Admitted {
    /// The database it uses.
    pub tenant: Arc<Tenant>,
    /// Its user, without the tenant part.
    pub user: String,
    /// What it may do.
    pub role: Role,
    /// Its entry on the board.
    pub seat: Seat,
}

impl Admission {
    /// An admission over a registry.
    ///
    /// # Errors
    /// When the system has no randomness for this process' key.
    pub fn new(registry: Arc<Registry>, board: Arc<Board>) -> Result<Arc<Self>, getrandom::Error> {
        let mut password_key = [0; 32];
        getrandom::fill(&mut password_key)?;
        Ok(Arc::new(Self {
            mock_key: registry.mock_key(),
            registry,
            board,
            throttle: Mutex::default(),
            passwords: PasswordCheck::new(password_key),
            meters: Protocol::ALL.map(SessionMeters::new),
        }))
    }

    /// The board of live sessions.
    pub fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// What the sessions of a protocol count.
    pub fn meters(&self, protocol: Protocol) -> &SessionMeters {
        let [postgres, redis, mongodb] = &self.meters;
        match protocol {
            Protocol::Postgres => postgres,
            Protocol::Redis => redis,
            Protocol::Mongodb => mongodb,
        }
    }

    /// Finds whom a claim means.
    pub async fn identify(self: &Arc<Self>, claim: Claim<'_>) -> Result<Candidate, Refusal> {
        let host_label = claim
            .server_name
            .and_then(|name| name.split_once('.'))
            .map(|(t, _)| t);
        let (user, name) = match (claim.reference, claim.login.rsplit_once('.')) {
            (Some(reference), None) => (claim.login, Some(reference)),
            (Some(reference), Some((user, name))) if name.eq_ignore_ascii_case(reference) => {
                (user, Some(name))
            }
            (Some(reference), Some((_, name))) => return Err(contradiction(reference, name)),
            (None, Some((user, name))) => (user, Some(name)),
            (None, None) => (claim.login, None),
        };
        let mut sought = Sought {
            address: SoughtAddress::Login {
                user: user.to_owned(),
                name: name.or(host_label).unwrap_or_default().to_ascii_lowercase(),
            },
            database: claim.database.map(str::to_owned),
        };
        self.check_throttle(claim.protocol, &sought.key(claim.peer))?;
        let mut found = self.resolve(claim.protocol, &sought).await?;
        let mut contradicted = None;
        // A host name that is no tenant's is just the gateway's own, and says nothing.
        if let (Some(_), Some(label)) = (name, host_label) {
            sought.rename(label);
            let hosted = self.resolve(claim.protocol, &sought).await?;
            match (&found.place, &hosted.place) {
                (Place::One(one), Place::One(other)) if one.id != other.id => {
                    contradicted = Some(contradiction(&one.slug, &other.slug));
                }
                (Place::Nobody, Place::One(_) | Place::Several(_)) => found = hosted,
                _ => {}
            }
            sought.rename(name.unwrap_or(label));
        }
        let mut candidate = self.candidate(claim.protocol, claim.peer, sought, found);
        candidate.contradiction = contradicted;
        Ok(candidate)
    }

    /// Finds whom an issued password's public part means (Redis `AUTH ppc_…`).
    pub async fn identify_issued(
        self: &Arc<Self>,
        public_id: &str,
        protocol: Protocol,
        peer: SocketAddr,
    ) -> Result<Candidate, Refusal> {
        let address = SoughtAddress::Issued {
            public_id: public_id.to_owned(),
        };
        let sought = Sought {
            address,
            database: None,
        };
        self.check_throttle(protocol, &sought.key(peer))?;
        let found = self.resolve(protocol, &sought).await?;
        Ok(self.candidate(protocol, peer, sought, found))
    }

    async fn resolve(&self, protocol: Protocol, sought: &Sought) -> Result<Found, Refusal> {
        let address = match &sought.address {
            SoughtAddress::Login { user, name } => Address::Login { user, name },
            SoughtAddress::Issued { public_id } => Address::Issued { public_id },
        };
        let query = Query {
            protocol,
            address,
            database: sought.database.as_deref(),
        };
        self.registry.resolve(&query).await.map_err(|error| {
            tracing::error!(%error, "login without registry");
            Refusal::RegistryDown
        })
    }

    fn candidate(
        self: &Arc<Self>,
        protocol: Protocol,
        peer: SocketAddr,
        sought: Sought,
        found: Found,
    ) -> Candidate {
        let verifier = match &found.account {
            Some(account) => account.verifier.clone(),
            None => ScramVerifier::mock(&sought.key(peer).name, &self.mock_key),
        };
        Candidate {
            admission: Arc::clone(self),
            protocol,
            peer,
            sought,
            place: found.place,
            account: found.account,
            verifier,
            contradiction: None,
        }
    }

    fn check_throttle(&self, protocol: Protocol, key: &ThrottleKey) -> Result<(), Refusal> {
        match self.throttle.lock().blocked(key, Instant::now()) {
            None => Ok(()),
            Some(retry_after) => {
                self.meters(protocol).login(LoginOutcome::Throttled);
                Err(Refusal::LoginThrottled { retry_after })
            }
        }
    }
}

impl Candidate {
    /// What the client's proof is checked against.
    pub fn verifier(&self) -> ScramVerifier {
        self.verifier.clone()
    }

    /// What a proof of `SCRAM-SHA-1` is checked against; nothing fits it unless the user is an upstream's own, whose
    /// password is known. `digest` makes of the password what that mechanism proves.
    pub async fn sha1_verifier(&self, digest: impl FnOnce(&str) -> Secret) -> Option<Verifier> {
        let name = format!("{} SCRAM-SHA-1", self.sought.key(self.peer).name);
        let seed = hmac(&self.admission.mock_key, name.as_bytes());
        let salt = seed.iter().copied().take(SHA1_SALT_BYTES).collect();
        let known = self.account.as_ref();
        let password = match known.and_then(|account| account.password.as_ref()) {
            Some(password) => digest(password.expose()),
            // The same work, for a password that nobody can know.
            None => Secret::from(STANDARD.encode(hmac(&seed, b"nobody"))),
        };
        self.admission.passwords.derive_sha1(password, salt).await
    }

    /// Checks a password sent in clear, and admits.
    pub async fn check_password(self, password: &[u8]) -> Result<Admitted, Refusal> {
        let known = self
            .account
            .as_ref()
            .and_then(|account| account.password.as_ref());
        // Whatever does not fit at once is derived, so that a known user with a wrong password takes
        // as long as an unknown one.
        let fits = known.is_some_and(|secret| secret.matches(password))
            || self
                .admission
                .passwords
                .matches(&self.verifier, password)
                .await;
        if fits {
            self.proven().await
        } else {
            Err(self.rejected().await)
        }
    }

    /// Admits a client whose proof was right.
    pub async fn proven(self) -> Result<Admitted, Refusal> {
        let key = self.sought.key(self.peer);
        self.admission.check_throttle(self.protocol, &key)?;
        let meters = self.admission.meters(self.protocol);
        let outcome = match self.seat() {
            Ok(admitted) if self.is_still_good().await => Ok(admitted),
            Ok(_) => Err(Refusal::LoginRejected),
            Err(refusal) => Err(refusal),
        };
        self.admission.throttle.lock().succeeded(&key);
        meters.login(match &outcome {
            Ok(_) => LoginOutcome::Admitted,
            Err(_) => LoginOutcome::Refused,
        });
        outcome
    }

    /// Whether the registry still says what it said when the login began.
    ///
    /// Asked once the client has its seat: a change that is not seen here finds the seat.
    async fn is_still_good(&self) -> bool {
        // While the registry is out of reach, known tenants go on.
        let Ok(now) = self.admission.resolve(self.protocol, &self.sought).await else {
            return true;
        };
        let same_place = match (&self.place, &now.place) {
            (Place::One(then), Place::One(now)) => then.id == now.id,
            _ => false,
        };
        let known = |account: &Option<Account>| {
            account
                .as_ref()
                .map(|account| (account.credential, account.verifier.stored_key))
        };
        same_place && known(&self.account) == known(&now.account)
    }

    /// Counts a failed proof, waits as long as the failures have earned, and gives the one answer.
    pub async fn rejected(self) -> Refusal {
        self.admission
            .meters(self.protocol)
            .login(LoginOutcome::Rejected);
        let key = self.sought.key(self.peer);
        let delay = self.admission.throttle.lock().failed(key, Instant::now());
        tokio::time::sleep(delay).await;
        Refusal::LoginRejected
    }

    fn seat(&self) -> Result<Admitted, Refusal> {
        let Some(account) = &self.account else {
            return Err(Refusal::LoginRejected);
        };
        if let Some(contradiction) = &self.contradiction {
            return Err(contradiction.clone());
        }
        let tenant = match &self.place {
            Place::One(tenant) => Arc::clone(tenant),
            Place::Several(names) => {
                return Err(Refusal::TenantAmbiguous {
                    names: names.clone(),
                });
            }
            Place::Nobody => return Err(Refusal::LoginRejected),
        };
        let newcomer = Newcomer {
            protocol: self.protocol,
            peer: self.peer,
            tenant: Arc::clone(&tenant),
            user: account.user.clone(),
            role: account.role,
            credential: account.credential,
        };
        let max = tenant.limits.clients_max;
        let seat = self
            .admission
            .board
            .seat(newcomer)
            .ok_or(Refusal::TooManyClients { max })?;
        Ok(Admitted {
            tenant,
            user: account.user.clone(),
            role: account.role,
            seat,
        })
    }
}

impl Sought {
    /// Whose failures are counted: this address with this very login, so that nobody is locked out by
    /// a colleague, and failures with one login are not cleared by success with another.
    fn key(&self, peer: SocketAddr) -> ThrottleKey {
        let name = match &self.address {
            SoughtAddress::Login { user, name } => format!("{user}.{name}"),
            SoughtAddress::Issued { public_id } => public_id.clone(),
        };
        ThrottleKey {
            address: peer.ip(),
            name,
        }
    }

    fn rename(&mut self, to: &str) {
        if let SoughtAddress::Login { name, .. } = &mut self.address {
            *name = to.to_ascii_lowercase();
        }
    }
}

fn contradiction(first: &str, second: &str) -> Refusal {
    Refusal::TenantContradiction {
        first: first.to_owned(),
        second: second.to_owned(),
    }
}
