//! Sets known by name: what they are called, where they are looked for, and how they are downloaded.

mod debian;
mod hub;
mod lookup;
mod set;

pub use debian::fetch_debian;
pub use lookup::NotFound;
pub(crate) use lookup::SearchPath;
pub use set::NamedSet;
