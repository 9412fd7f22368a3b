//! Sets known by name: their names, where they are searched, and how they are downloaded.

mod debian;
mod hub;
mod lookup;
mod set;

pub use debian::fetch_debian;
pub(crate) use hub::HubSet;
pub use lookup::NotFound;
pub(crate) use lookup::SearchPath;
pub use set::NamedSet;
