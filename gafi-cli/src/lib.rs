//! gafi-cli
