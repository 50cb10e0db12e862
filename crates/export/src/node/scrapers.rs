//! Who scrapes, and what each has seen: a new series is shown to each scraper at 0 once.
//!
//! A counter born at 1 is nothing to `rate()`: Prometheus takes the first value it sees for the beginning. So whoever
//! scrapes regularly sees every series at 0 first, and its value from the next time on. Whoever only looks (a
//! person with curl) sees values.

use std::{collections::HashMap, net::IpAddr};

/// Scrapers remembered; the one not heard of for longest is forgotten.
const MAX: usize = 256;
/// A scraper not known is taken for one that has scraped so long ago: what is older has its value at once, and makes no
/// jump.
const USUAL_INTERVAL_NS: u64 = 120_000_000_000;
/// Bytes kept of a scraper's name for itself.
const NAME_MAX: usize = 128;

/// One that scrapes regularly.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Scraper {
    address: IpAddr,
    agent: String,
}

impl Scraper {
    /// By its address and what it says of itself.
    pub(crate) fn new(address: IpAddr, agent: &str) -> Self {
        Self { address, agent: agent.chars().take(NAME_MAX).collect() }
    }
}

/// When each scraped last.
#[derive(Debug, Default)]
pub(crate) struct Scrapers(HashMap<Scraper, u64>);

impl Scrapers {
    /// Series born after this are new to this scraper.
    pub(crate) fn seen_until(&self, scraper: &Scraper, now_ns: u64) -> u64 {
        self.0.get(scraper).copied().unwrap_or_else(|| now_ns.saturating_sub(USUAL_INTERVAL_NS))
    }

    /// It was shown what there was at `taken_ns`.
    pub(crate) fn shown(&mut self, scraper: Scraper, taken_ns: u64) {
        if self.0.len() >= MAX && !self.0.contains_key(&scraper) {
            let oldest = self.0.iter().min_by_key(|(_, at)| **at).map(|(scraper, _)| scraper.clone());
            if let Some(oldest) = oldest {
                self.0.remove(&oldest);
            }
        }
        self.0.insert(scraper, taken_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scraper(last: u8) -> Scraper {
        Scraper::new(IpAddr::from([10, 0, 0, last]), "Prometheus/3.0")
    }

    #[test]
    fn each_scraper_has_its_own_past() {
        let mut scrapers = Scrapers::default();
        scrapers.shown(scraper(1), 500);
        assert_eq!(scrapers.seen_until(&scraper(1), 900), 500);
        assert_eq!(scrapers.seen_until(&scraper(2), USUAL_INTERVAL_NS + 7), 7);
    }

    #[test]
    fn however_many_scrape_few_are_remembered_and_the_youngest() {
        let mut scrapers = Scrapers::default();
        for n in 0..10_000_u64 {
            let agent = format!("scraper {n}");
            scrapers.shown(Scraper::new(IpAddr::from([10, 0, 0, 1]), &agent), n);
        }
        assert_eq!(scrapers.0.len(), MAX);
        let last = Scraper::new(IpAddr::from([10, 0, 0, 1]), "scraper 9999");
        assert_eq!(scrapers.seen_until(&last, u64::MAX), 9999);
    }
}
