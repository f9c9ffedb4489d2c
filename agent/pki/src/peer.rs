//! Who is at the other end of a connection, and which role may call a service.

use std::net::SocketAddr;

use tonic::{Request, Status};

use crate::key::{PublicKey, Serial};
use crate::name::{Identity, Role};

/// The other end of a connection of [`crate::incoming`]; every request carries it among its extensions.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where it calls from.
    pub address: SocketAddr,
    /// The key that it has proved to have.
    pub key: PublicKey,
    /// Who it is.
    pub who: Who,
}

/// What the other end's certificate says.
#[derive(Clone, Debug)]
pub enum Who {
    /// A member of the fleet.
    Member {
        /// Its role and name.
        identity: Identity,
        /// Of its certificate.
        serial: Serial,
    },
    /// Somebody with a key and nothing else, who may only ask to join.
    Stranger,
}

impl Peer {
    /// The member's identity; `None` for a stranger.
    pub fn identity(&self) -> Option<&Identity> {
        match &self.who {
            Who::Member { identity, .. } => Some(identity),
            Who::Stranger => None,
        }
    }
}

/// Who sent a request.
///
/// # Errors
/// When it came over a connection that is not of [`crate::incoming`].
pub fn peer<T>(request: &Request<T>) -> Result<&Peer, Status> {
    request.extensions().get().ok_or_else(|| Status::unauthenticated("this call is for members of the fleet, over TLS"))
}

/// An interceptor that lets only members of these roles call a service.
pub fn require(
    roles: &'static [Role],
) -> impl Fn(Request<()>) -> Result<Request<()>, Status> + Clone + Send + Sync + 'static {
    move |request| {
        let caller = peer(&request)?;
        match &caller.who {
            Who::Member { identity, .. } if roles.contains(&identity.role) => Ok(request),
            Who::Member { identity, .. } => {
                tracing::warn!(peer = %caller.address, member = %identity, "a call was refused: it is for other roles");
                Err(Status::permission_denied(format!("{identity} may not call this")))
            }
            Who::Stranger => {
                tracing::warn!(peer = %caller.address, "a call was refused: the caller has not joined the fleet");
                Err(Status::unauthenticated("only members of the fleet may call this; join it first"))
            }
        }
    }
}
