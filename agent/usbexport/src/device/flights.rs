//! Transfers of one endpoint that the kernel has, so that one of them can be cancelled.
//!
//! nusb cancels all transfers of an endpoint or none. So all are cancelled, and those that were not meant and have moved
//! nothing are submitted again, in their order, when the last has come back. What is begun meanwhile waits behind them. One
//! that was not meant and has moved something ends as cancelled: how much was lost on the bus is not known.

use std::collections::VecDeque;

use super::act::Token;

/// The transfers; `J` is what is submitted.
#[derive(Debug)]
pub(crate) struct Flights<J> {
    /// Those that the kernel has, in order, and whether each is cancelled on purpose.
    submitted: VecDeque<(Token, bool)>,
    /// Those to be submitted when the kernel has none.
    again: VecDeque<(Token, J)>,
    draining: bool,
}

impl<J> Flights<J> {
    pub(crate) fn new() -> Self {
        Self { submitted: VecDeque::new(), again: VecDeque::new(), draining: false }
    }

    /// Takes a transfer; gives it back when it is to be submitted now.
    pub(crate) fn begin(&mut self, token: Token, job: J) -> Option<J> {
        if self.draining {
            self.again.push_back((token, job));
            return None;
        }
        self.submitted.push_back((token, false));
        Some(job)
    }

    /// Marks one; whether all that the kernel has are to be cancelled now. One that waits here has ended at once, and is given.
    pub(crate) fn cancel(&mut self, token: Token) -> (bool, Option<Token>) {
        if let Some(at) = self.again.iter().position(|(waits, _)| *waits == token) {
            self.again.remove(at);
            return (false, Some(token));
        }
        let Some((_, meant)) = self.submitted.iter_mut().find(|(submitted, _)| *submitted == token) else {
            return (false, None);
        };
        *meant = true;
        // Once is enough: after that, nothing new is submitted until all have come back.
        (!std::mem::replace(&mut self.draining, true), None)
    }

    /// The first that the kernel has came back: `untouched` when it was cancelled and had moved nothing. Gives its token,
    /// and `job` back, if that is its end.
    pub(crate) fn came_back(&mut self, untouched: bool, job: J) -> Option<(Token, J)> {
        let (token, meant) = self.submitted.pop_front()?;
        if untouched && !meant && self.draining {
            // Before those that were begun after the cancelling, which are behind all of these.
            let behind = self.again.iter().take_while(|(other, _)| *other < token).count();
            self.again.insert(behind, (token, job));
            return None;
        }
        Some((token, job))
    }

    /// What is to be submitted now, in order.
    pub(crate) fn resume(&mut self) -> Vec<J> {
        if !self.draining || !self.submitted.is_empty() {
            return Vec::new();
        }
        self.draining = false;
        let again = std::mem::take(&mut self.again);
        again
            .into_iter()
            .map(|(token, job)| {
                self.submitted.push_back((token, false));
                job
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_many_is_cancelled_and_the_others_go_on_in_order() {
        let mut flights = Flights::new();
        for token in 1..=4 {
            assert_eq!(flights.begin(token, token), Some(token));
        }
        assert_eq!(flights.cancel(2), (true, None));
        assert_eq!(flights.cancel(2), (false, None), "they are cancelled already");
        assert_eq!(flights.begin(5, 5), None, "it waits behind the others");
        assert_eq!(flights.came_back(false, 1), Some((1, 1)), "it was through already");
        assert_eq!(flights.came_back(true, 2), Some((2, 2)));
        assert_eq!(flights.came_back(true, 3), None);
        assert!(flights.resume().is_empty(), "one is still out");
        assert_eq!(flights.came_back(true, 4), None);
        assert_eq!(flights.cancel(4), (false, Some(4)), "it ends where it waits");
        assert_eq!(flights.resume(), [3, 5]);
        assert_eq!(flights.came_back(true, 3), Some((3, 3)), "now it is the bus that cancelled");
        assert_eq!(flights.cancel(9), (false, None));
        assert_eq!(flights.came_back(false, 5), Some((5, 5)));
        assert_eq!(flights.came_back(false, 0), None);
    }
}
