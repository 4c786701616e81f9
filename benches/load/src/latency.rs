//! A histogram of latencies in constant memory, within two per cent of each sample.

use std::time::Duration;

/// Sub-buckets of each power of two, as a power of two.
const FINE_BITS: u32 = 6;
const BUCKETS: usize = (64 - FINE_BITS as usize + 1) << FINE_BITS;

/// Counts of latencies in nanoseconds, in buckets that grow with the latency.
pub(crate) struct Latencies {
    buckets: Vec<u64>,
    samples: u64,
}

impl Latencies {
    /// No samples yet.
    pub(crate) fn new() -> Self {
        Self {
            buckets: vec![0; BUCKETS],
            samples: 0,
        }
    }

    /// Adds one sample.
    pub(crate) fn add(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        if let Some(count) = self.buckets.get_mut(bucket(nanos)) {
            *count += 1;
            self.samples += 1;
        }
    }

    /// How many samples there are.
    pub(crate) fn samples(&self) -> u64 {
        self.samples
    }

    /// The latency that `per_mille` of a thousand samples do not exceed; zero without samples.
    pub(crate) fn quantile(&self, per_mille: u64) -> Duration {
        let rank = (self.samples * per_mille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_nanos(middle(index));
            }
        }
        Duration::ZERO
    }
}

fn bucket(nanos: u64) -> usize {
    let magnitude = (64 - nanos.leading_zeros()).saturating_sub(FINE_BITS + 1);
    let fine = usize::try_from(nanos >> magnitude).unwrap_or(0);
    ((magnitude as usize) << FINE_BITS) + fine
}

fn middle(index: usize) -> u64 {
    let magnitude = (index >> FINE_BITS).saturating_sub(1);
    let fine = index - (magnitude << FINE_BITS);
    let low = (fine as u64) << magnitude;
    low + ((1_u64 << magnitude) >> 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantile_is_within_two_per_cent() {
        let mut latencies = Latencies::new();
        for micros in 1..=10_000 {
            latencies.add(Duration::from_micros(micros));
        }
        for (per_mille, micros) in [(500, 5_000.0), (990, 9_900.0)] {
            let found = latencies.quantile(per_mille).as_secs_f64() * 1e6;
            assert!((found / micros - 1.0).abs() < 0.02, "{found}");
        }
    }

    #[test]
    fn every_latency_has_its_bucket() {
        for shift in 0..64 {
            let nanos = 1_u64 << shift;
            let near = middle(bucket(nanos));
            assert!(
                near >= nanos && near - nanos <= nanos / 64,
                "{nanos} {near}"
            );
        }
        let mut latencies = Latencies::new();
        latencies.add(Duration::MAX);
        assert_eq!(latencies.samples(), 1);
    }

    #[test]
    fn quantile_of_nothing_is_zero() {
        assert_eq!(Latencies::new().quantile(500), Duration::ZERO);
    }
}
