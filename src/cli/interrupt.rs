//! Ctrl-C and termination: what is being written is finished first, so that nothing half-written stays behind.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// As shells report a process that a signal ended.
const INTERRUPTED: i32 = 130;

static WRITING: AtomicUsize = AtomicUsize::new(0);
static SIGNALS: AtomicUsize = AtomicUsize::new(0);

/// Files are being written while one of these lives.
pub struct Writing(());

impl Writing {
    /// From now on.
    pub fn begin() -> Self {
        WRITING.fetch_add(1, Ordering::SeqCst);
        Writing(())
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        WRITING.fetch_sub(1, Ordering::SeqCst);
    }
}

/// After a signal never returns: the process is about to end, and what fails while it does is no error to tell of.
pub fn settle() {
    while SIGNALS.load(Ordering::SeqCst) > 0 {
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Ends the process on a signal, at once or when files are written; a second signal does not wait.
pub fn install() -> anyhow::Result<()> {
    ctrlc::set_handler(|| {
        if SIGNALS.fetch_add(1, Ordering::SeqCst) > 0 {
            std::process::exit(INTERRUPTED);
        }
        onnx_prune::sweep::execute::stop();
        std::thread::spawn(|| {
            while WRITING.load(Ordering::SeqCst) > 0 {
                std::thread::sleep(Duration::from_millis(5));
            }
            std::process::exit(INTERRUPTED);
        });
    })?;
    Ok(())
}
