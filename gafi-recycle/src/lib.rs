//! gafi-recycle
