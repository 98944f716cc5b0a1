//! Documents whose commands are run and whose answers are checked.
//!
//! A page of Markdown holds blocks marked `console`; a line that starts with `$ ` is a command for bash
//! (`> ` continues it), the lines below it are what it prints, both outputs together:
//!
//! ````text
//! ```console
//! $ kubectl get deployment webapp
//! NAME     READY   UP-TO-DATE   AVAILABLE   AGE
//! webapp   3/3     3            3           [..]
//! ```
//! ````
//!
//! `[..]` stands for any text within a line, a line `...` for any lines; runs of blanks are equal to each
//! other, since a table's columns widen with what is in them. A last line `[1]` says that the command ends
//! with that exit code instead of 0. One bash runs the whole page, so variables and background jobs live on.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// The longest that one command may take.
const LIMIT: Duration = Duration::from_secs(180);

/// One command of a page and what it must answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The command's line in the page.
    pub line: usize,
    pub command: String,
    pub expected: Vec<String>,
    pub code: i32,
}

/// A page's commands in order.
#[derive(Clone, Debug)]
pub struct Walk {
    steps: Vec<Step>,
}

impl Walk {
    /// Reads a page.
    ///
    /// # Errors
    /// The file can't be read or has no commands.
    pub fn read(path: &Path) -> Result<Walk> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("couldn't read {}", path.display()))?;
        let walk = Walk::parse(&text);
        ensure!(!walk.steps.is_empty(), "{} has no `console` block with a command", path.display());
        Ok(walk)
    }

    fn parse(page: &str) -> Walk {
        let mut steps: Vec<Step> = Vec::new();
        let mut inside = false;
        for (index, line) in page.lines().enumerate() {
            if line.starts_with("```") {
                inside = !inside && line == "```console";
            } else if !inside {
            } else if let Some(command) = line.strip_prefix("$ ") {
                let step = Step { line: index + 1, command: command.into(), expected: vec![], code: 0 };
                steps.push(step);
            } else if let Some(step) = steps.last_mut() {
                match line.strip_prefix("> ") {
                    Some(more) if step.expected.is_empty() => step.command += &format!("\n{more}"),
                    _ => step.expected.push(line.into()),
                }
            }
        }
        for step in &mut steps {
            let last =
                step.expected.last().and_then(|line| line.strip_prefix('[')?.strip_suffix(']')?.parse().ok());
            if let Some(code) = last {
                step.code = code;
                step.expected.pop();
            }
        }
        Walk { steps }
    }

    /// Runs the commands with some environment, tells `report` of each as it ends, and goes on after one
    /// that answers wrongly.
    ///
    /// # Errors
    /// Every wrong answer, after the last command; or at once a command that doesn't end.
    pub fn run(
        &self,
        environment: &[(&str, &str)],
        mut report: impl FnMut(&Step, Duration, Option<&str>),
    ) -> Result<()> {
        let mut shell = Shell::start(environment)?;
        let mut wrong = Vec::new();
        for step in &self.steps {
            let start = Instant::now();
            let (code, lines) = shell
                .command(&step.command)
                .with_context(|| format!("line {}: {}\n{}", step.line, step.command, wrong.join("\n")))?;
            let fault = fault(step, code, &lines);
            report(step, start.elapsed(), fault.as_deref());
            wrong.extend(fault);
        }
        ensure!(wrong.is_empty(), "{} of {} commands:\n{}", wrong.len(), self.steps.len(), wrong.join("\n"));
        Ok(())
    }
}

/// What is wrong with an answer, if anything.
fn fault(step: &Step, code: i32, lines: &[String]) -> Option<String> {
    if code == step.code && lines_match(&step.expected, lines) {
        return None;
    }
    let mut text = format!("line {}: $ {}\n", step.line, step.command);
    if code != step.code {
        text += &format!("  exit code {code}, not {}\n", step.code);
    }
    let block = |lines: &[String]| lines.iter().map(|line| format!("    {line}\n")).collect::<String>();
    Some(text + "  expected:\n" + &block(&step.expected) + "  printed:\n" + &block(lines))
}

fn lines_match(expected: &[String], lines: &[String]) -> bool {
    match expected.split_first() {
        None => lines.is_empty(),
        Some((first, rest)) if first == "..." => {
            (0..=lines.len()).any(|skip| lines_match(rest, &lines[skip..]))
        }
        Some((first, rest)) => lines.split_first().is_some_and(|(line, others)| {
            line_matches(&blanks(first), &blanks(line)) && lines_match(rest, others)
        }),
    }
}

fn blanks(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn line_matches(pattern: &str, line: &str) -> bool {
    let Some((head, tail)) = pattern.split_once("[..]") else { return pattern == line };
    let Some(rest) = line.strip_prefix(head) else { return false };
    rest.char_indices().map(|(at, _)| at).chain([rest.len()]).any(|at| line_matches(tail, &rest[at..]))
}

/// A bash that is told one command after another.
struct Shell {
    child: Child,
    lines: Receiver<String>,
    mark: String,
}

impl Shell {
    fn start(environment: &[(&str, &str)]) -> Result<Shell> {
        let mut command = Command::new("bash");
        command.args(["--noprofile", "--norc"]).envs(environment.iter().copied());
        // Its own group: what a page leaves in the background ends with it.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("couldn't start bash")?;
        let stdout = child.stdout.take().context("bash has a standard output")?;
        let (sender, lines) = sync_channel(64);
        // Ends when bash and its background jobs have closed their output, or nobody reads any more.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    break;
                }
            }
        });
        let mut shell = Shell { child, lines, mark: format!("<end of command {}>", std::process::id()) };
        shell.write("exec 2>&1\n")?;
        Ok(shell)
    }

    fn write(&mut self, text: &str) -> Result<()> {
        let input = self.child.stdin.as_mut().context("bash has a standard input")?;
        input.write_all(text.as_bytes()).context("bash is gone")
    }

    /// Runs a command; its exit code and the lines it printed.
    fn command(&mut self, command: &str) -> Result<(i32, Vec<String>)> {
        let mark = self.mark.clone();
        // The command must not read the commands that follow it. A command that ends without a line feed
        // has the mark on its last line.
        self.write(&format!("{{ {command}\n}} </dev/null\nprintf '%s %d\\n' '{mark}' $?\n"))?;
        let end = Instant::now() + LIMIT;
        let mut printed = Vec::new();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line = self
                .lines
                .recv_timeout(left)
                .with_context(|| format!("doesn't end within {LIMIT:?}; printed so far: {printed:#?}"))?;
            match line.split_once(&mark) {
                Some((rest, code)) => {
                    if !rest.is_empty() {
                        printed.push(rest.to_owned());
                    }
                    return Ok((code.trim().parse()?, printed));
                }
                None => printed.push(line),
            }
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let group = format!("-{}", self.child.id());
        // Gone already is as good; the wait below ends either way.
        let _ended = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
        let _code = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(page: &str) -> String {
        let mut seen = String::new();
        let result = Walk::parse(page).run(&[("WHO", "world")], |step, _, fault| {
            seen += &format!("{} {}\n", step.line, if fault.is_some() { "wrong" } else { "right" });
        });
        seen + &result.map_or_else(|error| format!("{error:#}"), |()| "passed".into())
    }

    #[test]
    fn commands_are_run_and_answers_compared() {
        expect_test::expect![[r"
            3 right
            5 right
            8 right
            16 right
            20 right
            passed"]]
        .assert_eq(&run("text\n```console\n$ echo hello   $WHO\nhello [..]d\n$ a=1; printf 'x\\ny\\nz'\n\
            ...\nz\n$ echo $a; cat\n1\n```\n```sh\n$ not run\n```console\n```\n```console\n$ false\n[1]\n\
            ```\n```console\n$ cat <<END\n> two\n> END\ntwo\n```"));
    }

    #[test]
    fn a_wrong_answer_is_told() {
        expect_test::expect![[r"
            2 wrong
            4 right
            1 of 2 commands:
            line 2: $ echo a; false
              exit code 1, not 0
              expected:
                b
              printed:
                a
        "]]
        .assert_eq(&run("```console\n$ echo a; false\nb\n$ echo c\nc\n```\n"));
    }

    #[test]
    fn patterns() {
        let check = |pattern: &str, line: &str| line_matches(&blanks(pattern), &blanks(line));
        assert!(check("a[..]c", "a b  b c") && check("[..]", "") && check("a   b", "a b"));
        assert!(!check("a[..]c", "a b") && !check("ab", "a b") && !check("[..]x", "y"));
    }
}
