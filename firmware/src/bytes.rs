//! Little-endian fields at byte offsets, `None` past the end, and text.

use crate::Notices;

pub(crate) fn u8_at(bytes: &[u8], offset: usize) -> Option<u8> {
    bytes.get(offset).copied()
}

pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_le_bytes(array_at(bytes, offset)?))
}

pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(array_at(bytes, offset)?))
}

pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(array_at(bytes, offset)?))
}

fn array_at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..offset.checked_add(N)?)?.try_into().ok()
}

/// Returns a command line up to the first NUL, as far as it is UTF-8. Cutting it adds a notice.
pub(crate) fn command_line<'a>(bytes: &'a [u8], notices: &mut Notices) -> &'a str {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or_else(|| {
        notices.add("the command line is too long, or has no end; cut behind so many bytes:", bytes.len() as u64);
        bytes.len()
    });
    core::str::from_utf8(&bytes[..end]).unwrap_or_else(|error| {
        notices.add("the command line is not UTF-8; cut behind so many bytes:", error.valid_up_to() as u64);
        core::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or("")
    })
}

#[cfg(test)]
mod tests {
    use super::command_line;
    use crate::Notices;

    #[test]
    fn what_is_cut_of_a_command_line_is_noted() {
        for (bytes, kept, noted) in [
            (&b"log=off\0rest"[..], "log=off", None),
            (b"a b\xff c\0", "a b", Some(3)),
            (b"never ends", "never ends", Some(10)),
        ] {
            let mut notices = Notices::default();
            assert_eq!(command_line(bytes, &mut notices), kept);
            assert_eq!(notices.0.first().map(|notice| notice.value), noted, "{kept}");
        }
    }
}
