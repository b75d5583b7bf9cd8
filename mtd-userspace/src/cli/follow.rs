//! Following several controllers at a time, for commands that print lines as they arrive.

use std::future::{Future, pending};
use std::io::{self, Write};
use std::thread;

use anyhow::{Context as _, anyhow};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::{output, status};
use crate::control::client::Lines;
use crate::control::{ControlError, ControlSocket};

/// Maximum number of lines that wait for standard output.
const QUEUED_LINES: usize = 64;

/// Ready at Ctrl-C.
pub(super) async fn interrupt() {
    if tokio::signal::ctrl_c().await.is_err() {
        // Without a handler, the signal ends the process.
        pending::<()>().await;
    }
}

/// Writes what the controllers report until `stop` is ready or nobody reads `output` any more (both are success), or until
/// all controllers have stopped (a failure). `connect` begins to follow a controller. With `json`, lines are printed as
/// they arrive, otherwise as `describe` renders them.
pub(super) async fn run<D>(
    sockets: Vec<ControlSocket>,
    connect: impl AsyncFn(&ControlSocket) -> Result<Lines, ControlError>,
    (json, describe): (bool, D),
    output: impl Write + Send + 'static,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()>
where
    D: Fn(&str) -> anyhow::Result<String> + Clone + Send + 'static,
{
    let (sender, queue) = mpsc::channel(QUEUED_LINES);
    let labelled = sockets.len() > 1 && !json;
    let (mut readers, mut failures) = (JoinSet::new(), Vec::new());
    for socket in sockets {
        match connect(&socket).await {
            Ok(lines) => {
                let describe = describe.clone();
                let label = if labelled { format!("{}: ", socket.interface) } else { String::new() };
                let render = move |line: String| {
                    let line = if json { line } else { describe(&line)? };
                    Ok(format!("{label}{line}\n"))
                };
                readers.spawn(pass_on(socket, lines, render, sender.clone()));
            }
            Err(error) => failures.push(error.into()),
        }
    }
    drop(sender);
    let printed = spawn_printer(queue, output)?;
    tokio::select! {
        () = stop => return Ok(()),
        printed = printed => match printed.context("the thread that prints has ended")? {
            Ok(()) => {}
            error => return output::quiet_if_unread(error),
        },
    }
    // The printer has ended because all readers had ended.
    while let Some(ended) = readers.join_next().await {
        failures.extend(ended.map_err(Into::into).and_then(|ended| ended).err());
    }
    status::joined(failures)
}

/// Prints on a separate thread, for which the process does not wait when it exits, so that Ctrl-C works even while the
/// reader of a pipe pauses.
fn spawn_printer(
    mut queue: mpsc::Receiver<String>,
    mut output: impl Write + Send + 'static,
) -> anyhow::Result<oneshot::Receiver<io::Result<()>>> {
    let mut print = move || {
        while let Some(line) = queue.blocking_recv() {
            output.write_all(line.as_bytes())?;
            output.flush()?;
        }
        Ok(())
    };
    let (done, printed) = oneshot::channel();
    thread::Builder::new()
        .name("printer".to_owned())
        .spawn(move || done.send(print()))
        .context("cannot start a thread")?;
    Ok(printed)
}

/// Passes on the lines of one controller until the controller stops, which is an error, or until nobody reads them.
async fn pass_on(
    socket: ControlSocket,
    mut from: Lines,
    render: impl Fn(String) -> anyhow::Result<String>,
    to: mpsc::Sender<String>,
) -> anyhow::Result<()> {
    while let Some(line) = from.next_line().await? {
        if to.send(render(line)?).await.is_err() {
            return Ok(());
        }
    }
    Err(anyhow!("the controller for {} has stopped", socket.interface))
}
