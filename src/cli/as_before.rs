//! Settings for commands that run the roles for a short time on an embedded log. Such a command
//! decides by the settings in the installation's journals. A flag, the environment or a file
//! overrides them.

use client::decimal;
use ports::LogError;
use roles::{Role, RoleSettings};

use super::config::{Config, Origin};
use super::output;
use crate::runtime::settings;
use crate::runtime::system::Installation;

/// One setting: its name in the configuration, how to copy the value, and how to show the value.
struct KeptSetting {
    name: &'static str,
    take: fn(&mut RoleSettings, &RoleSettings),
    show: fn(&RoleSettings) -> String,
}

const SETTINGS: &[KeptSetting] = &[
    KeptSetting {
        name: "rate_limit",
        take: |to, from| to.rate_limit = from.rate_limit,
        show: |s| s.rate_limit.to_string(),
    },
    KeptSetting {
        name: "burst",
        take: |to, from| to.burst = from.burst,
        show: |s| s.burst.to_string(),
    },
    KeptSetting {
        name: "message_rate_factor",
        take: |to, from| to.message_rate_factor = from.message_rate_factor,
        show: |s| s.message_rate_factor.to_string(),
    },
    KeptSetting {
        name: "stale_ms",
        take: |to, from| to.stale_ms = from.stale_ms,
        show: |s| s.stale_ms.to_string(),
    },
    KeptSetting {
        name: "opening_cash",
        take: |to, from| to.opening_cash_e4 = from.opening_cash_e4,
        show: |s| decimal::show_e4(s.opening_cash_e4),
    },
    KeptSetting {
        name: "max_command_age",
        take: |to, from| to.max_command_age_ms = from.max_command_age_ms,
        show: |s| {
            s.max_command_age_ms
                .map_or("0".into(), |ms| format!("{ms}ms"))
        },
    },
    KeptSetting {
        name: "dedup_window",
        take: |to, from| to.dedup_window_ms = from.dedup_window_ms,
        show: |s| s.dedup_window_ms.map_or("0".into(), |ms| format!("{ms}ms")),
    },
    KeptSetting {
        name: "open_orders_max",
        take: |to, from| to.open_orders_max = from.open_orders_max,
        show: |s| s.open_orders_max.to_string(),
    },
    KeptSetting {
        name: "client_transfers",
        take: |to, from| to.client_transfers = from.client_transfers,
        show: |s| s.client_transfers.to_string(),
    },
    KeptSetting {
        name: "day_end",
        take: |to, from| to.day_ends_ms = from.day_ends_ms,
        // Show the end of day as typed: midnight is 24:00.
        show: |s| {
            let minutes = if s.day_ends_ms == 0 {
                24 * 60
            } else {
                s.day_ends_ms / 60_000
            };
            format!("{:02}:{:02}", minutes / 60, minutes % 60)
        },
    },
];

/// Copies the settings of the installation's last run. Notes on stderr each setting that differs
/// from the default or from the last run.
pub(super) fn take_over(config: &Config, system: &mut Installation) -> Result<(), LogError> {
    let last = match settings::last_used(system, Role::Orders)? {
        Some(last) => Some(last),
        None => settings::last_used(system, Role::Trading)?,
    };

    let Some(last) = last else { return Ok(()) };
    for (name, text) in merge(&mut system.roles, &last, &|name| config.origin(name)) {
        output::note(format_args!(
            "processor: --{} {text}",
            name.replace('_', "-")
        ));
    }

    Ok(())
}

/// Merges the current settings with the last ones. Returns the settings to report, with a text for
/// each.
fn merge(
    now: &mut RoleSettings,
    last: &RoleSettings,
    origin: &dyn Fn(&str) -> Origin,
) -> Vec<(&'static str, String)> {
    let mut differ = Vec::new();
    for setting in SETTINGS {
        let mine = (setting.show)(now);
        let theirs = (setting.show)(last);
        if mine == theirs {
            continue;
        }

        differ.push((
            setting.name,
            match origin(setting.name) {
                Origin::Default => {
                    (setting.take)(now, last);
                    format!("{theirs}, as this installation last ran, and not the default {mine}")
                }
                given => format!("{mine}, from: {given}; this installation last ran with {theirs}"),
            },
        ));
    }

    differ
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_said_is_taken_over_and_what_differs_is_told() {
        let last = RoleSettings {
            opening_cash_e4: 0,
            burst: 7,
            dedup_window_ms: Some(60_000),
            day_ends_ms: 75_600_000,
            time_may_fall: false,
            ..Default::default()
        };

        let mut now = RoleSettings {
            burst: 9,
            ..Default::default()
        };

        let origin = |name: &str| {
            if name == "burst" {
                Origin::Flag
            } else {
                Origin::Default
            }
        };

        let told = merge(&mut now, &last, &origin);
        assert_eq!(
            now,
            RoleSettings {
                burst: 9,
                time_may_fall: true,
                ..last
            },
            "rules are not settings"
        );

        let told: Vec<_> = told
            .iter()
            .map(|(name, text)| format!("{name}: {text}"))
            .collect();
        assert_eq!(
            told,
            [
                "burst: 9, from: flag; this installation last ran with 7",
                "opening_cash: 0.00, as this installation last ran, and not the default 1000000.00",
                "dedup_window: 60000ms, as this installation last ran, and not the default 0",
                "day_end: 21:00, as this installation last ran, and not the default 24:00",
            ]
        );

        assert!(merge(&mut now.clone(), &now, &origin).is_empty());
    }
}
