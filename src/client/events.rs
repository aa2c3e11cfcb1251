//! What happens in the mesh, as discovery tells it while it happens.

use std::io::Read as _;
use std::time::Duration;

use ureq::typestate::WithoutBody;
use ureq::{BodyReader, RequestBuilder};

use super::{CallError, checked};

/// How long discovery may take to answer at all.
const BEGIN: Duration = Duration::from_secs(5);
/// After how long a silence it is taken to be gone: it says something every 15 s.
const SILENCE: Duration = Duration::from_secs(40);

/// A stream of server-sent events, as bytes.
pub struct Events {
    epoch: Option<String>,
    body: BodyReader<'static>,
}

impl Events {
    pub(super) fn begin(call: RequestBuilder<WithoutBody>) -> Result<Self, CallError> {
        let call = call
            .config()
            .timeout_resolve(Some(BEGIN))
            .timeout_connect(Some(BEGIN))
            .timeout_recv_response(Some(BEGIN))
            .timeout_per_read(Some(SILENCE))
            .build();
        let response = checked(call.call()?)?;
        let mut headers = response.headers().iter();
        let epoch = headers.find(|(name, _)| name.as_str() == "x-mesh-epoch");
        Ok(Self {
            epoch: epoch.and_then(|(_, epoch)| Some(epoch.to_str().ok()?.to_owned())),
            body: response.into_body().into_reader(),
        })
    }

    /// The epoch of the discovery that tells it.
    #[must_use]
    pub fn epoch(&self) -> Option<&str> {
        self.epoch.as_deref()
    }

    /// Waits for more of the stream. Returns how many bytes came: none at its end.
    ///
    /// # Errors
    /// When the connection is lost, or discovery has been silent for too long.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, CallError> {
        self.body
            .read(buffer)
            .map_err(|e| CallError::from(ureq::Error::from(e)))
    }
}
