//! Hands the linker script to the linker.

fn main() {
    let directory = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    println!("cargo:rustc-link-arg=-T{directory}/link.ld");
    println!("cargo:rustc-link-arg=-znorelro");
    println!("cargo:rustc-link-arg=-zmax-page-size=4096");
    println!("cargo:rustc-link-arg=--build-id=none");
    // A bit per relocation instead of 24 bytes. What it writes is in the file too, where it is not moved: debuggers compare.
    println!("cargo:rustc-link-arg=--pack-dyn-relocs=relr");
    println!("cargo:rerun-if-changed=link.ld");
}
