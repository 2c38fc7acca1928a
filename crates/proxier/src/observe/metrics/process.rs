//! Metrics of this process, with the names of Prometheus's client libraries.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Ticks per second in `/proc` (`USER_HZ`, proc(5)): 100 on all supported architectures.
const TICKS: f64 = 100.0;

/// Reads `/proc` at each scrape.
#[derive(Debug)]
pub(super) struct ProcessCollector;

/// The values. Those that cannot be read are left out.
#[derive(Debug, Default, PartialEq)]
struct Process {
    cpu_seconds: Option<f64>,
    start_time: Option<f64>,
    resident_bytes: Option<f64>,
    virtual_bytes: Option<f64>,
    open_fds: Option<f64>,
    max_fds: Option<f64>,
}

impl Process {
    fn read() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let fds = fs::read_dir("/proc/self/fd").ok().map(|entries| {
            // Do not count the descriptor that reads the directory.
            count(entries.count().saturating_sub(1))
        });
        Self {
            open_fds: fds,
            ..Self::parse(
                &read("/proc/self/stat"),
                &read("/proc/stat"),
                &read("/proc/self/status"),
                &read("/proc/self/limits"),
            )
        }
    }

    /// Parses the files that proc(5) describes.
    fn parse(stat: &str, of_system: &str, status: &str, limits: &str) -> Self {
        // The second field, the program's name, may contain any character.
        let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
        let ticks = |number: usize| -> Option<f64> {
            let field = fields.split(' ').nth(number - 3)?;
            Some(field.parse::<f64>().ok()? / TICKS)
        };
        let boot = number(of_system, "btime ");
        let kilobytes = |name| number(status, name).map(|kilobytes| kilobytes * 1024.0);
        Self {
            cpu_seconds: ticks(14).zip(ticks(15)).map(|(user, system)| user + system),
            start_time: ticks(22).zip(boot).map(|(after, boot)| after + boot),
            resident_bytes: kilobytes("VmRSS:"),
            virtual_bytes: kilobytes("VmSize:"),
            open_fds: None,
            max_fds: number(limits, "Max open files"),
        }
    }
}

/// The number after the prefix of a line.
fn number(text: &str, begins: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(begins))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn count(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let process = Process::read();
        if let Some(seconds) = process.cpu_seconds {
            ConstCounter::new(seconds).encode(encoder.encode_descriptor(
                "process_cpu_seconds",
                "User and system CPU time of this process",
                None,
                MetricType::Counter,
            )?)?;
        }
        let gauges = [
            (
                "process_start_time_seconds",
                "Start time of this process",
                process.start_time,
            ),
            (
                "process_resident_memory_bytes",
                "Resident memory",
                process.resident_bytes,
            ),
            (
                "process_virtual_memory_bytes",
                "Mapped memory",
                process.virtual_bytes,
            ),
            (
                "process_open_fds",
                "Open file descriptors",
                process.open_fds,
            ),
            (
                "process_max_fds",
                "Limit of open file descriptors",
                process.max_fds,
            ),
        ];
        for (name, help, value) in gauges {
            if let Some(value) = value {
                let gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
                ConstGauge::new(value).encode(gauge)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of Linux 6.1, with another name.
    #[test]
    fn proc_is_read_whatever_the_name_of_the_program() {
        let stat = "4242 (a ) R (b) S 1 4242 4242 0 -1 4194560 1043 0 3 0 120 30 0 0 20 0 9 0 \
                    5000 96468992 2111 18446744073709551615 1 1 0 0 0 0 0 4096 17410 0 0 0 17 1 0 0";
        let of_system = "cpu  1 2 3\nctxt 7\nbtime 1700000000\nprocesses 5\n";
        let status = "Name:\ta\nVmSize:\t   94208 kB\nVmRSS:\t    8444 kB\n";
        let limits = "Limit  Soft Limit  Hard Limit  Units\n\
                      Max open files            1024                 524288               files\n";
        let expected = Process {
            cpu_seconds: Some(1.5),
            start_time: Some(1_700_000_050.0),
            resident_bytes: Some(8444.0 * 1024.0),
            virtual_bytes: Some(94208.0 * 1024.0),
            open_fds: None,
            max_fds: Some(1024.0),
        };
        assert_eq!(Process::parse(stat, of_system, status, limits), expected);
        assert_eq!(
            Process::parse("", "", "", "Max open files unlimited"),
            Process::default()
        );
    }

    #[test]
    fn this_process_is_read_in_full() {
        let process = Process::read();
        let all = [
            process.cpu_seconds,
            process.start_time,
            process.resident_bytes,
            process.virtual_bytes,
            process.open_fds,
            process.max_fds,
        ];
        assert!(all.iter().all(Option::is_some), "{process:?}");
    }
}
