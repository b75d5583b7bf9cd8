//! The controller itself in the configuration: its files, and commands that are run at start and stop. It is not in the
//! controller's room, which is above this one.

use std::path::PathBuf;

use crate::model::{ClockChoice, Fault};
use crate::schema::{self, Key, Kind, Problems, Schema, Section, unlocated, value};

/// Default folder for the files that outlive the controller.
const DEFAULT_STATE_DIR: &str = "/var/lib/mtd";

/// The `sun_path` of a socket address minus the zero byte.
const MAX_SOCKET_PATH: usize = 107;

/// Keys of the root about the controller's files.
pub(super) const KEYS: &[Key] = &[
    Key::required(
        "socket",
        Kind::Text("an absolute path of at most 107 bytes"),
        r#""/run/mtd/eth0.sock""#,
        "Control socket of `mtd status` and the other commands.",
    )
    .otherwise("/run/mtd/INTERFACE.sock"),
    Key::preset(
        "state_dir",
        Kind::Text("an absolute path"),
        r#""/var/lib/mtd""#,
        "Folder for what must outlive a restart.",
    ),
    Key::preset(
        "clock",
        Kind::Choice(ClockChoice::WORDS),
        r#""auto""#,
        "Whether to warn of a wall clock that no time service is known to keep right. \"trusted\": something keeps it right that \
         cannot be seen from here, such as the host around a container. Nothing else depends on it.",
    ),
];

const COMMANDS: Kind = Kind::List("a command for /bin/sh -c");

/// `[hooks]`.
pub(super) const HOOKS: Schema = Schema {
    header: "[hooks]",
    path: "hooks.",
    help: "Commands for /bin/sh -c, with MTD_HOOK, MTD_INTERFACE and MTD_DEVICE in the environment and 30 s of time. When one on \
           the way up fails, so does the start. Those on the way down have no privileges but CAP_NET_ADMIN.",
    groups: &[&[
        Key::preset(
            "pre_up",
            COMMANDS,
            r#"["logger mtd starts"]"#,
            "Run before anything on the host is changed.",
        )
        .or("[]"),
        Key::preset(
            "post_up",
            COMMANDS,
            r#"["nft -f /etc/mtd/tunnel.nft"]"#,
            "Run when the programs are attached.",
        )
        .or("[]"),
        Key::preset(
            "pre_down",
            COMMANDS,
            r#"["nft delete table inet tunnel"]"#,
            "Run before anything is taken back.",
        )
        .or("[]"),
        Key::preset(
            "post_down",
            COMMANDS,
            r#"["logger mtd has stopped"]"#,
            "Run when everything is taken back.",
        )
        .or("[]"),
    ]],
};

/// Commands that are run at start and stop, each by `/bin/sh -c`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hooks {
    /// Before anything on the host is changed. One that fails ends the start.
    pub pre_up: Vec<String>,
    /// When the programs are attached. One that fails ends the start.
    pub post_up: Vec<String>,
    /// Before anything is undone.
    pub pre_down: Vec<String>,
    /// After everything is undone.
    pub post_down: Vec<String>,
}

impl Hooks {
    /// Reads `[hooks]`.
    pub(super) fn read(table: &Section<'_, '_>, problems: &mut Problems<'_>) -> Self {
        let mut commands = |key| table.strings(key, problems, command).into_iter().map(unlocated).collect();
        Self {
            pre_up: commands("pre_up"),
            post_up: commands("post_up"),
            pre_down: commands("pre_down"),
            post_down: commands("post_down"),
        }
    }
}

/// What in the file belongs to the controller itself: its paths, and what it thinks of the clock.
#[derive(Debug)]
pub(super) struct Paths {
    /// Path of the control socket; `None`: named after the interface.
    pub(super) socket: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    /// What is thought of the wall clock.
    pub(super) clock: ClockChoice,
}

impl Paths {
    /// Reads the root.
    pub(super) fn read(root: &Section<'_, '_>, problems: &mut Problems<'_>) -> Self {
        let state_dir = |text: &str| schema::absolute_path(text, DEFAULT_STATE_DIR);
        Self {
            socket: value(root.optional("socket", problems, socket_path)),
            state_dir: value(root.optional("state_dir", problems, state_dir)),
            clock: root.choice("clock", problems, ClockChoice::CHOICES).unwrap_or_default(),
        }
    }

    /// Folder for the files that outlive the controller.
    pub(super) fn state_dir(&self) -> PathBuf {
        self.state_dir.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_STATE_DIR))
    }
}

/// A command for the shell.
fn command(text: &str) -> Result<String, Fault> {
    if text.trim().is_empty() || text.contains('\0') {
        return Err(Fault::new("is no command", "write a command as for /bin/sh -c, or leave it out"));
    }
    Ok(text.to_owned())
}

/// An absolute path that fits into the address of a Unix socket.
fn socket_path(text: &str) -> Result<PathBuf, Fault> {
    let path = schema::absolute_path(text, "/run/mtd/eth0.sock")?;
    if text.len() <= MAX_SOCKET_PATH {
        return Ok(path);
    }
    let what = format!("is {} bytes long; the path of a socket has at most {MAX_SOCKET_PATH}", text.len());
    Err(Fault::new(what, "write a shorter path, such as /run/mtd/eth0.sock"))
}
