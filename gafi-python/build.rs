//! Links the module without Python's symbols, which the interpreter provides; macOS needs linker flags for that.
fn main() {
    pyo3_build_config::add_extension_module_link_args();
}
