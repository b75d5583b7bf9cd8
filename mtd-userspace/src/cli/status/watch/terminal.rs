//! The terminal during `--watch`: the alternate screen, and keys without waiting for Enter. Both are restored at the end.

use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};

use nix::sys::termios::{LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr};
use nix::unistd::read;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Switches to the alternate screen, and hides the cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
/// Shows the cursor, and switches back to the normal screen.
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// The user's terminal. Dropping this restores its earlier state.
pub(super) struct Terminal {
    keys: AsyncFd<io::Stdin>,
    before: Termios,
}

impl Terminal {
    /// Takes over the terminal of standard input and output.
    ///
    /// # Errors
    /// They are not a terminal, or its settings cannot be changed.
    pub(super) fn open() -> io::Result<Self> {
        let stdin = io::stdin();
        let before = tcgetattr(&stdin)?;
        let mut settings = before.clone();
        // ISIG is kept, so that Ctrl-C still sends a signal.
        settings.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO);
        // With a minimum of 0, a read never waits.
        settings.control_chars[SpecialCharacterIndices::VMIN as usize] = 0;
        settings.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
        // SAFETY: the descriptor is that of standard input, which this process never closes or changes.
        let keys = unsafe { AsyncFd::register_with_interest(stdin, Interest::READABLE) }?;
        let terminal = Self { keys, before };
        tcsetattr(terminal.keys.get_ref(), SetArg::TCSANOW, &settings)?;
        write(ENTER)?;
        Ok(terminal)
    }

    /// Ready when the user presses `q`, or the terminal is gone.
    ///
    /// # Errors
    /// The terminal cannot be read.
    pub(super) async fn quit(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.keys.readable().await?;
            let mut keys = [0; 64];
            let count = read(self.keys.get_ref(), &mut keys)?;
            ready.clear_ready();
            if count == 0 || keys[..count].iter().any(|key| matches!(key, b'q' | b'Q')) {
                return Ok(());
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // There is nowhere to report a failure.
        let _ = tcsetattr(self.keys.get_ref(), SetArg::TCSANOW, &self.before);
        let _ = write(LEAVE);
    }
}

/// Shows the lines on the terminal, cut to its size.
///
/// # Errors
/// The terminal cannot be written.
pub(super) fn draw(lines: &[String]) -> io::Result<()> {
    let (rows, columns) = size(io::stdout().as_fd()).unwrap_or((24, 80));
    write(&screen(lines, rows, columns))
}

fn write(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// The text that draws the lines over the earlier ones; the first line stands out.
fn screen(lines: &[String], rows: usize, columns: usize) -> String {
    let cut = |line: &str| line.chars().take(columns).collect::<String>();
    let shown = lines.iter().flat_map(|line| line.split('\n')).take(rows).enumerate();
    let shown = shown.map(|(n, line)| match n {
        0 => format!("\x1b[7m{}\x1b[0m\x1b[K", cut(line)),
        _ => format!("{}\x1b[K", cut(line)),
    });
    format!("\x1b[H{}\x1b[J", shown.collect::<Vec<_>>().join("\r\n"))
}

/// Rows and columns of a terminal, if they are known.
fn size(terminal: BorrowedFd<'_>) -> Option<(usize, usize)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes a `struct winsize`, which is live and exclusively borrowed.
    let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (result == 0 && size.ws_row > 0 && size.ws_col > 0).then(|| (size.ws_row.into(), size.ws_col.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_no_room_for_is_cut() {
        let lines = ["title".to_owned(), "one\ntwo".to_owned(), "three".to_owned()];
        assert_eq!(screen(&lines, 3, 4), "\x1b[H\x1b[7mtitl\x1b[0m\x1b[K\r\none\x1b[K\r\ntwo\x1b[K\x1b[J");
    }
}
