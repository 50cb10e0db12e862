//! Health checks told from requests: those of Kubernetes, of load balancers and of scrapers say nothing of demand.
//!
//! By path or by user agent. What is a check is counted as filtered by whoever asks, not lost.

use gatewatch_event::Exchange;
use hashbrown::HashSet;
use rustc_hash::FxBuildHasher;

/// Paths that are checks; with `*` at the end, all that begin so.
pub const PATHS: [&str; 33] = [
    "/healthz",
    "/healthz/*",
    "/livez",
    "/livez/*",
    "/readyz",
    "/readyz/*",
    "/health",
    "/health/live",
    "/health/liveness",
    "/health/ready",
    "/health/readiness",
    "/health/started",
    "/healthcheck",
    "/health-check",
    "/health_check",
    "/_health",
    "/_healthz",
    "/live",
    "/liveness",
    "/ready",
    "/readiness",
    "/startup",
    "/ping",
    "/-/healthy",
    "/-/ready",
    "/actuator/health*",
    "/actuator/prometheus",
    "/q/health*",
    "/q/metrics*",
    "/metrics",
    "/app-health/*",
    "/stats/prometheus",
    "/grpc.health.v1.Health/*",
];

/// How the user agents of those begin that only check.
pub const AGENTS: [&str; 16] = [
    "kube-probe/",
    "GoogleHC/",
    "ELB-HealthChecker/",
    "Amazon-Route53-Health-Check-Service",
    "Azure Traffic Manager Endpoint Monitor",
    "Load Balancer Agent",
    "Envoy/HC",
    "grpc-health-probe",
    "grpc_health_probe",
    "Consul Health Check",
    "Prometheus/",
    "vm_promscrape",
    "Blackbox Exporter/",
    "Blackbox-Exporter/",
    "Grafana Agent/",
    "OpenTelemetry Collector",
];

/// Longest pattern taken over from the configuration, and how many.
const MAX: (usize, usize) = (512, 256);

/// Which requests are checks.
#[derive(Clone, Debug, Default)]
pub struct HealthChecks {
    exact: HashSet<Box<str>, FxBuildHasher>,
    prefixes: Vec<Box<str>>,
    agents: bool,
}

impl HealthChecks {
    /// None are.
    #[must_use]
    pub fn off() -> Self {
        Self::default()
    }

    /// The built-in ones, and those of `more`: paths, each exact or with `*` at its end. Empty ones are passed over,
    /// and so are those beyond 512 bytes or 256 in number.
    #[must_use]
    pub fn new<'a>(more: impl IntoIterator<Item = &'a str>) -> Self {
        let (longest, most) = MAX;
        let more = more.into_iter().map(str::trim).filter(|it| !it.is_empty() && it.len() <= longest);
        let mut this = Self { agents: true, ..Self::default() };
        for pattern in PATHS.into_iter().chain(more.take(most)) {
            match pattern.strip_suffix('*') {
                Some(prefix) => this.prefixes.push(prefix.into()),
                None => {
                    this.exact.insert(pattern.into());
                }
            }
        }
        this
    }

    /// A request of this path (without query) and user agent is a check.
    #[must_use]
    pub fn is_check(&self, path: &str, agent: &str) -> bool {
        let plain = path.strip_suffix('/').filter(|plain| !plain.is_empty()).unwrap_or(path);
        self.exact.contains(path)
            || self.exact.contains(plain)
            || self.prefixes.iter().any(|prefix| path.starts_with(&**prefix))
            || self.agents && !agent.is_empty() && AGENTS.iter().any(|known| agent.starts_with(known))
    }

    /// The same of an exchange.
    #[must_use]
    pub fn is(&self, exchange: &Exchange) -> bool {
        self.is_check(&exchange.path, &exchange.user_agent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_checks() {
        let checks = HealthChecks::new([]);
        for path in [
            "/healthz",
            "/healthz/",
            "/livez/ping",
            "/readyz",
            "/metrics",
            "/actuator/health/readiness",
            "/grpc.health.v1.Health/Check",
            "/grpc.health.v1.Health/Watch",
            "/-/ready",
        ] {
            assert!(checks.is_check(path, ""), "{path}");
        }
        for path in ["/", "", "/health/records/1", "/metrics/2024", "/healthzz", "/api/health", "/pingpong"] {
            assert!(!checks.is_check(path, "Mozilla/5.0"), "{path}");
        }
        for agent in ["kube-probe/1.36", "GoogleHC/1.0", "ELB-HealthChecker/2.0", "Prometheus/3.5.0"] {
            assert!(checks.is_check("/", agent), "{agent}");
        }
        assert!(!checks.is_check("/", "my kube-probe/1"));
    }

    #[test]
    fn more_of_them() {
        let checks = HealthChecks::new(" /up , /probe/*,,/".split(','));
        for path in ["/up", "/up/", "/probe/", "/probe/a/b", "/"] {
            assert!(checks.is_check(path, ""), "{path}");
        }
        for path in ["/upper", "/probe", "/a"] {
            assert!(!checks.is_check(path, ""), "{path}");
        }
    }

    #[test]
    fn the_documentation_names_them_all() {
        let page = include_str!("../../../docs/requests.md");
        for known in PATHS.iter().chain(&AGENTS) {
            let told =
                page.split_whitespace().any(|word| word == *known) || page.contains(&format!(" {known}"));
            assert!(told, "{known}");
        }
    }

    #[test]
    fn off_filters_nothing() {
        assert!(!HealthChecks::off().is_check("/healthz", "kube-probe/1.36"));
    }
}
