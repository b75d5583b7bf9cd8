//! A Chromium without a window, driven through its debugging pipe.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::netns::Netns;
use crate::process::Running;
use crate::wait_until;

/// How long the browser may take for anything, its start included.
const PATIENCE: Duration = Duration::from_secs(30);

/// A browser with one page. It ends when this is dropped.
#[derive(Debug)]
pub struct Browser {
    process: Running,
    commands: File,
    messages: Receiver<Value>,
    /// The debugger's session with the page.
    session: Option<String>,
    sent: u64,
    complaints: Vec<String>,
    _folder: TempDir,
}

impl Browser {
    /// Starts the browser in a namespace, with an empty profile.
    ///
    /// # Errors
    /// When Chromium is missing or does not answer.
    pub fn start(netns: &Netns) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("mtdt-").tempdir()?;
        let [commands, answers] = ["commands", "answers"].map(|name| folder.path().join(name));
        // Opened for reading and writing, so that opening does not wait for the other end of the pipe.
        let open = |path: &Path| -> Result<File> {
            mkfifo(path, Mode::S_IRWXU)?;
            Ok(File::options().read(true).write(true).open(path)?)
        };
        let (command_pipe, answer_pipe) = (open(&commands)?, open(&answers)?);
        let mut command: Command = netns.command("sh")?;
        // The sandbox does not work for root.
        let program = "exec chromium --headless --no-sandbox --remote-debugging-pipe --user-data-dir=\"$HOME/profile\" \
                       --disable-gpu --disable-dev-shm-usage --no-first-run --disable-background-networking \
                       --disable-component-update --disable-sync about:blank 3<\"$1\" 4>\"$2\"";
        command.args(["-c", program, "sh"]).args([&commands, &answers]).env("HOME", folder.path());
        let process = Running::spawn("chromium", command)?;
        let (sender, messages) = mpsc::channel();
        thread::spawn(move || {
            // The thread ends at the next message after the receiver was dropped.
            for message in BufReader::new(answer_pipe).split(0).map_while(Result::ok) {
                let Ok(message) = serde_json::from_slice(&message) else { return };
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let mut browser = Self {
            process,
            commands: command_pipe,
            messages,
            session: None,
            sent: 0,
            complaints: Vec::new(),
            _folder: folder,
        };
        let target = browser.call("Target.createTarget", &json!({ "url": "about:blank" }))?;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", &attach)?;
        browser.session = Some(attached["sessionId"].as_str().context("no session")?.to_owned());
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), &json!({}))?;
        }
        Ok(browser)
    }

    /// Goes to an address; returns before the page is loaded.
    ///
    /// # Errors
    /// When the browser refuses, or nobody answers there.
    pub fn visit(&mut self, url: &str) -> Result<()> {
        let answer = self.call("Page.navigate", &json!({ "url": url }))?;
        ensure!(answer["errorText"].is_null(), "{url}: {answer}");
        Ok(())
    }

    /// The value of an expression in the page.
    ///
    /// # Errors
    /// When the expression throws.
    pub fn evaluate(&mut self, expression: &str) -> Result<Value> {
        let wanted = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let mut answer = self.call("Runtime.evaluate", &wanted)?;
        ensure!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        Ok(answer["result"]["value"].take())
    }

    /// Waits until an expression in the page is true.
    ///
    /// # Errors
    /// When it is not true in time; the error contains the text of the page.
    pub fn wait_for(&mut self, expression: &str) -> Result<()> {
        // While the page loads, the expression may throw because elements are still missing.
        let careful = format!("(() => {{ try {{ return ({expression}); }} catch {{ return false; }} }})()");
        let waited = wait_until(expression, PATIENCE, || Ok(self.evaluate(&careful)? == json!(true)));
        waited.with_context(|| {
            let text = self.evaluate("document.body.innerText").unwrap_or_default();
            format!("the page says {text}; the browser {:?}", self.complaints)
        })
    }

    /// Sets the size of the page in pixels, and whether its user prefers dark colours.
    ///
    /// # Errors
    /// When the browser refuses.
    pub fn look(&mut self, width: u32, height: u32, dark: bool) -> Result<()> {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.call("Emulation.setDeviceMetricsOverride", &size)?;
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call("Emulation.setEmulatedMedia", &media).map(drop)
    }

    /// Presses and releases a key: `Tab`, `Enter`.
    ///
    /// # Errors
    /// When the browser refuses.
    pub fn press(&mut self, key: &str) -> Result<()> {
        let (code, text) = match key {
            "Tab" => (9, ""),
            "Enter" => (13, "\r"),
            _ => bail!("no code for the key {key}"),
        };
        for kind in ["keyDown", "keyUp"] {
            let mut event = json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code });
            if kind == "keyDown" && !text.is_empty() {
                event["text"] = text.into();
            }
            self.call("Input.dispatchKeyEvent", &event)?;
        }
        Ok(())
    }

    /// Writes a screenshot as a PNG file, and makes the file's folder.
    ///
    /// # Errors
    /// When the browser or the file system refuse.
    pub fn screenshot(&mut self, file: &Path) -> Result<()> {
        let answer = self.call("Page.captureScreenshot", &json!({ "format": "png" }))?;
        let image = answer["data"].as_str().context("no image")?;
        fs::create_dir_all(file.parent().context("a file without a folder")?)?;
        let image = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, image)?;
        fs::write(file, image).with_context(|| file.display().to_string())
    }

    /// The exceptions and console errors since the last call, including violations of the content security policy.
    ///
    /// # Errors
    /// When the browser does not answer.
    pub fn complaints(&mut self) -> Result<Vec<String>> {
        // Messages sent before this answer have arrived when the answer has.
        self.evaluate("0")?;
        Ok(std::mem::take(&mut self.complaints))
    }

    fn call(&mut self, method: &str, parameters: &Value) -> Result<Value> {
        self.sent += 1;
        let mut request = json!({ "id": self.sent, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            request["sessionId"] = session.as_str().into();
        }
        let mut line = request.to_string().into_bytes();
        line.push(0);
        self.commands.write_all(&line)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let received = self.messages.recv_timeout(left);
            let mut message =
                received.with_context(|| format!("{method}: no answer\n{}", self.process.log()))?;
            if message["id"] == json!(self.sent) {
                ensure!(message["error"].is_null(), "{method}: {message}");
                return Ok(message["result"].take());
            }
            let is_error =
                message["method"] == "Log.entryAdded" && message["params"]["entry"]["level"] == "error";
            if is_error || message["method"] == "Runtime.exceptionThrown" {
                self.complaints.push(message["params"].to_string());
            }
        }
    }
}
