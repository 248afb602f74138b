//! Links libtorch so that it is found at run time, and so that no part of it is left out.

fn main() {
    // Set by the build script of torch-sys, from LIBTORCH.
    println!("cargo:rerun-if-env-changed=DEP_TCH_LIBTORCH_LIB");
    let Ok(folder) = std::env::var("DEP_TCH_LIBTORCH_LIB") else { return };
    // Nothing names a symbol of libtorch_cuda: without this the linker drops it, and CUDA is silently not there.
    println!("cargo:rustc-link-arg=-Wl,--no-as-needed");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{folder}");
    println!("cargo:rustc-link-arg=-ltorch");
}
