//! Families whose series are shown at 0 once, with the time each was created: OpenMetrics' `_created`, which the
//! library at hand does not write.

use std::fmt::{self, Write};

use gatewatch_insight::traffic::{BUCKETS, Histogram};

/// Labels and their values.
pub(crate) type Labels<'a> = [(&'static str, &'a str)];

/// Writes such families.
pub(crate) struct Newborn<'a, W> {
    pub(crate) to: &'a mut W,
    /// Series born after this are shown at 0.
    pub(crate) seen_until_ns: u64,
    /// From the births' clock to nanoseconds since 1970.
    pub(crate) offset_ns: u64,
}

impl<W: Write> Newborn<'_, W> {
    /// Begins a family of counters.
    pub(crate) fn counters(&mut self, name: &str, help: &str) -> fmt::Result {
        writeln!(self.to, "# HELP {name} {help}\n# TYPE {name} counter")
    }

    /// Begins a family of histograms.
    pub(crate) fn histograms(&mut self, name: &str, help: &str) -> fmt::Result {
        writeln!(self.to, "# HELP {name} {help}\n# TYPE {name} histogram")
    }

    /// One counter.
    pub(crate) fn counter(
        &mut self,
        name: &str,
        labels: &Labels<'_>,
        value: u64,
        born_ns: u64,
    ) -> fmt::Result {
        let value = if born_ns > self.seen_until_ns { 0 } else { value };
        write!(self.to, "{name}_total")?;
        self.labels(labels, None)?;
        writeln!(self.to, " {value}")?;
        self.created(name, labels, born_ns)
    }

    /// One histogram of durations, in seconds.
    pub(crate) fn histogram(
        &mut self,
        name: &str,
        labels: &Labels<'_>,
        histogram: &Histogram,
        born_ns: u64,
    ) -> fmt::Result {
        let unseen = Histogram::default();
        let histogram = if born_ns > self.seen_until_ns { &unseen } else { histogram };
        let mut sum = 0;
        for (bound, count) in BUCKETS.into_iter().map(Some).chain([None]).zip(histogram.counts) {
            sum += count;
            write!(self.to, "{name}_bucket")?;
            self.labels(labels, Some(bound))?;
            writeln!(self.to, " {sum}")?;
        }
        write!(self.to, "{name}_sum")?;
        self.labels(labels, None)?;
        writeln!(self.to, " {}", Seconds(histogram.sum_ns))?;
        write!(self.to, "{name}_count")?;
        self.labels(labels, None)?;
        writeln!(self.to, " {sum}")?;
        self.created(name, labels, born_ns)
    }

    fn created(&mut self, name: &str, labels: &Labels<'_>, born_ns: u64) -> fmt::Result {
        write!(self.to, "{name}_created")?;
        self.labels(labels, None)?;
        writeln!(self.to, " {}", Seconds(born_ns.saturating_add(self.offset_ns)))
    }

    /// `bound`: of a bucket; `Some(None)`: of the last.
    fn labels(&mut self, labels: &Labels<'_>, bound: Option<Option<f64>>) -> fmt::Result {
        if labels.is_empty() && bound.is_none() {
            return Ok(());
        }
        self.to.write_char('{')?;
        for (nth, (label, value)) in labels.iter().enumerate() {
            let comma = if nth == 0 { "" } else { "," };
            write!(self.to, "{comma}{label}=\"{}\"", Escaped(value))?;
        }
        let comma = if labels.is_empty() { "" } else { "," };
        match bound {
            Some(Some(bound)) => write!(self.to, "{comma}le=\"{bound:?}\"")?,
            Some(None) => write!(self.to, "{comma}le=\"+Inf\"")?,
            None => {}
        }
        self.to.write_char('}')
    }
}

/// A label's value: whatever it holds, it ends where it is meant to.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '\\' => f.write_str("\\\\"),
            '"' => f.write_str("\\\""),
            '\n' => f.write_str("\\n"),
            c => f.write_char(c),
        })
    }
}

/// Nanoseconds as seconds, exactly.
struct Seconds(u64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(seen_until_ns: u64, write: impl FnOnce(&mut Newborn<'_, String>) -> fmt::Result) -> String {
        let mut text = String::new();
        let mut newborn = Newborn { to: &mut text, seen_until_ns, offset_ns: 1_000_000_000 };
        write(&mut newborn).expect("a string takes all");
        text
    }

    #[test]
    fn a_series_the_scraper_has_not_seen_is_zero_and_then_its_value() {
        let row = |n: &mut Newborn<'_, String>| n.counter("calls", &[("to", "cart")], 7, 500);
        assert_eq!(written(499, row), "calls_total{to=\"cart\"} 0\ncalls_created{to=\"cart\"} 1.000000500\n");
        assert_eq!(written(500, row), "calls_total{to=\"cart\"} 7\ncalls_created{to=\"cart\"} 1.000000500\n");
    }

    #[test]
    fn no_value_of_a_label_breaks_out_of_it() {
        let text = written(0, |n| n.counter("c", &[("comm", "a\"} 9\nb\\")], 1, 0));
        assert!(text.starts_with("c_total{comm=\"a\\\"} 9\\nb\\\\\"} 1\n"), "{text}");
    }

    #[test]
    fn a_histogram_is_cumulative_and_begins_at_zero() {
        let mut histogram = Histogram::default();
        histogram.add(2_000_000);
        histogram.add(20_000_000_000);
        let seen = written(10, |n| n.histogram("d", &[], &histogram, 10));
        assert!(seen.contains("d_bucket{le=\"0.001\"} 0\nd_bucket{le=\"0.0025\"} 1\n"), "{seen}");
        assert!(
            seen.contains(
                "d_bucket{le=\"10.0\"} 1\nd_bucket{le=\"+Inf\"} 2\nd_sum 20.002000000\nd_count 2\n"
            )
        );
        let unseen = written(9, |n| n.histogram("d", &[], &histogram, 10));
        assert!(unseen.contains("d_bucket{le=\"+Inf\"} 0\nd_sum 0.000000000\nd_count 0\n"), "{unseen}");
    }
}
