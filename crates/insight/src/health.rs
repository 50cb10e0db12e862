//! Health checks: requests that nobody made because they wanted an answer.

/// Paths that are asked by probes and scrapers, and by nobody else: exact, or with `*` at the end.
pub const PATHS: [&str; 18] = [
    "/healthz",
    "/healthz/*",
    "/livez",
    "/livez/*",
    "/readyz",
    "/readyz/*",
    "/health",
    "/health/live",
    "/health/ready",
    "/live",
    "/ready",
    "/startup",
    "/metrics",
    "/actuator/health",
    "/actuator/health/*",
    "/actuator/prometheus",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
];

/// How user agents of probes and scrapers begin.
pub const AGENTS: [&str; 8] = [
    "kube-probe/",
    "GoogleHC/",
    "ELB-HealthChecker/",
    "Amazon-Route53-Health-Check-Service",
    "Consul Health Check",
    "Envoy/HC",
    "Prometheus/",
    "vm_promscrape",
];

/// Tells them.
#[derive(Clone, Debug, Default)]
pub struct HealthChecks {
    enabled: bool,
    more: Vec<String>,
}

impl HealthChecks {
    /// With paths besides [`PATHS`], written likewise; `enabled: false`: nothing is one.
    #[must_use]
    pub fn new(enabled: bool, more: Vec<String>) -> Self {
        Self { enabled, more }
    }

    /// Whether this request is one. `path`: without its query.
    #[must_use]
    pub fn is_one(&self, path: &str, user_agent: &str) -> bool {
        let matches = |pattern: &str| match pattern.strip_suffix('*') {
            Some(front) => path.starts_with(front),
            None => path == pattern,
        };
        self.enabled
            && (PATHS.into_iter().any(matches)
                || self.more.iter().any(|pattern| matches(pattern))
                || AGENTS.into_iter().any(|agent| user_agent.starts_with(agent)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_are_told_by_path_or_by_agent_and_nothing_else_is() {
        let checks = HealthChecks::new(true, vec!["/up".to_owned(), "/internal/*".to_owned()]);
        for path in
            ["/healthz", "/healthz/ready", "/metrics", "/up", "/internal/x", "/grpc.health.v1.Health/Check"]
        {
            assert!(checks.is_one(path, "curl/8"), "{path}");
        }
        for path in ["/", "/healthzy", "/metrics/x", "/upper", "/health/records", "/api/healthz"] {
            assert!(!checks.is_one(path, "Mozilla/5.0 kube-probe/1.30"), "{path}");
        }
        assert!(checks.is_one("/", "kube-probe/1.30"));
        assert!(!HealthChecks::new(false, vec!["/up".to_owned()]).is_one("/up", "kube-probe/1.30"));
    }
}
