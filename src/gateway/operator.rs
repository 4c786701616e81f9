//! What operators see and do, by the admin API and by the SQL console, over the services of all protocols.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, interval};

use super::services::Services;
use crate::{
    admin::{self, Order},
    crypto::Secret,
    postgres::{Action, Operator, PoolView, Reply},
    protocol::Protocol,
    registry::{Registry, TokenRole},
    session::ClientFigures,
    tenant::{Tenant, TenantId},
};

/// How long a drain waits for upstreams to come back.
const DRAIN_MAX: Duration = Duration::from_secs(30);
/// How often it looks.
const DRAIN_LOOK_EVERY: Duration = Duration::from_millis(20);
/// What the token of the configuration is called in logs.
const ADMIN_TOKEN_NAME: &str = "admin-token";

/// Reads again what can be read again; an error says why it could not.
pub(super) type Reload = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What an operator acts through.
pub(super) struct Desk {
    pub(super) services: Arc<Services>,
    pub(super) registry: Arc<Registry>,
    pub(super) admin_token: Secret,
    /// Name, value and default of each setting.
    pub(super) settings: Vec<[String; 3]>,
    pub(super) began: Instant,
    pub(super) reload: Reload,
}

impl Desk {
    async fn tenant(&self, id_or_slug: &str) -> Result<Arc<Tenant>, String> {
        let row = self.registry.database(id_or_slug).await;
        let row = row.map_err(|error| error.to_string())?;
        let row = row.ok_or_else(|| format!("there is no database '{id_or_slug}'"))?;
        let tenant = self.registry.tenant(TenantId(row.id)).await;
        let tenant = tenant.map_err(|error| error.to_string())?;
        tenant.ok_or_else(|| format!("the database '{id_or_slug}' is not in use"))
    }

    async fn order(&self, order: Order, tenants: &[Arc<Tenant>]) -> Result<(), String> {
        let holds = matches!(order, Order::Pause | Order::Drain);
        for tenant in tenants {
            if holds && tenant.protocol != Protocol::Postgres {
                // Redis clients would go on over their trunks, and a replica set may get further pools.
                let kind = tenant.protocol.label();
                return Err(format!("a database of type {kind} cannot be held back"));
            }
            self.services.order(order, tenant);
        }
        if order == Order::Drain {
            return self.drained(tenants).await;
        }
        Ok(())
    }

    async fn drained(&self, tenants: &[Arc<Tenant>]) -> Result<(), String> {
        let begun = Instant::now();
        let mut looks = interval(DRAIN_LOOK_EVERY);
        loop {
            looks.tick().await;
            let used: usize = tenants
                .iter()
                .map(|tenant| self.services.in_use(tenant))
                .sum();
            if used == 0 {
                return Ok(());
            }
            if begun.elapsed() > DRAIN_MAX {
                return Err(format!("held back, but {used} upstreams are still in use"));
            }
        }
    }
}

impl admin::Control for Desk {
    fn control<'a>(&'a self, order: Order, database: &'a str) -> admin::ControlFuture<'a> {
        Box::pin(async move {
            let tenant = self.tenant(database).await?;
            self.order(order, &[tenant]).await
        })
    }
}

impl Operator for Desk {
    fn check<'a>(&'a self, token: &'a str) -> Reply<'a, Option<(String, TokenRole)>> {
        Box::pin(async move {
            if self.admin_token.matches(token.as_bytes()) {
                return Some((ADMIN_TOKEN_NAME.to_owned(), TokenRole::Owner));
            }
            self.registry.check_token(token).await.ok().flatten()
        })
    }

    fn pools(&self) -> Vec<PoolView> {
        self.services.views()
    }

    fn clients(&self) -> Vec<ClientFigures> {
        self.services.board().clients(None)
    }

    fn settings(&self) -> Vec<[String; 3]> {
        self.settings.clone()
    }

    fn uptime(&self) -> Duration {
        self.began.elapsed()
    }

    fn act<'a>(&'a self, action: Action, slug: Option<&'a str>) -> Reply<'a, Result<(), String>> {
        Box::pin(async move {
            let tenants = match slug {
                Some(slug) => vec![self.tenant(slug).await?],
                None => self
                    .services
                    .views()
                    .into_iter()
                    .map(|view| view.tenant)
                    .collect(),
            };
            match action {
                Action::Pause => {
                    let can = |tenant: &Arc<Tenant>| {
                        slug.is_some() || tenant.protocol == Protocol::Postgres
                    };
                    let tenants: Vec<_> = tenants.into_iter().filter(can).collect();
                    self.order(Order::Drain, &tenants).await
                }
                Action::Resume => self.order(Order::Resume, &tenants).await,
                Action::Reconnect => self.order(Order::Reconnect, &tenants).await,
                Action::Kill => {
                    for tenant in &tenants {
                        self.services.board().end_tenant(tenant.id);
                    }
                    Ok(())
                }
            }
        })
    }

    fn end_client(&self, id: u64) -> bool {
        self.services.board().end(id, None)
    }

    fn reload(&self) -> Result<(), String> {
        (self.reload)()
    }
}
