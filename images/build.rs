//! Passes the linker script and further options to the linker.

fn main() {
    let directory = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    println!("cargo:rustc-link-arg=-T{directory}/link.ld");
    // Where the scripts find the part that they share.
    println!("cargo:rustc-link-arg=-L{directory}/../common");
    println!("cargo:rustc-link-arg=-znorelro");
    println!("cargo:rustc-link-arg=-zmax-page-size=4096");
    println!("cargo:rustc-link-arg=--build-id=none");
    // One bit per relocation instead of 24 bytes. The file then contains the relocated values,
    // right for an image that is not moved, so debuggers can compare sections.
    println!("cargo:rustc-link-arg=--pack-dyn-relocs=relr");
    println!("cargo:rerun-if-changed=link.ld");
    println!("cargo:rerun-if-changed=../common/sections.ld");
}
