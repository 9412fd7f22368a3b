//! Reports on runs of GaFi's pipeline: a self-contained HTML page, the results table as Markdown or JSON, and a picture of real
//! images, raw samples and kept samples. Also the contact sheet of a dataset ([`contact_sheet`]).
//!
//! ```no_run
//! use gafi_core::Context;
//! use gafi_report::{Format, Options};
//!
//! // A folder of runs: one for each seed.
//! let runs = gafi_report::open(&["reproduce/fashion-mnist-cpu".into()])?;
//! let command = ("command".to_string(), "cargo xtask reproduce".to_string());
//! print!("{}", gafi_report::table(&runs, Format::Markdown, &[command])?);
//!
//! // Loaders of the program's own networks go into the context.
//! let cx = Context::default();
//! gafi_report::write(&runs, "report.html".as_ref(), Options::default(), &cx)?;
//! gafi_report::picture(&runs[0], "picture.png".as_ref(), &cx)?;
//! # anyhow::Ok(())
//! ```
//!
//! Facts come from a run's record (`run.json`) and the artifacts that it names; nothing is inferred from a folder's contents. Test
//! accuracies are those that the pipeline recorded; test images are never opened.
#![deny(missing_docs, unsafe_code)]

mod chart;
mod colours;
mod contact;
mod costs;
mod curves;
mod evaluations;
mod facts;
mod html;
mod page;
mod picture;
mod plots;
mod report;
mod run;
mod samples;
mod statistics;
mod table;
mod thumbnail;
mod values;
mod wording;

pub use contact::contact_sheet;
pub use html::{Options, write};
pub use picture::picture;
pub use run::{Run, open};
pub use table::{Format, table};
