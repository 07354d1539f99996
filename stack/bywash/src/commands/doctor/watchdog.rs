//! Who watches over the engines of this host.

use bywash_engine::host::control::{EngineInfo, Operation, ask};
use bywash_engine::report::WatchdogReport;
use serde_json::Value;

use super::Findings;
use super::machine::name;
use crate::commands::ss::watchdog_line;

pub(super) fn look(findings: &mut Findings, alive: &[EngineInfo]) {
    if alive.is_empty() {
        findings.ok(
            "watchdog",
            "no engine to watch; one that hangs is detached by its guard, unless it runs with --watchdog off",
        );
    }
    for engine in alive {
        // The counters' answer has no connections, which may be many.
        let report = ask(engine, Operation::Counters)
            .map_err(|error| error.to_string())
            .and_then(|answer| read(&answer));
        match report {
            Ok(report) => judge(findings, &name(engine), report.as_ref()),
            Err(error) => findings.warn(
                "watchdog",
                format!("{} does not say who watches over it: {error}", name(engine)),
                "it hangs, ends, or is of another version: `bywash ss` asks again",
            ),
        }
    }
}

fn read(answer: &Value) -> Result<Option<WatchdogReport>, String> {
    serde_json::from_value(answer["watchdog"].clone()).map_err(|error| error.to_string())
}

fn judge(findings: &mut Findings, name: &str, report: Option<&WatchdogReport>) {
    match report {
        None => findings.warn(
            "watchdog",
            format!("{name}: nobody watches over it; if it hangs, its ports are cut off"),
            "run it with --watchdog SECONDS",
        ),
        Some(report) if report.limit_ms.is_none() => findings.warn(
            "watchdog",
            format!(
                "{name}: {}; if it hangs, its ports are cut off",
                watchdog_line(report)
            ),
            "run it with --watchdog SECONDS",
        ),
        Some(report) if report.guard.is_none() => findings.warn(
            "watchdog",
            format!("{name}: {}", watchdog_line(report)),
            "the engine makes a new guard within seconds; its log says why if it cannot",
        ),
        Some(report) => findings.ok("watchdog", format!("{name}: {}", watchdog_line(report))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    fn report(limit_ms: Option<u64>, guard: Option<u32>) -> WatchdogReport {
        WatchdogReport {
            limit_ms,
            on_death: "keep".to_owned(),
            guard,
            detached: 0,
            guards_lost: 1,
        }
    }

    #[test]
    fn an_engine_is_well_while_a_guard_has_a_limit() {
        for (report, level, words) in [
            (None, Level::Warn, "nobody watches"),
            (Some(report(None, Some(7))), Level::Warn, "off, guard 7"),
            (Some(report(Some(5000), None)), Level::Warn, "NO GUARD"),
            (
                Some(report(Some(5000), Some(7))),
                Level::Ok,
                "5 s, guard 7, keeps",
            ),
        ] {
            let mut findings = Findings::default();
            judge(&mut findings, "process 1 on eth1", report.as_ref());
            let found = &findings.list[0];
            assert!(
                found.level == level && found.text.contains(words),
                "{found:?}"
            );
        }
    }
}
