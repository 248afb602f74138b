use async_trait::async_trait;
use mockall::mock;
use outboard_core::{
    Error, ErrorKind, Task, TaskId,
    provider::{Cancelled, Capabilities, PriceModel, ProviderInfo, TaskSummary},
    task::{Revision, TaskState},
};
use tokio::time::Instant;

use super::*;
use crate::{Breaker, fixture};

mock! {
    #[derive(Debug)]
    Provider {}

    #[async_trait]
    impl ComputeProvider for Provider {
        fn info(&self) -> &ProviderInfo;
        fn capabilities(&self) -> &Capabilities;
        async fn price(&self) -> Result<PriceModel>;
        async fn health(&self) -> Result<Health>;
        async fn submit(&self, task: &Task) -> Result<TaskId>;
        async fn wait(&self, id: &TaskId, seen: Revision, limit: Duration) -> Result<TaskState>;
        async fn cancel(&self, id: &TaskId) -> Result<Cancelled>;
        async fn list(&self) -> Result<Vec<TaskSummary>>;
    }
}

fn provider(id: &str) -> MockProvider {
    let mut provider = MockProvider::new();
    let info = ProviderInfo { id: id.into(), kind: id.into(), device: format!("a {id}"), region: None };
    provider.expect_info().return_const(info);
    provider.expect_capabilities().return_const(fixture::candidate(id).capabilities);
    provider
}

fn healthy(id: &str, price: Result<PriceModel>) -> MockProvider {
    let mut provider = provider(id);
    provider.expect_price().times(1).return_once(|| price);
    provider.expect_health().times(1).returning(|| Ok(Health::Ready));
    provider
}

/// A provider that answers late, through a future that mockall can't hold back.
#[derive(Debug)]
struct Slow(MockProvider, Duration);

#[async_trait]
impl ComputeProvider for Slow {
    fn info(&self) -> &ProviderInfo {
        self.0.info()
    }
    fn capabilities(&self) -> &Capabilities {
        self.0.capabilities()
    }
    async fn price(&self) -> Result<PriceModel> {
        tokio::time::sleep(self.1).await;
        self.0.price().await
    }
    async fn health(&self) -> Result<Health> {
        tokio::time::sleep(self.1).await;
        self.0.health().await
    }
    async fn submit(&self, task: &Task) -> Result<TaskId> {
        self.0.submit(task).await
    }
    async fn wait(&self, id: &TaskId, seen: Revision, limit: Duration) -> Result<TaskState> {
        self.0.wait(id, seen, limit).await
    }
    async fn cancel(&self, id: &TaskId) -> Result<Cancelled> {
        self.0.cancel(id).await
    }
    async fn list(&self) -> Result<Vec<TaskSummary>> {
        self.0.list().await
    }
}

const DEADLINE: Duration = Duration::from_secs(5);

fn free() -> PriceModel {
    PriceModel::free("a test")
}

#[tokio::test(start_paused = true)]
async fn what_providers_say_becomes_data() {
    let mut down = provider("http");
    down.expect_price().returning(|| Ok(free()));
    down.expect_health().returning(|| Ok(Health::Unavailable("no worker answers".into())));
    let providers: [Arc<dyn ComputeProvider>; 2] = [Arc::new(healthy("cpu", Ok(free()))), Arc::new(down)];
    let candidates = survey(&providers, DEADLINE).await;
    let expected = fixture::candidate("cpu");
    assert_eq!(candidates[0], expected);
    assert!(expected.is_local && expected.enabled && expected.breaker == Breaker::Closed);
    assert_eq!(candidates[1].health, Health::Unavailable("no worker answers".into()));
    assert!(!candidates[1].is_local);
    assert_eq!(survey(&[], DEADLINE).await, []);
}

#[tokio::test(start_paused = true)]
async fn an_error_becomes_a_reason_and_never_a_price_of_zero() {
    let unknown = Error::new(ErrorKind::Unavailable, "the price list can't be read").hint("set `usd_per_hour`");
    let mut broken = provider("runpod");
    broken.expect_price().return_once(|| Err(unknown));
    broken.expect_health().returning(|| Err(Error::new(ErrorKind::Unauthenticated, "the API key is refused")));
    let candidates = survey(&[Arc::new(broken)], DEADLINE).await;
    assert_eq!(candidates[0].price, Err("the price list can't be read; set `usd_per_hour`".into()));
    assert_eq!(candidates[0].health, Health::Unavailable("the API key is refused".into()));
}

#[tokio::test(start_paused = true)]
async fn all_are_asked_at_once_and_none_beyond_the_deadline() {
    let slow = |id, seconds| -> Arc<dyn ComputeProvider> {
        Arc::new(Slow(healthy(id, Ok(free())), Duration::from_secs(seconds)))
    };
    let mut hung = MockProvider::new();
    hung.expect_info().return_const(provider("d").info().clone());
    hung.expect_capabilities().return_const(fixture::candidate("d").capabilities);
    let hung = Arc::new(Slow(hung, Duration::from_secs(3600)));
    let began = Instant::now();
    let candidates = survey(&[slow("a", 4), slow("b", 4), slow("c", 4), hung], DEADLINE).await;
    assert_eq!(began.elapsed(), DEADLINE);
    assert!(candidates[..3].iter().all(|candidate| candidate.price.is_ok() && candidate.health == Health::Ready));
    assert_eq!(candidates[3].price, Err("no answer within 5.0 s".into()));
    assert_eq!(candidates[3].health, Health::Unavailable("no answer within 5.0 s".into()));
}
