//! What outlives the agent: per app, what is desired, what is deployed, and what is being done about it.

mod admission;
mod desired;
mod entry;
mod record;
mod rescue;
mod session;
mod store;
pub(crate) mod time;

pub(crate) use admission::Admission;
pub use desired::{Desired, InProgress};
pub use entry::Entry;
pub(crate) use record::Ended;
pub use record::Record;
pub use rescue::Rescue;
pub use session::{Session, SessionFile};
pub use store::{ReadError, Store};
pub(crate) use time::optional as optional_time;
