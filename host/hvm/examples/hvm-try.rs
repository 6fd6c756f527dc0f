//! x
use hvm::Hvm;
use std::time::{Duration,Instant};
extern "C" fn nothing(by: u64, _: u64) -> u64 { by }
fn main() {
    let image = std::fs::read(std::env::args().nth(1).unwrap()).unwrap();
    let hrt = Hvm::builder(&image).cpus(std::env::args().nth(2).unwrap().parse().unwrap()).memory(std::env::args().nth(3).unwrap().parse::<u64>().unwrap() << 20).limit(std::time::Duration::from_secs(3)).command_line("log=debug").boot().unwrap();
    let console = hrt.console().unwrap();
    let drain = || { let s=Instant::now(); while s.elapsed() < Duration::from_millis(500) { print!("{}", String::from_utf8_lossy(&console.receive().unwrap())); } println!(); };
    unsafe {
        drain(); println!("merge {:?}", hrt.merge()); drain();
        println!("call {:?}", hrt.call(nothing, 1));
    drain();
    for c in ["groups\n","cpus\n", "threads\n"] {
    console.send(c.as_bytes()).unwrap();
    drain();
    }
    }
    println!("{:?}", String::from_utf8_lossy(&hrt.take_characters())); println!("{}", hrt.stop());
}
