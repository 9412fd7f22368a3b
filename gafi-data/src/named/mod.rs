//! Sets known by name: where they are searched, and how they are downloaded.

mod debian;
mod hub;
#[cfg(feature = "hub")]
mod hub_client;
mod hub_set;
mod lookup;
mod set;

pub use debian::fetch_debian;
pub(crate) use hub_set::HubSet;
pub use lookup::NotFound;
pub(crate) use lookup::SearchPath;
pub use set::NamedSet;
