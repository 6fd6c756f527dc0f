//! The same program as a Linux process.

fn main() {
    platform::run_main(bsp::run)
}
