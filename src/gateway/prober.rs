//! Connection tests for the admin API: the protocols' own dialling, without a pool.

use std::{sync::Arc, time::Duration};

use crate::{
    admin::{ProbeFuture, Prober, ResolveFuture},
    config::Config,
    mongodb,
    net::{self, Address, DialFault, DialStep, tls::ClientTls},
    postgres, redis,
    tenant::{DatabaseType, Target},
};

/// Tests databases of every type.
pub(super) struct Probes {
    client_tls: ClientTls,
    names: Arc<mongodb::Names>,
    wait_max: Duration,
}

impl Probes {
    pub(super) fn new(client_tls: ClientTls, config: &Config) -> Self {
        Self {
            client_tls,
            names: config.mongodb.names(),
            wait_max: config.pool.dial_wait_max,
        }
    }

    async fn run(&self, target: &Target) -> Result<String, DialFault> {
        match target.kind {
            DatabaseType::Postgres => {
                postgres::probe(target, &self.client_tls, self.wait_max).await
            }
            DatabaseType::Redis => redis::probe(target, &self.client_tls, self.wait_max).await,
            DatabaseType::Mongodb => {
                mongodb::probe(target, &self.client_tls, &self.names, self.wait_max).await
            }
            DatabaseType::BunApi => self.knock(target).await,
        }
    }

    /// An HTTP service is only asked whether it listens.
    async fn knock(&self, target: &Target) -> Result<String, DialFault> {
        let Some(endpoint) = target.endpoint() else {
            return Err(DialFault::new(
                DialStep::Name,
                "no host",
                "give the service's URL",
            ));
        };
        let address = Address {
            host: &endpoint.host,
            port: endpoint.port,
        };
        net::dial(address, self.wait_max)
            .await
            .map(|_| "listens".to_owned())
    }
}

impl Prober for Probes {
    fn probe<'a>(&'a self, target: &'a Target) -> ProbeFuture<'a> {
        Box::pin(self.run(target))
    }

    fn resolve<'a>(&'a self, target: &'a Target) -> ResolveFuture<'a> {
        Box::pin(self.names.resolve(target))
    }
}
