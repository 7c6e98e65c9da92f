//! `state`: shows keys and values of local state, decoded. Opens stores read-only, and needs no
//! log.

use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use ports::StateStore;
use roles::{Role, show};
use serde_json::{Value, json};
use store::dir::read_identity;

use crate::cli::args::{State, StatePlace};
use crate::cli::config::Config;
use crate::cli::decode;
use crate::cli::exit::Failure;
use crate::cli::output::{self, OutputFormat};
use crate::cli::shown;
use crate::runtime::replay::newest_store;
use crate::runtime::travel::kept_store;

pub(crate) fn run(config: &Config, state: &State) -> Result<(), Failure> {
    match state {
        State::Get { key, place } => {
            let role = match config.roles_required()? {
                [role] => *role,
                _ => {
                    return Err(Failure::usage(
                        "this command looks into one role: give one, such as --role orders",
                    ));
                }
            };

            get(config, role, key, place)
        }
        State::List {
            prefix,
            limit,
            place,
        } => {
            config.roles_required()?;
            let mut looked = PrintEntries {
                config,
                place,
                left: limit.unwrap_or(u64::MAX),
                found: 0,
            };

            for role in &config.roles {
                looked.list(*role, place.task, prefix)?;
            }

            Ok(())
        }
        State::Show { what, place } => about(config, what, place),
    }
}

fn get(config: &Config, role: Role, key: &str, place: &StatePlace) -> Result<(), Failure> {
    let root = Root::of(config, place);
    let task = match place.task {
        Some(task) => Some(task),
        None => show::task_of(role, key, root.partitions(role)?),
    };

    let Some(task) = task else {
        return Err(Failure::usage(format!(
            "{key} does not say which task it is in; say --task N. Keys of {role}: {}",
            show::kinds(role)
        )));
    };

    let mut looked = PrintEntries {
        config,
        place,
        left: 1,
        found: 0,
    };

    looked.exactly(role, task, key)?;
    if looked.found > 0 {
        return Ok(());
    }

    let hint = format!(
        "`processor state list --role {role} --task {task}` shows what there is. Keys of {role}: {}",
        show::kinds(role)
    );
    Err(Failure::failed(format!(
        "there is no {key} in {role} task {task}; {hint}"
    )))
}

/// Shows a user or an order, in all roles that know users.
fn about(config: &Config, what: &str, place: &StatePlace) -> Result<(), Failure> {
    let (user, order) = what
        .split_once('/')
        .map_or((what, None), |(u, o)| (u, Some(o)));
    let root = Root::of(config, place);
    let mut looked = PrintEntries {
        config,
        place,
        left: u64::MAX,
        found: 0,
    };

    let mut tell = |role: Role, keys: &[String], prefixes: &[String]| -> Result<(), Failure> {
        // Another machine may run the role, or the replay was of another role.
        if !root.dir(role).is_dir() {
            return Ok(());
        }
        let task = place
            .task
            .or(show::task_of(
                role,
                &format!("account/{user}"),
                root.partitions(role)?,
            ))
            .unwrap_or(0);
        keys.iter()
            .try_for_each(|key| looked.exactly(role, task, key))?;
        prefixes
            .iter()
            .try_for_each(|prefix| looked.list(role, Some(task), prefix))
    };

    match order {
        Some(order) => {
            tell(Role::Orders, &[format!("order/{user}/{order}")], &[])?;
            tell(Role::Portfolio, &[format!("sell/{user}/{order}")], &[])?;
        }
        None => {
            tell(
                Role::Orders,
                &[format!("account/{user}")],
                &[format!("position/{user}/"), format!("order/{user}/")],
            )?;
            tell(
                Role::Portfolio,
                &[format!("portfolio/{user}")],
                &[format!("sell/{user}/")],
            )?;
        }
    }

    if looked.found > 0 {
        return Ok(());
    }

    Err(Failure::failed(format!(
        "nothing is kept about {what} in {}",
        root.path().display()
    )))
}

/// Root directory of the stores.
enum Root<'a> {
    Live(&'a Path),
    Kept(&'a Path),
}

impl<'a> Root<'a> {
    fn of(config: &'a Config, place: &'a StatePlace) -> Root<'a> {
        place
            .at
            .as_deref()
            .map_or(Root::Live(&config.state), Root::Kept)
    }

    fn path(&self) -> &Path {
        match self {
            Root::Live(path) | Root::Kept(path) => path,
        }
    }

    fn dir(&self, role: Role) -> PathBuf {
        self.path().join(role.name())
    }

    /// Number of tasks of the role, from the label of its directory.
    fn partitions(&self, role: Role) -> Result<u32, Failure> {
        let dir = self.dir(role);
        let labelled = match self {
            Root::Kept(_) => vec![dir.clone()],
            Root::Live(_) => std::fs::read_dir(&dir)
                .into_iter()
                .flatten()
                .flatten()
                .map(|e| e.path())
                .collect(),
        };

        for dir in labelled {
            if let Some(identity) = read_identity(&dir)? {
                return Ok(identity.partitions);
            }
        }

        let hint = match self {
            Root::Kept(_) => "`processor replay --until ... --keep DIR` makes some",
            Root::Live(_) => {
                "has the role run here? Say --state (or --embedded), or --at for state that a replay kept"
            }
        };

        Err(Failure::failed(format!(
            "there is no state of {role} in {}; {hint}",
            dir.display()
        )))
    }

    fn store(&self, role: Role, task: u32) -> Result<Option<Box<dyn StateStore>>, Failure> {
        Ok(match self {
            Root::Live(path) => newest_store(path, role, task)?.map(|(_, store, _)| store),
            Root::Kept(path) => kept_store(path, role, task)?
                .map(|(_, store, _)| Box::new(store) as Box<dyn StateStore>),
        })
    }
}

/// Prints entries, up to a limit.
struct PrintEntries<'a> {
    config: &'a Config,
    place: &'a StatePlace,
    left: u64,
    found: u64,
}

impl PrintEntries<'_> {
    fn list(&mut self, role: Role, task: Option<u32>, prefix: &str) -> Result<(), Failure> {
        self.entries(role, task, prefix, &|shown| shown.starts_with(prefix))
    }

    fn exactly(&mut self, role: Role, task: u32, key: &str) -> Result<(), Failure> {
        self.entries(role, Some(task), key, &|shown| shown == key)
    }

    fn entries(
        &mut self,
        role: Role,
        task: Option<u32>,
        prefix: &str,
        wanted: &dyn Fn(&str) -> bool,
    ) -> Result<(), Failure> {
        let root = Root::of(self.config, self.place);
        let tasks = match task {
            Some(task) => task..task + 1,
            None => 0..root.partitions(role)?,
        };

        for task in tasks.take_while(|_| !output::broken()) {
            let Some(store) = root.store(role, task)? else {
                continue;
            };

            let mut printed = Ok(());
            store.scan(&show::prefix(role, prefix), &mut |key, value| {
                let (shown, value) = show::show(role, key, value).unwrap_or_else(|| {
                    (
                        decode::text(key),
                        json!({"unreadable": HEXLOWER.encode(value)}),
                    )
                });

                if wanted(&shown) && self.left > 0 {
                    self.left -= 1;
                    self.found += 1;
                    printed = self.print(role, task, &shown, &value);
                }

                self.left > 0 && printed.is_ok() && !output::broken()
            })?;

            printed?;
        }

        Ok(())
    }

    fn print(&self, role: Role, task: u32, key: &str, value: &Value) -> Result<(), Failure> {
        match (self.config.format, value) {
            (OutputFormat::Json, _) => output::json(
                &json!({"role": role.name(), "task": task, "key": key, "value": value}),
            ),
            (OutputFormat::Text, Value::Object(map)) => {
                let fields: Vec<_> = map
                    .iter()
                    .map(|(name, v)| (name.clone(), v.clone().into()))
                    .collect();
                output::line(format_args!(
                    "{} {}",
                    shown::one_line(key),
                    shown::fields(&fields)
                ))
            }
            (OutputFormat::Text, other) => {
                output::line(format_args!("{} {other}", shown::one_line(key)))
            }
        }
    }
}
