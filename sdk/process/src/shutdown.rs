//! When to stop.

use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that is cancelled by the first SIGINT or SIGTERM, or, if
/// `until_stdin_closes`, by the end of standard input.
///
/// The latter ties a child to its parent: however the parent dies, the pipe
/// closes. A second signal, at least a second after the first, ends the process
/// at once, for the operator whose drain hangs.
///
/// # Errors
/// If the operating system refuses a signal handler. Must be called inside a
/// tokio runtime.
pub fn shutdown_signal(until_stdin_closes: bool) -> std::io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    if until_stdin_closes {
        // A plain thread: tokio's stdin would hold up the runtime's end until
        // the pipe closes.
        let stop = stop.clone();
        std::thread::Builder::new()
            .name("until-stdin-closes".to_owned())
            .spawn(move || {
                wait_for_end(std::io::stdin().lock());
                stop.cancel();
            })?;
    }
    tokio::spawn({
        let stop = stop.clone();
        async move {
            let mut first: Option<Instant> = None;
            loop {
                let code = tokio::select! {
                    _ = interrupt.recv() => 130,
                    _ = terminate.recv() => 143,
                };
                match first {
                    None => first = Some(Instant::now()),
                    // `timeout` and shells signal a process and its group, which
                    // is one wish and not two.
                    Some(first) if first.elapsed() < ONE_WISH => {}
                    Some(_) => std::process::exit(code),
                }
                stop.cancel();
            }
        }
    });
    Ok(stop)
}

/// Reads and discards until the other end is closed.
fn wait_for_end(mut input: impl std::io::Read) {
    let mut discarded = [0_u8; 256];
    loop {
        match input.read(&mut discarded) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

const ONE_WISH: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn input_is_discarded_until_its_end() {
        wait_for_end(std::io::repeat(7).take(100_000));
    }

    #[tokio::test]
    async fn sigterm_cancels() {
        let stop = shutdown_signal(false).unwrap();
        assert!(!stop.is_cancelled());
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM)
            .unwrap();
        stop.cancelled().await;
        // The same wish again does not end the process.
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM)
            .unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
