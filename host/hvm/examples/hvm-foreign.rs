//! Boots an image that is not the Aerokernel's and knows only Palacios's protocol, with VMMCALL as
//! the instruction for downcalls. The project's tests run it: `hvm-foreign IMAGE` (the argument is
//! not used).

use std::error::Error;
use std::time::{Duration, Instant};

use hvm::{CallError, End, Hvm};
use protocol::boot::{HEADER_MAGIC, HEADER_TAG, HEADER_TAG_SIZE, MAGIC, flags};
use protocol::call::{CHARACTER_PORT, Ending};

type Checked = Result<(), Box<dyn Error>>;

const LIMIT: Duration = Duration::from_secs(20);
/// Where the image lies in physical memory and at virtual addresses.
const AT: u64 = 1 << 20;
/// Offset of the code in the file.
const CODE: u64 = 0x200;

/// Checks one thing, and says which.
fn check(what: &str, holds: bool) -> Checked {
    println!("{}: {what}", if holds { "right" } else { "WRONG" });
    if holds { Ok(()) } else { Err(what.into()) }
}

/// Code that writes a character for each of its steps that went well, and resets the HRT.
fn code() -> Vec<u8> {
    let mut code = Vec::new();
    let say = |character: u8| {
        // mov dx, CHARACTER_PORT; mov al, CHARACTER; out dx, al
        [&[0x66, 0xba][..], &CHARACTER_PORT.to_le_bytes(), &[0xb0, character, 0xee]].concat()
    };
    // jne over so many bytes, to the end of the code, which halts
    let skip = |length: usize| [0x0f, 0x85].into_iter().chain((length as u32).to_le_bytes()).collect::<Vec<u8>>();
    // mov ecx, NUMBER; mov eax, 0xf00d; mov rbx, 0x6464646464646464; vmmcall
    let downcall = |number: u32| {
        let mut code = vec![0xb9];
        code.extend(number.to_le_bytes());
        code.extend([0xb8, 0x0d, 0xf0, 0, 0, 0x48, 0xbb]);
        code.extend([0x64; 8]);
        code.extend([0x0f, 0x01, 0xd9]);
        code
    };
    let mut rest = say(b'M');
    rest.extend(downcall(0));
    let mut after = say(b'0');
    // The reset of the ROS is refused: cmp rax, -1
    after.extend(downcall(1));
    let mut at_end = say(b'1');
    at_end.extend(downcall(2));
    after.extend([0x48, 0x83, 0xf8, 0xff]);
    after.extend(skip(at_end.len()));
    after.extend(at_end);
    // test rax, rax
    rest.extend([0x48, 0x85, 0xc0]);
    rest.extend(skip(after.len()));
    rest.extend(after);
    // cmp eax, MAGIC
    code.push(0x3d);
    code.extend(MAGIC.to_le_bytes());
    code.extend(skip(rest.len()));
    code.extend(rest);
    // hlt; jmp to it
    code.extend([0xf4, 0xeb, 0xfd]);
    code
}

/// An ELF file with a Multiboot2 header that has an HRT tag.
fn image() -> Vec<u8> {
    let code = code();
    let size = CODE + code.len() as u64;
    let mut image = b"\x7fELF\x02\x01\x01".to_vec();
    image.resize(16, 0);
    // ELF header: executable, x86-64, one program header behind it.
    image.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    [AT + CODE, 64, 0].iter().for_each(|word| image.extend(word.to_le_bytes()));
    image.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 64, 0, 0, 0, 0, 0]);
    // Program header: the whole file, readable and executable.
    image.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    [0, AT, AT, size, size, 4096].iter().for_each(|word: &u64| image.extend(word.to_le_bytes()));
    // Multiboot2 header.
    image.resize(128, 0);
    let length = 16 + HEADER_TAG_SIZE + 8;
    let words = [HEADER_MAGIC, 0, length, 0_u32.wrapping_sub(HEADER_MAGIC).wrapping_sub(length)];
    words.iter().for_each(|word| image.extend(word.to_le_bytes()));
    image.extend(HEADER_TAG.to_le_bytes());
    image.extend([0, 0]);
    image.extend(HEADER_TAG_SIZE.to_le_bytes());
    [flags::MAP_1_GIB, 1 << 30, 0, AT + CODE, 0].iter().for_each(|word: &u64| image.extend(word.to_le_bytes()));
    image.extend([0xf0, 0, 0, 0, 0, 0, 0, 0]);
    image.extend([0, 0, 0, 0, 8, 0, 0, 0]);
    image.resize(CODE as usize, 0);
    image.extend(code);
    image
}

/// Returns what the HRT says until it has ended.
fn said(hrt: &Hvm, until: usize) -> String {
    let deadline = Instant::now() + LIMIT;
    let mut said = Vec::new();
    while said.len() < until && Instant::now() < deadline {
        said.extend(hrt.take_characters());
        std::thread::yield_now();
    }
    String::from_utf8_lossy(&said).into_owned()
}

fn main() -> Checked {
    let image = image();
    let hrt = Hvm::builder(&image).memory(16 << 20).patch_hypercalls().boot()?;
    let ended = hrt.wait(LIMIT);
    check("its downcalls are served", said(&hrt, 3) == "M01")?;
    let reset = End::Ended { ending: Ending::Reboot, status: 0 };
    check("it has itself reset", ended == Some(reset))?;
    let mut hrt = Hvm::builder(&image).memory(16 << 20).limit(Duration::from_millis(200)).boot()?;
    check("without the patches KVM answers, and not as the protocol says", said(&hrt, 1) == "M")?;
    // SAFETY: the image does nothing with the memory.
    let merged = unsafe { hrt.merge() };
    check("what it does not answer has an end", matches!(merged, Err(CallError::NoAnswer(_))))?;
    hrt.reset(&image)?;
    check("it can be reset", said(&hrt, 1) == "M" && hrt.stop() == End::Stopped)?;
    println!("all is right");
    Ok(())
}
