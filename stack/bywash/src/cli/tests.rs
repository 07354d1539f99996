//! What the command line takes, and what it refuses.

use clap::CommandFactory;

use super::*;

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn policies_and_sizes_are_read() {
    assert_eq!(pool_policy("shared"), Ok(PoolPolicy::Shared));
    assert_eq!(
        pool_policy("promote-after=0"),
        Ok(PoolPolicy::PromoteAfter(0))
    );
    assert_eq!(pool_class("12"), Ok(PoolClass::small(12)));
    let large = PoolClass {
        pools: 4,
        ring: 2048,
    };
    assert_eq!(pool_class("4x2048"), Ok(large));
    assert!(pool_class("4x1000").is_err() && pool_class("x").is_err());
    assert!(pool_policy("promote-after=").is_err());
    assert!(pool_policy("shared=1").is_err());
    assert_eq!(idle_policy("spin"), Ok(IdlePolicy::Spin));
    assert_eq!(
        idle_policy("spin-then-sleep=7"),
        Ok(IdlePolicy::SpinThenSleep(Duration::from_micros(7)))
    );
    assert!(idle_policy("spin-then-sleep").is_err());
    assert_eq!(bytes("64M"), Ok(64 << 20));
    assert_eq!(bytes("16"), Ok(16));
    assert!(bytes("").is_err());
    assert!(bytes("99999999T").is_err());
    assert!(bytes("-1").is_err());
    assert_eq!(watchdog("off"), Ok(Watchdog(None)));
    assert_eq!(
        watchdog("1.5"),
        Ok(Watchdog(Some(Duration::from_millis(1500))))
    );
    assert!(watchdog("0.9").is_err());
    assert!(watchdog("never").is_err());
    assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
    assert!(seconds("-1").is_err());
}

fn device(arguments: &[&str]) -> Result<EngineConfig, String> {
    let line = ["bywash", "echo", "--dev", "veth0"].iter().chain(arguments);
    let Command::Echo(echo) = Cli::parse_from(line).command else {
        panic!("not echo")
    };
    echo.device.engine()
}

#[test]
fn contradictions_are_named() {
    let error = device(&["--mode", "copy", "--require-zero-copy"]).unwrap_err();
    assert!(error.contains("--mode copy"), "{error}");
    let error = device(&["--shards", "2", "--cores", "1"]).unwrap_err();
    assert!(error.contains("one core per shard"), "{error}");
    assert!(device(&["--shards", "2", "--cores", "0,1", "--require-zero-copy"]).is_ok());
}
