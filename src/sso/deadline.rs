//! The end of what NPM is asked at one time, from the first byte to the last.
//!
//! ureq counts its `timeout_global` down as well, but grants every read another second once
//! nothing is left (`NextTimeout::not_zero` in 3.2), and every read of a TLS handshake the whole:
//! an answer that comes byte by byte would hold the login thread for hours.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};
use ureq::{Error, Timeout};

/// When the calls under way end at the latest. An agent makes one call at a time.
#[derive(Clone, Debug, Default)]
pub struct Deadline(Arc<Mutex<Option<Instant>>>);

impl Deadline {
    /// Begins one call, or several that have the time together.
    pub fn begin(&self, timeout: Duration) {
        *self.0.lock() = Instant::now().checked_add(timeout);
    }

    /// Whether the time is up, to a few milliseconds.
    pub fn is_over(&self) -> bool {
        let soon = Instant::now() + Duration::from_millis(10);
        self.0.lock().is_some_and(|end| end <= soon)
    }

    fn cut(&self, mut next: NextTimeout) -> Result<NextTimeout, Error> {
        if let Some(end) = *self.0.lock() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::Timeout(Timeout::Global));
            }
            next.after = next.after.min(left.into());
        }
        Ok(next)
    }
}

impl<In: Transport> Connector<In> for Deadline {
    type Out = Timed<In>;

    fn connect(
        &self,
        _: &ConnectionDetails,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        Ok(chained.map(|inner| Timed { inner, deadline: self.clone() }))
    }
}

/// A connection that ends with the time.
#[derive(Debug)]
pub struct Timed<T> {
    inner: T,
    deadline: Deadline,
}

impl<T: Transport> Transport for Timed<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.inner.transmit_output(amount, self.deadline.cut(timeout)?)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.inner.await_input(self.deadline.cut(timeout)?)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}
