//! gafi-expand
