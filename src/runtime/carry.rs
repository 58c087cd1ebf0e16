//! Running a graph step after step, with a part of what comes out going in again.

use super::walk::Feed;
use super::{Array, Session};
use crate::error::{Error, Result};

/// State that goes from step to step.
pub trait Carry {
    /// Runs one step; returns the outputs that are no state.
    fn step(&mut self, feed: &[(String, Array)]) -> Result<Feed>;
    /// The state, by the names of the inputs.
    fn state(&self) -> Result<Feed>;
    /// Puts the state before the last step in place of the present one.
    ///
    /// # Errors
    /// When there was no step since.
    fn back(&mut self) -> Result<()>;
}

/// Carries state from outputs to inputs of a session: `pairs` are (input, output). Where the session can, the state stays on
/// its device.
///
/// # Errors
/// When the state does not fit the session.
pub fn carry<'s>(
    session: &'s mut (dyn Session + 's),
    state: Feed,
    pairs: Vec<(String, String)>,
) -> Result<Box<dyn Carry + 's>> {
    if session.keeps_state() {
        return session.carry(state, pairs);
    }
    Ok(Box::new(OnHost { session, state, before: None, pairs }))
}

/// State as arrays.
struct OnHost<'s> {
    session: &'s mut (dyn Session + 's),
    state: Feed,
    before: Option<Feed>,
    pairs: Vec<(String, String)>,
}

impl Carry for OnHost<'_> {
    fn step(&mut self, feed: &[(String, Array)]) -> Result<Feed> {
        let inputs: Feed = self.state.iter().chain(feed).cloned().collect();
        let mut next = Feed::new();
        let mut rest = Feed::new();
        for (name, array) in self.session.run(&inputs)? {
            match self.pairs.iter().find(|(_, output)| *output == name) {
                Some((input, _)) => next.push((input.clone(), array)),
                None => rest.push((name, array)),
            }
        }
        if next.len() != self.state.len() {
            return Err(Error::Internal(format!("{} states became {}", self.state.len(), next.len())));
        }
        self.before = Some(std::mem::replace(&mut self.state, next));
        Ok(rest)
    }

    fn state(&self) -> Result<Feed> {
        Ok(self.state.clone())
    }

    fn back(&mut self) -> Result<()> {
        self.state = self.before.take().ok_or_else(|| Error::Internal("no step to go back".into()))?;
        Ok(())
    }
}
