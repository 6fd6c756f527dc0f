//! The interface's functions as the kernel exports them.

use abi::*;

macro_rules! declare {
    ($($(#[doc = $doc:literal])* fn $name:ident($($parameter:ident: $kind:ty),* $(,)?) $(-> $result:ty)?;)*) => {
        unsafe extern "C" {
            $($(#[doc = $doc])* pub fn $name($($parameter: $kind),*) $(-> $result)?;)*
        }
    };
}
abi::functions!(declare);
