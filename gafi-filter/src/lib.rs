//! gafi-filter
