//! Tests the report in headless Chromium: the page of a run of preset `smoke`, wide and narrow, light and dark.
//!
//! A copy of the page gets a script that moves the slider and records the results and all errors, breaches of the page's content
//! policy included. Screenshots are kept for inspection.

use std::{
    env, fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::shell;

/// Names of Chromium, tried if `GAFI_CHROMIUM` is not set.
const PROGRAMS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/// The first script of the page: records errors.
const WATCH: &str = r#"<script>
window.wrong = [];
addEventListener("error", (e) => wrong.push("error: " + (e.message || e.target.tagName)), true);
addEventListener("securitypolicyviolation", (e) => wrong.push("policy: " + e.violatedDirective + " " + e.blockedURI));
</script>"#;

/// The last script of the page: moves the slider and sends what it measured to the enclosing page.
const PROBE: &str = r##"<script>
addEventListener("load", () => {
  const slider = document.getElementById("threshold");
  const at = (value) => {
    slider.value = value;
    slider.dispatchEvent(new Event("input", { bubbles: true }));
    const [kept, drawn] = document.getElementById("kept").textContent.match(/\d+/g).map(Number);
    const rows = [...document.querySelectorAll("tr[data-bins]")].map((r) => Number(r.querySelector("td").textContent));
    const line = Number(document.querySelector(".overlay line").getAttribute("x1"));
    return { kept, drawn, rows: rows.reduce((a, b) => a + b, 0), line, label: slider.getAttribute("aria-valuetext") };
  };
  slider.focus();
  const found = {
    wrong: window.wrong,
    slider: [0, 50, 99].map(at),
    focused: document.activeElement === slider,
    images: document.images.length,
    broken: [...document.images].filter((i) => !i.complete || !i.naturalWidth).length,
    width: innerWidth,
    content: document.documentElement.scrollWidth,
    dark: matchMedia("(prefers-color-scheme: dark)").matches,
    ground: getComputedStyle(document.body).backgroundColor,
    // Height of the drawings' letters on the screen.
    letters: Math.min(...[...document.querySelectorAll("svg")].filter((s) => s.getBoundingClientRect().width)
      .map((s) => 16 / 1.24 * s.getBoundingClientRect().width / s.viewBox.baseVal.width)),
  };
  parent.postMessage(JSON.stringify(found), "*");
});
</script>"##;

/// Encloses the page in a frame as narrow as a phone, because Chromium's windows are at least 500 pixels wide. It stores what the
/// probe sends.
const FRAME: &str = r#"<!DOCTYPE html><html><head><meta charset="utf-8"></head><body style="margin:0">
<script>addEventListener("message", (e) => { document.body.dataset.found = e.data; });</script>
<iframe src="probed.html" style="border:0;width:WIDTHpx;height:1800px"></iframe></body></html>"#;

/// Makes a run and its report below `target` with `program`, the path of `gafi-cli`, and tests the page.
pub(crate) fn check(target: &Path, program: &Path) -> Result<()> {
    let chromium = find()?;
    let home = target.join("browser");
    let run = home.join("run");
    let page = home.join("report.html");
    shell::run(Command::new(program).args(["pipeline", "--preset", "smoke", "--out"]).arg(&run).stdout(Stdio::null()))?;
    shell::run(Command::new(program).arg("report").arg(&run).arg("--force").arg("--output").arg(&page))?;
    test(&chromium, &home, &page)
}

/// Tests a page at two widths in two colour schemes.
fn test(chromium: &str, home: &Path, page: &Path) -> Result<()> {
    let text = fs::read_to_string(page).with_context(|| format!("cannot read {}", page.display()))?;
    let probed =
        text.replacen("<head>", &format!("<head>{WATCH}"), 1).replacen("</body>", &format!("{PROBE}</body>"), 1);
    let probe = home.join("probed.html");
    fs::write(&probe, probed).with_context(|| format!("cannot write {}", probe.display()))?;
    let frame = home.join("frame.html");
    for (width, scheme) in [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")] {
        let what = format!("{width} px, {scheme}");
        let text = FRAME.replace("WIDTH", &width.to_string());
        fs::write(&frame, text).with_context(|| format!("cannot write {}", frame.display()))?;
        let found = probe_page(chromium, home, &frame, width, scheme).with_context(|| what.clone())?;
        judge(&found, width, scheme == "dark").with_context(|| format!("{what}: {found}"))?;
        let shot = home.join(format!("report-{width}-{scheme}.png"));
        let frame = address(page)?;
        start(chromium, home, width, scheme).arg(format!("--screenshot={}", shot.display())).arg(frame).output()?;
        println!("   {what}: fine, see {}", shot.display());
    }
    Ok(())
}

/// What the probe measured. Any console message is an error.
fn probe_page(chromium: &str, home: &Path, page: &Path, width: u32, scheme: &str) -> Result<Value> {
    let mut command = start(chromium, home, width, scheme);
    let done = command.arg("--dump-dom").arg(address(page)?).output().context("cannot start Chromium")?;
    let log = String::from_utf8_lossy(&done.stderr).into_owned();
    if let Some(line) = log.lines().find(|line| line.contains("CONSOLE")) {
        bail!("message on the console: {line}");
    }
    let dom = String::from_utf8_lossy(&done.stdout).into_owned();
    let found = dom.split("data-found=\"").nth(1).and_then(|rest| rest.split('"').next());
    let found = found.with_context(|| format!("the probe recorded nothing; Chromium's log:\n{log}"))?;
    serde_json::from_str(&found.replace("&quot;", "\"").replace("&amp;", "&"))
        .context("parsing what the probe recorded")
}

/// The address of a page.
fn address(page: &Path) -> Result<String> {
    let path = page.canonicalize().with_context(|| format!("cannot find {}", page.display()))?;
    Ok(format!("file://{}", path.display()))
}

fn start(chromium: &str, home: &Path, width: u32, scheme: &str) -> Command {
    let mut command = Command::new(chromium);
    // The page is trusted, and containers often forbid the sandbox.
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]);
    command.args(["--no-first-run", "--enable-logging=stderr", "--virtual-time-budget=10000"]);
    command.arg(format!("--user-data-dir={}", home.join("profile").display()));
    command.arg(format!("--window-size={width},{}", if width < 600 { 2400 } else { 1800 }));
    command.arg(format!("--blink-settings=preferredColorScheme={}", u8::from(scheme == "light")));
    command.stdin(Stdio::null());
    command
}

fn judge(found: &Value, width: u32, dark: bool) -> Result<()> {
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    let wrong = found["wrong"].as_array().context("no list of errors")?;
    ensure!(wrong.is_empty(), "errors on the page: {}", found["wrong"]);
    let stops = found["slider"].as_array().context("no slider")?;
    let least = &stops[0];
    let most = &stops[stops.len() - 1];
    let moves = number(&least["kept"]) >= number(&most["kept"]) && number(&least["line"]) < number(&most["line"]);
    ensure!(moves, "moving the slider to the right does not keep fewer samples");
    let adds_up = |s: &Value| s["kept"] == s["rows"] && s["label"].as_str().is_some_and(|t| t.contains("kept"));
    ensure!(stops.iter().all(adds_up), "the slider's total is not the sum of the classes");
    ensure!(found["focused"] == true, "the slider cannot be reached by keyboard");
    let pictures = number(&found["images"]) >= 1.0 && number(&found["broken"]) <= 0.0;
    ensure!(pictures, "pictures are missing");
    let fits = number(&found["width"]) == f64::from(width) && number(&found["content"]) <= f64::from(width);
    ensure!(fits, "the page is wider than the window");
    let follows = found["dark"] == dark && (found["ground"] == "rgb(18, 21, 25)") == dark;
    ensure!(follows, "the page does not follow the colour scheme");
    ensure!(number(&found["letters"]) >= 9.0, "letters of the drawings are too small to read");
    Ok(())
}

fn find() -> Result<String> {
    if let Ok(named) = env::var("GAFI_CHROMIUM") {
        return Ok(named);
    }
    let found = PROGRAMS.into_iter().find(|program| shell::exists(program, "--version")).map(str::to_owned);
    found.context("Chromium was not found: install it (Debian: apt-get install chromium), or set GAFI_CHROMIUM")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn faults_of_the_page_are_found() {
        let stop =
            |kept: u32, line: u32| json!({"kept": kept, "rows": kept, "drawn": 9, "line": line, "label": "kept"});
        let fine = json!({
            "wrong": [], "slider": [stop(8, 10), stop(5, 20), stop(0, 30)], "focused": true, "images": 3, "broken": 0,
            "width": 390, "content": 390, "dark": false, "ground": "rgb(247, 248, 248)", "letters": 10.0,
        });
        judge(&fine, 390, false).unwrap();
        for (key, value, named) in [
            ("wrong", json!(["error: x"]), "error: x"),
            ("slider", json!([stop(1, 10), stop(5, 20)]), "keep fewer"),
            ("slider", json!([stop(5, 10), {"kept": 4, "rows": 3, "line": 20, "label": "kept"}]), "sum"),
            ("focused", json!(false), "keyboard"),
            ("broken", json!(1), "pictures"),
            ("content", json!(500), "wider"),
            ("dark", json!(true), "scheme"),
            ("letters", json!(6), "small"),
        ] {
            let mut bad = fine.clone();
            bad[key] = value;
            let error = judge(&bad, 390, false).unwrap_err().to_string();
            assert!(error.contains(named), "{key}: {error}");
        }
    }
}
