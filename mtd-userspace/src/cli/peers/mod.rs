//! `mtd peers` and `mtd reload`: managing the registered clients.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::output::{self, Style};
use super::run::DEFAULT_CONFIG;
use super::status::{self, Select};
use crate::config::Config;
use crate::control::{ControlError, ControlSocket, Farewell, NewPeer, client};
use crate::instance::RUN_DIR;
use crate::keys::{PublicKey, SecretKey};
use crate::registry::{self, Registry, RegistryError, Sources, Warning};
use crate::status::{Client, Registered, Reload, Setting};

/// Register, remove and list clients
///
/// A client is registered by its public key, in a file NAME.pub in the folder that `clients_dir` names. A running
/// controller writes that file itself, and the change takes effect at once; if none is running, only the folder is changed.
#[derive(Args, Clone, Debug)]
pub(super) struct PeersArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Register a client
    #[command(after_help = "Example: sudo mtd peers add laptop vZ3S8pPLIoDKZPWkgW1i4pwP/JQZnQxsK1U0Ff9dgzY=")]
    Add {
        /// Name of the client: letters, digits, dots, underscores, hyphens; at most 32
        #[arg(value_name = "NAME", value_parser = name)]
        name: String,
        /// Public key of the client, as `mtd pubkey` prints it there
        #[arg(value_name = "PUBLIC_KEY", value_parser = registry::parse_key)]
        public_key: PublicKey,
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Remove a client, and end its session at once
    #[command(
        visible_alias = "rm",
        after_help = "Examples:\n  sudo mtd peers remove laptop\n  \
            sudo mtd peers remove laptop --tell 'sold; ask the help desk'"
    )]
    Remove {
        /// Name of the client
        #[arg(value_name = "NAME", value_parser = name)]
        name: String,
        /// What the client is told, if its session is open: its `mtd status` shows it; at most 128 bytes
        #[arg(long, value_name = "TEXT")]
        tell: Option<String>,
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// List the registered clients
    ///
    /// With --json: one object, {"schema": 1, "instances": [...]}, whose elements have the keys `interface` (null for
    /// a folder alone) and `peers`.
    #[command(
        visible_alias = "ls",
        after_help = "Examples:\n  sudo mtd peers list\n  \
            sudo mtd peers list --json | jq -r '.instances[].peers[].name'"
    )]
    List {
        #[command(flatten)]
        place: PlaceArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// The registry to use.
#[derive(Args, Clone, Debug, Default)]
struct PlaceArgs {
    #[command(flatten)]
    select: Select,

    /// Configuration file of the controller; if that is not running, the folder that the file names is used [default if no
    /// controller is found: /etc/mtd/mtd.toml]
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["interface", "socket"])]
    config: Option<PathBuf>,

    /// Folder of public keys to use, without asking a controller
    #[arg(long, value_name = "DIR", conflicts_with_all = ["interface", "socket", "config"])]
    dir: Option<PathBuf>,
}

/// Make the controller read its configuration and the registered clients again
///
/// Changes to clients take effect at once: sessions of clients that are no longer registered end, all others continue.
/// Other settings that have changed are listed; they take effect at the next start.
///
/// With --json: one object, {"schema": 1, "instances": [...]}, whose elements have the keys `interface`, `added`,
/// `removed`, `changed` (names of clients), `warnings` and `settings` (those that need a restart: `key`, `in_force`,
/// `in_file`).
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example: sudo mtd reload")]
pub(super) struct ReloadArgs {
    #[command(flatten)]
    select: Select,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Reads the name of a client.
pub(super) fn name(text: &str) -> Result<String, RegistryError> {
    registry::check_name(text).map(|()| text.to_owned())
}

/// Runs `mtd peers`.
///
/// # Errors
/// The registry cannot be found, or refuses the change, or standard output cannot be written.
pub(super) async fn run(args: PeersArgs) -> anyhow::Result<()> {
    let defaults = Defaults { run: RUN_DIR.into(), config: DEFAULT_CONFIG.into() };
    match args.command {
        Command::Add { name, public_key, place } => {
            let place = place.only(&defaults)?;
            output::print(&add(&place, name, public_key).await?)
        }
        Command::Remove { name, tell, place } => {
            let place = place.only(&defaults)?;
            output::print(&remove(&place, &name, &Farewell { tell }).await?)
        }
        Command::List { place, json } => {
            let (lists, failures) = match place.all(&defaults) {
                Ok(places) => list(&places).await,
                Err(error) => (Vec::new(), vec![error]),
            };
            if json {
                output::print(&status::json(lists)?)?;
            } else if !lists.is_empty() {
                output::print(&human(&lists, Style::of_stdout()))?;
            }
            status::joined(failures)
        }
    }
}

/// The places to look if no option names a registry.
struct Defaults {
    run: PathBuf,
    config: PathBuf,
}

/// A registry: a controller to ask, a folder to use if no controller is running, or both.
#[derive(Debug)]
struct Place {
    interface: Option<String>,
    socket: Option<PathBuf>,
    sources: Option<Sources>,
}

impl Place {
    fn of_socket(socket: ControlSocket) -> Self {
        Self { interface: Some(socket.interface), socket: Some(socket.path), sources: None }
    }

    fn of_config(path: &Path, run: &Path) -> anyhow::Result<Self> {
        let config = Config::read(path)?;
        let Some(mut sources) = config.client_sources() else {
            bail!(
                "{} has no [listen]: that host takes no clients; name another file with -c",
                path.display()
            );
        };
        // If the key file cannot be read, a client with the server's own key is refused only when the server starts.
        if let Some(Ok(key)) = config.identity.map(|identity| SecretKey::from_file(&identity.key_file)) {
            sources = sources.with_own_key(key.public());
        }
        let socket = match config.socket {
            Some(socket) => socket,
            None => ControlSocket::of(run, &config.interface)?.path,
        };
        Ok(Self { interface: Some(config.interface), socket: Some(socket), sources: Some(sources) })
    }

    /// Asks the controller or, if none is running, the folder.
    async fn ask<T>(
        &self,
        controller: impl AsyncFnOnce(&Path) -> Result<T, ControlError>,
        folder: impl FnOnce(Registry, Vec<Warning>) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        if let Some(socket) = &self.socket {
            match controller(socket).await {
                Err(ControlError::NotRunning { .. }) if self.sources.is_some() => {}
                Err(error @ ControlError::NotRunning { .. }) => {
                    return Err(anyhow::anyhow!(
                        "{error}, or name the folder of public keys with -c FILE or --dir DIR"
                    ));
                }
                answer => return Ok(answer?),
            }
        }
        let sources = self.sources.clone().context("there is neither a controller nor a folder to ask")?;
        let (registry, warnings) = Registry::load(sources)?;
        folder(registry, warnings)
    }
}

impl PlaceArgs {
    /// The one registry to change.
    fn only(&self, defaults: &Defaults) -> anyhow::Result<Place> {
        let mut places = self.all(defaults)?;
        if places.len() > 1 {
            let interfaces: Vec<_> = places.iter().filter_map(|place| place.interface.as_deref()).collect();
            bail!("controllers run for {}; name one with -i", interfaces.join(" and "));
        }
        places.pop().context("there is no registry")
    }

    /// The selected registries; at least one.
    fn all(&self, defaults: &Defaults) -> anyhow::Result<Vec<Place>> {
        if let Some(dir) = &self.dir {
            let sources = Some(Sources::of_folder(dir));
            return Ok(vec![Place { interface: None, socket: None, sources }]);
        }
        if let Some(config) = &self.config {
            return Ok(vec![Place::of_config(config, &defaults.run)?]);
        }
        let nothing_said = self.select.interface.is_none() && self.select.socket.is_none();
        let sockets = match self.select.sockets(&defaults.run) {
            Err(ControlError::NotRunning { .. }) if nothing_said && defaults.config.exists() => Vec::new(),
            Err(error @ ControlError::NotRunning { .. }) => {
                bail!("{error}, or name the folder of public keys with -c FILE or --dir DIR")
            }
            sockets => sockets?,
        };
        if sockets.is_empty() {
            return Ok(vec![Place::of_config(&defaults.config, &defaults.run)?]);
        }
        Ok(sockets.into_iter().map(Place::of_socket).collect())
    }
}

async fn add(place: &Place, name: String, public_key: PublicKey) -> anyhow::Result<String> {
    let peer = NewPeer { name, public_key: public_key.to_string() };
    let added = place
        .ask(
            async |socket| client::add_peer(socket, &peer).await.map(|client| (client, true)),
            |mut registry, _| Ok((registry.add(&peer.name, public_key)?.document(), false)),
        )
        .await?;
    Ok(told("registered", "it may connect after the next mtd run or mtd reload", &added))
}

async fn remove(place: &Place, name: &str, farewell: &Farewell) -> anyhow::Result<String> {
    let removed = place
        .ask(
            async |socket| client::remove_peer(socket, name, farewell).await.map(|client| (client, true)),
            |mut registry, _| Ok((registry.remove(name)?.document(), false)),
        )
        .await?;
    Ok(told("removed", "it may connect until the next mtd run or mtd reload", &removed))
}

/// Describes a change; if no controller was running, also says when it takes effect.
fn told(done: &str, from: &str, (client, by_controller): &(Client, bool)) -> String {
    let Client { name, public_key, file, .. } = client;
    let mut text = format!("{done} {name} ({public_key})\n");
    if !by_controller && let Some(file) = file {
        text = format!("{done} {name} ({public_key}): {}; {from}\n", file.display());
    }
    text
}

/// The clients of one registry.
#[derive(Debug, Serialize)]
struct List {
    interface: Option<String>,
    peers: Vec<Client>,
}

async fn list(places: &[Place]) -> (Vec<List>, Vec<anyhow::Error>) {
    let (mut lists, mut failures) = (Vec::new(), Vec::new());
    for place in places {
        let folder = |registry: Registry, warnings: Vec<Warning>| {
            for warning in warnings {
                tracing::warn!("{warning}");
            }
            Ok(registry.document())
        };
        match place.ask(async |socket| client::peers(socket).await, folder).await {
            Ok(Registered { peers, .. }) => lists.push(List { interface: place.interface.clone(), peers }),
            Err(error) => failures.push(error),
        }
    }
    (lists, failures)
}

fn human(lists: &[List], style: Style) -> String {
    let text = |List { interface, peers }: &List| {
        let title = match interface {
            Some(interface) => format!("registered clients at {interface}"),
            None => "registered clients".to_owned(),
        };
        let rows = peers.iter().map(|peer| {
            [
                peer.name.clone(),
                peer.public_key.clone(),
                peer.session.map_or("-", |state| state.as_str()).to_owned(),
                output::list_or_dash(&peer.addresses),
                peer.file.as_ref().map_or("the configuration".to_owned(), |file| file.display().to_string()),
            ]
        });
        let columns = ["name", "public key", "session", "addresses", "registered by"];
        output::table(style, &title, columns, rows.collect())
    };
    lists.iter().map(text).collect::<Vec<_>>().join("\n")
}

/// Runs `mtd reload`.
///
/// # Errors
/// A controller is missing, does not answer or cannot read its registry (the others are asked nevertheless), or standard
/// output cannot be written.
pub(super) async fn reload(args: &ReloadArgs) -> anyhow::Result<()> {
    let (reloads, failures) = match args.select.sockets(Path::new(RUN_DIR)) {
        Ok(sockets) => reload_all(&sockets).await,
        Err(error) => (Vec::new(), vec![error.into()]),
    };
    if args.json {
        output::print(&status::json(reloads)?)?;
    } else {
        output::print(&reloads.iter().map(Reloaded::text).collect::<String>())?;
    }
    status::joined(failures)
}

async fn reload_all(sockets: &[ControlSocket]) -> (Vec<Reloaded>, Vec<anyhow::Error>) {
    let (mut reloads, mut failures) = (Vec::new(), Vec::new());
    for ControlSocket { interface, path } in sockets {
        match client::reload(path).await {
            Ok(Reload { added, removed, changed, filters, warnings, settings, .. }) => {
                let interface = interface.clone();
                reloads.push(Reloaded { interface, added, removed, changed, filters, warnings, settings });
            }
            Err(error) => failures.push(error.into()),
        }
    }
    (reloads, failures)
}

/// What a controller reported after it had read its registry again.
#[derive(Debug, Serialize)]
struct Reloaded {
    interface: String,
    added: Vec<String>,
    removed: Vec<String>,
    changed: Vec<String>,
    filters: Vec<String>,
    warnings: Vec<String>,
    settings: Vec<Setting>,
}

impl Reloaded {
    fn text(&self) -> String {
        let changes = [
            ("added", &self.added),
            ("removed", &self.removed),
            ("changed", &self.changed),
            ("new filter for", &self.filters),
        ];
        let changes = changes.into_iter().filter(|(_, names)| !names.is_empty());
        let mut lines: Vec<_> = changes.map(|(what, names)| format!("{what} {}", names.join(", "))).collect();
        lines.extend(self.settings.iter().map(|Setting { key, in_force, in_file }| {
            let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "(default)".to_owned());
            format!("{key}: {} -> {} with the next start", text(in_force), text(in_file))
        }));
        if lines.is_empty() {
            lines.push("nothing has changed".to_owned());
        }
        lines.extend(self.warnings.iter().map(|warning| format!("left out: {warning}")));
        let interface = &self.interface;
        format!("{interface}: {}\n", lines.join(&format!("\n{interface}: ")))
    }
}

#[cfg(test)]
mod tests;
